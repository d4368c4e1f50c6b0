"""Times in turns, with a clock that is no clock: told apart, not told apart, out of time, the same work."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Sequence

import pytest

from vtr_ray import Schedule, strategies
from vtr_ray.efficiency import Latency
from vtr_ray.efficiency.latency import once_each, work_of
from vtr_ray.efficiency.times import untold, untold_words
from vtr_ray.efficiency.turns import Turns, all_told, median_interval, sign_of, take_turns
from vtr_ray.errors import InputError


class Machine:
    """Rows that take the seconds they should, times what the machine's mood and noise make of them."""

    def __init__(self, seconds: Sequence[float], noise: float, drift: float = 0.0, seed: int = 0) -> None:
        self.now, self.order, self._chance = 0.0, [], random.Random(seed)
        self._seconds, self._noise, self._drift = seconds, noise, drift

    def row(self, place: int) -> Callable[[], float]:
        def run() -> float:
            self.order.append(place)
            mood = 1 + self._drift * self.now
            taken = self._seconds[place] * mood * math.exp(self._chance.gauss(0, self._noise))
            self.now += taken
            return taken

        return run

    def timed(self, turns: Turns) -> list[Latency]:
        rows = [self.row(place) for place in range(len(self._seconds))]
        looks = len(turns.looks)
        found = take_turns(rows, lambda all_rows: all_told(all_rows, looks), turns, lambda: self.now)
        return [Latency(tuple(own), looks) for own in found]


def test_rows_far_apart_are_told_at_the_first_look() -> None:
    machine = Machine([0.1, 0.2, 0.15], noise=0.05)
    times = machine.timed(Turns(warmup=2, most=32, seconds=1e9))
    assert [len(one.seconds) for one in times] == [8, 8, 8]
    assert untold(dict(zip("abc", times, strict=True))) == {}
    assert (times[1].longer_than(times[0]), times[0].longer_than(times[2])) == (1, -1)
    turns = [machine.order[at : at + 3] for at in range(0, len(machine.order), 3)]
    assert all(sorted(turn) == [0, 1, 2] for turn in turns) and len(turns) == 10
    assert {turn[0] for turn in turns} == {0, 1, 2}  # none is always first
    assert {pair for turn in turns for pair in itertools.pairwise(turn)} == set(
        itertools.permutations(range(3), 2)
    )


def test_a_machine_that_slows_down_slows_all_and_tells_the_same() -> None:
    times = Machine([0.100, 0.103], noise=0.002, drift=0.3).timed(Turns(most=32, seconds=1e9))
    assert times[0].quartiles[1] > times[1].quartiles[0]  # far from apart by their quartiles
    assert times[1].longer_than(times[0]) == 1


def test_rows_that_take_equally_long_go_to_the_limit_and_are_not_told_apart() -> None:
    times = Machine([0.1, 0.1, 0.3], noise=0.2).timed(Turns(warmup=1, most=20, seconds=1e9))
    assert [len(one.seconds) for one in times] == [20] * 3
    named = dict(zip(("FastV", "PDrop", "none"), times, strict=True))
    assert untold(named) == {"FastV": ["PDrop"]}
    assert untold_words(named) == "; not told apart: FastV from PDrop"


@pytest.mark.parametrize(("seconds", "turns"), [(5.1, 23), (1.1, 3), (0.01, 1)])
def test_time_runs_out_after_whole_turns_and_at_least_one(seconds: float, turns: int) -> None:
    machine = Machine([0.1, 0.1], noise=0.0)  # a turn takes 0.2 seconds, two are to warm up
    times = machine.timed(Turns(warmup=2, most=1000, seconds=seconds))
    assert [len(one.seconds) for one in times] == [turns, turns]
    assert len(machine.order) == 2 * (2 + turns) and machine.now <= max(seconds, 0.6) + 1e-9
    assert times[0].longer_than(times[1]) == 0
    assert (times[0].interval == (-math.inf, math.inf)) is (turns < 8)


def test_equal_rows_are_hardly_ever_told_apart_however_often_that_is_asked() -> None:
    turns = Turns(warmup=0, most=32, seconds=1e9)
    wrong = 0
    for seed in range(600):
        first, second = Machine([0.1, 0.1], noise=0.1, seed=seed).timed(turns)
        wrong += bool(first.longer_than(second))
    assert wrong / 600 < 0.05


@pytest.mark.parametrize("count", [1, 5, 6, 9, 20, 33])
def test_the_interval_of_the_median_is_that_of_the_sign_test(count: int) -> None:
    """Slow and obvious: the widest cut of which all signs of `count` fair coins leave 95 % inside."""
    values = random.Random(count).sample(range(1000), count)
    ordered, inside = sorted(values), None
    for left in range(count // 2 + 1):
        tail = sum(math.comb(count, heads) for heads in range(left + 1)) / 2**count
        if 2 * tail <= 0.05:
            inside = ordered[left], ordered[-1 - left]
    assert median_interval(values) == (inside or (-math.inf, math.inf))


def test_every_row_is_told_from_a_target_before_turns_end() -> None:
    rows = [[0.10 + 0.001 * (turn % 3) for turn in range(9)], [0.5] * 9]
    assert all_told(rows, 1) and all_told(rows, 1, target=0.2)
    assert not all_told(rows, 1, target=0.101)
    assert not all_told([[0.1] * 5, [0.2] * 5], 1)  # too few turns


def test_same_work_is_timed_once_and_shares_its_time() -> None:
    half = strategies.fastv(4, 0.5)
    by_rate = Schedule.from_rates([1, 1, 0.501, 0.499], half.ranking)  # of 16 tokens the same 8
    schedules = [
        strategies.none(4), half, by_rate, strategies.random(half, 0), strategies.random(half, 7),
        strategies.vtw(4, withdraw_after=2), Schedule.from_rates([1, 1, 0, 0], "random"),
    ]  # fmt: skip
    asked: list[int] = []

    def run(different: list[Schedule]) -> list[int]:
        asked.append(len(different))
        return list(range(len(different)))

    found = once_each([work_of(one, 16) for one in schedules], schedules, run)
    assert asked == [4] and found == [0, 1, 1, 2, 2, 3, 3]
    assert work_of(by_rate, 1000) != work_of(half, 1000)


@pytest.mark.parametrize(
    ("option", "said"), [({"warmup": -1}, "warmup"), ({"most": 0}, "repeats"), ({"seconds": 0}, "limit")]
)
def test_limits_out_of_range_are_refused(option: dict[str, int], said: str) -> None:
    with pytest.raises(InputError, match=said):
        Turns(**option)


def test_looks_share_the_level() -> None:
    assert Turns(most=32).looks == (8, 16, 32) and Turns(most=3).looks == (3,)
    six = [[1.0] * 6, [2.0] * 6]
    assert sign_of(*six) == -1 and sign_of(*six, looks=3) == 0
