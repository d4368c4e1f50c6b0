"""P-Sigmoid search (Scenario II; paper, section 3.3): the best E within a token budget."""

from __future__ import annotations

from vtr_ray.schedule import Schedule
from vtr_ray.search.asktell import Search, Trial, checked_float, checked_int
from vtr_ray.search.line import Line
from vtr_ray.search.optimiser import spread
from vtr_ray.strategies import p_sigmoid

STEPS = 400  # values of k are told apart to k_max / STEPS


class PSigmoidSearch(Search):
    """Search of the steepness `k` of `strategies.p_sigmoid` that gives the largest E.

    `k` lies on a grid of 401 values in `[0, k_max]`; values that give equal counts of `vision_tokens` tokens
    are one point (their smallest `k`), so none is measured twice. `initial` points spread uniformly, both
    ends among them, then expected improvement; the best observed `k` wins, the smaller (fewer FLOPs) on a
    tie.

    Args:
        num_layers: decoder layers `L`, at least 3.
        vision_tokens: vision tokens of a sample (the median over the samples where it varies).
        budget: mean keeping rate over layers `3..L`, in [0, 1].
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
        budget: float,
        k_max: float = 2.0,
        initial: int = 10,
        iterations: int = 15,
        seed: int = 0,
        round_size: int = 1,
    ) -> None:
        settings = {
            "num_layers": checked_int("num_layers", num_layers, 3),
            "vision_tokens": checked_int("vision_tokens", vision_tokens, 1),
            "budget": checked_float("budget", budget, 0.0, 1.0),
            "k_max": checked_float("k_max", k_max, 1e-6),
            "initial": checked_int("initial", initial, 2),
            "iterations": checked_int("iterations", iterations, 0),
            "seed": checked_int("seed", seed, 0),
            "round_size": checked_int("round_size", round_size, 1),
        }
        super().__init__(settings, round_size)
        self._num_layers, self._token_budget = num_layers, float(budget)
        groups: dict[tuple[int, ...], int] = {}  # counts -> position among the distinct ones
        self._ks: list[float] = []
        group_of_step: list[int] = []
        for step in range(STEPS + 1):
            k = k_max * step / STEPS
            counts = tuple(p_sigmoid(num_layers, budget, k).counts(vision_tokens))
            if counts not in groups:
                groups[counts] = len(groups)
                self._ks.append(k)
            group_of_step.append(groups[counts])
        self._line = Line(
            points=[k / k_max for k in self._ks],
            initial=sorted({group_of_step[step] for step in spread(STEPS + 1, initial)}),
            budget=initial + iterations,
            seeds=(seed,),
            scale=0.01,
        )
        self._grid_line = self._line

    @property
    def best(self) -> Schedule:
        """The schedule found; before the end, the best so far (at first the flat one, `k = 0`).

        Raises:
            RuntimeError: every trial failed.
        """
        return p_sigmoid(self._num_layers, self._token_budget, self.best_k)

    @property
    def best_k(self) -> float:
        """The steepness of `best`."""
        point = self._grid_line.best()
        if point is None and self.finished:
            raise self._all_failed()
        return self._ks[point or 0]

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
        k = self._ks[point]
        return Trial(trial_id, p_sigmoid(self._num_layers, self._token_budget, k), k=k)

    def _objective(self, trial: Trial, score: float) -> float:
        return score

    def _close(self) -> None:
        self._line = None
