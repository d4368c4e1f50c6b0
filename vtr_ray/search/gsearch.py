"""G-Search (Scenario I; paper, section 3.2): E weighed against tokens, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vtr_ray.errors import InputError
from vtr_ray.schedule import Schedule
from vtr_ray.search.asktell import Search
from vtr_ray.search.belief import LayerBelief, by_rate
from vtr_ray.search.checks import checked_float, checked_int
from vtr_ray.search.line import Line
from vtr_ray.search.objectives import PAPER, allowed_drop
from vtr_ray.search.optimiser import Surrogate, checked_kind, spread
from vtr_ray.search.trial import Trial, TrialResult

MAX_GRID = 1024  # finer rates cannot be told apart
FIRST_REDUCED = 3
TIE = 1e-12  # of the objective: rounding, no difference


@dataclass(frozen=True)
class LayerResult:
    """One searched layer: its trials, and the rate it got (None while it is searched).

    `inherited` is the trial of an earlier layer that measured this layer's upper end; None at the first one.
    """

    layer: int
    trials: tuple[TrialResult, ...]
    inherited: TrialResult | None
    rate: float | None


class GSearch(Search):
    """Greedy search of the keeping rates, layer by layer from the shallow to the deep.

    At layers `i = 3, 3 + stride, ... <= L` it maximises `f(r) = E(r | earlier rates) - weight * r` over the
    grid `r = n / N` in `[0, r_{i-1}]`, `N` = `vision_tokens` (at most 1024). While a layer is searched the
    deeper ones inherit its rate; layers between two searched ones hold the earlier rate. Each layer takes
    `initial` points spread uniformly, both ends among them, then `iterations` steps of expected improvement;
    the best observed point wins, the smaller rate on a tie. From the second searched layer on the upper end
    is known (a trial less), and a rate of 0 settles all deeper layers without a trial.

    With the objective `keep-accuracy:POINTS` each layer takes the lowest rate at which E is at most so many
    points below no reduction, by the lower bound that `tell` is given; no reduction is the first trial. All
    of the loss may be spent at the first layer. A rate's objective is then `-r`, or what it lacks below -1.

    With `stop_early` a trial has a `threshold`, and may be `stop`ped once its E is known to stay below: its
    objective is then below the best observed at that time, so it could not have been chosen. The surrogate
    knows less of such trials than of others, so the search may ask for other rates than without.

    Args:
        num_layers: decoder layers `L`, at least 3.
        vision_tokens: vision tokens of a sample (the median over the samples where it varies).
        stride: layers from one searched layer to the next.
        initial: initial points per layer, at least 2.
        iterations: steps of Bayesian optimisation per layer.
        weight: what a keeping rate of 1 costs, in units of E (the paper's lambda).
        seed: of the optimiser.
        round_size: trials that may be pending at a time.
        surrogate: `shape` or `paper`, the stationary Gaussian process of the paper (`optimiser.Surrogate`).
        samples: how many samples are behind E; None: not known. The `shape` surrogate uses it where it is
            not told their scores.
        objective: `paper` or `keep-accuracy:POINTS`.
        stop_early: whether trials have thresholds. Rounds of initial points then wait for each other.

    Raises:
        InputError: an argument out of its range.
    """

    name = "gsearch"
    _line: Line | None

    def __init__(
        self,
        num_layers: int,
        vision_tokens: int,
        stride: int = 3,
        initial: int = 10,
        iterations: int = 5,
        weight: float = 0.01,
        seed: int = 0,
        round_size: int = 1,
        surrogate: str = "shape",
        samples: int | None = None,
        objective: str = PAPER,
        stop_early: bool = False,
    ) -> None:
        settings = {
            "num_layers": checked_int("num_layers", num_layers, FIRST_REDUCED),
            "vision_tokens": checked_int("vision_tokens", vision_tokens, 1),
            "stride": checked_int("stride", stride, 1),
            "initial": checked_int("initial", initial, 2),
            "iterations": checked_int("iterations", iterations, 0),
            "weight": checked_float("weight", weight, 0.0),
            "seed": checked_int("seed", seed, 0),
            "round_size": checked_int("round_size", round_size, 1),
            "surrogate": checked_kind(surrogate, "shape", "paper"),
            "samples": None if samples is None else checked_int("samples", samples, 1),
            "objective": objective,
            "stop_early": bool(stop_early),
        }
        self._drop = allowed_drop(objective)
        self.needs_bound = self._drop is not None
        self.uses_scores = surrogate == "shape"
        super().__init__(settings, round_size)
        self._num_layers, self._stride, self._seed = num_layers, stride, seed
        self._initial, self._budget, self._weight = initial, initial + iterations, float(weight)
        self._grid = min(vision_tokens, MAX_GRID)
        self._searched = tuple(range(FIRST_REDUCED, num_layers + 1, stride))
        self._chosen: list[tuple[int, int, int]] = []  # (layer, tokens, id of the trial that measured it)
        self._lines: dict[int, Line] = {}  # by layer
        self._open()

    @property
    def layers(self) -> tuple[LayerResult, ...]:
        """The layers searched so far, the current one included, shallow first."""
        done = [layer for layer, _, _ in self._chosen]
        current = [] if self.finished else [self._layer]
        found = []
        for number, layer in enumerate([*done, *current]):
            found.append(
                LayerResult(
                    layer=layer,
                    trials=tuple(result for result in self.results if result.layer == layer),
                    inherited=self._result(self._entries[self._chosen[number - 1][2] - 1])
                    if number
                    else None,
                    rate=self._chosen[number][1] / self._grid if number < len(done) else None,
                )
            )
        return tuple(found)

    def belief(self, layer: int) -> LayerBelief | None:
        """What the surrogate says of a layer of `layers`; None: it has no ground to say anything.

        That is so with fewer than two different outcomes. Raises InputError: the layer was not searched.
        """
        line = self._lines.get(layer)
        if line is None:
            raise InputError(f"layer {layer} was not searched; ask for one of {sorted(self._lines)}.")
        return by_rate(line.belief(), len(line.points) - 1, self._grid, line.surrogate.slope)

    def recall(
        self,
        layer: int | None,
        rate: float | None,
        score: float | None,
        bound: float | None = None,
        stopped: float | None = None,
        failure: str | None = None,
        scores: Sequence[float] | None = None,
    ) -> None:
        """Take the next trial of a recorded run as asked and told; nothing is proposed.

        Raises InputError: the search could not have asked for it now.
        """
        where = f"trial {len(self._entries) + 1} at layer {layer}, rate {rate}"
        record = {"id": len(self._entries) + 1, "layer": layer, "score": score, "failure": failure}
        try:
            point = round((-1 if rate is None else rate) * self._grid)
            self._restore({**record, "point": point, "bound": bound, "stopped": stopped, "scores": scores})
        except (ValueError, TypeError, AssertionError):
            raise InputError(f"{where} is not of this search; give the trials of its own ledger.") from None

    @property
    def best(self) -> Schedule:
        """The schedule found; before the end, the best so far (at first no reduction).

        Raises:
            Stopped: every trial of the first searched layer failed.
        """
        if self.finished and not self._chosen:
            raise self._all_failed()
        tokens = self._line.best() if self._line is not None else None
        return self._schedule(tokens)

    @property
    def best_score(self) -> float | None:
        """E of `best`; None while nothing was measured."""
        best = self._best_entry()
        return None if best is None else self._entries[best - 1].score

    @property
    def total_trials(self) -> int:
        """Upper bound of the number of trials, those done included; it falls as rates do."""
        if self._line is None:
            return len(self._entries)
        before = sum(1 for entry in self._entries if entry.trial.layer != self._layer)
        deeper = len(self._searched) - len(self._chosen) - 1
        top = len(self._line.points) - 1
        return before + self._line.most_trials + deeper * min(self._budget - 1, top)

    @property
    def _layer(self) -> int:
        return self._searched[len(self._chosen)]

    def _schedule(self, tokens: int | None) -> Schedule:
        """Chosen rates so far, then `tokens` (None: the last chosen) from the current layer on."""
        rates = [1.0] * self._num_layers
        steps = [(layer, chosen) for layer, chosen, _ in self._chosen]
        if tokens is not None:
            steps.append((self._layer, tokens))
        for layer, chosen in steps:
            rates[layer - 1 :] = [chosen / self._grid] * (self._num_layers - layer + 1)
        return Schedule.from_rates(rates)

    def _trial(self, trial_id: int, point: int) -> Trial:
        return Trial(trial_id, self._schedule(point), layer=self._layer, rate=point / self._grid)

    def _objective(self, trial: Trial, score: float, bound: float | None) -> float:
        assert trial.rate is not None
        if self._drop is None:
            return score - self._weight * trial.rate
        assert bound is not None
        lacking = min(0.0, bound + self._drop)
        return -1 + lacking if lacking < 0 else -trial.rate

    def _outcome(self, trial: Trial, score: float, bound: float | None) -> float:
        if self._drop is None:
            return self._objective(trial, score, None)
        assert bound is not None
        return bound

    def _scored(self, point: int, scores: Sequence[float]) -> None:
        assert self._line is not None
        self._line.scores[point] = scores

    def _bounded(self, trial: Trial, point: int, ceiling: float) -> None:
        assert self._line is not None
        # No lower bound of a difference is above the difference.
        value = self._objective(trial, ceiling, None) if self._drop is None else ceiling - self._untouched()
        self._line.ceilings[point] = value

    def _untouched(self) -> float:
        """E of no reduction, where accuracy is to be kept: the first trial's."""
        score = self._entries[0].score
        assert score is not None
        return score

    def _threshold(self, trial: Trial) -> float | None:
        assert self._line is not None and trial.rate is not None
        best = self._line.best()
        if not self.settings["stop_early"] or best is None:
            return None
        if self._drop is None:
            return self._line.values[best] + self._weight * trial.rate - TIE
        return self._untouched() - self._drop - TIE

    def fail(self, trial: Trial, reason: str) -> None:  # noqa: D102
        super().fail(trial, reason)
        if self.needs_bound and trial.id == 1:  # nothing to compare with
            self._line = None

    def _open(self) -> None:
        """Begin the next layer with the tokens the last one left; the search ends where none are left."""
        top, known, budget = self._grid, None, self._budget
        if self._chosen:
            _, top, measured = self._chosen[-1]
            if top == 0 or len(self._chosen) == len(self._searched):
                self._line = None
                return
            entry = self._entries[measured - 1]
            assert entry.score is not None
            rate = top / self._grid
            value = entry.bound if self._drop is not None else entry.score - self._weight * rate
            assert value is not None
            known, budget = (top, value), budget - 1
        self._line = Line(
            points=[tokens / top for tokens in range(top + 1)],
            initial=self._initial_groups(top),
            budget=budget,
            seeds=(self._seed, self._layer),
            surrogate=Surrogate(
                kind=self.settings["surrogate"],
                slope=self._weight * top / self._grid if self._drop is None else 0.0,
                samples=self.settings["samples"],
            ),
            known=known,
            needed=None if self._drop is None else -self._drop,
        )
        if known is not None and entry.scores is not None:
            self._line.scores[top] = entry.scores
        self._lines[self._layer] = self._line

    def _initial_groups(self, top: int) -> list[list[int]]:
        """All at once; from the upper end down where the first trials decide what becomes of the others."""
        points = spread(top + 1, self._initial)
        if not self.needs_bound and not self.settings["stop_early"]:
            return [points]
        points = points[::-1]
        size = self.settings["round_size"] if self.settings["stop_early"] else len(points)
        return [points[:1], *(points[start : start + size] for start in range(1, len(points), size))]

    def _close(self) -> None:
        assert self._line is not None
        tokens, measured = self._line.best(), self._best_entry()
        if tokens is None or measured is None:  # nothing known at the first layer: no ground to go on
            self._line = None
            return
        self._chosen.append((self._layer, tokens, measured))
        self._open()

    def _best_entry(self) -> int | None:
        """Id of the trial that measured `best`."""
        tokens = self._line.best() if self._line is not None else None
        if tokens is not None:
            for entry in self._entries:
                if entry.trial.layer == self._layer and entry.point == tokens:
                    return entry.trial.id
        return self._chosen[-1][2] if self._chosen else None
