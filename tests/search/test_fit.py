"""P-Sigmoid fitted to a schedule: known curves come back, and no point of a grid fits better."""

import math

import pytest

from vtr_ray import strategies
from vtr_ray.errors import InputError
from vtr_ray.schedule import Schedule
from vtr_ray.search.fit import fit_p_sigmoid

GREEDY = Schedule.from_rates([1, 1, 0.86, 0.86, 0.86, 0.74, 0.74, 0.74, 0.2, 0.2, 0.2, 0.05])


def squares(schedule: Schedule, b: float, k: float, alpha: float) -> float:
    """Sum of squared differences, written out."""
    total = 0.0
    for layer, rate in enumerate(schedule.rates, start=1):
        if layer >= 3:
            total += (min(1.0, 2 * b / (1 + math.exp(k * (layer - alpha)))) - rate) ** 2
    return total


def test_the_curve_of_the_paper_comes_back() -> None:
    fit = fit_p_sigmoid(strategies.p_sigmoid(32, 0.3, 0.4))
    assert (fit.b, fit.k, fit.alpha, fit.r2) == pytest.approx((0.3, 0.4, 17.5, 1.0), abs=1e-4)
    assert fit.schedule.rates == pytest.approx(strategies.p_sigmoid(32, 0.3, 0.4).rates, abs=1e-5)


def test_no_point_of_a_grid_fits_better() -> None:
    fit = fit_p_sigmoid(GREEDY)
    ours = squares(GREEDY, fit.b, fit.k, fit.alpha)
    grid = [
        squares(GREEDY, b / 50, k / 10, alpha / 4)
        for b in range(51)
        for k in range(51)
        for alpha in range(8, 60)
    ]
    assert ours <= min(grid)
    mean = sum(GREEDY.rates[2:]) / 10
    assert fit.r2 == pytest.approx(1 - ours / sum((rate - mean) ** 2 for rate in GREEDY.rates[2:]))
    assert 0.9 < fit.r2 < 1
    assert fit.schedule.rates[:2] == (1, 1)


@pytest.mark.parametrize("rate", [0.0, 0.25, 1.0])
def test_equal_rates_are_met(rate: float) -> None:
    fit = fit_p_sigmoid(Schedule.from_rates([1, 1] + [rate] * 6))
    assert fit.r2 == 1.0
    assert fit.schedule.rates == pytest.approx([1, 1] + [rate] * 6, abs=1e-5)


def test_a_step_is_met() -> None:
    fit = fit_p_sigmoid(strategies.vtw(24))
    assert fit.r2 > 0.999 and 12 <= fit.alpha <= 13 and fit.k > 3


def test_two_layers_leave_nothing_to_fit() -> None:
    with pytest.raises(InputError, match="2 layers"):
        fit_p_sigmoid(strategies.none(2))
