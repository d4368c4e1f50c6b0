import random

import pytest

from vtr_ray.evaluation.outcome import Outcome, effectiveness


def test_effectiveness_is_the_mean_and_does_not_depend_on_the_order():
    generator = random.Random(0)
    outcomes = [Outcome(f"s{i}", generator.random()) for i in range(200)]
    expected = effectiveness(outcomes)
    assert expected == pytest.approx(sum(o.score for o in outcomes) / 200)
    for _ in range(20):
        generator.shuffle(outcomes)
        assert effectiveness(outcomes) == expected


def test_a_sample_counted_twice_is_an_error():
    with pytest.raises(ValueError, match="s1 has two outcomes"):
        effectiveness([Outcome("s1", 1.0), Outcome("s2", 0.0), Outcome("s1", 1.0)])


def test_no_outcomes_have_no_effectiveness():
    with pytest.raises(ValueError, match="no outcomes"):
        effectiveness([])


@pytest.mark.parametrize("score", [-0.1, 1.1, float("nan")])
def test_a_score_outside_the_unit_interval_is_refused(score):
    with pytest.raises(ValueError, match="not in"):
        Outcome("s", score)
