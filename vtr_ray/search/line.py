"""One 1-D search: its grid, what was tried, and what comes next."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vtr_ray.search.belief import Belief, believe
from vtr_ray.search.optimiser import Known, Surrogate, propose


class Line:
    """The points of one finite grid, searched for the best with a fixed number of trials.

    First the initial points, then points proposed by the surrogate, `size` at a time; a grid with no more
    points left than trials is enumerated. Points are indices into the grid; none is tried twice.

    Attributes:
        values: outcomes by point.
        scores: each sample's score, by point, where it is known.
        ceilings: of trials that were stopped early, by point: the outcome is below this.
        tried: all points asked for, those with an outcome for nothing included.
    """

    def __init__(
        self,
        points: Sequence[float],
        initial: Sequence[Sequence[int]],
        budget: int,
        seeds: Sequence[int],
        surrogate: Surrogate,
        known: tuple[int, float] | None = None,
        needed: float | None = None,
    ) -> None:
        """`points`: the grid in [0, 1], ascending; `initial`: in groups, each asked once the one before is
        told; `budget`: trials; `known`: a free point, its outcome; `needed`: of `propose`.
        """
        self.points = list(points)
        self.initial = [list(group) for group in initial]
        self.budget = budget
        self.seeds = list(seeds)
        self.surrogate = surrogate
        self.needed = needed
        self.values: dict[int, float] = dict([known] if known else [])
        self.scores: dict[int, Sequence[float]] = {}
        self.ceilings: dict[int, float] = {}
        self.tried: set[int] = set(self.values)
        self.free = len(self.values)

    @property
    def most_trials(self) -> int:
        """How many trials this line can take altogether."""
        return min(self.budget, len(self.points) - self.free)

    @property
    def exhausted(self) -> bool:
        """Whether nothing is left to try; outstanding trials may still have to be told."""
        if len(self.tried) - self.free >= self.most_trials:
            return True
        best = self.best() if self.needed is not None else None
        return best is not None and all(index in self.tried for index in range(best))

    def next_points(self, size: int) -> list[int]:
        """What to try next, once everything before is told: a round of `size`, or all that need no model."""
        if self.exhausted:
            return []
        left = self.budget - (len(self.tried) - self.free)
        groups = ([index for index in group if index not in self.tried] for group in self.initial)
        chosen = next((group for group in groups if group), [])[:left]
        if len(self.initial) == 1 and len(self.points) - len(self.tried) <= left:
            chosen = [index for index in range(len(self.points)) if index not in self.tried]
        elif not chosen:
            seed = int(np.random.SeedSequence([*self.seeds, len(self.tried)]).generate_state(1)[0])
            chosen = propose(self.points, self._known(), self.surrogate, min(size, left), seed, self.needed)
        self.tried.update(chosen)
        return chosen

    def belief(self) -> Belief | None:
        """What the surrogate says of the outcome at every point by now; None where it says nothing."""
        return believe(self.points, self._known(), self.surrogate)

    def _known(self) -> Known:
        failed = self.tried - self.values.keys() - self.ceilings.keys()
        return Known(self.values, failed, self.ceilings, self.scores)

    def best(self) -> int | None:
        """The best observed point, the lower one on a tie; None while there is none."""
        if not self.values:
            return None
        needed = max(self.values.values()) - 1e-12 if self.needed is None else self.needed
        return min((index for index, value in self.values.items() if value >= needed), default=None)
