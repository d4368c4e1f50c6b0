"""G-Search: what it asks, what it concludes, how it resumes."""

import json
import random
from collections.abc import Callable
from typing import Any

import pytest

from vtr_ray.errors import InputError
from vtr_ray.schedule import Schedule
from vtr_ray.search import GSearch, Trial, optimiser
from vtr_ray.search.synthetic import draw, greedy

World = Callable[[tuple[float, ...]], float]
WORLD = draw("fickle", 1003)
WORLD_6 = draw("sampled", 1004, num_layers=6)


def finish(search: GSearch, world: World, stop_after: int | None = None) -> GSearch:
    told = 0
    while not search.finished and told != stop_after:
        trial = search.ask()
        assert trial is not None
        search.tell(trial, world(trial.schedule.rates))
        told += 1
    return search


def flat(rates: tuple[float, ...]) -> float:
    return 0.5


def test_first_layer_asks_ten_uniform_points_with_both_ends_then_five_more() -> None:
    search = finish(GSearch(6, 144, stride=10), WORLD_6)
    tokens = [round(result.rate * 144) for result in search.results]
    assert tokens[:10] == [0, 16, 32, 48, 64, 80, 96, 112, 128, 144]
    assert len(tokens) == 15 == len(set(tokens))
    assert search.total_trials == 15
    assert all(result.layer == 3 for result in search.results)


def test_trial_schedule_holds_the_rate_from_its_layer_on() -> None:
    trial = GSearch(7, 144).ask()
    assert trial == Trial(1, Schedule.from_rates([1, 1, 0, 0, 0, 0, 0]), layer=3, rate=0.0)


def test_layers_are_searched_by_stride_and_hold_the_earlier_rate_between() -> None:
    search = finish(GSearch(12, 144), WORLD)
    assert [layer.layer for layer in search.layers] == [3, 6, 9, 12]
    rates = search.best.rates
    assert rates[:2] == (1, 1)
    for start in (2, 5, 8):
        assert rates[start] == rates[start + 1] == rates[start + 2]
    assert [rates[layer.layer - 1] for layer in search.layers] == [layer.rate for layer in search.layers]
    for result in search.results:
        before = result.schedule.rates[: result.layer - 1]
        assert before == rates[: result.layer - 1]
        assert set(result.schedule.rates[result.layer - 1 :]) == {result.rate}


def test_upper_end_is_known_from_the_layer_before() -> None:
    search = finish(GSearch(12, 144), WORLD)
    schedules = [result.schedule for result in search.results]
    assert len(schedules) == len(set(schedules))
    for before, layer in zip(search.layers, search.layers[1:], strict=False):
        assert layer.inherited is not None and layer.inherited.rate == before.rate
        assert layer.inherited.score == WORLD(layer.inherited.schedule.rates)
        assert all(result.rate < before.rate for result in layer.trials)
        assert len(layer.trials) <= 14
    assert search.layers[0].inherited is None


def test_best_observed_objective_wins() -> None:
    search = finish(GSearch(12, 144), WORLD)
    for layer in search.layers:
        known = [*layer.trials, *([layer.inherited] if layer.inherited else [])]
        winner = max(known, key=lambda result: result.score - 0.01 * result.rate)
        assert layer.rate == winner.rate
        assert winner.objective == winner.score - 0.01 * winner.rate
    assert search.best_score == WORLD(search.best.rates)


@pytest.mark.parametrize("weight", [0.0, 0.01])
def test_smaller_rate_wins_a_tie(weight: float) -> None:
    # E makes up exactly for the weight: f is the same everywhere, whatever the last bits say.
    def even(rates: tuple[float, ...]) -> float:
        return 0.5 + weight * rates[2]

    search = finish(GSearch(5, 10, weight=weight), even)
    assert search.best.rates == (1, 1, 0, 0, 0)


def test_rate_zero_settles_deeper_layers_without_trials() -> None:
    search = finish(GSearch(12, 144), flat)
    assert search.best.rates == (1, 1) + (0,) * 10
    assert {result.layer for result in search.results} == {3}
    assert search.finished and search.ask() is None
    assert search.total_trials == 15


def test_a_small_grid_is_enumerated() -> None:
    search = finish(GSearch(3, 14), flat)
    assert sorted(round(result.rate * 14) for result in search.results) == list(range(15))
    # A grid with more points takes the budget, and ends when a layer's grid is small.
    needs = [0, 0, 9, 9, 9, 2, 2]
    search = finish(
        GSearch(7, 144), lambda rates: float(all(r * 144 >= n for r, n in zip(rates, needs, strict=True)))
    )
    first, second = search.layers
    assert round(first.rate * 144) in range(9, 14)
    assert len(second.trials) == round(first.rate * 144)  # 0 .. n-1; n is known
    assert round(second.rate * 144) == 2


