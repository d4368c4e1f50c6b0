from __future__ import annotations

import math

import pytest

from vtr_ray import strategies
from vtr_ray.errors import InputError
from vtr_ray.schedule import Ranking


def test_none_keeps_everything() -> None:
    assert strategies.none(4).rates == (1.0,) * 4


def test_fastv_cuts_once_after_layer_k_by_the_last_token() -> None:
    schedule = strategies.fastv(32, drop=0.5, after_layer=2)
    assert schedule.rates == (1.0, 1.0) + (0.5,) * 30
    assert (schedule.ranking, schedule.positions) == (Ranking.LAST_TOKEN, "original")


def test_one_cut_has_the_ranking_and_the_memory_cost_of_a_curve() -> None:
    curve = strategies.p_sigmoid(12, budget=0.2, k=0.8)
    flat = strategies.one_cut(curve)
    assert flat.memory_cost == pytest.approx(curve.memory_cost, abs=1e-9)
    assert flat.rates[:2] == (1.0, 1.0) and len(set(flat.rates[2:])) == 1
    assert (flat.ranking, flat.positions, flat.rounding) == (curve.ranking, curve.positions, curve.rounding)
    with pytest.raises(InputError, match=r"one_cut cannot reach a memory cost of 0\.08333"):
        strategies.one_cut(strategies.vtw(12, withdraw_after=1))


def test_vtw_empties_after_half() -> None:
    assert strategies.vtw(32).rates == (1.0,) * 16 + (0.0,) * 16
    assert strategies.vtw(5).rates == (1.0, 1.0, 0.0, 0.0, 0.0)
    assert strategies.vtw(4, withdraw_after=3).rates == (1.0, 1.0, 1.0, 0.0)


def test_pdrop_renumbers_and_rounds_as_its_code() -> None:
    schedule = strategies.pyramid_drop(32, layers=(8, 16, 24), keep=0.5)
    assert schedule.rates == (1.0,) * 8 + (0.5,) * 8 + (0.25,) * 8 + (0.125,) * 8
    assert schedule == strategies.pyramid_drop(32)
    assert (schedule.ranking, schedule.positions) == (Ranking.NEXT_LAYER, "renumber")
    ratios = [1, 0.5, 0.25, 0.125]  # int(N * ratio), their code
    assert schedule.counts(577)[::8] == [int(577 * ratio) for ratio in ratios]


# The memory costs of the paper's rows (its tables).
@pytest.mark.parametrize(
    ("schedule", "memory_cost"),
    [
        (strategies.fastv(32, 0.5), 0.531),
        (strategies.fastv(24, 0.5), 0.542),
        (strategies.fastv(32, 0.875), 0.180),
        (strategies.fastv(24, 0.875), 0.198),
        (strategies.vtw(32), 0.500),
        (strategies.pyramid_drop(32), 0.469),
        (strategies.pyramid_drop(24, layers=(8, 16, 24)), 0.583),
        (strategies.pyramid_drop(24), 0.469),
    ],
)
def test_the_papers_memory_costs(schedule: strategies.Schedule, memory_cost: float) -> None:
    assert schedule.memory_cost == pytest.approx(memory_cost, abs=5e-4)


@pytest.mark.parametrize("drop", [0.5, 0.6, 0.75])
def test_pdrops_lambda_at_fastvs_budget(drop: float) -> None:
    """The paper's Fig. 4: one memory cost, lambda by bisection of 8 (1 + x + x^2 + x^3) / 32."""
    cost = strategies.fastv(32, drop).memory_cost
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if sum(middle**stage for stage in range(4)) / 4 > cost else (middle, high)
    schedule = strategies.at_memory_cost("pyramid_drop", 32, cost)
    assert schedule.rates[8] == pytest.approx(low, abs=1e-9)
    assert schedule == strategies.pyramid_drop(32, keep=schedule.rates[8])
    assert schedule.memory_cost == pytest.approx(cost, abs=1e-12)


