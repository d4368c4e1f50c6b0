import math

import numpy as np
import pytest
from scipy import stats

from vtr_ray.evaluation.outcome import Outcome
from vtr_ray.evaluation.statistics import compare, lower_bound, samples_to_show, wilson_interval


def outcomes(scores):
    return [Outcome(f"s{i:04}", float(score)) for i, score in enumerate(scores)]


def test_the_interval_is_that_of_the_paired_t_test():
    # By hand: differences 1, 0, 1, 0, 0: mean 0.4, s = 0.5477, s/sqrt(5) = 0.24495, t(0.975, 4) = 2.7764.
    result = compare(outcomes([1, 1, 1, 0, 0.5]), outcomes([0, 1, 0, 0, 0.5]))
    assert result.difference == pytest.approx(0.4)
    assert result.low == pytest.approx(0.4 - 2.7764 * 0.24495, abs=1e-3)
    assert result.high == pytest.approx(0.4 + 2.7764 * 0.24495, abs=1e-3)
    assert result.samples == 5
    assert not result.significant


def test_the_interval_covers_the_truth_about_95_times_in_100():
    generator = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        ours, theirs = generator.random(300) < 0.85, generator.random(300) < 0.80
        result = compare(outcomes(ours), outcomes(theirs))
        covered += result.low <= 0.05 <= result.high
    assert 0.92 <= covered / 400 <= 0.98


def test_pairs_are_matched_by_id_whatever_the_order():
    ours, theirs = outcomes([1, 0, 1, 1]), outcomes([0, 0, 1, 0])
    assert compare(ours, theirs[::-1]) == compare(ours, theirs)


@pytest.mark.parametrize("count", [2, 3, 40, 1000])
def test_equal_differences_do_not_prove_that_all_others_are(count):
    same = compare(outcomes([1] * count), outcomes([1] * count))
    # By hand: one won and one lost added, variance 2 / (n + 2), half the width 1.96 sqrt(2) / (n + 2).
    half = 1.959964 * math.sqrt(2) / (count + 2)
    assert (same.difference, same.p_value, same.significant) == (0, 1, False)
    assert (same.low, same.high) == pytest.approx((-half, half), rel=1e-6)
    lost = compare(outcomes([0] * count), outcomes([1] * count))
    assert lost.difference == lost.low == -1 and lost.significant == (count > 3)
    assert lost.significant == (lost.p_value < 0.05)


@pytest.mark.parametrize(("right", "samples"), [(0, 5), (1, 2), (3, 40), (39, 40), (40, 40), (3521, 3600)])
def test_the_interval_of_a_mean_is_wilsons(right, samples):
    low, high = wilson_interval(right / samples, samples)
    expected = stats.binomtest(right, samples).proportion_ci(method="wilson")
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert 0 <= low < high <= 1


def test_a_large_paired_difference_is_significant():
    result = compare(outcomes([1] * 90 + [0] * 10), outcomes([1] * 60 + [0] * 40))
    assert result.significant
    assert result.difference == pytest.approx(0.3)
    assert result.p_value < 1e-6


def test_other_samples_on_one_side_are_refused():
    with pytest.raises(ValueError, match="same samples"):
        compare(outcomes([1, 0, 1]), outcomes([1, 0]))
    with pytest.raises(ValueError, match="at least two"):
        compare(outcomes([1]), outcomes([1]))


def test_lower_bound_is_bonetts_and_prices() -> None:
    # 100 samples, 3 lost and 1 won: with one of each added, p12 = 4 / 102, p21 = 2 / 102.
    base = {f"s{i}": float(i % 2) for i in range(100)}
    ours = {**base, "s1": 0.0, "s3": 0.0, "s5": 0.0, "s0": 1.0}
    lost, won = 4 / 102, 2 / 102
    deviation = math.sqrt((lost + won - (won - lost) ** 2) / 102)
    assert lower_bound(ours, base) == pytest.approx(won - lost - 1.6448536 * deviation)
    assert lower_bound(base, base) == pytest.approx(-1.6448536 * math.sqrt(2 / 102 / 102))
    with pytest.raises(ValueError, match="the same samples"):
        lower_bound(ours, {**base, "more": 1.0})


@pytest.mark.parametrize("samples", [60, 500])
def test_lower_bound_is_below_the_truth_nineteen_times_in_twenty(samples: int) -> None:
    draw = np.random.default_rng(0)
    for lost, won in ((0.01, 0.0), (0.02, 0.01), (0.05, 0.03)):
        differences = draw.choice([-1.0, 1.0, 0.0], (1000, samples), p=[lost, won, 1 - lost - won])
        names = [f"s{i}" for i in range(samples)]
        base = dict.fromkeys(names, 0.0)
        bounds = [lower_bound(dict(zip(names, row, strict=True)), base) for row in differences]
        assert np.mean(np.array(bounds) <= won - lost) >= 0.93


def test_so_many_samples_show_a_drop_where_none_differs() -> None:
    for drop in (0.005, 0.02):
        enough = samples_to_show(drop)
        assert lower_bound(dict.fromkeys(range(enough), 1.0), dict.fromkeys(range(enough), 1.0)) >= -drop
        fewer = dict.fromkeys(range(enough - 1), 1.0)
        assert lower_bound(fewer, fewer) < -drop
