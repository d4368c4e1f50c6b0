"""Decode-time reduction: every few decoded tokens, vision tokens leave the cache by those tokens' attention.

The paper's limitation 9.4 (3): in a long answer the prompt's ranking grows old. The prefill cuts as its
schedule says; this drops further keys and values while the answer is written.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vtr_ray.errors import InputError
from vtr_ray.reduction.kinds import layer_kinds
from vtr_ray.reduction.layout import Layout, cut
from vtr_ray.reduction.passes import Decode, Prefill
from vtr_ray.reduction.refusals import Unsupported, option_reader
from vtr_ray.reduction.scoring import in_float32
from vtr_ray.schedule import Schedule


@dataclass(frozen=True)
class DecodeReduction:
    """After every `every` decoded tokens, each layer's cache keeps the share `keep` of its vision tokens.

    A token counts as decoded once it has run through the model: the first is the one that the prefill chose.
    After `every`, `2 * every`, ... of them, at each layer from `first_layer` on, the vision tokens left in
    that layer's cache are ranked by the attention probability that the last `every` decoded tokens paid them
    at that layer, mean over heads and tokens (ties: the earlier). `floor(keep * left + 0.5)` of the `left`
    stay, for the tokens that follow; prompt text and decoded tokens always stay. Each layer chooses on its
    own: a deeper one may hold what a shallower one dropped.

    An option, not a default: where an answer is read off the image piece by piece, what the last tokens
    looked at is not what the next ones need. On the embedded model's reading tasks it loses more than
    dropping as many tokens at random (benchmarks/decode_reduction.py).

    Attributes:
        every: decoded tokens from one ranking to the next, at least 1.
        keep: share in [0, 1] of the vision tokens left that stays; 1 drops nothing.
        first_layer: the first layer (from 1) whose cache shrinks, at least 2: positions and masks of all
            layers are counted by the first one's cache.

    Raises:
        InputError: a value out of range.
    """

    every: int
    keep: float
    first_layer: int = 3

    def __post_init__(self) -> None:
        if self.every < 1:
            raise InputError(f"every is {self.every}; rank after at least 1 decoded token.")
        if not 0.0 <= self.keep <= 1.0:  # also refuses NaN
            raise InputError(f"keep is {self.keep}; use a share in [0, 1].")
        if self.first_layer < 2:
            raise InputError(
                f"first_layer is {self.first_layer}; layer 1 must keep its cache: use 2 or more."
            )

    def counts(self, left: list[int]) -> list[int]:
        """Vision tokens that stay, of those left in each sample's cache."""
        return [math.floor(self.keep * n + 0.5) for n in left]


def check_decoding(decoder: Any, schedule: Schedule, settings: DecodeReduction) -> None:
    """Refuse what eviction cannot follow: sliding windows, whose caches trim themselves; moved positions."""
    if settings.first_layer > schedule.num_layers:
        raise InputError(
            f"first_layer is {settings.first_layer}, but the model has {schedule.num_layers} decoder layers."
        )
    if any(kind.window for kind in layer_kinds(decoder.config)):
        raise Unsupported(
            "Decode-time reduction of layers with a sliding window is not supported; leave it out."
        )
    if schedule.positions == "renumber":
        raise Unsupported(
            "Decode-time reduction with renumbered positions is not defined: cached keys keep theirs; give "
            "the schedule positions='original'."
        )


def check_modes(model: Any, options: Mapping[str, Any]) -> None:
    """Refuse modes of generate() that take back tokens, change rows, or keep no cache."""
    value = option_reader(model, options)
    for name, refused in (
        ("num_beams", (value("num_beams") or 1) > 1),
        ("assistant_model", value("assistant_model") is not None),
        ("prompt_lookup_num_tokens", value("prompt_lookup_num_tokens") is not None),
        ("use_cache=False", value("use_cache") is False),
    ):
        if refused:
            raise Unsupported(
                f"generate() with {name} is not supported under decode-time reduction; leave one of them out."
            )


