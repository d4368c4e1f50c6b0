"""DeCo and TokenPacker as modules in the place of LLaVA's projector."""

from __future__ import annotations

from math import isqrt
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from transformers.activations import ACT2FN
from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

from vtr_ray.models.projectors.settings import (
    ProjectorSettings,
    attention_heads,
    levels,
    patch_grid,
)


class DeCo(LlavaMultiModalProjector):  # type: ignore[misc]
    """DeCo (Yao et al., 2024): adaptive average pooling of the patch grid, then LLaVA's two linear layers.

    Its weights are those of LLaVA's own projector, by name and shape.
    """

    def __init__(self, config: Any, settings: ProjectorSettings) -> None:
        super().__init__(config)
        self.side = settings.side

    def forward(self, image_features: Tensor) -> Tensor:
        """[images, patches, levels * encoder width] -> [images, tokens, language width]."""
        projected: Tensor = super().forward(_flat(F.adaptive_avg_pool2d(_grid(image_features), self.side)))
        return projected


class TokenPacker(nn.Module):
    """TokenPacker (Li et al., 2024): each coarse token attends to the fine features of its own region.

    Queries: the patch features of the last of `vision_feature_layer`, resized bilinearly to the tokens' grid.
    Keys and values: the features of all of `vision_feature_layer` side by side, through an MLP each. A query
    sees the patches it covers and no others; an MLP then gives the language model's width. As in the
    published code there is no residual path around the attention.
    """

    def __init__(self, config: Any, settings: ProjectorSettings) -> None:
        super().__init__()
        self.side, self.grid = settings.side, patch_grid(config)
        self.width = config.vision_config.hidden_size
        fine, out = self.width * levels(config), config.get_text_config(decoder=True).hidden_size
        act, bias = config.projector_hidden_act, config.multimodal_projector_bias
        self.heads = attention_heads(settings, self.width)
        self.query = nn.Linear(self.width, self.width, bias=False)
        self.key = _mlp(fine, self.width, act, bias)
        self.value = _mlp(fine, self.width, act, bias)
        self.query_norm, self.key_norm, self.value_norm = (
            nn.LayerNorm(self.width, eps=1e-6) for _ in range(3)
        )
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (
            nn.Linear(self.width, self.width) for _ in range(4)
        )
        self.mlp = _mlp(self.width, out, act, bias)

    def forward(self, image_features: Tensor) -> Tensor:
        """[images, patches, levels * encoder width] -> [images, tokens, language width]."""
        last = _grid(image_features[..., -self.width :])
        coarse = _flat(F.interpolate(last.float(), size=(self.side, self.side), mode="bilinear"))
        query = self.q_proj(self.query_norm(self.query(coarse.to(image_features.dtype))))
        key = self.k_proj(self.key_norm(self.key(image_features)))
        value = self.v_proj(self.value_norm(self.value(image_features)))
        # [images, tokens, heads, 1 or patches of a region, head width]
        query = query.unflatten(-1, (self.heads, -1)).unsqueeze(3)
        key, value = self._regions(key), self._regions(value)
        scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
        seen = (scores.softmax(-1) @ value).flatten(2)  # [images, tokens, width]
        projected: Tensor = self.mlp(self.o_proj(seen))
        return projected

    def _regions(self, fine: Tensor) -> Tensor:
        """[images, patches, width] -> [images, tokens, heads, patches of a region, head width]."""
        size = self.grid // self.side
        cells = fine.view(-1, self.side, size, self.side, size, self.heads, self.width // self.heads)
        return cells.permute(0, 1, 3, 5, 2, 4, 6).flatten(4, 5).flatten(1, 2)


def build_projector(config: Any, settings: ProjectorSettings) -> nn.Module:
    """The module that the settings name, untrained."""
    return (DeCo if settings.name == "deco" else TokenPacker)(config, settings)


def _mlp(width: int, out: int, act: str, bias: bool) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, out, bias=bias), ACT2FN[act], nn.Linear(out, out, bias=bias))


def _grid(features: Tensor) -> Tensor:
    """[images, patches, width] -> [images, width, rows, columns]."""
    images, patches, width = features.shape
    side = isqrt(patches)
    return features.transpose(1, 2).reshape(images, width, side, side)


def _flat(grid: Tensor) -> Tensor:
    return grid.flatten(2).transpose(1, 2)
