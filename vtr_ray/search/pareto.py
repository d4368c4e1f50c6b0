"""Pareto search: the front of E against executed FLOPs over the P-Sigmoid's budget, steepness and middle."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from vtr_ray import strategies
from vtr_ray.errors import InputError
from vtr_ray.schedule import Schedule
from vtr_ray.search.asktell import Search
from vtr_ray.search.checks import checked_float, checked_int
from vtr_ray.search.front import hypervolume, non_dominated
from vtr_ray.search.plane import NONE, NOTHING, Plane
from vtr_ray.search.sigmoids import Key, Lattice
from vtr_ray.search.trial import Trial, TrialResult


@dataclass(frozen=True)
class Group:
    """A reference strategy beside the search.

    trials: its results, the two ends of all fronts not among them. hypervolume: of these with the ends.
    ours: hypervolume of as many of the search's first trials.
    """

    name: str
    trials: tuple[TrialResult, ...]
    hypervolume: float
    ours: float


class ParetoSearch(Search):
    """Search of all schedules worth having: no other found has a larger E at no more cost.

    The search goes over `strategies.p_sigmoid`'s budget `b` (0..1), steepness `k` (0..`k_max`) and middle
    `alpha` (3..L). First come the two ends of every front, no reduction and no vision tokens after layer 2;
    then `initial` points of a Sobol sequence; then rounds of `round_size` points by noisy expected
    hypervolume improvement; last the trials of the reference strategies: FastV, PDrop and VTW at `reference`
    evenly spread settings each, and the first `reference` points of the same Sobol sequence. Schedules that
    treat `vision_tokens` tokens alike are one point and never measured twice. The model of E learns from the
    search's own trials alone: the strategies rank tokens in other ways.

    The hypervolume is the best E to be had within a cost limit, averaged over all limits from keeping no
    vision token after layer 2 to no reduction.

    Args:
        num_layers: decoder layers `L`, at least 3.
        vision_tokens: vision tokens of a sample (the median over the samples where it varies).
        cost: what a schedule costs, executed FLOPs of a prefill. No part of the state; its values at the two
            ends are, so that a state is not continued with another cost.
        trials: evaluations of the search itself, the initial ones included, the ends not.
        initial: initial points, at least 2.
        reference: trials of each reference strategy, at least 0.
        k_max: largest steepness, above 0.
        seed: of Sobol sequence and optimiser.
        round_size: trials that may be pending at a time.

    Raises:
        InputError: an argument out of its range; a cost that is no higher without reduction.
    """

    name = "pareto"

    def __init__(
        self,
        num_layers: int,
        vision_tokens: int,
        cost: Callable[[Schedule], float],
        trials: int = 40,
        initial: int = 12,
        reference: int = 10,
        k_max: float = 2.0,
        seed: int = 0,
        round_size: int = 1,
    ) -> None:
        settings = {
            "num_layers": checked_int("num_layers", num_layers, 3),
            "vision_tokens": checked_int("vision_tokens", vision_tokens, 1),
            "trials": checked_int("trials", trials, 2),
            "initial": checked_int("initial", initial, 2),
            "reference": checked_int("reference", reference, 0),
            "k_max": checked_float("k_max", k_max, 1e-6),
            "seed": checked_int("seed", seed, 0),
            "round_size": checked_int("round_size", round_size, 1),
        }
        lattice = Lattice(num_layers, vision_tokens, float(k_max), cost)
        if not 0 <= lattice.low < lattice.high:
            raise InputError(
                f"the cost is {lattice.high:g} without reduction and {lattice.low:g} without vision tokens "
                "after layer 2; it must be lower without them"
            )
        super().__init__(settings, round_size)
        self._space = lattice
        self._plane = Plane(lattice, trials, initial, reference, seed)
        self._line = self._plane

    def ask(self) -> Trial | None:
        """The next trial; None when finished, or when a pending trial must be told first."""
        trial = super().ask()
        if trial is None and not self._pending and self._line is not None:
            self._close()  # restored with nothing left to try
        return trial

    def describe(self, trial: Trial) -> dict[str, Any]:
        """What a display shows of a trial: trial, budget, k, alpha; score, None until told; its cost."""
        said = super().describe(trial)
        ours = {"budget": trial.budget, "k": trial.k, "alpha": trial.alpha}
        place = {name: value for name, value in ours.items() if value is not None}
        kept = {name: said[name] for name in ("trial", "score", "objective")}
        return kept | place | {"cost": self.cost(trial.schedule)}

    def cost(self, schedule: Schedule) -> float:
        """What a schedule costs, in the caller's units."""
        space = self._space
        return space.low + space.relative(schedule) * (space.high - space.low)

    @property
    def trials(self) -> tuple[TrialResult, ...]:
        """The search's own measured trials, the ends among them, in the order of their ids."""
        return tuple(result for result in self._measured() if self._plane.own(self._point(result)))

    @property
    def front(self) -> tuple[TrialResult, ...]:
        """The search's own trials that no other of them beats, by rising cost."""
        own = self.trials
        return tuple(own[index] for index in non_dominated(self._points(own)))

    @property
    def hypervolume(self) -> float:
        """Of all own trials so far."""
        return self._volume(self.trials)

    @property
    def groups(self) -> tuple[Group, ...]:
        """The reference strategies as far as measured, by name."""
        by_key = {self._key(result): result for result in self._measured()}
        ends = [result for result in self._measured() if result.strategy in (NONE, NOTHING)]
        own = [result for result in self.trials if result.strategy is None]
        found = []
        for name, keys in self._plane.groups.items():
            theirs = tuple(by_key[key] for key in keys if key in by_key and by_key[key] not in ends)
            if theirs:
                ours = self._volume([*ends, *own[: len(theirs)]])
                found.append(Group(name, theirs, self._volume([*ends, *theirs]), ours))
        return tuple(found)

    @property
    def unreduced_score(self) -> float | None:
        """E of no reduction; None while it was not measured."""
        none = [result for result in self._measured() if result.strategy == NONE]
        return none[0].score if none else None

    def choose(
        self,
        max_drop: float | None = None,
        fits: Callable[[TrialResult], bool] = lambda _: True,
    ) -> TrialResult | None:
        """One point of the front among those that `fits` accepts; None where there is none.

        With `max_drop`: the cheapest whose E is at most `max_drop` (a fraction, not points) below that of no
        reduction (where that failed: below the best). Without: the one with the largest E.
        """
        front = [result for result in self.front if fits(result)]
        if max_drop is None:
            return front[-1] if front else None
        goal = self.unreduced_score
        if goal is None:
            goal = max((result.score or 0.0 for result in self.front), default=0.0)
        within = (result for result in front if result.score is not None)
        return next((r for r in within if (r.score or 0.0) >= goal - max_drop - 1e-12), None)

    @property
    def best(self) -> Schedule:
        """The cheapest schedule within half a point of E of no reduction; before any trial, no reduction.

        Raises:
            Stopped: every own trial failed.
        """
        chosen = self.choose(0.005)
        if chosen is None and self.finished:
            raise self._all_failed()
        return chosen.schedule if chosen else strategies.none(self._space.num_layers)

    @property
    def best_score(self) -> float | None:
        """E of `best`; None while nothing was measured."""
        chosen = self.choose(0.005)
        return chosen.score if chosen else None

    @property
    def total_trials(self) -> int:
        """Upper bound of the number of trials, those done and the reference included."""
        return self._plane.most_trials if self._line is not None else len(self._entries)

    def state_dict(self) -> dict[str, Any]:
        """Everything, as JSON content, of the cost its values at the two ends."""
        return super().state_dict() | {"cost_range": [self._space.low, self._space.high]}

    @classmethod
    def from_state_dict(
        cls, state: Mapping[str, Any], cost: Callable[[Schedule], float] | None = None
    ) -> Self:
        """The search that `state_dict` described; pending trials are asked again under their ids.

        Raises:
            InputError: no `cost`, or another one; not a state of this kind of search, or a damaged one.
        """
        if cost is None:
            raise InputError("the state of a pareto search does not hold its cost; pass the same function")
        if not isinstance(state, Mapping) or not isinstance(state.get("settings"), Mapping):
            return super().from_state_dict(state)  # which says what is wrong
        search = super().from_state_dict({**state, "settings": {**state["settings"], "cost": cost}})
        found = [search._space.low, search._space.high]
        if state.get("cost_range") != found:
            raise InputError(
                f"the state was made with costs of {state.get('cost_range')} at its ends, the given cost "
                f"says {found}; pass the same function"
            )
        return search

    def _trial(self, trial_id: int, point: int) -> Trial:
        strategy, schedule, one = self._plane.at(point)
        if one is None:
            return Trial(trial_id, schedule, strategy=strategy)
        return Trial(trial_id, schedule, k=one.k, budget=one.budget, alpha=one.alpha, strategy=strategy)

    def _objective(self, trial: Trial, score: float, bound: float | None) -> float:
        return score

    def _close(self) -> None:
        self._line = None

    def _measured(self) -> Iterator[TrialResult]:
        return (result for result in self.results if result.score is not None)

    def _point(self, result: TrialResult) -> int:
        return self._entries[result.id - 1].point

    def _key(self, result: TrialResult) -> Key:
        return self._space.key(result.schedule)

    def _points(self, results: Sequence[TrialResult]) -> list[tuple[float, float]]:
        return [(result.score or 0.0, self._space.relative(result.schedule)) for result in results]

    def _volume(self, results: Sequence[TrialResult]) -> float:
        return hypervolume(self._points(results), 0.0, 1.0)
