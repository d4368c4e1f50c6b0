"""Memory from the configuration alone: parameters, and the bytes of the key-value cache."""

from __future__ import annotations

from typing import Any

from vtr_ray.efficiency.decoder import check_length, decoder_shape
from vtr_ray.errors import InputError
from vtr_ray.schedule import Schedule


def count_parameters(config: Any) -> int:
    """Parameters of the model, tied ones once: built on the meta device, where nothing is allocated.

    Raises:
        InputError: a configuration that is not of an image-text-to-text model.
    """
    import torch

    with torch.device("meta"):
        model = build_model(config)
    return sum(parameter.numel() for parameter in model.parameters())


def build_model(config: Any, **options: Any) -> Any:
    """The model of a configuration with random weights, on the current default device.

    Raises:
        InputError: a configuration that is not of an image-text-to-text model.
    """
    import transformers

    try:
        return transformers.AutoModelForImageTextToText.from_config(config, **options)
    except ValueError:
        raise InputError(
            f"{type(config).__name__} is not the configuration of an image-text-to-text model."
        ) from None


def kv_bytes(
    config: Any,
    schedule: Schedule,
    vision_tokens: int,
    text_tokens: int,
    bytes_per_value: int = 2,
) -> list[int]:
    """Bytes of each layer's keys and values for one sample, layer 1 first.

    Layer `i` holds `n_i + text_tokens` tokens, sliding-window layers at most their window less one.

    Args:
        config: of a model.
        schedule: one rate per decoder layer.
        vision_tokens: input vision tokens `N`.
        text_tokens: other tokens, decoded ones included.
        bytes_per_value: 2 in half precision.

    Raises:
        InputError: a schedule of another length, a language model that is not known.
    """
    shape = decoder_shape(config)
    check_length(shape, schedule.num_layers)
    held = [kept + text_tokens for kept in schedule.counts(vision_tokens)]
    return [
        2 * shape.keys * bytes_per_value * (n if window is None else min(n, window - 1))
        for n, window in zip(held, shape.windows, strict=True)
    ]