def test_grid_is_capped_at_1024_points() -> None:
    search = GSearch(5, 5000, initial=3)
    rates = [search.ask().rate]
    search.tell(Trial(1, Schedule.from_rates([1, 1, 0, 0, 0]), 3, 0.0), 0.2)
    rates.append(search.ask().rate)
    assert rates == [0.0, 0.5]
    assert search._line is not None and len(search._line.points) == 1025


@pytest.mark.parametrize("round_size", [1, 4])
def test_pending_trials_are_bounded_and_initial_points_overlap(round_size: int) -> None:
    search = GSearch(6, 144, round_size=round_size)
    first = [search.ask() for _ in range(round_size)]
    assert len({trial.rate for trial in first if trial}) == round_size
    assert search.ask() is None and not search.finished
    search.tell(first[-1], 0.5)  # initial points need no results: one told, one more asked
    assert search.ask() is not None and search.ask() is None


def test_a_round_waits_for_all_its_trials_and_not_for_their_order() -> None:
    def run(order: Callable[[list[Trial]], list[Trial]]) -> list[float | None]:
        search = GSearch(12, 144, round_size=4, seed=2)
        while not search.finished:
            trials: list[Trial] = []
            while (trial := search.ask()) is not None:
                trials.append(trial)
            for trial in order(trials):
                search.tell(trial, WORLD(trial.schedule.rates))
        return [result.rate for result in search.results]

    shuffle = random.Random(0)
    plain = run(lambda trials: trials)
    assert run(lambda trials: trials[::-1]) == plain
    assert run(lambda trials: shuffle.sample(trials, len(trials))) == plain


def test_a_proposed_round_is_not_asked_before_the_last_result() -> None:
    search = GSearch(6, 144, round_size=4)
    pending = [search.ask() for _ in range(4)]
    for _ in range(7):  # ten initial points: seven told leave three
        trial = pending.pop(0)
        search.tell(trial, WORLD_6(trial.schedule.rates))
        if (trial := search.ask()) is not None:
            pending.append(trial)
    assert len(pending) == 3 and search.ask() is None
    for trial in pending[:2]:
        search.tell(trial, WORLD_6(trial.schedule.rates))
    assert search.ask() is None
    search.tell(pending[2], WORLD_6(pending[2].schedule.rates))
    assert len([trial for trial in (search.ask() for _ in range(5)) if trial]) == 4


def test_same_seed_same_trials() -> None:
    runs = [finish(GSearch(12, 144, seed=4), WORLD).results for _ in range(2)]
    assert runs[0] == runs[1]


@pytest.mark.parametrize(("round_size", "failing"), [(1, ()), (4, ()), (4, (3, 12, 20))])
def test_resuming_at_every_point_gives_the_undisturbed_run(round_size: int, failing: tuple[int, ...]) -> None:
    def ask_all(search: GSearch) -> None:
        while search.ask() is not None:
            pass

    def tell_oldest(search: GSearch) -> None:
        old = next(result for result in search.results if result.score is None and result.failure is None)
        trial = Trial(old.id, old.schedule, old.layer, old.rate)
        if trial.id in failing:
            search.fail(trial, "no memory")
        else:
            search.tell(trial, WORLD(trial.schedule.rates))

    def saved_and_loaded(search: GSearch) -> GSearch:
        return GSearch.from_state_dict(json.loads(json.dumps(search.state_dict())))

    search = GSearch(12, 144, seed=1, round_size=round_size)
    undisturbed = GSearch(12, 144, seed=1, round_size=round_size)
    while not undisturbed.finished:
        ask_all(undisturbed)
        tell_oldest(undisturbed)
    while not search.finished:
        ask_all(search)
        search = saved_and_loaded(search)
        tell_oldest(search)
        search = saved_and_loaded(search)
    assert search.results == undisturbed.results
    assert search.best == undisturbed.best
    assert json.dumps(search.state_dict()) == json.dumps(undisturbed.state_dict())
    assert GSearch.from_state_dict(search.state_dict()).best == search.best


def test_pending_trials_are_asked_again_under_their_ids() -> None:
    search = GSearch(12, 144, round_size=4)
    asked = [search.ask() for _ in range(4)]
    search.tell(asked[1], 0.5)
    again = GSearch.from_state_dict(json.loads(json.dumps(search.state_dict())))
    assert [again.ask() for _ in range(3)] == [asked[0], asked[2], asked[3]]
    # A result from a ledger may come before its trial is asked again.
    other = GSearch.from_state_dict(search.state_dict())
    other.tell(asked[0], 0.25)
    assert other.ask() == asked[2]