class Eviction:
    """One cache under decode-time reduction: attention since the last ranking, layer by layer.

    Args:
        settings: when, how much, where.
        layers: decoder layers of the model.
    """

    def __init__(self, settings: DecodeReduction, layers: int) -> None:
        self.settings = settings
        self.layers = range(settings.first_layer - 1, layers)  # from 0
        self.steps = 0  # decoded tokens so far
        self._attended: dict[
            int, Tensor
        ] = {}  # by layer, float32 [batch, slots of its prompt]: sums over steps

    def follow(self, decode: Decode) -> None:
        """Before a pass over the cache: drop what is due.

        Raises:
            Unsupported: several tokens at once, or tokens taken back.
        """
        cropped = decode.prefill.length < decode.prefill.first.length
        if decode.new > 1 or decode.steps != self.steps + 1 or cropped:
            raise Unsupported(
                "Decode-time reduction follows one new token a call, none taken back; start from an empty "
                "cache."
            )
        if self.steps and self.steps % self.settings.every == 0:
            for index in self.layers:
                self._evict(index, decode.prefill, decode.cache.layers[index])
            self._attended = {}
        self.steps += 1

    def read(self, index: int, query: Tensor, key: Tensor, scaling: float, valid: Tensor) -> None:
        """Add what the new token attends to.

        Args:
            index: the layer, from 0.
            query: rotated, [batch, heads, 1, head_dim].
            key: of the whole cache, rotated, [batch, key heads, keys, head_dim].
            scaling: factor on the products.
            valid: bool [batch, slots of the prompt + decoded tokens], False at fillers and padding.
        """
        probabilities = new_token_scores(query, key, scaling, valid)[:, : valid.shape[1] - self.steps]
        known = self._attended.get(index)
        self._attended[index] = probabilities if known is None else known + probabilities

    def _evict(self, index: int, prefill: Prefill, held: Any) -> None:
        scores = self._attended[index]
        layout = held_by(prefill, index).to(scores.device)
        counts = self.settings.counts(layout.counts)
        if counts == layout.counts:
            return
        slots, prefill.layouts[index] = cut(layout, scores, counts)
        for name in ("keys", "values"):
            states = getattr(held, name)
            before, after = states[:, :, : layout.length], states[:, :, layout.length :]
            places = slots[:, None, :, None].expand(-1, states.shape[1], -1, states.shape[3])
            setattr(held, name, torch.cat([before.gather(2, places), after], dim=2))


class EvictingDecode(Decode):
    """A decode step whose attention is read, and whose due evictions are done before it runs."""

    def __init__(
        self, eviction: Eviction, prefill: Prefill, cache: Any, attention_mask: Tensor | None, new: int
    ) -> None:
        super().__init__(prefill, cache, attention_mask, new)
        self.eviction = eviction
        self.tapped = eviction.layers
        self.reading = 0  # the layer whose scores come next
        eviction.follow(self)

    def read(self, query: Tensor, key: Tensor, scaling: float) -> None:
        """Count the attention of the layer that runs."""
        layout = held_by(self.prefill, self.reading)
        valid = layout.valid.to(key.device)
        real = valid.new_ones(len(valid), self.steps) if self._tail is None else self._tail.to(key.device)
        self.eviction.read(self.reading, query, key, scaling, torch.cat([valid, real], dim=1))


def held_by(prefill: Prefill, index: int) -> Layout:
    """What the cache of layer `index` (from 0) holds of the prompt."""
    return prefill.layouts[index] or prefill.first


@torch.no_grad()
def new_token_scores(query: Tensor, key: Tensor, scaling: float, valid: Tensor) -> Tensor:
    """Attention probability from one new token to every key, mean over heads, in float32.

    Args:
        query: rotated, [batch, heads, 1, head_dim].
        key: rotated, [batch, key heads, keys, head_dim].
        scaling: factor on the products.
        valid: bool [batch, keys], the keys that it may see.

    Returns:
        float32 [batch, keys].
    """
    batch, heads, _, size = query.shape
    grouped = query.float().view(batch, key.shape[1], heads // key.shape[1], size) * scaling
    with in_float32(query):
        products = grouped @ key.float().transpose(2, 3)  # [batch, key heads, group, keys]
    scores: Tensor = products.masked_fill(~valid[:, None, None], float("-inf")).softmax(-1).mean((1, 2))
    return scores
