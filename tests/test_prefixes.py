"""Which layers run: inferred from the schedules alone, as the searches ask for them."""

from __future__ import annotations

from vtr_ray import strategies
from vtr_ray.prefixes import Sharing, first_layers
from vtr_ray.schedule import Schedule
from vtr_ray.search import GSearch, PSigmoidSearch


def effectiveness(schedule: Schedule) -> float:
    wanted = strategies.p_sigmoid(schedule.num_layers, budget=0.3, k=0.4)
    short = max(want - rate for want, rate in zip(wanted.rates, schedule.rates, strict=True))
    return 1.0 - max(0.0, short)


def test_a_gsearch_runs_each_layer_once_and_then_from_it() -> None:
    """The first trial of a layer goes on from the layer before, the others from their own."""
    for round_size in (1, 3):
        search, asked = GSearch(12, 144, stride=3, initial=6, iterations=3, round_size=round_size), []
        while not search.finished:
            trials = list(iter(search.ask, None))
            for trial in trials:
                asked.append(trial)
                search.tell(trial, effectiveness(trial.schedule))
        before = {3: 1, 6: 3, 9: 6, 12: 9}
        seen: set[int] = set()
        for trial, (_, first) in zip(asked, first_layers(t.schedule for t in asked), strict=True):
            expected = trial.layer if trial.layer in seen else before[trial.layer]
            assert first == expected, (trial.id, trial.layer)
            seen.add(trial.layer)
        assert seen == {3, 6, 9, 12}


def test_a_psigmoid_starts_at_layer_3() -> None:
    search, schedules = PSigmoidSearch(12, 144, budget=0.2), []
    while not search.finished:
        trial = search.ask()
        schedules.append(trial.schedule)
        search.tell(trial, effectiveness(trial.schedule))
    firsts = [first for _, first in first_layers(schedules)]
    assert firsts[0] == 1 and min(firsts[1:]) == 3 and firsts.count(3) > len(firsts) // 2


def test_other_rankings_share_nothing() -> None:
    one = Schedule.from_rates([1, 1, 0.5, 0.2, 0.2])
    others = [Schedule.from_rates(one.rates, ranking) for ranking in ("last_token", "next_layer")]
    others += [strategies.random(one, seed=seed) for seed in (1, 2)]
    assert [first for _, first in first_layers([one, *others])] == [1] * 5


def test_what_is_worth_keeping() -> None:
    sharing = Sharing()
    rates = [[1, 1, 0.5, 0.5, 0.5], [1, 1, 0.5, 0.5, 0.2], [1, 0.9, 0.9, 0.9, 0.9], [1, 0.9, 0.4, 0.4, 0.4]]
    schedules = [Schedule.from_rates(each) for each in rates]
    assert [sharing.layer(schedule) for schedule in schedules] == [3, 5, 2, 3]
    assert [sharing.layer(schedule) for schedule in schedules] == [3, 5, 2, 3]  # asked again, batch by batch
    assert Sharing().layer(strategies.none(2)) == 2