def test_failed_trial_is_left_out_and_not_asked_again() -> None:
    search = GSearch(6, 144, stride=10)
    asked = []
    while not search.finished:
        trial = search.ask()
        asked.append(trial)
        if trial.id in (1, 5, 12):
            search.fail(trial, "out of memory")
        else:
            search.tell(trial, WORLD_6(trial.schedule.rates))
    assert len(asked) == len({trial.rate for trial in asked}) == 15
    assert [result.failure for result in search.results if result.failure] == ["out of memory"] * 3
    assert search.results[0].score is None and search.results[0].objective is None
    assert search.layers[0].rate not in {asked[0].rate, asked[4].rate, asked[11].rate}


def test_a_failed_optimum_is_not_chosen() -> None:
    needs = 80  # an initial point of the 145-point grid
    search = GSearch(3, 144)
    while not search.finished:
        trial = search.ask()
        if round(trial.rate * 144) == needs:
            search.fail(trial, "broken")
        else:
            search.tell(trial, float(trial.rate * 144 >= needs - 0.5))
    assert needs < round(search.best.rates[2] * 144) <= needs + 3


def test_when_a_deeper_layer_fails_altogether_it_keeps_the_earlier_rate() -> None:
    search = GSearch(6, 144)
    while not search.finished:
        trial = search.ask()
        if trial.layer == 6:
            search.fail(trial, "broken")
        else:
            search.tell(trial, WORLD_6(trial.schedule.rates))
    assert search.best.rates[5] == search.best.rates[2] > 0


def test_when_all_trials_fail_there_is_no_best() -> None:
    search = GSearch(12, 144)
    while not search.finished:
        search.fail(search.ask(), "no device")
    assert len(search.results) == 15
    with pytest.raises(RuntimeError, match=r"every trial failed .*no device"):
        _ = search.best
    assert GSearch.from_state_dict(search.state_dict()).finished


def test_best_so_far_before_the_end() -> None:
    search = GSearch(5, 144)
    assert search.best == Schedule.from_rates([1] * 5)
    assert search.best_score is None
    search.fail(search.ask(), "broken")
    assert search.best == Schedule.from_rates([1] * 5)
    trial = search.ask()
    search.tell(trial, 0.25)
    assert search.best == trial.schedule and search.best_score == 0.25


def test_total_trials_bounds_the_run_and_never_rises() -> None:
    search = GSearch(12, 144)
    assert search.total_trials == 15 + 3 * 14
    bounds = []
    while not search.finished:
        trial = search.ask()
        search.tell(trial, WORLD(trial.schedule.rates))
        bounds.append(search.total_trials)
        assert bounds[-1] >= len(search.results)
    assert bounds == sorted(bounds, reverse=True)
    assert bounds[-1] == len(search.results)


def test_describe_shows_a_trial_before_and_after() -> None:
    search = GSearch(12, 144)
    search.tell(search.ask(), 0.5)
    trial = search.ask()
    shown = {"trial": 2, "layer": 3, "rate": 16 / 144, "score": None, "objective": None}
    assert search.describe(trial) == shown
    search.tell(trial, 0.75)
    assert search.describe(trial) == {**shown, "score": 0.75, "objective": 0.75 - 0.01 * 16 / 144}


@pytest.mark.parametrize("score", [-0.01, 1.01, float("nan"), float("inf"), "good", None])
def test_score_outside_0_1_is_an_error_and_the_trial_stays_pending(score: object) -> None:
    search = GSearch(12, 144)
    trial = search.ask()
    with pytest.raises(InputError, match=r"score of trial 1 .*\[0, 1\]"):
        search.tell(trial, score)  # type: ignore[arg-type]
    search.tell(trial, 0.5)


def test_telling_an_unknown_or_told_trial_is_an_error() -> None:
    search = GSearch(12, 144)
    trial = search.ask()
    search.tell(trial, 0.5)
    for act in (lambda: search.tell(trial, 0.5), lambda: search.fail(trial, "late")):
        with pytest.raises(InputError, match="told before"):
            act()
    for wrong in (
        Trial(9, trial.schedule, 3, 0.0),
        Trial(0, trial.schedule, 3, 0.0),
        Trial(1, trial.schedule, 6, 0.0),
    ):
        with pytest.raises(InputError, match="not of this search"):
            search.tell(wrong, 0.5)
        with pytest.raises(InputError, match="not of this search"):
            search.describe(wrong)
    with pytest.raises(InputError, match="not int"):
        search.tell(1, 0.5)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_layers", 2),
        ("vision_tokens", 0),
        ("vision_tokens", 14.5),
        ("stride", 0),
        ("initial", 1),
        ("iterations", -1),
        ("weight", -0.1),
        ("weight", float("nan")),
        ("weight", True),
        ("seed", -1),
        ("round_size", 0),
    ],
)
def test_bad_arguments_are_named_in_one_line(name: str, value: object) -> None:
    with pytest.raises(InputError, match=rf"^{name} is .*; use ") as error:
        GSearch(**{"num_layers": 12, "vision_tokens": 144, name: value})
    assert "\n" not in str(error.value)


