"""P-Sigmoid search (Scenario II; paper, section 3.3): the best E within a token budget."""

from __future__ import annotations

from collections.abc import Sequence

from vtr_ray.errors import InputError
from vtr_ray.schedule import Schedule
from vtr_ray.search.asktell import Search
from vtr_ray.search.checks import checked_float, checked_int
from vtr_ray.search.line import Line
from vtr_ray.search.optimiser import Surrogate, spread
from vtr_ray.search.trial import Trial
from vtr_ray.strategies import p_sigmoid

STEPS = 400  # values of k are told apart to k_max / STEPS


def steepnesses(k_max: float) -> list[float]:
    """The grid of `k`, ascending: `STEPS + 1` values in `[0, k_max]`."""
    return [k_max * step / STEPS for step in range(STEPS + 1)]


class PSigmoidSearch(Search):
    """Search of the steepness `k` of `strategies.p_sigmoid` that gives the largest E.

    `k` lies on a grid of 401 values in `[0, k_max]`; values that give equal counts of `vision_tokens` tokens
    are one point (their smallest `k`), so none is measured twice. `initial` points spread uniformly, both
    ends among them, then expected improvement; the best observed `k` wins, the smaller (fewer FLOPs) on a
    tie.

    Args:
        num_layers: decoder layers `L`, at least 3.
        vision_tokens: vision tokens of a sample (the median over the samples where it varies).
        budget: mean keeping rate over layers `3..L`, in [0, 1]; or one for each of `steepnesses(k_max)`, as
            `matched_budgets` gives them: then every curve costs the same FLOPs.
        k_max: largest steepness, above 0.
        initial: initial points, at least 2.
        iterations: steps of Bayesian optimisation.
        seed: of the optimiser.
        round_size: trials that may be pending at a time.

    Raises:
        InputError: an argument out of its range.
    """

    name = "psigmoid"

    def __init__(
        self,
        num_layers: int,
        vision_tokens: int,
        budget: float | Sequence[float],
        k_max: float = 2.0,
        initial: int = 10,
        iterations: int = 15,
        seed: int = 0,
        round_size: int = 1,
    ) -> None:
        budgets = _checked_budgets(budget)
        settings = {
            "num_layers": checked_int("num_layers", num_layers, 3),
            "vision_tokens": checked_int("vision_tokens", vision_tokens, 1),
            "budget": list(budgets) if isinstance(budget, Sequence) else budgets[0],
            "k_max": checked_float("k_max", k_max, 1e-6),
            "initial": checked_int("initial", initial, 2),
            "iterations": checked_int("iterations", iterations, 0),
            "seed": checked_int("seed", seed, 0),
            "round_size": checked_int("round_size", round_size, 1),
        }
        super().__init__(settings, round_size)
        self._num_layers = num_layers
        groups: dict[tuple[int, ...], int] = {}  # counts -> position among the distinct ones
        self._ks: list[float] = []
        self._budgets: list[float] = []
        group_of_step: list[int] = []
        for k, own in zip(steepnesses(k_max), budgets, strict=True):
            counts = tuple(p_sigmoid(num_layers, own, k).counts(vision_tokens))
            if counts not in groups:
                groups[counts] = len(groups)
                self._ks.append(k)
                self._budgets.append(own)
            group_of_step.append(groups[counts])
        self._line = Line(
            points=[k / k_max for k in self._ks],
            initial=[sorted({group_of_step[step] for step in spread(STEPS + 1, initial)})],
            budget=initial + iterations,
            seeds=(seed,),
            surrogate=Surrogate("paper"),  # E over `k` has no form that is known,
        )
        self._grid_line = self._line

    @property
    def best(self) -> Schedule:
        """The schedule found; before the end, the best so far (at first the flat one, `k = 0`).

        Raises:
            Stopped: every trial failed.
        """
        return self._schedule(self._best_point())

    @property
    def best_k(self) -> float:
        """The steepness of `best`."""
        return self._ks[self._best_point()]

    @property
    def best_budget(self) -> float:
        """The budget of `best`: mean keeping rate over layers `3..L`."""
        return self._budgets[self._best_point()]

    @property
    def best_score(self) -> float | None:
        """E of `best`; None while nothing was measured."""
        point = self._grid_line.best()
        return None if point is None else self._grid_line.values[point]

    @property
    def total_trials(self) -> int:
        """Upper bound of the number of trials, those done included."""
        return self._grid_line.most_trials

    def _trial(self, trial_id: int, point: int) -> Trial:
        return Trial(trial_id, self._schedule(point), k=self._ks[point])

    def _schedule(self, point: int) -> Schedule:
        return p_sigmoid(self._num_layers, self._budgets[point], self._ks[point])

    def _best_point(self) -> int:
        point = self._grid_line.best()
        if point is None and self.finished:
            raise self._all_failed()
        return point or 0

    def _objective(self, trial: Trial, score: float, bound: float | None) -> float:
        return score

    def _close(self) -> None:
        self._line = None


def _checked_budgets(budget: float | Sequence[float]) -> list[float]:
    """One for each k of the grid."""
    if isinstance(budget, str) or not isinstance(budget, Sequence):
        return [checked_float("budget", budget, 0.0, 1.0)] * (STEPS + 1)
    if len(budget) != STEPS + 1:
        raise InputError(f"budget has {len(budget)} numbers; give one, or one for each of {STEPS + 1} k.")
    return [checked_float("budget", one, 0.0, 1.0) for one in budget]
