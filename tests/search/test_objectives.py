"""Keeping the accuracy, stopping early, and the line about too few samples."""

import json
import random
from collections.abc import Callable

import numpy as np
import pytest

from vtr_ray.errors import InputError
from vtr_ray.schedule import Schedule
from vtr_ray.search import GSearch, Trial
from vtr_ray.search.objectives import allowed_drop, too_few_samples
from vtr_ray.search.synthetic import World, draw

WORLD = draw("sampled", 1003)
SAMPLES = 240


def outcomes(world: World, trial: Trial) -> np.ndarray:
    """Per question, in a fixed order; their mean is the world's E."""
    right = world.scores(trial.schedule.rates)
    assert right.mean() == world(trial.schedule.rates)
    return right


def settle(search: GSearch, trial: Trial, world: World = WORLD) -> None:
    """As the evaluators do: stopped where the first samples show that the threshold is out of reach."""
    right, threshold = outcomes(world, trial), search.threshold(trial)
    if threshold is not None:
        bounds = 1 - np.cumsum(1 - right)[:-1] / len(right)
        if (bounds < threshold).any():
            search.stop(trial, float(bounds[bounds < threshold][0]))
            return
    # A bound that is 0.01 below the difference, as with a few hundred samples.
    difference = float(right.mean()) - world([1.0] * 12)
    bound = 0.0 if not trial.schedule.reduces else max(-1.0, difference - 0.01)
    search.tell(trial, float(right.mean()), bound if search.needs_bound else None, right.tolist())


def run(
    search: GSearch, world: World = WORLD, order: Callable[[list[Trial]], list[Trial]] = lambda t: t
) -> GSearch:
    while not search.finished:
        trials: list[Trial] = []
        while (trial := search.ask()) is not None:
            trials.append(trial)
        for trial in order(trials):
            settle(search, trial, world)
    return search


def new(stop: bool, objective: str, round_size: int = 1, surrogate: str = "shape") -> GSearch:
    return GSearch(
        12,
        144,
        samples=SAMPLES,
        stop_early=stop,
        objective=objective,
        round_size=round_size,
        surrogate=surrogate,
    )


@pytest.mark.parametrize("objective", ["paper", "keep-accuracy:2"])
@pytest.mark.parametrize("seed", [1003, 1004])
def test_no_stopped_trial_could_have_been_the_best(objective: str, seed: int) -> None:
    """Measured to the end all the same, their objectives are below the best observed when they were asked."""
    world = draw("sampled", seed)
    search = run(new(True, objective), world)
    untouched = world([1.0] * 12)
    stopped = [result for result in search.results if result.stopped is not None]
    assert len(stopped) >= 5
    for result in stopped:
        score = world(result.schedule.rates)
        assert result.score is None and result.objective is None
        assert score <= result.stopped + 1e-12
        if objective == "paper":
            layer = next(layer for layer in search.layers if layer.layer == result.layer)
            inherited = [layer.inherited] if layer.inherited else []
            before = [t for t in (*inherited, *layer.trials) if t.id < result.id and t.objective is not None]
            assert score - 0.01 * result.rate < max(t.objective for t in before)
        else:
            assert score < untouched - 0.02


def test_with_early_stop_the_first_layers_result_is_the_best_of_what_was_asked() -> None:
    search = run(new(True, "paper"))
    for layer in search.layers:
        values = {t.rate: WORLD(t.schedule.rates) - 0.01 * t.rate for t in layer.trials}
        if layer.inherited is not None:
            values[layer.inherited.rate] = layer.inherited.score - 0.01 * layer.inherited.rate
        assert layer.rate == min(
            rate for rate, value in values.items() if value >= max(values.values()) - 1e-12
        )


