"""The language model's dimensions that its cost depends on, whatever the configuration calls them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vtr_ray.errors import InputError
from vtr_ray.reduction.kinds import layer_kinds

# Language models whose layers are: query, key, value, output matrices and a gated feed-forward of three.
_TEXT_TYPES = (
    "gemma3_text",
    "llama",
    "mistral",
    "phi3",
    "qwen2",
    "qwen2_5_vl_text",
    "qwen2_vl_text",
    "qwen3",
    "qwen3_vl_text",
)


@dataclass(frozen=True)
class DecoderShape:
    """Widths of the language model.

    layers: `L`. width: `d`. attended: all heads' queries together. keys: all heads' keys together (`d_kv`).
    feed: the feed-forward's `m`. vocabulary: rows of the head. windows: per layer, the tokens that a token
    sees, itself included; None: all before it. fused: queries, keys and values come of one matrix.
    """

    layers: int
    width: int
    attended: int
    keys: int
    feed: int
    vocabulary: int
    windows: tuple[int | None, ...]
    fused: bool


def decoder_shape(config: Any) -> DecoderShape:
    """The shape of a configuration's language model. Raises InputError for one that is not of this kind."""
    text = config.get_text_config(decoder=True)
    if text.model_type not in _TEXT_TYPES:
        raise InputError(
            f"FLOPs of the language model {text.model_type!r} cannot be counted; known: "
            f"{', '.join(_TEXT_TYPES)}."
        )
    head = int(getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads)
    return DecoderShape(
        layers=text.num_hidden_layers,
        width=text.hidden_size,
        attended=text.num_attention_heads * head,
        keys=text.num_key_value_heads * head,
        feed=text.intermediate_size,
        vocabulary=text.vocab_size,
        windows=tuple(kind.window for kind in layer_kinds(text)),
        fused=text.model_type == "phi3",
    )


def check_length(shape: DecoderShape, num_layers: int) -> None:
    """Refuse a schedule of another length."""
    if num_layers != shape.layers:
        raise InputError(
            f"The schedule has {num_layers} rates but the model has {shape.layers} decoder layers; give one "
            "rate per decoder layer."
        )