def test_states_of_other_searches_and_damaged_ones_are_refused() -> None:
    state = finish(GSearch(6, 144, stride=10), WORLD_6, stop_after=12).state_dict()
    first = state["trials"][0]
    for wrong, line in (
        ([], "no state"),
        ({**state, "search": "psigmoid"}, "no state"),
        ({**state, "version": 99}, "no state"),
        ({**state, "settings": {"layers": 3}}, "damaged"),
        ({"search": "gsearch", "version": 1}, "damaged"),
        ({**state, "trials": [first, first]}, "damaged"),
        ({**state, "trials": [{**first, "point": 145}]}, "damaged"),
        ({**state, "trials": [{**first, "layer": 6}]}, "damaged"),
        ({**state, "trials": [{**first, "score": 1.5}]}, "score of trial 1"),
        ({**state, "settings": {**state["settings"], "weight": -1}}, "weight is -1"),
    ):
        with pytest.raises(InputError, match=line):
            GSearch.from_state_dict(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["smooth", "sampled"])
def test_search_with_enough_trials_equals_exhaustive_search(kind: str) -> None:
    world = draw(kind, 1007, num_layers=9, vision_tokens=24)  # type: ignore[arg-type]
    search = finish(GSearch(9, 24, initial=10, iterations=15), world)
    assert list(search.best.rates) == greedy(world, lambda layer, top: range(top + 1))[0]


def test_gaussian_process_never_gives_up_on_the_curves_it_is_made_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fitted = optimiser._by_model

    def checked(*args: Any) -> list[int] | None:
        chosen = fitted(*args)
        assert chosen is not None
        return chosen

    monkeypatch.setattr(optimiser, "_by_model", checked)
    for seed in range(1000, 1004):
        world = draw("smooth", seed)
        assert finish(GSearch(12, 144), world).finished


@pytest.mark.parametrize("surrogate", ["shape", "paper"])
def test_the_belief_covers_each_layers_grid_and_meets_what_was_measured(surrogate: str) -> None:
    search = finish(GSearch(6, 36, initial=5, iterations=3, surrogate=surrogate), draw("smooth", 3, 6, 36))
    first, second = search.belief(3), search.belief(6)
    assert first is not None and second is not None
    assert first.rates == tuple(n / 36 for n in range(37))
    assert second.rates[-1] == search.best.rates[2]  # no deeper layer keeps more
    for layer, belief in zip(search.layers, (first, second), strict=True):
        for trial in layer.trials:
            at = belief.rates.index(trial.rate)
            assert belief.mean[at] == pytest.approx(trial.score, abs=0.02)
            assert belief.low[at] <= belief.mean[at] <= belief.high[at]
    tried = {trial.rate for trial in search.layers[0].trials}
    width = {rate: high - low for rate, low, high in zip(first.rates, first.low, first.high, strict=True)}
    open_width = max(width[rate] for rate in first.rates if rate not in tried)
    assert max(width[rate] for rate in tried) < open_width / 2
    with pytest.raises(InputError, match=r"layer 4 was not searched; ask for one of \[3, 6\]"):
        search.belief(4)


def test_nothing_is_believed_where_all_outcomes_are_equal() -> None:
    # Less what the rate costs, which is part of the outcome.
    assert finish(GSearch(6, 36, weight=0.0), flat).belief(3) is None


@pytest.mark.parametrize("objective", ["paper", "keep-accuracy:1"])
def test_a_recorded_run_is_recalled_without_its_optimiser(
    objective: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = GSearch(12, 144, objective=objective)
    fresh, whole = search.state_dict(), WORLD([1.0] * 12)
    while not search.finished:
        trial = search.ask()
        if trial.id == 4:
            search.fail(trial, "lost")
        else:
            score = WORLD(trial.schedule.rates)
            search.tell(trial, score, min(0.0, score - whole) if search.needs_bound else None)
    beliefs = [search.belief(layer.layer) for layer in search.layers]

    again = GSearch.from_state_dict(fresh)
    with monkeypatch.context() as patch:
        patch.setattr(optimiser, "propose", None)
        for result in search.results:
            again.recall(
                result.layer, result.rate, result.score, result.bound, result.stopped, result.failure
            )
    assert again.finished and again.best == search.best and again.results == search.results
    assert [again.belief(layer.layer) for layer in again.layers] == beliefs
    other = GSearch(12, 144)
    with pytest.raises(InputError, match=r"^trial 1 at layer 6, rate 0.5 is not of this search"):
        other.recall(6, 0.5, 0.9)
