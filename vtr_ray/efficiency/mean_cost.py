"""What a schedule costs on a set of samples: FLOPs and memory cost, the means over their prompts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from vtr_ray.efficiency.flops import Convention, decoder_flops
from vtr_ray.efficiency.vision import count_vision
from vtr_ray.schedule import Schedule

_KEPT = 4096  # schedules whose costs are remembered


class MeanCost:
    """FLOPs and memory cost of schedules, each the mean over the samples' prompts.

    Samples whose prompts have as many vision and text tokens are counted once, and every cost of a schedule
    is remembered, so that a search may ask at each trial. Where a family's encoder depends on the size of
    the pictures (LLaVA-NeXT, Qwen-VL), it is counted as `count_flops` counts it without pictures.

    Args:
        config: of the model.
        prompts: vision and text tokens of each sample's prompt, as `Evaluator.token_counts` gives them.

    Example:
        >>> MeanCost(config, [(576, 20), (1152, 31)]).tflops(strategies.fastv(32))
    """

    def __init__(self, config: Any, prompts: Sequence[tuple[int, int]]) -> None:
        self._config, self.samples = config, len(prompts)
        counted = Counter(prompts)
        self._vision = np.array([vision for vision, _ in counted], dtype=np.int64)
        self._text = np.array([text for _, text in counted], dtype=np.int64)
        self._times = np.array(list(counted.values()), dtype=np.int64)
        self._sizes = Counter(vision for vision, _ in prompts if vision)
        self._flops = lru_cache(_KEPT)(self._counted_flops)
        self._memory_cost = lru_cache(_KEPT)(self._kept_share)

    def __reduce__(self) -> tuple[type[MeanCost], tuple[Any, list[tuple[int, int]]]]:
        pairs = zip(self._vision.tolist(), self._text.tolist(), self._times.tolist(), strict=True)
        return MeanCost, (self._config, [(v, t) for v, t, times in pairs for _ in range(times)])

    @property
    def varies(self) -> bool:
        """Whether the samples' vision tokens differ in number."""
        return len(set(self._vision.tolist())) > 1

    @property
    def most(self) -> int:
        """Vision tokens of the sample that has the most."""
        return int(self._vision.max(initial=0))

    def flops(self, schedule: Schedule, convention: Convention = "paper", logits_to_keep: int = 0) -> float:
        """Return the mean of `count_flops(...).total`, encoder and projector included."""
        return self._flops(schedule, convention, logits_to_keep)

    def memory_cost(self, schedule: Schedule) -> float:
        """Return the share of their vision tokens that samples keep, the mean over layers and samples.

        These are the tokens that are kept (`Schedule.counts`), which differs from `Schedule.memory_cost`, the
        mean of the rates, where a rate of a sample's tokens is no whole number. Samples without vision
        tokens do not count; without any other the rates' mean is returned.
        """
        return self._memory_cost(schedule)

    def tflops(self, schedule: Schedule, convention: Convention = "paper") -> float:
        """Return TFLOPs of a prefill at batch 1: the head on all tokens left, or as it runs ("executed")."""
        return self.flops(schedule, convention, 1 if convention == "executed" else 0) / 1e12

    def _counted_flops(self, schedule: Schedule, convention: Convention, logits_to_keep: int) -> float:
        found = decoder_flops(self._config, schedule, self._vision, self._text, convention, logits_to_keep)
        found = found + self._encoding[convention == "executed"]
        if len(found) == 1:
            return float(found[0])
        return math.fsum(found * self._times) / self.samples

    @cached_property
    def _encoding(self) -> dict[bool, Any]:
        """By whether attention products count: FLOPs of encoder and projector, float64 [prompts]."""
        sizes, places = np.unique(self._vision, return_inverse=True)
        return {
            executed: np.array(
                [sum(count_vision(self._config, int(size), None, executed)) for size in sizes]
            )[places]
            for executed in (False, True)
        }

    def _kept_share(self, schedule: Schedule) -> float:
        if not self._sizes:
            return schedule.memory_cost
        costs = {size: _kept(schedule, size) for size in self._sizes}
        if len(set(costs.values())) == 1:
            return next(iter(costs.values()))
        whole = math.fsum(costs[size] * times for size, times in self._sizes.items())
        return whole / self._sizes.total()


def _kept(schedule: Schedule, vision_tokens: int) -> float:
    """The mean over layers of the share of one sample's vision tokens that a layer keeps."""
    shares = [kept / vision_tokens for kept in schedule.counts(vision_tokens)]
    return math.fsum(shares) / len(shares)
