"""Trials: what a search asks for, and what became of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vtr_ray.schedule import Schedule


@dataclass(frozen=True)
class Trial:
    """One evaluation to be done: measure E of `schedule`, then `tell` it.

    G-Search sets `layer` (counted from 1) and `rate`, P-Sigmoid sets `k`, the Pareto search also `budget` and
    `alpha`, or which reference `strategy` it is. Ids count from 1.
    """

    id: int
    schedule: Schedule
    layer: int | None = None
    rate: float | None = None
    k: float | None = None
    budget: float | None = None
    alpha: float | None = None
    strategy: str | None = None


@dataclass(frozen=True)
class TrialResult:
    """What became of a trial: `score` (E) and `objective`, or the reason of its `failure`, or neither yet.

    bound: `E - E(no reduction)` is at least this, where the search was told.
    stopped: the trial was stopped early; E is at most this. It has no score then.
    """

    id: int
    schedule: Schedule
    layer: int | None
    rate: float | None
    k: float | None
    score: float | None
    objective: float | None
    failure: str | None
    bound: float | None = None
    stopped: float | None = None
    budget: float | None = None
    alpha: float | None = None
    strategy: str | None = None


@dataclass
class Entry:
    """A trial in its search: where it stands on the line, and what was told of it."""

    trial: Trial
    point: int
    threshold: float | None = None
    score: float | None = None
    failure: str | None = None
    bound: float | None = None
    stopped: float | None = None
    scores: tuple[float, ...] | None = None

    @property
    def outstanding(self) -> bool:
        """Whether it is still to be told."""
        return self.score is None and self.failure is None and self.stopped is None

    @property
    def record(self) -> dict[str, Any]:
        """JSON; what only some searches have is left out where there is none."""
        scores = None if self.scores is None else list(self.scores)
        some = {"threshold": self.threshold, "bound": self.bound, "stopped": self.stopped, "scores": scores}
        return {
            "id": self.trial.id,
            "layer": self.trial.layer,
            "point": self.point,
            "score": self.score,
            "failure": self.failure,
            **{name: value for name, value in some.items() if value is not None},
        }
