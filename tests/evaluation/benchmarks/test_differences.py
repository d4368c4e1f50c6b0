"""Which differences are real: McNemar, the bootstrap, averages; against slow, obvious ways."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest

from vtr_ray.evaluation.benchmarks.differences import AVERAGE, average, differences, interval, mcnemar
from vtr_ray.evaluation.benchmarks.results import Figures


def figures(values, seed=0, resamples=2000) -> Figures:
    """Of documents that are worth `values`."""
    values = np.array(values, dtype=float)
    picks = np.random.default_rng(seed).integers(0, len(values), (resamples, len(values)))
    scores = {("task", place): float(value) for place, value in enumerate(values)}
    return Figures(float(values.mean()), {}, scores, values[picks].mean(1))


def test_mcnemar_is_the_share_of_coin_tosses_at_least_as_lopsided() -> None:
    first, second = [1, 1, 1, 1, 1, 0, 1, 0], [0, 0, 0, 0, 0, 1, 1, 0]
    tosses = [sum(toss) for toss in product((0, 1), repeat=6)]  # six answers differ: five won, one lost
    expected = sum(abs(heads - 3) >= 2 for heads in tosses) / len(tosses)
    assert mcnemar(first, second) == mcnemar(second, first) == pytest.approx(expected)
    assert mcnemar([1, 0], [1, 0]) == 1.0


def test_right_and_wrong_are_compared_by_mcnemar_and_anything_else_by_bootstrap() -> None:
    right = figures([1.0] * 40 + [0.0] * 10)
    wrong = figures([1.0] * 28 + [0.0] * 22)
    partly = figures([0.5] * 50)
    found = {
        (one.first, one.second, one.benchmark): one
        for one in differences({"a": {"t": right}, "b": {"t": wrong}, "c": {"t": partly}})
    }
    assert len(found) == 6
    one = found["b", "a", "t"]
    assert one.test == "mcnemar" and one.p == mcnemar([1.0] * 12, [0.0] * 12) and one.significant
    assert one.difference == pytest.approx(-12 / 50) and one.low < -12 / 50 < one.high < 0
    other = found["c", "a", "t"]
    assert other.test == "bootstrap" and other.significant
    assert found["b", "a", AVERAGE].difference == pytest.approx(one.difference)


def test_the_paired_interval_is_narrower_than_two_of_their_own() -> None:
    rng = np.random.default_rng(1)
    base = (rng.random(300) < 0.7).astype(float)
    nearly = base.copy()
    nearly[:6] = 0.0
    lost = differences({"base": {"t": figures(base)}, "nearly": {"t": figures(nearly)}})[0]
    paired = lost.high - lost.low
    alone = interval(figures(base).replicates)
    assert paired < (alone[1] - alone[0]) / 3
    standard = np.std(base - nearly) / math.sqrt(300)
    assert paired == pytest.approx(2 * 1.96 * standard, rel=0.15)


def test_equal_schedules_do_not_differ() -> None:
    same = figures([1, 0, 1, 1])
    for one in differences({"a": {"t": same}, "b": {"t": same}}):
        assert one.difference == 0 and one.p == 1.0 and not one.significant


def test_the_average_is_over_benchmarks_and_says_nothing_where_one_has_no_bootstrap() -> None:
    first, second = figures([1, 1, 0, 1]), figures([0.5, 0.5], seed=3)
    found = average({"a": first, "b": second})
    assert found.value == pytest.approx((0.75 + 0.5) / 2)
    assert found.low == pytest.approx((np.quantile(first.replicates, 0.025) + 0.5) / 2)
    bare = Figures(0.5, {}, {})
    assert math.isnan(average({"a": first, "b": bare}).low)
    assert average({"a": first, "b": Figures(None, {}, {}, problem="x")}).value == first.value
    assert not differences({"x": {"a": bare}, "y": {"a": bare}})[0].significant
