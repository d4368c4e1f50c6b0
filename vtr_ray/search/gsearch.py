"""G-Search (Scenario I; paper, section 3.2): the least tokens per layer without losing E."""

from __future__ import annotations

from dataclasses import dataclass

from vtr_ray.schedule import Schedule
from vtr_ray.search.asktell import Search, Trial, TrialResult, checked_float, checked_int
from vtr_ray.search.line import Line
from vtr_ray.search.optimiser import spread

MAX_GRID = 1024  # finer rates cannot be told apart
FIRST_REDUCED = 3
CLIFF = 0.5  # of what saving all tokens is worth: a lower rate that loses more is below the cliff


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

    Args:
        num_layers: decoder layers `L`, at least 3.
        vision_tokens: vision tokens of a sample (the median over the samples where it varies).
        stride: layers from one searched layer to the next.
        initial: initial points per layer, at least 2.
        iterations: steps of Bayesian optimisation per layer.
        weight: what a keeping rate of 1 costs, in units of E (the paper's lambda).
        seed: of the optimiser.
        round_size: trials that may be pending at a time.

    Raises:
        InputError: an argument out of its range.
    """

    name = "gsearch"

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
        }
        super().__init__(settings, round_size)
        self._num_layers, self._stride, self._seed = num_layers, stride, seed
        self._initial, self._budget, self._weight = initial, initial + iterations, float(weight)
        self._grid = min(vision_tokens, MAX_GRID)
        self._searched = tuple(range(FIRST_REDUCED, num_layers + 1, stride))
        self._chosen: list[tuple[int, int, int]] = []  # (layer, tokens, id of the trial that measured it)
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

    @property
    def best(self) -> Schedule:
        """The schedule found; before the end, the best so far (at first no reduction).

        Raises:
            RuntimeError: every trial of the first searched layer failed.
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

    def _objective(self, trial: Trial, score: float) -> float:
        assert trial.rate is not None
        return score - self._weight * trial.rate

    def _open(self) -> None:
        """Begin the next layer with the tokens the last one left; the search ends where none are left."""
        top, known, budget = self._grid, None, self._budget
        if self._chosen:
            _, top, measured = self._chosen[-1]
            if top == 0 or len(self._chosen) == len(self._searched):
                self._line = None
                return
            score = self._entries[measured - 1].score
            assert score is not None
            known, budget = (top, score - self._weight * top / self._grid), budget - 1
        self._line = Line(
            points=[tokens / top for tokens in range(top + 1)],
            initial=spread(top + 1, self._initial),
            budget=budget,
            seeds=(self._seed, self._layer),
            scale=self._weight or 0.01,
            cliff=CLIFF * (self._weight or 0.01),
            known=known,
        )

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