@pytest.mark.parametrize("keep", [0.25, 0.5, 0.6, 0.75])
def test_a_solved_parameter_gives_the_counts_of_the_one_meant(keep: float) -> None:
    """The solver's last digits cost no token, neither where counts are rounded down nor at a tie."""
    meant = strategies.pyramid_drop(32, keep=keep)
    assert strategies.at_memory_cost("pyramid_drop", 32, meant.memory_cost).counts(576) == meant.counts(576)
    for layers in range(3, 40):
        meant = strategies.fastv(layers, drop=1 - keep)
        solved = strategies.at_memory_cost("fastv", layers, meant.memory_cost)
        assert all(solved.counts(n) == meant.counts(n) for n in (577, 578, 580, 585))
    solved = strategies.at_memory_cost("pyramid_drop", 32, 0.46875)
    assert solved.counts(576)[::8] == [576, 288, 144, 72]


def test_pdrops_three_stages_leave_a_quarter() -> None:
    """Below it no lambda helps; earlier stages do."""
    with pytest.raises(InputError, match=r"its lowest is 0\.25"):
        strategies.at_memory_cost("pyramid_drop", 32, strategies.fastv(32, 0.875).memory_cost)
    schedule = strategies.at_memory_cost("pyramid_drop", 32, 0.18, layers=(2, 8, 16))
    assert schedule.memory_cost == pytest.approx(0.18)


def test_random_keeps_the_rates_and_changes_the_ranking() -> None:
    schedule = strategies.random(strategies.fastv(8, 0.5), seed=3)
    assert schedule.rates == strategies.fastv(8, 0.5).rates
    assert (schedule.ranking, schedule.seed) == (Ranking.RANDOM, 3)


@pytest.mark.parametrize("budget", [0.0, 0.05, 0.116, 0.5, 0.5001, 0.7, 0.93, 0.999, 1.0])
@pytest.mark.parametrize("k", [0.0, 0.1, 0.3, 1.0, 2.0, 50.0, 1000.0])
def test_p_sigmoid_meets_its_budget_at_every_steepness(budget: float, k: float) -> None:
    schedule = strategies.p_sigmoid(32, budget=budget, k=k)
    assert math.fsum(schedule.rates[2:]) / 30 == pytest.approx(budget, abs=1e-9)
    assert schedule.rates[:2] == (1.0, 1.0)


def test_p_sigmoid_is_the_papers_curve_and_its_scaled_clip() -> None:
    curve = [2 * 0.116 / (1 + math.exp(0.3 * (i - 17.5))) for i in range(3, 33)]
    assert strategies.p_sigmoid(32, budget=0.116, k=0.3).rates[2:] == pytest.approx(curve)
    # b = 0.8: the curve passes 1; it is scaled by one factor before it is clipped
    rates = strategies.p_sigmoid(32, budget=0.8, k=0.5).rates[2:]
    raw = [1.6 / (1 + math.exp(0.5 * (i - 17.5))) for i in range(3, 33)]
    factors = [rate / value for rate, value in zip(rates, raw, strict=True) if rate < 1]
    assert min(factors) == pytest.approx(max(factors)) and factors[0] > 1 and rates[0] == 1.0
    # b = 0.6, k small: 2b > 1 but the curve stays under 1, and is the paper's
    flat = [1.2 / (1 + math.exp(0.01 * (i - 17.5))) for i in range(3, 33)]
    assert strategies.p_sigmoid(32, budget=0.6, k=0.01).rates[2:] == pytest.approx(flat)


