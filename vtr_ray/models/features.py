"""Vision features once, embeddings from them: trials over the same samples share the encoder's work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vtr_ray.errors import InputError
from vtr_ray.models.families import family_of


def encode_images(model: nn.Module, inputs: Mapping[str, Any]) -> list[Tensor]:
    """Encoder and projector outputs, one tensor [vision tokens, width] per image.

    Gradients are recorded unless the caller switches them off.

    Args:
        model: a supported model.
        inputs: the processor's output; the vision entries are used (LLaVA: `pixel_values`,
            float [images, channels, height, width]).
    """
    return family_of(model).encode(model, inputs)


def embed(model: nn.Module, input_ids: Tensor, features: Tensor | Sequence[Tensor]) -> Tensor:
    """Text embeddings with vision features in the placeholders' places.

    Args:
        model: a supported model.
        input_ids: int64 [batch, seq], placeholders already repeated once per vision token.
        features: as `encode_images` gives them, images in reading order over the batch; or one tensor
            [..., width].

    Returns:
        Embeddings [batch, seq, width].

    Raises:
        InputError: the features' number differs from the placeholders'.
    """
    if not isinstance(features, Tensor):
        features = torch.cat(
            [feature.reshape(-1, feature.shape[-1]) for feature in features] or [torch.empty(0)]
        )
    embeddings = model.get_input_embeddings()(input_ids)  # type: ignore[operator]
    places = input_ids == family_of(model).vision_token_id(model.config)
    if int(places.sum()) * embeddings.shape[-1] != features.numel():
        raise InputError(
            f"{int(places.sum())} vision placeholders but {features.numel() // embeddings.shape[-1]} vision "
            "features; pass the features of exactly the images in input_ids."
        )
    scattered: Tensor = embeddings.masked_scatter(
        places.unsqueeze(-1), features.to(embeddings.device, embeddings.dtype)
    )
    return scattered
