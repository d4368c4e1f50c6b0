"""One 1-D search: its grid, what was tried, and what comes next."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vtr_ray.search.optimiser import propose


class Line:
    """The points of one finite grid, searched for the largest value with a fixed number of trials.

    First the initial points, then points proposed by the Gaussian process, `size` at a time; a grid with no
    more points left than trials is enumerated. Points are indices into the grid; none is tried twice.
    """

    def __init__(
        self,
        points: Sequence[float],
        initial: Sequence[int],
        budget: int,
        seeds: Sequence[int],
        scale: float,
        cliff: float | None = None,
        known: tuple[int, float] | None = None,
    ) -> None:
        """`points`: the grid in [0, 1], ascending; `budget`: trials; `known`: a free point, its value.

        `scale`, `cliff`: of `propose`.
        """
        self.points = list(points)
        self.initial = list(initial)
        self.budget = budget
        self.seeds = list(seeds)
        self.scale = scale
        self.cliff = cliff
        self.values: dict[int, float] = dict([known] if known else [])
        self.tried: set[int] = set(self.values)
        self.free = len(self.values)

    @property
    def most_trials(self) -> int:
        """How many trials this line can take altogether."""
        return min(self.budget, len(self.points) - self.free)

    @property
    def exhausted(self) -> bool:
        """Whether nothing is left to try; outstanding trials may still have to be told."""
        return len(self.tried) - self.free >= self.most_trials

    def next_points(self, size: int) -> list[int]:
        """What to try next, once everything before is told: a round of `size`, or all that need no model."""
        if self.exhausted:
            return []
        unseen = [index for index in range(len(self.points)) if index not in self.tried]
        left = self.budget - (len(self.tried) - self.free)
        if len(unseen) <= left:
            chosen = unseen
        elif len(self.tried) == self.free:
            chosen = [index for index in self.initial if index not in self.tried][:left]
        else:
            seed = int(np.random.SeedSequence([*self.seeds, len(self.tried)]).generate_state(1)[0])
            failed = self.tried - set(self.values)
            chosen = propose(self.points, self.values, failed, min(size, left), seed, self.scale, self.cliff)
        self.tried.update(chosen)
        return chosen

    def best(self) -> int | None:
        """The best observed point, the lower one on a tie; None while nothing was observed."""
        if not self.values:
            return None
        top = max(self.values.values())
        return min(index for index, value in self.values.items() if value >= top - 1e-12)
