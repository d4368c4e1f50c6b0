"""The Bayesian optimiser over a finite grid."""

import random
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch

from vtr_ray.search import optimiser
from vtr_ray.search.optimiser import propose, spread

GRID = [index / 144 for index in range(145)]


def hump(x: float) -> float:
    return 0.8 - (x - 0.37) ** 2


def seen(count: int = 6) -> dict[int, float]:
    return {index: hump(GRID[index]) for index in spread(len(GRID), count)}


@pytest.mark.parametrize(
    ("size", "count"), [(145, 10), (11, 10), (10, 10), (3, 10), (577, 15), (12, 2), (1, 2)]
)
def test_spread_has_both_ends_and_even_gaps(size: int, count: int) -> None:
    points = spread(size, count)
    gaps = np.diff(points)
    assert len(points) == min(size, count)
    assert points[0] == 0 and points[-1] == size - 1
    assert len(gaps) == 0 or (gaps.min() >= 1 and gaps.max() - gaps.min() <= 1)


def test_maximum_of_a_smooth_function_is_found_exactly() -> None:
    values = seen()
    for _ in range(6):
        (index,) = propose(GRID, values)
        values[index] = hump(GRID[index])
    best = max(values, key=lambda index: values[index])
    assert best == max(range(145), key=lambda index: hump(GRID[index]))


def test_first_proposal_maximises_expected_improvement_of_the_posterior() -> None:
    # Independent of BoTorch's acquisition: EI from the posterior's mean and deviation with SciPy.
    from scipy.stats import norm

    values = seen(4)
    x = torch.tensor([[GRID[i]] for i in sorted(values)], dtype=torch.float64)
    top = max(values.values())
    y = torch.tensor([[-np.log1p((top - values[i]) / 0.01)] for i in sorted(values)], dtype=torch.float64)
    posterior = optimiser._fitted(x, y).posterior(torch.tensor(GRID, dtype=torch.float64)[:, None])
    mean = posterior.mean.detach().numpy()[:, 0]
    deviation = posterior.variance.detach().numpy()[:, 0] ** 0.5
    z = (mean - y.max().item()) / deviation
    gain = deviation * (z * norm.cdf(z) + norm.pdf(z))
    gain[list(values)] = -1
    assert propose(GRID, values) == [int(gain.argmax())]


def test_several_points_are_distinct_unseen_and_respect_pending_ones() -> None:
    values = seen()
    points = propose(GRID, values, excluded=[50, 51], count=4, seed=3)
    assert len(set(points)) == 4
    assert not set(points) & {*values, 50, 51}
    assert points[:1] == propose(GRID, values, excluded=[50, 51], count=1, seed=3)
    # Without regard to pending points the best four are neighbours; with it they spread.
    assert max(points) - min(points) > 3


@pytest.mark.parametrize("count", [1, 3])
def test_same_arguments_same_points_whatever_the_random_state_and_the_order(count: int) -> None:
    values = seen()
    torch.manual_seed(1)
    first = propose(GRID, values, count=count, seed=5)
    torch.manual_seed(2)
    torch.rand(7)
    np.random.seed(3)
    turned = dict(reversed(values.items()))
    assert propose(GRID, turned, count=count, seed=5) == first


@pytest.mark.parametrize("cliff", [1, 20, 75, 143])
def test_known_slope_closes_in_on_a_sharp_cliff(cliff: int) -> None:
    values = {index: (0.9 if index >= cliff else 0.1) - 0.01 * GRID[index] for index in spread(145, 10)}
    for _ in range(5):
        (index,) = propose(GRID, values, cliff=0.03)
        values[index] = (0.9 if index >= cliff else 0.1) - 0.01 * GRID[index]
    assert 0 <= max(values, key=lambda index: values[index]) - cliff <= 2


def test_several_points_at_once_share_the_bracket_under_the_plateau() -> None:
    values = {index: (0.9 if index >= 75 else 0.1) - 0.01 * GRID[index] for index in spread(145, 10)}
    points = sorted(propose(GRID, values, cliff=0.03, count=3))
    assert all(64 < index < 80 for index in points)
    assert np.diff([64, *points, 80]).min() >= 2


def test_nothing_is_proposed_below_a_fall_while_the_plateau_has_unseen_points() -> None:
    grid = [index / 20 for index in range(21)]
    values = {0: 0.1, 10: 0.1, 12: 0.9, 16: 0.91, 18: 0.5, 20: 0.9}  # 18 lies above the best, no edge
    asked = []
    for _ in range(len(grid) - len(values)):
        (index,) = propose(grid, values, cliff=0.03)
        asked.append(index)
        values[index] = 0.1 if index < 12 else 0.9
    assert all(index > 10 for index in asked[:5]) and min(asked) == 1


