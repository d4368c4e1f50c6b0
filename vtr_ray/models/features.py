"""Vision features once, model inputs from them: trials over the same samples share the encoder's work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vtr_ray.errors import InputError
from vtr_ray.models.families import Family, family_of


@dataclass(frozen=True)
class Features:
    """A batch's vision features, as the encoder and the projector put them out.

    Attributes:
        outputs: by "image" and "video", the family's own output with `pooler_output`, features per image
            [tokens, width] (Idefics3, SmolVLM: per sample), and `deepstack_features` where it has them.
        grids: what `get_rope_index` takes besides: int64 [images or videos, 3] and the like.
    """

    outputs: Mapping[str, Any]
    grids: Mapping[str, Any]

    def tokens(self, kind: str) -> list[Tensor]:
        """Features [tokens, width] of each "image" or "video", in reading order; empty without any."""
        return list(self.outputs[kind].pooler_output) if kind in self.outputs else []


def encode(model: nn.Module, inputs: Mapping[str, Any]) -> Features:
    """Run encoder and projector. Gradients are recorded unless the caller switches them off.

    Args:
        model: a supported model.
        inputs: the processor's output; the vision entries are used.
    """
    family = family_of(model)
    outputs = {}
    for kind, names in (("image", family.image_inputs), ("video", family.video_inputs)):
        given = {name: inputs[name] for name in names if inputs.get(name) is not None}
        if names and names[0] in given:
            output = getattr(model, f"get_{kind}_features")(**given, return_dict=True)
            kept = {name: output.get(name) for name in ("pooler_output", "deepstack_features")}
            outputs[kind] = type(output)(**{name: value for name, value in kept.items() if value is not None})
    names = ("image_grid_thw", "video_grid_thw", "second_per_grid_ts") if family.grid_positions else ()
    return Features(outputs, {name: inputs[name] for name in names if inputs.get(name) is not None})


def encode_images(model: nn.Module, inputs: Mapping[str, Any]) -> list[Tensor]:
    """Encoder and projector outputs, one tensor [vision tokens, width] per image.

    Gradients are recorded unless the caller switches them off.

    Args:
        model: a supported model.
        inputs: the processor's output; the vision entries are used (LLaVA: `pixel_values`,
            float [images, channels, height, width]).
    """
    return encode(model, inputs).tokens("image")


def embed(model: nn.Module, input_ids: Tensor, features: Tensor | Sequence[Tensor] | Features) -> Tensor:
    """Text embeddings with vision features in the placeholders' places.

    Args:
        model: a supported model.
        input_ids: int64 [batch, seq], placeholders already repeated once per vision token.
        features: as `encode` or `encode_images` gives them, images in reading order over the batch; or one
            tensor [..., width] of images.

    Returns:
        Embeddings [batch, seq, width].

    Raises:
        InputError: the features' number differs from the placeholders'.
    """
    family = family_of(model)
    config: Any = model.config
    if isinstance(features, Features):
        given = [features.tokens("image"), features.tokens("video")]
    else:
        given = [[features] if isinstance(features, Tensor) else list(features), []]
    outside = getattr(config, family.vision_tokens[0]) >= config.get_text_config(decoder=True).vocab_size
    words = input_ids.masked_fill(family.is_vision(config, input_ids), 0) if outside else input_ids
    embeddings: Tensor = model.get_input_embeddings()(words)  # type: ignore[operator]
    for name, tensors in zip(family.vision_tokens, given, strict=False):
        rows = torch.cat([tensor.reshape(-1, tensor.shape[-1]) for tensor in tensors] or [torch.empty(0)])
        places = input_ids == getattr(config, name)
        if int(places.sum()) * embeddings.shape[-1] != rows.numel():
            raise InputError(
                f"{int(places.sum())} vision placeholders but {rows.numel() // embeddings.shape[-1]} vision "
                "features; pass the features of exactly the images in input_ids."
            )
        embeddings = embeddings.masked_scatter(
            places.unsqueeze(-1), rows.to(embeddings.device, embeddings.dtype)
        )
    return embeddings


def model_inputs(
    model: nn.Module, input_ids: Tensor, attention_mask: Tensor, features: Features
) -> dict[str, Any]:
    """What a call of the model takes in place of pixels: nothing of the vision side runs again.

    Args:
        model: a supported model.
        input_ids: int64 [batch, seq], placeholders already repeated once per vision token.
        attention_mask: int64 [batch, seq], 0 at padding.
        features: of exactly the batch's images and videos.

    Returns:
        Keyword arguments; `attention_mask` and `position_ids` (int64 [batch, seq]; [3, batch, seq] where
        rotary positions have a time, a height and a width) among them.

    Raises:
        InputError: the features' number differs from the placeholders'.
    """
    family, config = family_of(model), model.config
    embeddings = embed(model, input_ids, features)
    given: dict[str, Any] = {"attention_mask": attention_mask}
    if family.deepstack and features.outputs:
        # Deeper features go to the layers with the tokens' places, which embeddings do not tell.
        given |= {"input_ids": input_ids, "mm_encoder_outputs": dict(features.outputs)}
    else:
        given["inputs_embeds"] = embeddings
    given["position_ids"] = _positions(model, family, input_ids, attention_mask, features)
    if family.blocks:
        given[family.blocks] = (family.is_vision(config, input_ids) & (attention_mask != 0)).long()
    return given


def _positions(
    model: nn.Module, family: Family, input_ids: Tensor, attention_mask: Tensor, features: Features
) -> Tensor:
    counted = (attention_mask.cumsum(1) - 1).clamp(min=0)
    if not family.grid_positions:
        return counted
    if not features.grids:
        return counted.expand(3, -1, -1)
    kinds = torch.zeros_like(input_ids)
    for number, name in enumerate(family.vision_tokens, start=1):
        kinds = kinds.masked_fill(input_ids == getattr(model.config, name), number)
    positions: Tensor = family.core_of(model).get_rope_index(  # type: ignore[operator]
        input_ids, mm_token_type_ids=kinds, attention_mask=attention_mask, **features.grids
    )[0]
    return positions
