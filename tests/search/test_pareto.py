"""Pareto search: its front and what it costs, equal counts once, resumable, beside reference strategies."""

import itertools
import json
from collections.abc import Callable

import pytest

from vtr_ray import strategies
from vtr_ray.errors import InputError
from vtr_ray.schedule import Schedule
from vtr_ray.search import ParetoSearch
from vtr_ray.search.front import hypervolume
from vtr_ray.search.synthetic import draw

LAYERS, TOKENS = 12, 144
OWN = 15  # trials of the search itself
WORLD = draw("sampled", 3, LAYERS, TOKENS)


def cost(schedule: Schedule) -> float:
    """As FLOPs grow: faster than the tokens."""
    return sum(0.2 + rate + 0.1 * rate**2 for rate in schedule.rates)


def score(schedule: Schedule) -> float:
    """E of the drawn function; each ranking but the paper's loses some, as in life."""
    lost = 0.0 if schedule.ranking == "instruction" or not schedule.reduces else 0.05
    return WORLD(schedule.rates) * (1 - lost)


def new(**settings: int) -> ParetoSearch:
    return ParetoSearch(LAYERS, TOKENS, cost, **{"trials": 16, "initial": 8, "reference": 4, **settings})


def finish(search: ParetoSearch, e: Callable[[Schedule], float] = score) -> ParetoSearch:
    while not search.finished:
        trial = search.ask()
        if trial is not None:
            search.tell(trial, e(trial.schedule))
    return search


@pytest.fixture(scope="module")
def found() -> ParetoSearch:
    return finish(new(trials=OWN, initial=10))


def test_order_of_trials(found: ParetoSearch) -> None:
    results = found.results
    assert [result.strategy for result in results[:2]] == ["no reduction", "no vision tokens"]
    assert results[0].schedule == strategies.none(LAYERS)
    assert results[1].schedule.counts(TOKENS) == [TOKENS] * 2 + [0] * (LAYERS - 2)
    own, rest = results[2 : 2 + OWN], results[2 + OWN :]
    assert {result.strategy for result in own} == {None}
    for result in own:
        assert result.schedule == strategies.p_sigmoid(LAYERS, result.budget, result.k, result.alpha)
        assert 0 <= result.budget <= 1 and 0 <= result.k <= 2 and 3 <= result.alpha <= LAYERS
    # Random points are the first of the same Sobol sequence: nothing is left to measure of them.
    assert [result.strategy for result in rest] == ["FastV"] * 4 + ["PDrop"] * 4 + ["VTW"] * 4
    assert found.total_trials == len(results) and found.ask() is None


def test_front_and_hypervolume_are_those_of_its_own_trials(found: ParetoSearch) -> None:
    own = found.trials
    assert len(own) == 2 + OWN
    pairs = [(result.score, cost(result.schedule)) for result in own]
    unbeaten = [
        result
        for result, (e, c) in zip(own, pairs, strict=True)
        if not any(x >= e and y <= c and (x, y) != (e, c) for x, y in pairs)
    ]
    assert {(r.score, cost(r.schedule)) for r in found.front} == {
        (r.score, cost(r.schedule)) for r in unbeaten
    }
    low, high = cost(own[1].schedule), cost(own[0].schedule)
    assert found.hypervolume == pytest.approx(hypervolume(pairs, low, high), abs=1e-12)


def test_comes_close_to_the_exhaustive_grid(found: ParetoSearch) -> None:
    steps = [step / 20 for step in range(21)]
    grid = [
        strategies.p_sigmoid(LAYERS, b, 2 * k * k, 3 + a * (LAYERS - 3))
        for b, k, a in itertools.product(steps, steps, steps[::2])
    ]
    low, high = cost(found.results[1].schedule), cost(found.results[0].schedule)
    ends = [(score(r.schedule), cost(r.schedule)) for r in found.results[:2]]
    floor = hypervolume(ends, low, high)
    top = hypervolume([*ends, *((score(s), cost(s)) for s in grid)], low, high)
    assert found.hypervolume - floor >= 0.9 * (top - floor)
    groups = {group.name: group for group in found.groups}
    assert list(groups) == ["FastV", "PDrop", "VTW", "random points"]
    assert found.hypervolume > max(group.hypervolume for group in groups.values())
    for group in groups.values():
        theirs = [*ends, *((r.score, cost(r.schedule)) for r in group.trials)]
        same = [*ends, *((r.score, cost(r.schedule)) for r in found.results[2 : 2 + len(group.trials)])]
        assert group.hypervolume == pytest.approx(hypervolume(theirs, low, high), abs=1e-12)
        assert group.ours == pytest.approx(hypervolume(same, low, high), abs=1e-12)