@pytest.mark.parametrize(
    ("values", "cliff", "edge"),
    [
        ({0: 0.1, 5: 0.88, 7: 0.9, 9: 0.2}, 0.03, 0),
        ({0: 0.1, 5: 0.86, 7: 0.9, 9: 0.2}, 0.03, 5),
        ({0: 0.9, 5: 0.1, 7: 0.9}, 0.03, -1),
        ({0: 0.1, 7: 0.9}, None, -1),
        ({}, 0.03, -1),
    ],
)
def test_edge_is_the_highest_fallen_point_below_the_best(
    values: dict[int, float], cliff: float | None, edge: int
) -> None:
    assert optimiser._edge(values, cliff) == edge


def test_random_states_and_threads_are_left_alone() -> None:
    torch.manual_seed(11)
    np.random.seed(11)
    random.seed(11)
    before = (
        torch.get_rng_state(),
        np.random.get_state()[1].tolist(),
        random.getstate(),
        torch.get_num_threads(),
    )
    dtype = torch.get_default_dtype()
    propose(GRID, seen(), count=3, seed=9)
    after = (
        torch.get_rng_state(),
        np.random.get_state()[1].tolist(),
        random.getstate(),
        torch.get_num_threads(),
    )
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]
    assert torch.get_default_dtype() == dtype


def test_fit_runs_on_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[int] = []
    real = optimiser._fitted

    def watched(x: torch.Tensor, y: torch.Tensor) -> object:
        threads.append(torch.get_num_threads())
        return real(x, y)

    monkeypatch.setattr(optimiser, "_fitted", watched)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        propose(GRID, seen())
        assert threads == [1]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_constant_outcomes_fill_the_largest_gaps_without_a_warning() -> None:
    values = dict.fromkeys([0, 8, 16], 0.5)
    grid = [index / 16 for index in range(17)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert propose(grid, values) == [4]
        assert propose(grid, values, count=3) == [4, 12, 2]
        assert propose(grid, {}, excluded=[0, 16]) == [8]
        assert propose(grid, {3: 0.5}) == [16]


def test_nothing_unseen_gives_nothing_and_few_give_all() -> None:
    grid = [0.0, 0.5, 1.0]
    assert propose(grid, {0: 0.1, 1: 0.2, 2: 0.3}) == []
    assert propose(grid, {0: 0.1, 1: 0.2}, count=4) == [2]
    assert propose(grid, {0: 0.1}, excluded=[2]) == [1]


def test_a_failing_fit_and_failing_numbers_still_give_an_unseen_point(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import botorch.fit
    from botorch.exceptions import ModelFittingError
    from linear_operator.utils.errors import NotPSDError

    def fail_fit(*args: object, **kwargs: object) -> None:
        raise ModelFittingError("no")

    monkeypatch.setattr(botorch.fit, "fit_gpytorch_mll", fail_fit)
    (index,) = propose(GRID, seen())
    assert abs(GRID[index] - 0.37) < 0.15  # the prior's median lengthscale still sees the hump

    class Broken:
        num_outputs = 1

        def posterior(self, *args: object, **kwargs: object) -> object:
            raise NotPSDError("no")

    monkeypatch.setattr(optimiser, "_fitted", lambda x, y: Broken())
    assert propose(GRID, {0: 0.1, 144: 0.2}) == [72]


@pytest.mark.parametrize("scale", [1e-6, 0.01, 10.0])
def test_extreme_outcomes_need_no_fallback(scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: object) -> list[int]:
        raise AssertionError("the Gaussian process gave up")

    monkeypatch.setattr(optimiser, "_furthest", never)
    cliff = {index: (1.0 if index > 70 else 0.0) - 1e-9 * index for index in spread(145, 40)}
    near = {70: 0.5, 71: 0.5 + 1e-9, 72: 0.4}
    for values in (cliff, near):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            points = propose(GRID, values, count=2, scale=scale)
        assert len(set(points)) == 2 and not set(points) & set(values)


def test_importing_searches_loads_neither_torch_nor_ray() -> None:
    code = (
        "import sys, vtr_ray.search as s; s.GSearch(12, 144).ask();"
        "print([m for m in ('torch', 'botorch', 'ray', 'mlflow', 'lmms_eval') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
