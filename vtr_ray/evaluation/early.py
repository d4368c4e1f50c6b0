"""Ending an evaluation whose E can no longer reach what it needs."""

from __future__ import annotations

from collections.abc import Sequence

from vtr_ray.evaluation.outcome import Outcome


class EarlyStop:
    """The `enough` of a pool: whether E is known to stay below `threshold`, unseen samples counting as right.

    Which samples show it depends on their order alone, never on how they arrive: the outcomes given are
    always the first ones of the whole list. So a trial is stopped with any number of actors or with none.

    Attributes:
        ceiling: E is at most this; None while it may still reach the threshold. It is the bound of the first
            samples that show it, so that the same trial has the same one.
    """

    def __init__(self, threshold: float) -> None:
        self.ceiling: float | None = None
        self._threshold = threshold
        self._seen = 0
        self._lost = 0.0

    def __call__(self, outcomes: Sequence[Outcome], left: int) -> bool:
        """`outcomes`: the first ones, in order; `left`: how many samples are not among them."""
        total = len(outcomes) + left
        # The last sample shows nothing early: with it E is known.
        while self.ceiling is None and self._seen < min(len(outcomes), total - 1):
            self._lost += 1.0 - outcomes[self._seen].score
            self._seen += 1
            if 1.0 - self._lost / total < self._threshold:
                self.ceiling = 1.0 - self._lost / total
        return self.ceiling is not None
