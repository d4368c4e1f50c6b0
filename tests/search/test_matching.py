"""Budgets matched to FLOPs, against the paper's formula written out and a scan over all budgets."""

import json

import pytest

from vtr_ray import strategies
from vtr_ray.efficiency import count_flops, read_config
from vtr_ray.errors import InputError
from vtr_ray.schedule import Schedule
from vtr_ray.search import PSigmoidSearch
from vtr_ray.search.matching import matched_budgets, tolerance_of
from vtr_ray.search.psigmoid import steepnesses


def cost(schedule: Schedule, tokens: int = 144, text: int = 20, width: int = 128) -> float:
    """Decoder layers alone: 4 d^2 projections, 3 d m feed-forward, two products."""
    lengths = [n + text for n in schedule.counts(tokens)]
    return float(sum(2 * n * (4 * width**2 + 3 * width * 4 * width) + 4 * n * n * width for n in lengths))


def test_every_k_costs_what_is_matched_as_nearly_as_any_budget() -> None:
    target = cost(strategies.fastv(12, 0.7))
    tolerance = tolerance_of(12, 144, cost, target)
    budgets = matched_budgets(12, 2.0, cost, target, tolerance)
    ks = steepnesses(2.0)
    assert len(budgets) == len(ks) == 401
    for step in range(0, 401, 50):
        off = abs(cost(strategies.p_sigmoid(12, budgets[step], ks[step])) - target)
        nearest = min(abs(cost(strategies.p_sigmoid(12, n / 3000, ks[step])) - target) for n in range(3001))
        assert off <= nearest <= tolerance
    assert budgets[0] == pytest.approx(0.3, abs=1 / 288)  # flat from layer 3 on is what FastV keeps
    assert budgets[400] < budgets[100] < 0.99 * budgets[0]  # decoder layers alone: an S-curve costs more


def test_a_7b_model_is_matched_to_a_thousandth() -> None:
    config = read_config("llava-1.5-7b")

    def flops(schedule: Schedule) -> float:
        return count_flops(config, schedule, 576, 75).total

    target = flops(strategies.fastv(32, 0.875))
    # A coarse grid of k, for time's sake: 401 values of a 7B shape take a second.
    budgets = matched_budgets(32, 0.4, flops, target, tolerance_of(32, 576, flops, target))
    schedule = strategies.p_sigmoid(32, budgets[300], 0.3)
    assert flops(schedule) == pytest.approx(target, rel=1e-3)
    assert 0.12 < budgets[300] < 0.13
    # The paper's own 7 % fewer tokens (memory cost 0.171) undercut FastV: its Table 9 has 2.66 to 2.74.
    papers = strategies.p_sigmoid(32, 0.1157, 0.3)
    assert papers.memory_cost == pytest.approx(0.171, abs=5e-4)
    assert flops(papers) < 0.98 * target


@pytest.mark.parametrize("target", [0.0, 1e12])
def test_what_cannot_be_matched_is_refused(target: float) -> None:
    with pytest.raises(InputError, match="out of its reach"):
        matched_budgets(12, 2.0, cost, target, 1.0)


def test_ends_of_the_reach_are_matched() -> None:
    for schedule, budget in ((strategies.none(12), 1.0), (strategies.vtw(12, 2), 0.0)):
        budgets = matched_budgets(12, 2.0, cost, cost(schedule), 1.0)
        assert budgets[0] == pytest.approx(budget, abs=0.01)
        for k, own in zip(steepnesses(2.0), budgets, strict=True):
            assert strategies.p_sigmoid(12, own, k).counts(144) == schedule.counts(144)


def test_a_search_at_equal_flops() -> None:
    target = cost(strategies.fastv(12, 0.7))
    tolerance = tolerance_of(12, 144, cost, target)
    budgets = matched_budgets(12, 2.0, cost, target, tolerance)
    search = PSigmoidSearch(12, 144, budgets, iterations=3)
    while not search.finished:
        search = PSigmoidSearch.from_state_dict(json.loads(json.dumps(search.state_dict())))
        trial = search.ask()
        assert abs(cost(trial.schedule) - target) <= tolerance
        search.tell(trial, 0.5 + 0.1 * trial.k / 2)
    counts = [tuple(result.schedule.counts(144)) for result in search.results]
    assert len(counts) == len(set(counts)) == 13
    assert search.best == strategies.p_sigmoid(12, search.best_budget, search.best_k)
    assert search.best_budget == budgets[round(200 * search.best_k)]


def test_as_many_budgets_as_steepnesses() -> None:
    with pytest.raises(InputError, match="budget has 2 numbers"):
        PSigmoidSearch(12, 144, [0.2, 0.3])
    with pytest.raises(InputError, match=r"budget is 1\.5"):
        PSigmoidSearch(12, 144, [1.5] * 401)
