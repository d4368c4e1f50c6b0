"""FLOPs of one prefill of one sample, from the configuration alone, under two conventions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from vtr_ray.efficiency.decoder import DecoderShape, check_length, decoder_shape
from vtr_ray.efficiency.vision import count_vision, vision_cost
from vtr_ray.efficiency.workloads import Picture
from vtr_ray.errors import InputError
from vtr_ray.schedule import Ranking, Schedule

Convention = Literal["paper", "executed"]
_Array = npt.NDArray[Any]


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
    executed = _executed(convention)
    vision_cost(config)  # the family first: it says more than its language model
    shape = decoder_shape(config)
    check_length(shape, schedule.num_layers)
    encoder, projector = count_vision(config, vision_tokens, images, executed)
    counts = np.array([schedule.counts(vision_tokens)])
    rows = text_tokens if instruction_tokens is None else instruction_tokens
    linear, attention, scoring, head = _decoder(
        shape, schedule, counts, np.array([text_tokens]), np.array([rows]), executed, logits_to_keep
    )
    layers = tuple(
        LayerFlops(linear=float(one), attention=float(two), scoring=float(three))
        for one, two, three in zip(linear[0], attention[0], scoring[0], strict=True)
    )
    return Flops(encoder, projector, layers, head=float(head[0]))


def decoder_flops(
    config: Any,
    schedule: Schedule,
    vision_tokens: npt.NDArray[np.int64],
    text_tokens: npt.NDArray[np.int64],
    convention: Convention = "paper",
    logits_to_keep: int = 0,
) -> npt.NDArray[np.float64]:
    """Return `count_flops(...).decoder` of many prompts at once, float64 [prompts].

    Args:
        config: of a model, as `count_flops` takes it.
        schedule: one rate per decoder layer.
        vision_tokens: of each prompt, int64 [prompts].
        text_tokens: of each prompt, int64 [prompts].
        convention: "paper" or "executed".
        logits_to_keep: tokens that the head runs on; 0: all that are left.

    Raises:
        InputError: as `count_flops` does.
    """
    shape = decoder_shape(config)
    check_length(shape, schedule.num_layers)
    sizes, places = np.unique(vision_tokens, return_inverse=True)
    counts = np.array([schedule.counts(int(size)) for size in sizes])[places]
    parts = _decoder(shape, schedule, counts, text_tokens, text_tokens, _executed(convention), logits_to_keep)
    linear, attention, scoring, head = parts
    found: npt.NDArray[np.float64] = (linear + attention + scoring).sum(1) + head
    return found


def _executed(convention: Convention) -> bool:
    if convention not in get_args(Convention):
        raise InputError(f"convention is {convention!r}; use paper or executed.")
    return convention == "executed"


def _decoder(
    shape: DecoderShape,
    schedule: Schedule,
    counts: _Array,
    text: _Array,
    rows: _Array,
    executed: bool,
    logits_to_keep: int,
) -> tuple[_Array, _Array, _Array, _Array]:
    """Linear, attention and scoring FLOPs [prompts, L], and the head's [prompts].

    counts: vision tokens, int64 [prompts, L]. text, rows: text tokens, and those that rank, [prompts].
    """
    lengths = counts + text[:, None]
    per_token = 2 * shape.width * (2 * shape.attended + 2 * shape.keys + 3 * shape.feed)
    scoring = np.zeros(lengths.shape)
    if executed:
        scoring = _scoring(schedule, counts, lengths, shape, rows)
    kept = lengths[:, -1]
    last = np.minimum(logits_to_keep, kept) if logits_to_keep else kept
    attention = 4.0 * lengths * lengths * shape.attended
    return lengths * float(per_token), attention, scoring, 2.0 * last * shape.width * shape.vocabulary


def _scoring(
    schedule: Schedule, counts: _Array, lengths: _Array, shape: DecoderShape, rows: _Array
) -> _Array:
    """Products of the ranking at each layer: its rows against all keys, for every cut that has to choose."""
    added = np.zeros(lengths.shape)
    span = counts[:, 0] + rows  # from the first vision token to the question's end
    windows = np.array([window or np.inf for window in shape.windows])
    for layer in range(1, counts.shape[1]):
        (chosen,) = np.nonzero((counts[:, layer] > 0) & (counts[:, layer] < counts[:, layer - 1]))
        if not len(chosen):
            continue
        if schedule.ranking is Ranking.NEXT_LAYER:
            length = lengths[chosen, layer - 1]
            projections = 2.0 * shape.width * (shape.attended + length * shape.keys)
            if shape.fused:
                projections = 2.0 * shape.width * (length + 1) * (shape.attended + 2 * shape.keys)
            added[chosen, layer] = 2.0 * length * shape.attended + projections
        elif schedule.ranking is not Ranking.RANDOM:
            # A sliding window may hide vision tokens from the rows: the last layer whose window does not.
            seeing = windows[None, :layer] >= span[chosen, None]
            last = layer - 1 - seeing[:, ::-1].argmax(1)
            source = np.where(seeing.any(1), last, layer - 1)
            length = lengths[chosen, source]
            if schedule.ranking is Ranking.INSTRUCTION:
                # and the mean over rows
                added[chosen, source] = 2.0 * rows[chosen] * length * (shape.attended + 1)
            else:
                added[chosen, source] = 2.0 * length * shape.attended
    return added
