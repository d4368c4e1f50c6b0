"""FLOPs of one prefill of one sample, from the configuration alone, under two conventions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from vtr_ray.efficiency.decoder import DecoderShape, check_length, decoder_shape
from vtr_ray.efficiency.vision import count_vision, vision_cost
from vtr_ray.efficiency.workloads import Picture
from vtr_ray.errors import InputError
from vtr_ray.schedule import Ranking, Schedule

Convention = Literal["paper", "executed"]


@dataclass(frozen=True)
class LayerFlops:
    """One decoder layer's FLOPs.

    linear: its matrices. attention: its products, full square. scoring: what ranking adds where it runs: in
    the layer whose attention ranks for a later cut, or before the layer that ranks by its own projections; 0
    in the paper's convention.
    """

    linear: float
    attention: float
    scoring: float

    @property
    def total(self) -> float:
        """Sum of all parts."""
        return self.linear + self.attention + self.scoring


@dataclass(frozen=True)
class Flops:
    """FLOPs by part; a multiply-add counts 2.

    encoder, projector: of the sample's images. layers: the decoder's, layer 1 first. head: the language
    model's head.
    """

    encoder: float
    projector: float
    layers: tuple[LayerFlops, ...]
    head: float

    @property
    def linear(self) -> float:
        """The decoder layers' matrices."""
        return math.fsum(layer.linear for layer in self.layers)

    @property
    def attention(self) -> float:
        """The decoder layers' attention products."""
        return math.fsum(layer.attention for layer in self.layers)

    @property
    def scoring(self) -> float:
        """What the ranking adds; 0 in the paper's convention."""
        return math.fsum(layer.scoring for layer in self.layers)

    @property
    def per_layer(self) -> tuple[float, ...]:
        """Each decoder layer's FLOPs, layer 1 first."""
        return tuple(layer.total for layer in self.layers)

    @property
    def decoder(self) -> float:
        """The language model without encoder, projector: decoder layers and head."""
        return math.fsum(self.per_layer) + self.head

    @property
    def total(self) -> float:
        """Sum of all parts."""
        return self.encoder + self.projector + self.decoder

    @property
    def macs(self) -> float:
        """Multiply-adds: half of `total`."""
        return self.total / 2


def count_flops(
    config: Any,
    schedule: Schedule,
    vision_tokens: int,
    text_tokens: int,
    convention: Convention = "paper",
    instruction_tokens: int | None = None,
    images: Sequence[Picture] | None = None,
    logits_to_keep: int = 0,
) -> Flops:
    """FLOPs of a prefill at batch 1, the language-model head on all tokens left after the last layer.

    "paper" is the rule that reproduces the paper's tables: with `n_i` tokens at layer `i`, width `d`, key
    width `d_kv`, feed-forward width `m`: `2 n_i (2 d^2 + 2 d d_kv + 3 d m)` and `4 n_i^2 d` per layer,
    `2 n_L d vocabulary` for the head; of the encoder the linear layers and the patch embedding. "executed"
    adds what else runs: the encoder's attention and the ranking's own products.

    Args:
        config: of a model, in transformers' native layout (see `read_config`).
        schedule: one rate per decoder layer.
        vision_tokens: input vision tokens `N`, of whole images.
        text_tokens: other input tokens.
        convention: "paper" or "executed".
        instruction_tokens: rows that rank, for "executed" with the instruction ranking. Default: all text.
        images: the sample's pictures, where `vision_tokens` do not tell what the encoder ran on: see
            `count_vision`.
        logits_to_keep: tokens that the head runs on; 0: all that are left.

    Raises:
        InputError: a schedule of another length, a fraction of an image, an unknown convention, a family,
            encoder or language model that cannot be counted.

    Example:
        >>> count_flops(read_config("llava-1.5-7b"), strategies.fastv(32), 576, 75).total / 1e12
        5.48...
    """
    if convention not in get_args(Convention):
        raise InputError(f"convention is {convention!r}; use paper or executed.")
    executed = convention == "executed"
    vision_cost(config)  # the family first: it says more than its language model
    shape = decoder_shape(config)
    check_length(shape, schedule.num_layers)
    encoder, projector = count_vision(config, vision_tokens, images, executed)
    counts = schedule.counts(vision_tokens)
    lengths = [kept + text_tokens for kept in counts]
    per_token = 2 * shape.width * (2 * shape.attended + 2 * shape.keys + 3 * shape.feed)
    rows = text_tokens if instruction_tokens is None else instruction_tokens
    scoring = _scoring(schedule, counts, lengths, shape, rows) if executed else [0.0] * len(counts)
    layers = tuple(
        LayerFlops(linear=float(n * per_token), attention=4.0 * n * n * shape.attended, scoring=added)
        for n, added in zip(lengths, scoring, strict=True)
    )
    last = min(logits_to_keep, lengths[-1]) if logits_to_keep else lengths[-1]
    return Flops(encoder, projector, layers, head=2.0 * last * shape.width * shape.vocabulary)


def _scoring(
    schedule: Schedule, counts: list[int], lengths: list[int], shape: DecoderShape, rows: int
) -> list[float]:
    """Products of the ranking at each layer: its rows against all keys, for every cut that has to choose."""
    added = [0.0] * len(counts)
    span = counts[0] + rows  # from the first vision token to the question's end
    for layer in range(1, len(counts)):
        if not 0 < counts[layer] < counts[layer - 1]:
            continue
        if schedule.ranking is Ranking.NEXT_LAYER:
            length = lengths[layer - 1]
            projections = 2.0 * shape.width * (shape.attended + length * shape.keys)
            if shape.fused:
                projections = 2.0 * shape.width * (length + 1) * (shape.attended + 2 * shape.keys)
            added[layer] = 2.0 * length * shape.attended + projections
        elif schedule.ranking is not Ranking.RANDOM:
            # A sliding window may hide vision tokens from the rows: the last layer whose window does not.
            seeing = [i for i in range(layer) if (shape.windows[i] or span) >= span]
            source = seeing[-1] if seeing else layer - 1
            if schedule.ranking is Ranking.INSTRUCTION:
                added[source] = 2.0 * rows * lengths[source] * (shape.attended + 1)  # and the mean over rows
            else:
                added[source] = 2.0 * lengths[source] * shape.attended
    return added
