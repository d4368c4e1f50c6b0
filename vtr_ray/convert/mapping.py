"""From the original InternVL2 tensor names to the native ones, with transformers' own weight transforms.

The transforms are ours and are applied here, one tensor at a time: nothing is registered with transformers,
whose own loading keeps its mapping for native InternVL checkpoints.
"""

from __future__ import annotations

import re
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor
from transformers import Chunk, ConversionOps, WeightConverter
from transformers.core_model_loading import WeightRenaming, rename_source_key

_VISION = {
    "vision_model.embeddings.class_embedding": "model.vision_tower.embeddings.cls_token",
    "vision_model.embeddings.patch_embedding": "model.vision_tower.embeddings.patch_embeddings.projection",
    "vision_model.embeddings.position_embedding": "model.vision_tower.embeddings.position_embeddings",
    "vision_model.encoder.layers": "model.vision_tower.encoder.layer",
    ".attn.proj": ".attention.projection_layer",
    ".attn.q_norm": ".attention.q_norm",
    ".attn.k_norm": ".attention.k_norm",
    ".norm1": ".layernorm_before",
    ".norm2": ".layernorm_after",
    ".ls1": ".lambda_1",
    ".ls2": ".lambda_2",
}
_PROJECTOR = {
    "mlp1.0": "model.multi_modal_projector.layer_norm",
    "mlp1.1": "model.multi_modal_projector.linear_1",
    "mlp1.3": "model.multi_modal_projector.linear_2",
}
_TEXT = {
    "language_model.model": "model.language_model",
    "language_model.lm_head": "lm_head",
}
_INTERNLM2 = {
    "language_model.output": "lm_head",
    ".tok_embeddings": ".embed_tokens",
    ".attention_norm": ".input_layernorm",
    ".ffn_norm": ".post_attention_layernorm",
    ".attention.wo": ".self_attn.o_proj",
    ".feed_forward.w1": ".mlp.gate_proj",
    ".feed_forward.w3": ".mlp.up_proj",
    ".feed_forward.w2": ".mlp.down_proj",
}


class SplitGroups(ConversionOps):  # type: ignore[misc]
    """Splits InternLM2's `wqkv` into query, key and value projections.

    The rows of `wqkv` [(H + 2 G) D, width] come in `G` groups, one per key/value head, each of `H / G` query
    heads, its key head and its value head, `D` rows a head. Query heads keep their order, so a group is what
    Llama's grouped-query attention gives one key/value head. A bias [(H + 2 G) D] splits the same way.
    """

    @torch.no_grad()
    def convert(
        self,
        input_dict: dict[str, Any],
        source_patterns: list[str],
        target_patterns: list[str],
        config: Any = None,
        **kwargs: Any,
    ) -> dict[str, Tensor]:
        """Gives one tensor per target: [H D, width], [G D, width], [G D, width].

        Raises RuntimeError on a tensor whose rows are not such groups.
        """
        (fused,) = (value[0] if isinstance(value, list) else value for value in input_dict.values())
        text = config.get_text_config(decoder=True)
        groups = fused.unflatten(0, (text.num_key_value_heads, -1, text.head_dim))
        parts = groups.split([text.num_attention_heads // text.num_key_value_heads, 1, 1], dim=1)
        return {
            target: part.flatten(0, 2).contiguous()
            for target, part in zip(target_patterns, parts, strict=True)
        }


class Mapping:
    """What becomes of each tensor of an original checkpoint.

    Args:
        config: the native `InternVLConfig`.
        internlm2: the language model's names are InternLM2's; else they are those of transformers.
    """

    def __init__(self, config: Any, internlm2: bool) -> None:
        names = {**_VISION, **_PROJECTOR, **_TEXT, **(_INTERNLM2 if internlm2 else {})}
        self._config = config
        self._renamings = [WeightRenaming(re.escape(old), new) for old, new in names.items()]
        self._converters = [WeightConverter(".attn.qkv", _projections(".attention"), [Chunk(dim=0)])]
        if internlm2:
            self._converters.append(
                WeightConverter(".attention.wqkv", _projections(".self_attn"), [SplitGroups()])
            )

    def convert(self, name: str, tensor: Tensor) -> dict[str, Tensor]:
        """The native tensors of one original tensor; a name that the layout does not know keeps its name.

        Works on any device, the meta device included.

        Raises RuntimeError on a fused projection whose rows do not divide as the configuration says.
        """
        native, pattern = rename_source_key(name, self._renamings, self._converters)
        if pattern is None:
            return {native: tensor}
        # A converter collects its tensors: each tensor gets a fresh one.
        converter = deepcopy(next(each for each in self._converters if pattern in each.source_patterns))
        converter.add_tensor(native, name, pattern, tensor)
        parts: dict[str, Tensor] = converter.convert(native, config=self._config)
        return parts


def _projections(attention: str) -> list[str]:
    return [f"{attention}.{projection}_proj" for projection in "qkv"]
