"""What reduction does not support is refused with one line, before it can be silently wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from vtr_ray.errors import InputError
from vtr_ray.models import Family
from vtr_ray.schedule import Schedule

_ATTENTIONS = ("sdpa", "eager")


class Unsupported(InputError, NotImplementedError):
    """Valid for the model, but not under reduction. One line, as every `InputError`."""


def check_model(model: nn.Module, family: Family, schedule: Schedule) -> None:
    """Refuse a schedule of the wrong length, and an attention or a placement that is not supported."""
    layers = len(family.layers_of(model))
    if schedule.num_layers != layers:
        raise InputError(
            f"The schedule has {schedule.num_layers} rates but the model has {layers} decoder layers; give "
            "one rate per decoder layer."
        )
    if not schedule.reduces:
        return
    attn = family.decoder_of(model).config._attn_implementation  # type: ignore[union-attr]
    if attn not in _ATTENTIONS:
        raise Unsupported(
            f"Reduction with {attn!r} attention is not supported; load the model with attn='sdpa' or 'eager'."
        )
    if len(set((getattr(model, "hf_device_map", None) or {}).values())) > 1:
        raise Unsupported("Reduction on a model spread over devices is not supported; use one device.")


def check_generate(model: Any, options: Mapping[str, Any]) -> int:
    """Refuse decoding modes that reduction cannot follow; return how many rows each prompt becomes."""
    config = options.get("generation_config") or model.generation_config

    def value(name: str) -> Any:
        found = options.get(name)
        return getattr(config, name, None) if found is None else found

    def refuse(what: str) -> None:
        raise Unsupported(f"generate() with {what} is not supported under reduction; leave it out.")

    if (value("num_beams") or 1) > 1:
        refuse("beam search (num_beams > 1)")
    for name in ("assistant_model", "prompt_lookup_num_tokens", "assistant_early_exit"):
        if value(name) is not None:
            refuse(f"assisted decoding ({name})")
    for name in ("penalty_alpha", "dola_layers", "custom_generate", "prefill_chunk_size"):
        if value(name) is not None:
            refuse(name)
    if value("cache_implementation") not in (None, "dynamic", "dynamic_full"):
        refuse(f"cache_implementation={value('cache_implementation')!r}")
    if value("use_cache") is False:
        refuse("use_cache=False")
    return int(value("num_return_sequences") or 1)


def check_inputs(inputs: Mapping[str, Any], decoder: Any) -> None:
    """Refuse masks of another shape, packed sequences, and what a sliding window would hide."""
    attention_mask, position_ids = inputs.get("attention_mask"), inputs.get("position_ids")
    sequence = inputs["input_ids"] if inputs.get("input_ids") is not None else inputs["inputs_embeds"]
    seq = sequence.shape[1]
    if attention_mask is not None and tuple(attention_mask.shape) != tuple(sequence.shape[:2]):
        raise InputError(
            f"attention_mask has shape {list(attention_mask.shape)}; reduction needs [batch, seq] = "
            f"{list(sequence.shape[:2])}."
        )
    if attention_mask is None and isinstance(position_ids, Tensor) and bool((position_ids.diff() != 1).any()):
        raise Unsupported(
            "Packed sequences (position_ids with jumps and no attention_mask) cannot be reduced."
        )
    check_window(decoder, seq)


def check_window(decoder: Any, length: int) -> None:
    """Refuse a sequence longer than the sliding window, if the language model has one."""
    window = getattr(decoder.config, "sliding_window", None)
    if window is not None and length > window:
        raise Unsupported(
            f"The sequence of {length} tokens is longer than the model's sliding window of {window}, which "
            "reduction does not support."
        )


def check_cache(cache: Cache | None) -> None:
    """Refuse caches other than a dynamic one: only those grow by what each layer is given."""
    if cache is None:
        return
    if not isinstance(cache, DynamicCache) or any(
        type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer) for layer in cache.layers
    ):
        raise Unsupported(f"Reduction needs a DynamicCache, not {type(cache).__name__}; leave it out.")
