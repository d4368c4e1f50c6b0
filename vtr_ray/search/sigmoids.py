"""The P-Sigmoid schedules that the Pareto search chooses from: a lattice over (b, k, alpha)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from vtr_ray import strategies
from vtr_ray.schedule import Schedule
from vtr_ray.strategies import p_sigmoid

BUDGETS, STEEPNESSES, MIDDLES = 400, 100, 100  # steps; finer ones hardly change a count
_SIZES = (BUDGETS + 1, STEEPNESSES + 1, MIDDLES + 1)
_GROUPS = 4

Place = tuple[float, float, float]  # in the unit cube: budget, root of the steepness, middle
Key = tuple[object, ...]


@dataclass(frozen=True)
class Sigmoid:
    """A lattice point: its curve, what it costs, and where it lies for the model.

    key: schedules of equal keys do the same to every sample of `N` tokens.
    shape: what the model of E sees: mean keeping rates of up to four groups of neighbouring layers. On a flat
    curve k and alpha say nothing; equal schedules have equal shapes.
    cost: 0 where no vision token is left after layer 2, 1 without reduction.
    """

    budget: float
    k: float
    alpha: float
    schedule: Schedule
    key: Key
    shape: tuple[float, ...]
    cost: float


class Lattice:
    """Budgets 0..1, `k` 0..`k_max` (finer near 0), `alpha` 3..L, numbered from 0; made when asked for.

    cost: of a schedule, in the caller's units. `low`, `high`: without vision tokens after layer 2, with all.
    """

    def __init__(
        self, num_layers: int, vision_tokens: int, k_max: float, cost: Callable[[Schedule], float]
    ) -> None:
        self.num_layers, self.vision_tokens, self.k_max = num_layers, vision_tokens, k_max
        self._cost = cost
        self._known: dict[int, Sigmoid] = {}
        self.low, self.high = cost(p_sigmoid(num_layers, 0.0, 0.0)), cost(strategies.none(num_layers))

    def __len__(self) -> int:
        return _SIZES[0] * _SIZES[1] * _SIZES[2]

    def __getitem__(self, point: int) -> Sigmoid:
        if point not in self._known:
            self._known[point] = self._made(point)
        return self._known[point]

    def at(self, place: Sequence[float]) -> int:
        """The lattice point nearest to a place; places outside the cube count as on its surface."""
        steps = [round(min(max(x, 0.0), 1.0) * (size - 1)) for x, size in zip(place, _SIZES, strict=True)]
        return (steps[0] * _SIZES[1] + steps[1]) * _SIZES[2] + steps[2]

    def place(self, point: int) -> Place:
        """Where a lattice point lies; inverse of `at`."""
        rest, middle = divmod(point, _SIZES[2])
        budget, steepness = divmod(rest, _SIZES[1])
        return budget / BUDGETS, steepness / STEEPNESSES, middle / MIDDLES

    def key(self, schedule: Schedule) -> Key:
        """Equal for schedules that treat `N` tokens alike: equal counts, ranked alike where they choose."""
        counts = tuple(schedule.counts(self.vision_tokens))
        if all(count in (0, self.vision_tokens) for count in counts):
            return counts
        return (*counts, schedule.ranking, schedule.positions, schedule.seed)

    def shape(self, schedule: Schedule) -> tuple[float, ...]:
        """What the model of E sees of a schedule."""
        reduced = schedule.rates[2:]
        groups = min(_GROUPS, len(reduced))
        ends = [len(reduced) * number // groups for number in range(groups + 1)]
        return tuple(sum(reduced[start:end]) / (end - start) for start, end in pairwise(ends))

    def relative(self, schedule: Schedule) -> float:
        """Its cost in units of what reduction can save, 0 where nothing is kept."""
        return (self._cost(schedule) - self.low) / (self.high - self.low)

    def _made(self, point: int) -> Sigmoid:
        x, y, z = self.place(point)
        k, alpha = self.k_max * y * y, 3 + z * (self.num_layers - 3)
        schedule = p_sigmoid(self.num_layers, x, k, alpha)
        shape, cost = self.shape(schedule), self.relative(schedule)
        return Sigmoid(x, k, alpha, schedule, self.key(schedule), shape, cost)