@pytest.mark.parametrize("objective", ["paper", "keep-accuracy:2"])
def test_early_stop_in_rounds_does_not_depend_on_the_order_and_resumes(objective: str) -> None:
    shuffle = random.Random(1)
    plain = run(new(True, objective, 4)).results
    assert run(new(True, objective, 4), order=lambda t: shuffle.sample(t, len(t))).results == plain

    search = new(True, objective, 4)
    while not search.finished:
        while search.ask() is not None:
            pass
        search = GSearch.from_state_dict(json.loads(json.dumps(search.state_dict())))
        old = next(r for r in search.results if r.score is None and r.stopped is None)
        settle(search, Trial(old.id, old.schedule, old.layer, old.rate))
        search = GSearch.from_state_dict(json.loads(json.dumps(search.state_dict())))
    assert search.results == plain


@pytest.mark.parametrize("surrogate", ["shape", "paper"])
def test_keeping_accuracy_takes_the_lowest_rate_within_the_drop(surrogate: str) -> None:
    search = run(new(False, "keep-accuracy:2", surrogate=surrogate))
    untouched = WORLD([1.0] * 12)
    assert search.results[0].schedule.rates == (1.0,) * 12
    for layer in search.layers:
        measured = [t for t in (*layer.trials, layer.inherited) if t is not None]
        kept = [t for t in measured if t.bound >= -0.02]
        assert layer.rate == min(t.rate for t in kept)
        assert all(t.objective == -t.rate for t in kept)
        assert all(t.objective < -1 for t in measured if t not in kept)
    assert WORLD(search.best.rates) >= untouched - 0.01 - 1e-12
    assert search.best.memory_cost < 1
    # Nothing on the first layer's grid that is allowed is much lower.
    found = round(search.best.rates[2] * 144)
    allowed = [n for n in range(145) if WORLD([1, 1, *[n / 144] * 10]) >= untouched - 0.01]
    assert min(allowed) <= found <= min(allowed) + (2 if surrogate == "shape" else 8)


def test_without_no_reduction_there_is_nothing_to_keep() -> None:
    search = new(False, "keep-accuracy:2")
    trial = search.ask()
    assert trial.schedule == Schedule.from_rates([1.0] * 12) and search.ask() is None
    search.fail(trial, "out of memory")
    assert search.finished
    with pytest.raises(RuntimeError, match="out of memory"):
        _ = search.best


def test_what_cannot_be_told_or_stopped_is_refused_in_one_line() -> None:
    search = new(True, "keep-accuracy:2")
    trial = search.ask()
    with pytest.raises(InputError, match=r"bound of trial 1 is None; use a number in \[-1, 1\]"):
        search.tell(trial, 0.9)
    assert search.threshold(trial) is None
    with pytest.raises(InputError, match="can still be the best"):
        search.stop(trial, 0.1)
    search.tell(trial, 0.9, 0.0)
    trial = search.ask()
    assert search.threshold(trial) == pytest.approx(0.88)
    with pytest.raises(InputError, match="can still be the best"):
        search.stop(trial, 0.885)
    search.stop(trial, 0.875)
    assert search.describe(trial)["stopped"] == 0.875
    assert trial.rate not in {search.ask().rate for _ in range(1)}


@pytest.mark.parametrize("text", ["keep", "keep-accuracy", "keep-accuracy:0", "keep-accuracy:x", "best", 3])
def test_unknown_objectives_and_surrogates_are_named(text: object) -> None:
    with pytest.raises(InputError, match=r"^objective is .*; use paper, or keep-accuracy:POINTS"):
        GSearch(12, 144, objective=text)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="surrogate is 'best'; use shape or paper"):
        GSearch(12, 144, surrogate="best")
    assert allowed_drop("keep-accuracy:0.5") == 0.005


def test_too_few_samples_says_what_one_weighs() -> None:
    line = too_few_samples(510, 0.01)
    assert line is not None and "\n" not in line
    assert "one sample weighs as much as 20% of a layer's tokens at lambda 0.01" in line
    assert "give 1000 samples" in line
    assert "more than all of" in (too_few_samples(50, 0.01) or "")
    assert too_few_samples(1000, 0.01) is None and too_few_samples(999, 0.01) is not None
    assert too_few_samples(10, 0.0) is None
