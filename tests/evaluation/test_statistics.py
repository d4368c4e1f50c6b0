import numpy as np
import pytest

from vtr_ray.evaluation.outcome import Outcome
from vtr_ray.evaluation.statistics import compare


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


def test_equal_differences_give_a_point():
    same = compare(outcomes([1, 0, 1]), outcomes([1, 0, 1]))
    assert (same.difference, same.low, same.high, same.p_value, same.significant) == (0, 0, 0, 1, False)
    lost = compare(outcomes([0, 0]), outcomes([1, 1]))
    assert (lost.difference, lost.low, lost.high, lost.p_value, lost.significant) == (-1, -1, -1, 0, True)


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
