"""The points of a Pareto search: what there is to try, and what comes next."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import islice
from typing import NamedTuple

import numpy as np

from vtr_ray import strategies
from vtr_ray.schedule import Schedule
from vtr_ray.search.front import non_dominated
from vtr_ray.search.multi import propose_front
from vtr_ray.search.sigmoids import Key, Lattice, Sigmoid

NONE, NOTHING, RANDOM = "no reduction", "no vision tokens", "random points"
POOL, NEAR = 192, 8  # candidates of a round: over the whole lattice, around each point of the front
_DRAWS = 4096  # of a Sobol sequence, until it is given up that it holds more distinct schedules


_SPREADS = (0.02, 0.05, 0.1, 0.2)  # of the neighbours, in the unit cube


class Reference(NamedTuple):
    """A schedule of a reference strategy; random points also know their place on the lattice."""

    strategy: str
    schedule: Schedule
    sigmoid: Sigmoid | None = None


class Fixed(NamedTuple):
    """What a point is: of which strategy (None: the search's own), its schedule, its place on the lattice."""

    strategy: str | None
    schedule: Schedule
    sigmoid: Sigmoid | None = None


class Plane:
    """What `Line` is to the other searches: the points, `tried` and `values` of them, and what to try next.

    Points below `len(lattice)` are the search's own; those above are the two ends of every front and the
    reference schedules. See `ParetoSearch`.
    """

    def __init__(self, lattice: Lattice, trials: int, initial: int, reference: int, seed: int) -> None:
        self.lattice, self.trials, self.initial, self.seed = lattice, trials, min(initial, trials), seed
        self.reference = reference
        self.points = range(len(lattice) + 2 + 4 * reference)  # the last ones may not exist
        self.values: dict[int, float] = {}
        self.tried: set[int] = set()
        self._spent = False  # no schedule is left that differs from all tried ones

    def at(self, point: int) -> Fixed:
        """What a point is. IndexError: there is no such point."""
        if point < len(self.lattice):
            one = self.lattice[point]
            return Fixed(None, one.schedule, one)
        return self._fixed[point - len(self.lattice)]

    def own(self, point: int) -> bool:
        """Whether a point is the search's own, the two ends included."""
        return point < len(self.lattice) + 2

    @cached_property
    def groups(self) -> dict[str, list[Key]]:
        """Keys of the reference schedules by strategy, in the order in which they are tried."""
        keys: dict[str, list[Key]] = {name: [] for name in dict.fromkeys(one.strategy for one in self._given)}
        for one in self._given:
            keys[one.strategy].append(self.lattice.key(one.schedule))
        return {name: list(dict.fromkeys(listed)) for name, listed in keys.items()}

    @property
    def most_trials(self) -> int:
        """How many trials there can be, those tried included."""
        return len(self.tried) + (self.trials - self._searched) * (not self._spent) + len(self._left())

    @property
    def exhausted(self) -> bool:
        """Whether nothing is left to try; outstanding trials may still have to be told."""
        return (self._spent or self._searched >= self.trials) and not self._left()

    def next_points(self, size: int) -> list[int]:
        """What to try next, once everything before is told: a round of `size`, or all that need no model."""
        base, chosen = len(self.lattice), list[int]()
        if base not in self.tried:
            chosen = [base, base + 1, *self._sobol[: self.initial]]
        elif not self._spent and self._searched < self.trials:
            chosen = self._proposed(min(size, self.trials - self._searched))
        if not chosen:
            chosen = self._left()
        self.tried.update(chosen)
        return chosen

    @property
    def _searched(self) -> int:
        return sum(1 for point in self.tried if point < len(self.lattice))

    def _key(self, point: int) -> Key:
        one = self.at(point)
        return one.sigmoid.key if one.sigmoid else self.lattice.key(one.schedule)

    def _tried_keys(self) -> set[Key]:
        return {self._key(point) for point in self.tried}

    def _left(self) -> list[int]:
        """Fixed points that are to be tried yet, each schedule once."""
        known, left = self._tried_keys(), []
        for point in range(len(self.lattice), len(self.lattice) + len(self._fixed)):
            if self._key(point) not in known:
                known.add(self._key(point))
                left.append(point)
        return left

    @cached_property
    def _given(self) -> list[Reference]:
        """The reference schedules of all strategies, repetitions included."""
        layers, count = self.lattice.num_layers, self.reference
        rates = [step / (count + 1) for step in range(count, 0, -1)]
        # VTW after layer 2 is an end. Three layers leave no room for it or for PDrop's three stages.
        last = [3 + (layers - 4) * (2 * step + 1) // (2 * count) for step in range(count)]
        return [
            *(Reference("FastV", strategies.fastv(layers, drop=1 - rate)) for rate in rates),
            *(Reference("PDrop", strategies.pyramid_drop(layers, keep=r)) for r in rates if layers > 3),
            *(
                Reference("VTW", strategies.vtw(layers, withdraw_after=layer))
                for layer in reversed(last)
                if layers > 3
            ),
            *(Reference(RANDOM, self.lattice[p].schedule, self.lattice[p]) for p in self._sobol[:count]),
        ]

    @cached_property
    def _fixed(self) -> list[Fixed]:
        layers = self.lattice.num_layers
        ends = [Fixed(NONE, strategies.none(layers)), Fixed(NOTHING, strategies.p_sigmoid(layers, 0.0, 0.0))]
        return [*ends, *(Fixed(*one) for one in self._given)]

    @cached_property
    def _sobol(self) -> list[int]:
        """The first distinct points of the search's Sobol sequence, the ends left out."""
        wanted = max(self.initial, self.reference)
        known = {self.lattice.key(strategies.none(self.lattice.num_layers))}
        known.add(self.lattice.key(strategies.p_sigmoid(self.lattice.num_layers, 0.0, 0.0)))
        return list(islice(self._distinct(_sobol_places(self.seed, _DRAWS), known), wanted))

    def _distinct(self, places: Iterable[Sequence[float]], known: set[Key]) -> Iterator[int]:
        """Lattice points of these places whose schedules are not known; `known` grows."""
        for place in places:
            point = self.lattice.at(place)
            if self.lattice[point].key not in known:
                known.add(self.lattice[point].key)
                yield point

    def _proposed(self, size: int) -> list[int]:
        """A round of `size`; all that is left where that is no more."""
        number = self._searched
        seed = int(np.random.SeedSequence([self.seed, number]).generate_state(1)[0])
        known = self._tried_keys()
        wide = list(islice(self._distinct(_sobol_places(seed, _DRAWS), known), POOL))
        if len(wide) <= size:  # so few that they were enumerated
            self._spent = True
            return wide
        seen = [point for point in sorted(self.values) if self.own(point)]
        pool = [*wide, *self._distinct(self._neighbours(seed), known)]
        nothing = self.values.get(len(self.lattice) + 1)
        chosen = propose_front(
            [self.lattice.shape(self.at(point).schedule) for point in seen],
            [self.values[point] for point in seen],
            [self.lattice.relative(self.at(point).schedule) for point in seen],
            [self.lattice[point].shape for point in pool],
            [self.lattice[point].cost for point in pool],
            reference=min(self.values.values(), default=0.0) if nothing is None else nothing,
            count=size,
            seed=seed,
        )
        return wide[:size] if chosen is None else [pool[index] for index in chosen]

    def _neighbours(self, seed: int) -> Iterator[tuple[float, ...]]:
        """Places around the points of the front, some near, some further."""
        rng = np.random.default_rng(seed)
        own = [point for point in sorted(self.values) if point < len(self.lattice)]
        front = non_dominated([(self.values[point], self.lattice[point].cost) for point in own])
        for index in front:
            place = np.asarray(self.lattice.place(own[index]))
            for spread in np.resize(_SPREADS, NEAR):
                yield tuple((place + rng.normal(0.0, spread, 3)).tolist())


def _sobol_places(seed: int, count: int) -> Iterator[Sequence[float]]:
    """The first `count` places of a scrambled Sobol sequence in the unit cube, drawn as they are needed."""
    from torch.quasirandom import SobolEngine

    engine = SobolEngine(3, scramble=True, seed=seed)  # type: ignore[no-untyped-call]
    for _ in range(0, count, POOL):
        yield from engine.draw(POOL).tolist()