@pytest.mark.parametrize("num_layers", [6, 12, 32])
@pytest.mark.parametrize("memory_cost", [0.35, 0.5, 0.61, 0.9, 1.0])
def test_every_strategy_meets_a_memory_cost(num_layers: int, memory_cost: float) -> None:
    for name, fixed in (("fastv", {}), ("pyramid_drop", {}), ("p_sigmoid", {"k": 0.4})):
        schedule = strategies.at_memory_cost(name, num_layers, memory_cost, **fixed)
        assert schedule.memory_cost == pytest.approx(memory_cost, abs=1e-9), name
    vtw = strategies.at_memory_cost("vtw", num_layers, memory_cost)
    assert abs(vtw.memory_cost - memory_cost) <= 0.5 / num_layers + 1e-12
    assert strategies.at_memory_cost("fastv", 12, 0.5, after_layer=4).rates[:5] == pytest.approx(
        (1, 1, 1, 1, 0.25)
    )


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("fastv", (12, 0.1), "cannot reach a memory cost of 0.1: its lowest is 0.1667"),
        ("fastv", (12, 0.5, {"after_layer": 12}), "removes nothing"),
        ("pyramid_drop", (12, 0.2), "its lowest is 0.25"),
        ("vtw", (12, 0.01), "its lowest is 0.0833"),
        ("p_sigmoid", (12, 0.1, {"k": 1.0}), "its lowest is 0.1667"),
        ("p_sigmoid", (12, 0.5), "pass k="),
        ("fastv", (12, 1.5), "memory_cost is 1.5"),
        ("fastv", (12, 0.5, {"k": 1}), "takes no 'k'"),
        ("gsearch", (12, 0.5), "No strategy 'gsearch'"),
        ("fastv", (0, 0.5), "number of decoder layers is 0"),
    ],
)
def test_what_cannot_be_solved_is_one_line(name: str, arguments: tuple[float, ...], message: str) -> None:
    layers, cost, *rest = arguments
    fixed = rest[0] if rest else {}
    with pytest.raises(InputError, match=message):
        strategies.at_memory_cost(name, layers, cost, **fixed)  # type: ignore[arg-type]


def test_bad_parameters_are_one_line() -> None:
    for call, message in (
        (lambda: strategies.fastv(8, drop=1.5), "drop is 1.5"),
        (lambda: strategies.fastv(8, drop=float("nan")), "drop is nan"),
        (lambda: strategies.fastv(8, after_layer=0), "after_layer is 0"),
        (lambda: strategies.vtw(8, withdraw_after=9), "withdraw_after is 9; use a layer from 1 to 8"),
        (lambda: strategies.pyramid_drop(8, layers=(4, 2)), "give increasing layer numbers"),
        (lambda: strategies.pyramid_drop(8, layers=(2, 4), keep=(0.5,)), "2 layers and 1 ratios"),
        (lambda: strategies.pyramid_drop(8, layers=(2, 4), keep=(0.5, 1.5)), "keep is 1.5"),
        (lambda: strategies.p_sigmoid(8, 0.5, -1), "k is -1"),
        (lambda: strategies.p_sigmoid(8, 0.5, float("inf")), "k is inf"),
        (lambda: strategies.p_sigmoid(2, 0.5, 1), "2 layers leave none"),
        (lambda: strategies.none(0), "number of decoder layers is 0"),
    ):
        with pytest.raises(InputError, match=message):
            call()


@pytest.mark.parametrize("alpha", [3.0, 5.5, 17.5, 32.0, -40.0, 80.0])
@pytest.mark.parametrize("budget", [0.0, 0.02, 0.5, 0.93, 1.0])
@pytest.mark.parametrize("k", [0.0, 0.05, 0.8, 40.0])
def test_p_sigmoid_around_any_layer_is_the_scaled_curve_at_its_budget(budget, k, alpha) -> None:
    rates = strategies.p_sigmoid(32, budget, k, alpha).rates[2:]
    assert sum(rates) / 30 == pytest.approx(budget, abs=1e-12)
    curve = [1 / (1 + math.exp(min(k * (i - alpha), 700))) for i in range(3, 33)]
    below = [
        (rate, y) for rate, y in zip(rates, curve, strict=True) if 1e-250 < rate < 1 - 1e-9 and y > 1e-250
    ]
    assert all(rate * below[0][1] == pytest.approx(below[0][0] * y, rel=1e-9) for rate, y in below)
    if alpha == 17.5:
        assert rates == strategies.p_sigmoid(32, budget, k).rates[2:]