@pytest.mark.parametrize(("tokens", "layers"), [(2, 5), (3, 3)])
def test_equal_counts_are_measured_once_until_none_are_left(tokens: int, layers: int) -> None:
    search = ParetoSearch(layers, tokens, cost, trials=200, initial=5, reference=3)
    finish(search, lambda schedule: schedule.memory_cost)
    own = [tuple(result.schedule.counts(tokens)) for result in search.trials]
    assert len(own) == len(set(own)) < 60
    every = [(result.schedule.counts(tokens), result.schedule.ranking) for result in search.results]
    assert all(every.count(one) == 1 for one in every)


@pytest.mark.parametrize("round_size", [1, 3])
def test_resuming_at_every_point_gives_the_undisturbed_run(round_size: int) -> None:
    undisturbed, search = (new(trials=12, initial=6, round_size=round_size) for _ in range(2))
    while not undisturbed.finished:
        for trial in [trial for _ in range(round_size) if (trial := undisturbed.ask()) is not None]:
            undisturbed.tell(trial, score(trial.schedule))
    while not search.finished:
        trials = [trial for _ in range(round_size) if (trial := search.ask()) is not None]
        for trial in reversed(trials):  # told in another order, too
            state = json.loads(json.dumps(search.state_dict()))
            assert "cost" not in state["settings"]
            search = ParetoSearch.from_state_dict(state, cost)
            search.tell(trial, score(trial.schedule))
    assert search.results == undisturbed.results
    assert search.front == undisturbed.front and search.best == undisturbed.best
    again = ParetoSearch.from_state_dict(search.state_dict(), cost)
    assert again.ask() is None and again.finished and again.groups == search.groups


def test_seeds_differ() -> None:
    one, other = ([r.schedule for r in finish(new(trials=8, seed=seed)).trials] for seed in (0, 1))
    assert one != other


def test_choice_within_limits(found: ParetoSearch) -> None:
    front, unreduced = found.front, found.unreduced_score
    assert unreduced == score(strategies.none(LAYERS))
    for drop in (0.0, 0.005, 0.1, 1.0):
        within = [r for r in found.trials if r.score >= unreduced - drop - 1e-12]
        chosen = found.choose(drop)
        assert chosen in front and chosen.score >= unreduced - drop - 1e-12
        assert cost(chosen.schedule) == min(cost(r.schedule) for r in within)
    limit = cost(front[len(front) // 2].schedule)
    chosen = found.choose(fits=lambda result: cost(result.schedule) <= limit)
    assert chosen.score == max(r.score for r in found.trials if cost(r.schedule) <= limit)
    assert found.choose(0.0, lambda result: cost(result.schedule) < cost(front[1].schedule)) is None
    assert found.best == found.choose(0.005).schedule and found.best_score == found.choose(0.005).score


def test_failures_leave_a_front_of_the_rest() -> None:
    search = new(trials=10, initial=5, reference=1)
    for number in itertools.count():
        trial = search.ask()
        if trial is None:
            break
        if number % 3 == 0:  # no reduction among them
            search.fail(trial, "broken")
        else:
            search.tell(trial, score(trial.schedule))
    assert search.finished and search.unreduced_score is None
    assert search.best_score >= max(r.score for r in search.front) - 0.005
    hopeless = new(trials=2, initial=2, reference=0)
    assert hopeless.best == strategies.none(LAYERS)
    while (trial := hopeless.ask()) is not None:
        hopeless.fail(trial, "broken")
    with pytest.raises(RuntimeError, match="every trial failed"):
        _ = hopeless.best


def test_descriptions_hold_what_the_ledger_takes() -> None:
    search = new()
    trials = [
        trial for _ in range(3) if (trial := search.ask()) is not None and search.tell(trial, 0.5) is None
    ]
    assert search.describe(trials[0]) == {
        "trial": 1, "score": 0.5, "objective": 0.5, "cost": cost(trials[0].schedule)
    }  # fmt: skip
    assert {"budget", "k", "alpha"} <= search.describe(trials[2]).keys()


@pytest.mark.parametrize(
    ("name", "value"), [("trials", 1), ("initial", 0), ("reference", -1), ("k_max", 0), ("num_layers", 2)]
)
def test_bad_arguments_are_named(name: str, value: object) -> None:
    with pytest.raises(InputError, match=rf"^{name} is "):
        ParetoSearch(**{"num_layers": 12, "vision_tokens": 144, "cost": cost, name: value})


def test_state_needs_its_cost() -> None:
    state = new().state_dict()
    with pytest.raises(InputError, match="pass the same function"):
        ParetoSearch.from_state_dict(state)
    with pytest.raises(InputError, match="pass the same function"):
        ParetoSearch.from_state_dict(state, lambda schedule: 2 * cost(schedule))
    with pytest.raises(InputError, match="no state of a pareto search"):
        ParetoSearch.from_state_dict({"search": "gsearch"}, cost)
    with pytest.raises(InputError, match="must be lower"):
        ParetoSearch(12, 144, lambda schedule: 1.0)
