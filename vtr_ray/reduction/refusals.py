"""What reduction does not support is refused with one line, before it can be silently wrong."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from types import FrameType
from typing import Any

from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from vtr_ray.errors import InputError
from vtr_ray.models import Family, family_of
from vtr_ray.reduction.kinds import layer_kinds
from vtr_ray.reduction.layout import Layout
from vtr_ray.schedule import Schedule

_ATTENTIONS = ("sdpa", "eager")
_COMPILED = "A compiled model cannot be reduced; give the model as it was before torch.compile."


class Unsupported(InputError, NotImplementedError):
    """Valid for the model, but not under reduction. One line, as every `InputError`."""


def check_model(model: nn.Module, family: Family, schedule: Schedule, always: bool = False) -> None:
    """Refuse a schedule of the wrong length or without meaning here, and other attention implementations.

    always: also where the schedule reduces nothing.
    """
    layers = len(family.layers_of(model))
    if schedule.num_layers != layers:
        raise InputError(
            f"The schedule has {schedule.num_layers} rates but the model has {layers} decoder layers; give "
            "one rate per decoder layer."
        )
    if not schedule.reduces and not always:
        return
    if schedule.positions == "renumber" and family.grid_positions:
        raise Unsupported(
            f"Renumbered positions are not defined for the time, height and width of {family.architecture}; "
            "give the schedule positions='original'."
        )
    attn = str(family.decoder_of(model).config._attn_implementation)  # type: ignore[union-attr]
    if attn not in _ATTENTIONS and not _is_flash(attn):
        raise Unsupported(
            f"Reduction with {attn!r} attention is not supported; load the model with attn='sdpa', 'eager' "
            "or 'flash_attention_2'."
        )


def capturable(model: nn.Module) -> bool:
    """Whether the state entering a layer can be taken out of a pass: all that reduces can, for one."""
    attn = str(family_of(model).decoder_of(model).config._attn_implementation)  # type: ignore[union-attr]
    return not any(map(_compiled, model.modules())) and (attn in _ATTENTIONS or _is_flash(attn))


def check_compiled(model: nn.Module, acts: bool) -> None:
    """Refuse compiled modules: their graphs are of full-length layers. `acts`: not a schedule of ones."""
    if "_orig_mod" in model._modules or (acts and any(map(_compiled, model.modules()))):
        raise Unsupported(_COMPILED)


def check_compiled_since(model: nn.Module, family: Family) -> None:
    """The same inside the context: of what holds this package's hooks, and of the call that runs."""
    layers = family.layers_of(model)
    parts = [model, family.core_of(model), family.decoder_of(model), *layers]
    parts += [layer.self_attn for layer in layers]  # type: ignore[misc]
    if any(map(_compiled, parts)) or _in_compiled_call():
        raise Unsupported(_COMPILED)


def _compiled(module: nn.Module) -> bool:
    """By `torch.compile` of the module, by its own `compile()`, or by `torch.compile` of its forward."""
    forward = module.__dict__.get("forward") or type(module).forward
    function = hasattr(forward, "_torchdynamo_orig_callable") and not hasattr(forward, "_torchdynamo_disable")
    return "_orig_mod" in module._modules or module._compiled_call_impl is not None or function


def _in_compiled_call() -> bool:
    """Whether some caller is what `torch.compile` returned: it leaves no trace on the model it was given."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        code = frame.f_code
        if code.co_name == "compile_wrapper" and "_dynamo" in code.co_filename:
            return True
        frame = frame.f_back
    return False


def check_window(decoder: Any, length: int) -> None:
    """Refuse FlashAttention where a sliding window hides something: the kernel counts it in slots."""
    config = decoder.config
    window = min((kind.window for kind in layer_kinds(config) if kind.window), default=length)
    if window < length and _is_flash(config._attn_implementation):
        raise Unsupported(
            f"The sequence of {length} tokens is longer than the sliding window of {window}, which reduction "
            "does not support with FlashAttention; load the model with attn='sdpa'."
        )


def _is_flash(attn: str) -> bool:
    return attn.startswith("flash_attention_")


def option_reader(model: Any, options: Mapping[str, Any]) -> Callable[[str], Any]:
    """Options of a `generate()` as it finds them: the call's, its configuration's, the model's own."""
    configs = (options.get("generation_config"), model.generation_config)

    def value(name: str) -> Any:
        found = [options.get(name), *(getattr(config, name, None) for config in configs)]
        return next((one for one in found if one is not None), None)

    return value


def check_generate(model: Any, options: Mapping[str, Any]) -> int:
    """Refuse decoding modes that reduction cannot follow; return how many rows each prompt becomes."""
    value = option_reader(model, options)

    def refuse(what: str) -> None:
        raise Unsupported(f"generate() with {what} is not supported under reduction; leave it out.")

    assistant = value("assistant_model")
    if assistant is not None and (assistant is model or value("assistant_early_exit") is not None):
        refuse("a model as its own assistant")
    for name in ("assistant_early_exit", "penalty_alpha", "dola_layers", "custom_generate"):
        if value(name) is not None:
            refuse(name)
    if value("prefill_chunk_size") is not None:
        refuse("prefill_chunk_size (the question, which ranks, comes in the last chunk)")
    # "hybrid", which Gemma 3's checkpoints ask for, is made dynamic by generate() itself.
    if value("cache_implementation") not in (None, "dynamic", "dynamic_full", "hybrid"):
        refuse(f"cache_implementation={value('cache_implementation')!r}")
    if value("guidance_scale") not in (None, 1):
        refuse("guidance_scale (its second pass, without the image, is another prompt)")
    return max(int(value("num_beams") or 1), int(value("num_return_sequences") or 1))


def check_inputs(inputs: Mapping[str, Any]) -> None:
    """Refuse masks of another shape, and packed sequences."""
    attention_mask, position_ids = inputs.get("attention_mask"), inputs.get("position_ids")
    sequence = inputs["input_ids"] if inputs.get("input_ids") is not None else inputs["inputs_embeds"]
    if attention_mask is not None and (
        not isinstance(attention_mask, Tensor) or tuple(attention_mask.shape) != tuple(sequence.shape[:2])
    ):
        shape = list(attention_mask.shape) if isinstance(attention_mask, Tensor) else "that of several masks"
        raise InputError(
            f"attention_mask has shape {shape}; reduction needs [batch, seq] = {list(sequence.shape[:2])}."
        )
    if isinstance(position_ids, Tensor) and position_ids.dim() == 3:  # grids, text before them where packed
        position_ids = position_ids[0] if len(position_ids) == 4 else None
    if attention_mask is None and isinstance(position_ids, Tensor) and bool((position_ids.diff() != 1).any()):
        raise Unsupported(
            "Packed sequences (position_ids with jumps and no attention_mask) cannot be reduced."
        )


def check_trimming(layouts: Sequence[Layout | None], cache: Cache) -> None:
    """Refuse to decode where a sliding window's cache has kept fillers and lost tokens."""
    for layout, held in zip(layouts, cache.layers, strict=True):
        if layout is not None and held.is_sliding and not (layout.dense or layout.right):
            raise Unsupported(
                "Decoding after right padding is not supported for layers with a sliding window; pad on the "
                "left."
            )


def check_cache(cache: Cache | None) -> None:
    """Refuse caches other than a dynamic one: only those grow by what each layer is given."""
    if cache is None:
        return
    if not isinstance(cache, DynamicCache) or any(
        type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer) for layer in cache.layers
    ):
        raise Unsupported(f"Reduction needs a DynamicCache, not {type(cache).__name__}; leave it out.")
