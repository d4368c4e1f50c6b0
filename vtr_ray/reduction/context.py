"""The context manager: hooks on one model, gone on exit."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from vtr_ray.errors import InputError
from vtr_ray.models import CACHE, Family, family_of, given_cache
from vtr_ray.prefixes import key_of
from vtr_ray.reduction import refusals
from vtr_ray.reduction.decoding import DecodeReduction, EvictingDecode, Eviction, check_decoding, check_modes
from vtr_ray.reduction.ending import ends_early, last_rows
from vtr_ray.reduction.kinds import layer_kinds
from vtr_ray.reduction.loss import surviving_loss
from vtr_ray.reduction.masks import block_numbers
from vtr_ray.reduction.passes import Decode, Prefill, kept_by_layer
from vtr_ray.reduction.prefix import Prefix
from vtr_ray.reduction.prompt import read_prompt
from vtr_ray.reduction.tap import AttentionTap
from vtr_ray.schedule import Schedule

_PROMPTS = ("inputs", "input_ids", "inputs_embeds")


@dataclass(frozen=True)
class Generation:
    """A running `generate()`: rows that each prompt becomes, and its length (None: unknown)."""

    rows: int
    length: int | None


@dataclass(frozen=True)
class Resumed:
    """What a resumed prefill gives: logits [batch, places, vocabulary], and the cache if one was filled."""

    logits: Tensor
    cache: Any


@dataclass(frozen=True)
class Left:
    """A cache as a pass left it: the first layer's keys (held, so that no other tensor takes their place in
    memory), and the `generate()` that ran it."""

    keys: Tensor
    generation: Generation | None


_reduced: weakref.WeakSet[Any] = weakref.WeakSet()


@contextmanager
def reduce_vision_tokens(
    model: Any,
    schedule: Schedule,
    prompt_mask: Tensor | None = None,
    vision_mask: Tensor | None = None,
    capture: int | None = None,
    decode: DecodeReduction | None = None,
) -> Iterator[Reduction]:
    """Sort & Reduce (the paper's section 3.1) on every call of `model` inside the context.

    Works for plain forwards (logits have the last layer's length; `labels` give the loss of the full-length
    masked model on the surviving positions), `generate()` and training. The last output slot is every
    sample's last token, unless the batch is padded on the right. A cache filled inside is to be used inside.

    Args:
        model: a model of a supported family, loaded with SDPA, eager or FlashAttention.
        schedule: one keeping rate per decoder layer.
        prompt_mask: bool [batch, seq], True at the prompt; its instruction tokens rank, answer tokens never
            do. Default: all input is prompt. Under `generate()` it covers the prompt.
        vision_mask: bool [batch, seq], True at vision tokens; needed where calls pass `inputs_embeds`
            instead of `input_ids`.
        capture: a layer, counted from 1, at least 2: `Reduction.prefix` is the state that enters it, from
            which `Reduction.resume` runs another schedule that agrees with this one before that layer.
        decode: drop further vision tokens from the cache while the answer is written; None: the prefill's
            choice stays.

    Yields:
        A `Reduction` with `kept` and `positions` of the latest prefill.

    Raises:
        InputError: a schedule of another length, masks that do not fit, prompts that cannot be ranked.
        Unsupported: an `InputError` and `NotImplementedError` for what would be wrong: static caches, chunked
            prefill, guidance, images onto a filled cache, a cache whose rows changed places between calls,
            packed sequences, compiled models, a sliding window that hides vision tokens from every layer
            that could rank, other attention implementations; with `decode`, also beams, assisted decoding,
            several new tokens a call and any sliding window.

    Example:
        >>> with reduce_vision_tokens(model, strategies.fastv(32)) as reduction:
        ...     model.generate(**inputs)
        >>> reduction.kept[-1].shape  # [batch, kept vision tokens of the last layer]
    """
    refusals.check_compiled(model, schedule.reduces or decode is not None)
    family = family_of(model)
    refusals.check_model(model, family, schedule, always=decode is not None)
    if capture is not None and not refusals.capturable(model):
        raise refusals.Unsupported(
            "What enters a layer of a compiled model, or under this attention, cannot be captured."
        )
    if capture is not None and not 2 <= capture <= schedule.num_layers:
        raise InputError(f"capture is layer {capture}; use one from 2 to {schedule.num_layers}.")
    if decode is not None:
        check_decoding(family.decoder_of(model), schedule, decode)
    if model in _reduced:
        raise InputError("The model is already under a reduction; leave that context first.")
    reduction = Reduction(model, family, schedule, prompt_mask, vision_mask, capture, decode)
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
        capture: int | None = None,
        decode: DecodeReduction | None = None,
    ) -> None:
        self.prefix: Prefix | None = None  # of the latest prefill, where one was to be captured
        self._capture = None if capture is None else capture - 1
        self._evict = decode
        self._evictions: weakref.WeakKeyDictionary[Prefill, Eviction] = weakref.WeakKeyDictionary()
        self._acts = schedule.reduces or capture is not None or decode is not None
        self._model, self._family, self._schedule = model, family, schedule
        self._decoder = family.decoder_of(model)
        self._given = {"prompt_mask": prompt_mask, "vision_mask": vision_mask}
        self._parameters = {
            module: list(inspect.signature(module.forward).parameters)
            for module in (model, family.core_of(model))
        }
        self._hooked = schedule.num_layers  # the first layer with a hook
        self._undo: list[Callable[[], Any]] = []
        self._tap: AttentionTap | None = None
        self._latest: Prefill | Callable[[], Prefill] | None = None
        self._active: Prefill | Decode | None = None
        self._prefills: weakref.WeakKeyDictionary[Any, Prefill] = weakref.WeakKeyDictionary()
        self._left: weakref.WeakKeyDictionary[Any, Left] = weakref.WeakKeyDictionary()
        self._keep: int | Tensor = 0  # logits_to_keep of the call that begins
        self._labels: dict[str, Any] | None = None
        self._generation: Generation | None = None

    @property
    def kept(self) -> list[Tensor]:
        """Per layer, int64 [batch, max n_i]: kept vision indices 0..N-1, ascending, -1 as padding.

        Under decode-time reduction, what is left in each layer's cache.
        """
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

    @torch.no_grad()
    def resume(self, prefix: Prefix, logits_to_keep: int = 0, use_cache: bool = False) -> Resumed:
        """Run the layers from `prefix.layer` on under this schedule, as a prefill of the whole model would.

        Decode steps with the cache that this gives are ordinary calls of the model, inside the context.

        Args:
            prefix: of a schedule that agrees with this one before its layer, of the same model.
            logits_to_keep: the last places whose logits are wanted; 0: all that the last layer holds.
            use_cache: whether to fill a cache; the prefix must come from a pass that did.

        Raises:
            InputError: a prefix of another schedule, or without the keys and values that are asked for.
        """
        if key_of(prefix.schedule, prefix.layer) != key_of(self._schedule, prefix.layer):
            raise InputError(
                f"The prefix is of a schedule that differs before layer {prefix.layer}; run the whole model."
            )
        if self._evict is not None:
            raise refusals.Unsupported("A prefix cannot be resumed under decode-time reduction.")
        if use_cache and not prefix.held:
            raise InputError("The prefix holds no keys and values; capture it in a pass with use_cache=True.")
        if self._capture is not None and self._capture < prefix.layer - 1:
            raise InputError(
                f"Layer {self._capture + 1} does not run from layer {prefix.layer} on; capture a deeper one."
            )
        refusals.check_window(self._decoder, prefix.first.length)
        self.prefix = None
        prefill = Prefill(
            self._schedule,
            prefix.first.prompt,
            self._decoder,
            generating=False,
            keep=logits_to_keep,
            capture=self._capture,
        )
        prefill.resume(prefix)
        cache = prefix.cache(self._decoder.config) if use_cache else None
        self._active = self._latest = prefill
        states, done = prefix.states, False
        decoder: Any = self._decoder
        try:
            for index, layer in enumerate(self._family.layers_of(self._model)):
                if index < prefix.layer - 1:
                    continue
                options = dict(prefix.options[prefill.kinds[index]])
                options |= {"attention_mask": None, CACHE: cache, "use_cache": use_cache}
                if index == self._schedule.num_layers - 1 and index not in prefix.deep:
                    states = self._end(prefill, index, layer, states, options)
                    continue
                if index < self._hooked:  # else the layer's own hook does it
                    states = prefill.enter(index, layer, states, options)
                states = layer(states, **options)
                if index in prefix.deep:
                    states = getattr(decoder, str(self._family.deepstack))(states, *prefix.deep[index])
            states = decoder.norm(states)
            logits = self._model.get_output_embeddings()(states[:, -logits_to_keep:])
            done = True
        finally:
            self._leave(done)
        return Resumed(logits, cache)

    def _end(
        self, prefill: Prefill, index: int, layer: Any, states: Tensor, options: dict[str, Any]
    ) -> Tensor:
        """The last layer: of its output, what logits are wanted of."""
        self._watch(prefill, index, states, options)
        states = prefill.enter(index, layer, states, options)
        prefill.ending, cache = True, prefill.cache  # its hook has nothing left to do
        keep, attn = int(prefill.keep), str(prefill.decoder.config._attn_implementation)
        if ends_early(layer, index, states, options, keep, attn):
            states = last_rows(layer, index, states, options, keep)
        else:
            states = layer(states, **options)
        prefill.cache = cache
        return states

    # Hooks: in and out.

    def _install(self) -> None:
        core = self._family.core_of(self._model)
        self._hook(core.register_forward_pre_hook, self._before_core)
        self._hook(self._model.register_forward_pre_hook, self._before_model)
        if not self._acts:
            return  # the hooks above only remember the input: nothing that could change a bit
        self._tap = AttentionTap(self._read)
        self._hook(core.register_forward_hook, self._after_core, always_call=True)
        self._hook(self._model.register_forward_hook, self._after_model)
        layers = self._family.layers_of(self._model)
        first = next((index for index, rate in enumerate(self._schedule.rates) if rate < 1.0), len(layers))
        first = min(first, len(layers) if self._capture is None else self._capture)
        if self._evict is not None:
            first = min(first, self._evict.first_layer - 1)
        if any(kind.window for kind in layer_kinds(self._decoder.config)):
            first = 1  # the layer that ranks may lie further back
        self._hooked = first - 1
        for index, layer in enumerate(layers):
            if index >= self._hooked:
                self._hook(layer.register_forward_pre_hook, partial(self._before_layer, index))
        self._wrap(self._model, "generate", self._generate)
        if self._family.deepstack:
            self._wrap(self._decoder, self._family.deepstack, self._deepen)

    def _wrap(self, owner: Any, name: str, function: Callable[..., Any]) -> None:
        """Put `function`, which takes the method it stands for first, in a method's place."""
        own, had = owner.__dict__.get(name), name in owner.__dict__
        setattr(owner, name, partial(function, getattr(owner, name)))
        self._undo.append(lambda: setattr(owner, name, own) if had else delattr(owner, name))

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
        rows = refusals.check_generate(self._model, options)
        if self._evict is not None:
            check_modes(self._model, options)
        prompt = next((options[name] for name in _PROMPTS if options.get(name) is not None), None)
        prompt = args[0] if args and args[0] is not None else prompt
        self._generation = Generation(rows, None if prompt is None else prompt.shape[1])
        generation = self._generation
        try:
            return generate(*args, **kwargs)
        finally:
            self._generation = None
            for cache, left in list(self._left.items()):
                if left.generation is generation and rows > 1:  # its beams changed places to the end
                    self._leave_rows(cache)

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
        cache = given_cache(inputs)
        keep, self._keep = self._keep, 0
        if not self._acts:
            if cache is None or cache.get_seq_length() == 0:
                self._latest = partial(self._untouched, inputs, keep)
            return
        refusals.check_compiled_since(self._model, self._family)
        if cache is not None and cache.get_seq_length() > 0:
            self._active = self._decode(inputs, cache)
            return
        refusals.check_cache(cache)
        refusals.check_inputs(inputs)
        prompt = read_prompt(*self._masks(inputs))
        generation = self._generation
        if prompt.ends_with_vision and generation:
            raise InputError(
                "A prompt ends with its image: generate() would continue from a token that may be removed; "
                "put the question after the image."
            )
        self.prefix = None
        marks = inputs.get(self._family.blocks) if self._family.blocks else None
        blocks = None if marks is None else block_numbers(marks)
        refusals.check_window(self._decoder, prompt.length)
        self._active = self._latest = Prefill(
            self._schedule,
            prompt,
            self._decoder,
            generating=generation is not None,
            keep=keep,
            blocks=blocks,
            copies=generation.rows if generation else 1,
            capture=self._capture,
        )

    def _after_core(self, module: Any, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        self._leave(output is not None)

    def _leave(self, whole: bool) -> None:
        """End a pass; `whole`: all of it ran."""
        active, self._active = self._active, None
        if self._tap is not None:
            self._tap.disarm()
        if active is None:
            return
        cache = active.cache
        if isinstance(active, Prefill):
            active.cache = None  # else the table below would keep its own keys alive
            if cache is not None and whole:
                self._prefills[cache] = active
        if cache is not None and whole:
            self._leave_rows(cache)

    def _leave_rows(self, cache: Any) -> None:
        """Remember the cache's rows: their order is that of the layouts."""
        self._left[cache] = Left(cache.layers[0].keys, self._generation)

    def _check_rows(self, cache: Any) -> None:
        """Refuse a cache of which rows were selected, repeated or put in another order since its last pass.

        That makes new tensors; cropping does not. Beams change places inside `generate()`, within the rows
        of one prompt, which hold the same tokens.
        """
        left = self._left[cache]
        if left.generation is not None and left.generation is self._generation and left.generation.rows > 1:
            return
        if cache.layers[0].keys.untyped_storage().data_ptr() != left.keys.untyped_storage().data_ptr():
            raise refusals.Unsupported(
                "The cache's keys were replaced since its last call (reorder_cache, batch_select_indices, a "
                "move), and reduction cannot follow its rows; start from an empty one."
            )

    def _decode(self, inputs: dict[str, Any], cache: Any) -> Decode:
        prefill = self._prefills.get(cache)
        if prefill is None:
            raise InputError("The cache was not filled under this reduction; start from an empty one.")
        new = inputs["input_ids"] if inputs.get("input_ids") is not None else inputs["inputs_embeds"]
        rows, several = new.shape[0], new.shape[1] > 1
        if rows != prefill.first.index.shape[0]:
            raise InputError(f"The cache holds {prefill.first.index.shape[0]} samples, the call {rows}.")
        if self._labels is not None:
            raise refusals.Unsupported("labels onto a filled cache are not supported; pass the whole input.")
        if several and inputs.get("input_ids") is None:
            raise refusals.Unsupported(
                "Several embeddings onto a filled cache are not supported under reduction; pass input_ids."
            )
        if several and bool(self._family.is_vision(self._model.config, new).any()):
            raise refusals.Unsupported(
                "Images onto a filled cache are not supported under reduction; start from an empty one."
            )
        attention_mask = inputs.get("attention_mask")
        length = cache.get_seq_length() + new.shape[1]
        if attention_mask is not None and tuple(attention_mask.shape) != (rows, length):
            raise InputError(
                f"attention_mask has shape {list(attention_mask.shape)}; this decode step needs "
                f"{[rows, length]}: prompt and decoded tokens."
            )
        self._check_rows(cache)
        refusals.check_window(self._decoder, length)
        refusals.check_trimming(prefill.layouts, cache)
        prefill.crop(cache.get_seq_length())
        if self._evict is None:
            return Decode(prefill, cache, attention_mask, new.shape[1])
        eviction = self._evictions.setdefault(prefill, Eviction(self._evict, self._schedule.num_layers))
        return EvictingDecode(eviction, prefill, cache, attention_mask, new.shape[1])

    def _untouched(self, inputs: dict[str, Any], keep: int | Tensor) -> Prefill:
        return Prefill(
            self._schedule, read_prompt(*self._masks(inputs)), self._decoder, generating=False, keep=keep
        )

    def _masks(self, inputs: dict[str, Any]) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Vision, attention and prompt masks of a prefill, each [batch, seq]."""
        input_ids, embeddings = inputs.get("input_ids"), inputs.get("inputs_embeds")
        sequence = embeddings if input_ids is None else input_ids
        if sequence is None:
            raise InputError("The model was called without input_ids and inputs_embeds; pass one of them.")
        given: dict[str, Tensor | None] = {}
        generation, seq = self._generation, sequence.shape[1]
        # What generate() runs along with the prompt (candidates; without a cache, its answer) is not prompt.
        answer = seq - generation.length if generation and generation.length else 0
        for name, mask in self._given.items():
            if mask is not None and generation:
                mask = pad(mask.repeat_interleave(generation.rows, 0), (0, max(answer, 0)))
            if mask is None and name == "prompt_mask" and answer > 0:
                mask = (torch.arange(seq, device=sequence.device) < seq - answer).expand(sequence.shape[:2])
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
            vision = self._family.is_vision(self._model.config, input_ids)
        mask = inputs.get("attention_mask")
        return vision, mask if mask is None else mask.to(sequence.device), given["prompt_mask"]

    def _named(self, module: Any, args: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        return {**dict(zip(self._parameters[module], args, strict=False)), **kwargs} if args else dict(kwargs)

    # Decoder layers.

    def _before_layer(self, index: int, layer: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        active = self._active
        if active is None:
            raise InputError("Under reduction, call the whole model, not its language model alone.")
        if isinstance(active, Prefill):
            if active.idle:
                active.cache = given_cache(kwargs)
                return None
            self._watch(active, index, args[0], kwargs)
        hidden_states = active.enter(index, layer, args[0], kwargs)
        if isinstance(active, Prefill | EvictingDecode) and index in active.tapped:
            assert self._tap is not None
            active.reading = index
            self._tap.arm(layer.self_attn)
        return (hidden_states, *args[1:]), kwargs

    def _watch(self, active: Prefill, index: int, hidden_states: Tensor, options: dict[str, Any]) -> None:
        """Take what `prefix` is made of as it comes by."""
        active.entered = index
        if active.capture is None or index < active.capture:
            return
        if index == active.capture:
            active.cache = options.get(CACHE, active.cache)
            self.prefix = active.taken(hidden_states)
        assert self.prefix is not None
        self.prefix.watch(active.kinds[index], options)

    def _deepen(
        self, add: Callable[..., Tensor], hidden_states: Tensor, places: Tensor, features: Tensor
    ) -> Tensor:
        active = self._active
        if isinstance(active, Prefill) and self.prefix is not None:
            self.prefix.deep[active.entered] = (places, features)
        if isinstance(active, Prefill) and active.shortened:
            return active.deepen(hidden_states, places, features)
        return add(hidden_states, places, features)

    def _read(self, query: Tensor, key: Tensor, scaling: float) -> None:
        assert isinstance(self._active, Prefill | EvictingDecode)
        self._active.read(query, key, scaling)
