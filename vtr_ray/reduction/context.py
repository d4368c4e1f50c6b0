"""The context manager: hooks on one model, gone on exit."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from vtr_ray.errors import InputError
from vtr_ray.models import Family, family_of
from vtr_ray.reduction import refusals
from vtr_ray.reduction.loss import surviving_loss
from vtr_ray.reduction.passes import Decode, Prefill, kept_by_layer
from vtr_ray.reduction.prompt import read_prompt
from vtr_ray.reduction.tap import AttentionTap
from vtr_ray.schedule import Schedule

_reduced: weakref.WeakSet[Any] = weakref.WeakSet()


@contextmanager
def reduce_vision_tokens(
    model: Any, schedule: Schedule, prompt_mask: Tensor | None = None, vision_mask: Tensor | None = None
) -> Iterator[Reduction]:
    """Sort & Reduce (the paper's section 3.1) on every call of `model` inside the context.

    Works for plain forwards (logits have the last layer's length; `labels` give the loss of the full-length
    masked model on the surviving positions), `generate()` and training. The last output slot is every
    sample's last token, unless the batch is padded on the right. A cache filled inside is to be used inside.

    Args:
        model: a model of a supported family, loaded with SDPA or eager attention.
        schedule: one keeping rate per decoder layer.
        prompt_mask: bool [batch, seq], True at the prompt; its instruction tokens rank, answer tokens never
            do. Default: all input is prompt. Under `generate()` it covers the prompt.
        vision_mask: bool [batch, seq], True at vision tokens; needed where calls pass `inputs_embeds`
            instead of `input_ids`.

    Yields:
        A `Reduction` with `kept` and `positions` of the latest prefill.

    Raises:
        InputError: a schedule of another length, masks that do not fit, prompts that cannot be ranked.
        Unsupported: an `InputError` and `NotImplementedError` for what would be wrong: beam search, assisted
            decoding, static caches, several tokens onto a filled cache, packed sequences, sequences beyond a
            sliding window, other attention implementations.

    Example:
        >>> with reduce_vision_tokens(model, strategies.fastv(32)) as reduction:
        ...     model.generate(**inputs)
        >>> reduction.kept[-1].shape  # [batch, kept vision tokens of the last layer]
    """
    family = family_of(model)
    refusals.check_model(model, family, schedule)
    if model in _reduced:
        raise InputError("The model is already under a reduction; leave that context first.")
    reduction = Reduction(model, family, schedule, prompt_mask, vision_mask)
    _reduced.add(model)
    try:
        reduction._install()
        yield reduction
    finally:
        reduction._remove()
        _reduced.discard(model)


class Reduction:
    """What `reduce_vision_tokens` gives; its results are those of the latest prefill."""

    def __init__(
        self,
        model: Any,
        family: Family,
        schedule: Schedule,
        prompt_mask: Tensor | None,
        vision_mask: Tensor | None,
    ) -> None:
        self._model, self._family, self._schedule = model, family, schedule
        self._decoder = family.decoder_of(model)
        self._given = {"prompt_mask": prompt_mask, "vision_mask": vision_mask}
        self._vision_token = family.vision_token_id(model.config)
        self._parameters = {
            module: list(inspect.signature(module.forward).parameters)
            for module in (model, family.core_of(model))
        }
        self._undo: list[Callable[[], Any]] = []
        self._tap: AttentionTap | None = None
        self._latest: Prefill | Callable[[], Prefill] | None = None
        self._active: Prefill | Decode | None = None
        self._prefills: weakref.WeakKeyDictionary[Any, Prefill] = weakref.WeakKeyDictionary()
        self._keep: int | Tensor = 0  # logits_to_keep of the call that begins
        self._labels: dict[str, Any] | None = None
        self._rows_per_prompt = 1
        self._generating = False

    @property
    def kept(self) -> list[Tensor]:
        """Per layer, int64 [batch, max n_i]: kept vision indices 0..N-1, ascending, -1 as padding."""
        prefill = self._prefill()
        return kept_by_layer(prefill.first, prefill.layouts)

    @property
    def positions(self) -> Tensor:
        """int64 [batch, length]: the input position of each output position, -1 at fillers.

        A batch of which nothing was removed has its input's positions, padding included.
        """
        prefill = self._prefill()
        if isinstance(prefill.keep, Tensor):
            raise InputError("positions needs an integer logits_to_keep, not a tensor of indices.")
        return prefill.layout.index[:, -prefill.keep :] if prefill.keep else prefill.layout.index

    def _prefill(self) -> Prefill:
        if self._latest is None:
            raise InputError("The model has not run under this reduction yet; call it inside the context.")
        if not isinstance(self._latest, Prefill):
            self._latest = self._latest()
        return self._latest

    # Hooks: in and out.

    def _install(self) -> None:
        core = self._family.core_of(self._model)
        self._hook(core.register_forward_pre_hook, self._before_core)
        self._hook(self._model.register_forward_pre_hook, self._before_model)
        if not self._schedule.reduces:
            return  # the hooks above only remember the input: nothing that could change a bit
        self._tap = AttentionTap(self._read)
        self._hook(core.register_forward_hook, self._after_core, always_call=True)
        self._hook(self._model.register_forward_hook, self._after_model)
        first = next(index for index, rate in enumerate(self._schedule.rates) if rate < 1.0)
        for index, layer in enumerate(self._family.layers_of(self._model)):
            if index >= first - 1:
                self._hook(layer.register_forward_pre_hook, partial(self._before_layer, index))
        own, had = self._model.__dict__.get("generate"), "generate" in self._model.__dict__
        self._model.generate = partial(self._generate, self._model.generate)
        self._undo.append(
            lambda: setattr(self._model, "generate", own) if had else delattr(self._model, "generate")
        )

    def _hook(self, register: Callable[..., Any], function: Callable[..., Any], **options: Any) -> None:
        self._undo.append(register(function, with_kwargs=True, **options).remove)

    def _remove(self) -> None:
        while self._undo:
            self._undo.pop()()
        if self._tap is not None:
            self._tap.close()
            self._tap = None
        self._active = None

    # The whole model: decoding modes, labels.

    def _generate(self, generate: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        options = dict(kwargs)
        if len(args) > 1:
            options.setdefault("generation_config", args[1])
        self._rows_per_prompt = refusals.check_generate(self._model, options)
        self._generating = True
        try:
            return generate(*args, **kwargs)
        finally:
            self._rows_per_prompt, self._generating = 1, False

    def _before_model(self, module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        kwargs = self._named(module, args, kwargs)
        self._keep = kwargs.get("logits_to_keep", 0)
        if not self._schedule.reduces:
            return None
        if isinstance(self._keep, Tensor):
            raise InputError("logits_to_keep must be an integer under reduction: a tensor's positions move.")
        labels = kwargs.pop("labels", None)
        shifted = kwargs.pop("shift_labels", None)
        self._labels = None
        if labels is not None or shifted is not None:
            extra = {name: value for name, value in kwargs.items() if name not in self._parameters[module]}
            extra |= {} if shifted is None else {"shift_labels": shifted}
            self._labels = {"labels": labels, "extra": extra}
        return (), kwargs

    def _after_model(self, module: Any, args: Any, kwargs: dict[str, Any], output: Any) -> Any:
        if self._labels is None:
            return None
        logits = output[0] if isinstance(output, tuple) else output.logits
        loss = surviving_loss(module, logits, self.positions, **self._labels)
        self._labels = None
        if isinstance(output, tuple):
            return (loss, *output)
        return type(output)(loss=loss, **{name: value for name, value in output.items() if name != "loss"})

    # The module that joins vision and text: where a pass begins and ends.

    def _before_core(self, module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        inputs = self._named(module, args, kwargs)
        cache = inputs.get("past_key_values")
        keep, self._keep = self._keep, 0
        if not self._schedule.reduces:
            if cache is None or cache.get_seq_length() == 0:
                self._latest = partial(self._untouched, inputs, keep)
            return
        if cache is not None and cache.get_seq_length() > 0:
            self._active = self._decode(inputs, cache)
            return
        refusals.check_cache(cache)
        refusals.check_inputs(inputs, self._decoder)
        prompt = read_prompt(*self._masks(inputs))
        if prompt.ends_with_vision and self._generating:
            raise InputError(
                "A prompt ends with its image: generate() would continue from a token that may be removed; "
                "put the question after the image."
            )
        self._active = self._latest = Prefill(self._schedule, prompt, self._decoder, self._generating, keep)

    def _after_core(self, module: Any, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        active, self._active = self._active, None
        if self._tap is not None:
            self._tap.disarm()
        if isinstance(active, Prefill) and active.cache is not None and output is not None:
            self._prefills[active.cache] = active

    def _decode(self, inputs: dict[str, Any], cache: Any) -> Decode:
        prefill = self._prefills.get(cache)
        if prefill is None:
            raise InputError("The cache was not filled under this reduction; start from an empty one.")
        new = inputs["input_ids"] if inputs.get("input_ids") is not None else inputs["inputs_embeds"]
        if new.shape[1] != 1:
            raise refusals.Unsupported(
                f"{new.shape[1]} tokens onto a filled cache are not supported under reduction; pass one at a "
                "time."
            )
        attention_mask = inputs.get("attention_mask")
        length = cache.get_seq_length() + 1
        if attention_mask is not None and tuple(attention_mask.shape) != (new.shape[0], length):
            raise InputError(
                f"attention_mask has shape {list(attention_mask.shape)}; this decode step needs "
                f"{[new.shape[0], length]}: prompt and decoded tokens."
            )
        refusals.check_window(self._decoder, length)
        return Decode(prefill, cache, attention_mask)

    def _untouched(self, inputs: dict[str, Any], keep: int | Tensor) -> Prefill:
        return Prefill(self._schedule, read_prompt(*self._masks(inputs)), self._decoder, False, keep)

    def _masks(self, inputs: dict[str, Any]) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Vision, attention and prompt masks of a prefill, each [batch, seq]."""
        input_ids, embeddings = inputs.get("input_ids"), inputs.get("inputs_embeds")
        sequence = embeddings if input_ids is None else input_ids
        if sequence is None:
            raise InputError("The model was called without input_ids and inputs_embeds; pass one of them.")
        given: dict[str, Tensor | None] = {}
        for name, mask in self._given.items():
            if mask is not None and self._rows_per_prompt > 1:
                mask = mask.repeat_interleave(self._rows_per_prompt, 0)
            if mask is not None and tuple(mask.shape) != tuple(sequence.shape[:2]):
                raise InputError(
                    f"{name} has shape {list(mask.shape)} but the input is {list(sequence.shape[:2])}; give "
                    "one entry per input token."
                )
            given[name] = None if mask is None else mask.to(sequence.device, torch.bool)
        vision = given["vision_mask"]
        if vision is None:
            if input_ids is None:
                raise InputError("With inputs_embeds, pass vision_mask to say where the vision tokens are.")
            vision = input_ids == self._vision_token
        mask = inputs.get("attention_mask")
        return vision, mask if mask is None else mask.to(sequence.device), given["prompt_mask"]

    def _named(self, module: Any, args: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        return {**dict(zip(self._parameters[module], args, strict=False)), **kwargs} if args else dict(kwargs)

    # Decoder layers.

    def _before_layer(self, index: int, layer: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        active = self._active
        if active is None:
            raise InputError("Under reduction, call the whole model, not its language model alone.")
        if isinstance(active, Prefill) and not active.cuts:
            active.cache = kwargs.get("past_key_values")
            return None
        hidden_states = active.enter(index, layer, args[0], kwargs)
        if isinstance(active, Prefill) and index in active.tapped:
            assert self._tap is not None
            self._tap.arm(layer.self_attn)
        return (hidden_states, *args[1:]), kwargs

    def _read(self, query: Tensor, key: Tensor, scaling: float) -> None:
        assert isinstance(self._active, Prefill)
        self._active.read(query, key, scaling)
