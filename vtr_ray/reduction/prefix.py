"""The state of a batch that enters a layer: where schedules differ only from there on, they share it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from vtr_ray.models import CACHE
from vtr_ray.reduction.kinds import Kind
from vtr_ray.reduction.layout import Layout
from vtr_ray.reduction.prompt import Prompt
from vtr_ray.schedule import Schedule

# What a layer is given anew in every pass.
_OWN = ("attention_mask", CACHE, "use_cache")


@dataclass(frozen=True)
class Prefix:
    """A batch on its way into layer `layer`, all tokens that the layers before left in it.

    Attributes:
        layer: counted from 1.
        schedule: what ran; any schedule that agrees with it before `layer` may go on from here.
        states: [batch, length, width], the layer's input before any cut there.
        scores: float32 [batch, length], what ranks for a cut before the layer; None: nothing that attends.
        first, layout: the input's tokens, and those left.
        layouts: of each layer before; None: untouched.
        shortened: whether any layer before has cut.
        blocks: int64 [batch, seq], see `Prefill`; or None.
        held: keys and values of each layer before, [batch, heads, tokens, head_dim]; empty without a cache.
        options: by kind of layer, what the model calls its layers with, of the input's length.
        deep: by layer (from 0), the vision tokens' places bool [batch, seq] and what is added there after it.
    """

    layer: int
    schedule: Schedule
    states: Tensor
    scores: Tensor | None
    first: Layout
    layout: Layout
    layouts: list[Layout | None]
    shortened: bool
    blocks: Tensor | None
    held: list[tuple[Tensor, Tensor]]
    options: dict[Kind, dict[str, Any]] = field(default_factory=dict)
    deep: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def watch(self, kind: Kind, options: dict[str, Any]) -> None:
        """Note what the model calls a layer of that kind with."""
        if kind not in self.options:
            self.options[kind] = {name: value for name, value in options.items() if name not in _OWN}

    def map(self, function: Callable[[Tensor], Tensor]) -> Prefix:
        """The same with `function` of every tensor; what shares a tensor goes on sharing it."""
        known: dict[int, Any] = {}

        def mapped(value: Any) -> Any:
            if not isinstance(value, Tensor | Prefix | Layout | Prompt | dict | list | tuple):
                return value
            if id(value) not in known:
                known[id(value)] = fresh(value), value  # the value too: an id is free again once it is gone
            return known[id(value)][0]

        def fresh(value: Any) -> Any:
            if isinstance(value, Tensor):
                return function(value)
            if isinstance(value, dict):
                return {name: mapped(entry) for name, entry in value.items()}
            if isinstance(value, list | tuple):
                return type(value)(mapped(entry) for entry in value)
            return replace(value, **{part.name: mapped(getattr(value, part.name)) for part in fields(value)})

        result: Prefix = mapped(self)
        return result

    def tensors(self) -> Iterator[Tensor]:
        """Every tensor once, in an order that `map` keeps."""
        found: list[Tensor] = []

        def note(tensor: Tensor) -> Tensor:
            found.append(tensor)
            return tensor

        self.map(note)
        return iter(found)

    @property
    def bytes(self) -> int:
        """Memory that all tensors hold, views with all they are views of."""
        storages = [tensor.untyped_storage() for tensor in self.tensors()]
        return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())

    def cache(self, config: Any) -> DynamicCache:
        """A cache that holds the layers before; what is appended leaves this prefix as it is.

        config: the language model's.
        """
        cache = DynamicCache(config=config)
        for layer, (keys, values) in zip(cache.layers, self.held, strict=False):
            layer.lazy_initialization(keys, values)
            layer.keys, layer.values = keys, values  # appending makes new tensors
            if layer.is_sliding:
                layer.cumulative_length = self.first.length
        return cache


@torch.no_grad()
def close(one: Tensor, other: Tensor) -> bool:
    """Whether two logits [batch, places, vocabulary] are the same but for rounding; NaN equals NaN."""
    rough = one.dtype in (torch.float16, torch.bfloat16)
    scale = one.float().nan_to_num().abs().max()
    off = (one.float() - other.float()).nan_to_num().abs().max()
    return bool(off <= (5e-2 if rough else 1e-4) * scale) and bool((one.isnan() == other.isnan()).all())
