"""P-Sigmoid search: one steepness, equal counts once, resumable."""

import json

import pytest

from vtr_ray.errors import InputError
from vtr_ray.schedule import Schedule
from vtr_ray.search import GSearch, PSigmoidSearch
from vtr_ray.strategies import p_sigmoid


def hump(k: float, top: float = 0.53) -> float:
    return 0.7 - 0.2 * (k - top) ** 2 / (1 + (k - top) ** 2)


def finish(search: PSigmoidSearch) -> PSigmoidSearch:
    while not search.finished:
        trial = search.ask()
        assert trial is not None
        search.tell(trial, hump(trial.k))
    return search


def test_trials_lie_within_the_budget_and_both_ends_are_tried() -> None:
    search = finish(PSigmoidSearch(12, 144, budget=0.2))
    ks = [result.k for result in search.results]
    assert ks[0] == 0 and len(ks) == 25 == search.total_trials
    assert search.results[9].schedule.counts(144) == p_sigmoid(12, 0.2, 2.0).counts(144)
    for result in search.results:
        assert result.schedule == p_sigmoid(12, 0.2, result.k)
        assert sum(result.schedule.rates[2:]) / 10 == pytest.approx(0.2)
        assert result.layer is None and result.rate is None and result.objective == result.score


def test_reaches_what_exhaustive_search_over_k_reaches() -> None:
    search = finish(PSigmoidSearch(12, 144, budget=0.2))
    # All 401 values of k; those of equal counts share the score of their smallest.
    smallest: dict[tuple[int, ...], float] = {}
    for step in range(401):
        smallest.setdefault(tuple(p_sigmoid(12, 0.2, 2 * step / 400).counts(144)), 2 * step / 400)
    assert search.best_k == max(smallest.values(), key=hump)
    assert search.best == p_sigmoid(12, 0.2, search.best_k)
    assert search.best_score == hump(search.best_k)


def test_equal_counts_are_measured_once() -> None:
    search = finish(PSigmoidSearch(6, 5, budget=0.4))
    counts = [tuple(result.schedule.counts(5)) for result in search.results]
    every = {tuple(p_sigmoid(6, 0.4, 2 * step / 400).counts(5)) for step in range(401)}
    assert len(counts) == len(set(counts))
    assert set(counts) == every  # few enough to be enumerated
    assert search.total_trials == len(every) < 25


@pytest.mark.parametrize("budget", [0.0, 1.0])
def test_a_budget_of_nothing_or_everything_takes_one_trial(budget: float) -> None:
    search = finish(PSigmoidSearch(6, 144, budget=budget))
    assert len(search.results) == 1
    assert search.best == Schedule.from_rates([1, 1] + [budget] * 4)


def test_flattest_wins_a_tie() -> None:
    search = PSigmoidSearch(12, 144, budget=0.2, iterations=2)
    while not search.finished:
        search.tell(search.ask(), 0.5)
    assert search.best_k == 0


@pytest.mark.parametrize("round_size", [1, 4])
def test_resuming_at_every_point_gives_the_undisturbed_run(round_size: int) -> None:
    undisturbed = PSigmoidSearch(12, 144, budget=0.3, iterations=6, round_size=round_size)
    search = PSigmoidSearch(12, 144, budget=0.3, iterations=6, round_size=round_size)
    for restart in (False, True):
        run = search if restart else undisturbed
        while not run.finished:
            trials = [trial for trial in (run.ask() for _ in range(round_size)) if trial]
            for trial in reversed(trials):
                if restart:
                    run = PSigmoidSearch.from_state_dict(json.loads(json.dumps(run.state_dict())))
                run.tell(trial, hump(trial.k))
        search = run
    assert search.results == undisturbed.results
    assert search.best == undisturbed.best


def test_failures_and_descriptions() -> None:
    search = PSigmoidSearch(12, 144, budget=0.2, initial=3, iterations=2)
    trial = search.ask()
    assert search.describe(trial) == {"trial": 1, "k": 0.0, "score": None, "objective": None}
    assert search.best_k == 0 and search.best_score is None
    while not search.finished:
        search.fail(trial, "broken")
        trial = search.ask()
    assert len(search.results) == 5 == len({result.k for result in search.results})
    with pytest.raises(RuntimeError, match="every trial failed"):
        _ = search.best


@pytest.mark.parametrize(
    ("name", "value"), [("budget", 1.5), ("budget", None), ("k_max", 0), ("num_layers", 2)]
)
def test_bad_arguments_are_named(name: str, value: object) -> None:
    with pytest.raises(InputError, match=rf"^{name} is "):
        PSigmoidSearch(**{"num_layers": 12, "vision_tokens": 144, "budget": 0.2, name: value})


def test_state_of_another_search_is_refused() -> None:
    with pytest.raises(InputError, match="no state of a psigmoid search"):
        PSigmoidSearch.from_state_dict(GSearch(12, 144).state_dict())
