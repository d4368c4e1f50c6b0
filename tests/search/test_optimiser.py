"""The Bayesian optimiser over a finite grid."""

import random
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch

from vtr_ray.search import optimiser
from vtr_ray.search.optimiser import Kind, Known, Surrogate, propose, spread

GRID = [index / 144 for index in range(145)]
KINDS: tuple[Kind, ...] = ("shape", "paper")
PAPER, SHAPE = Surrogate("paper"), Surrogate("shape", slope=0.01, samples=240)


def hump(x: float) -> float:
    return 0.8 - (x - 0.37) ** 2


def cliff(edge: int, index: int) -> float:
    return (0.9 if index >= edge else 0.1) - 0.01 * GRID[index]


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
        (index,) = propose(GRID, Known(values), Surrogate("paper"))
        values[index] = hump(GRID[index])
    best = max(values, key=lambda index: values[index])
    assert best == max(range(145), key=lambda index: hump(GRID[index]))


@pytest.mark.parametrize("kind", KINDS)
def test_first_proposal_maximises_expected_improvement_of_the_posterior(kind: Kind) -> None:
    # Independent of BoTorch's acquisition: EI from the posterior's means and deviations with SciPy.
    from scipy.stats import norm

    values, surrogate = seen(4), Surrogate(kind, slope=0.01)
    model, best = optimiser.model_of(GRID, Known(values), surrogate)
    with torch.no_grad():
        posterior = model.posterior(torch.tensor(GRID, dtype=torch.float64)[:, None, None])
    mean = posterior.mean.numpy().reshape(145, -1)  # a column for each member
    deviation = posterior.variance.numpy().reshape(145, -1) ** 0.5
    z = (mean - best) / deviation
    gain = (deviation * (z * norm.cdf(z) + norm.pdf(z))).mean(axis=1)
    gain[list(values)] = -1
    assert propose(GRID, Known(values), surrogate) == [int(gain.argmax())]


@pytest.mark.parametrize("kind", KINDS)
def test_several_points_are_distinct_unseen_and_respect_pending_ones(kind: Kind) -> None:
    known, surrogate = Known(seen(), [50, 51], {70: 0.5}), Surrogate(kind)
    points = propose(GRID, known, surrogate, count=4, seed=3)
    assert len(set(points)) == 4
    assert not set(points) & set(known.tried)
    assert points[:1] == propose(GRID, known, surrogate, count=1, seed=3)
    # Without regard to pending points the best four are neighbours; with it they spread.
    assert max(points) - min(points) > 3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, 3])
def test_same_arguments_same_points_whatever_the_random_state_and_the_order(kind: Kind, count: int) -> None:
    values = seen()
    torch.manual_seed(1)
    first = propose(GRID, Known(values), Surrogate(kind), count=count, seed=5)
    torch.manual_seed(2)
    torch.rand(7)
    np.random.seed(3)
    turned = dict(reversed(values.items()))
    assert propose(GRID, Known(turned), Surrogate(kind), count=count, seed=5) == first


@pytest.mark.parametrize("edge", [1, 20, 75, 143])
def test_the_shape_closes_in_on_a_sharp_cliff(edge: int) -> None:
    values = {index: cliff(edge, index) for index in spread(145, 10)}
    for _ in range(5):
        (index,) = propose(GRID, Known(values), SHAPE)
        values[index] = cliff(edge, index)
    assert 0 <= max(values, key=lambda index: values[index]) - edge <= 2


def test_several_points_at_once_share_the_bracket_under_the_plateau() -> None:
    values = {index: cliff(75, index) for index in spread(145, 10)}
    points = sorted(propose(GRID, Known(values), SHAPE, count=3))
    assert all(64 < index < 80 for index in points)
    assert np.diff([64, *points, 80]).min() >= 2


def test_a_trial_stopped_early_says_where_the_plateau_is_not() -> None:
    plateau = {index: cliff(40, index) for index in (72, 96, 120, 144)}
    (without,) = propose(GRID, Known(plateau), SHAPE)
    (bounded,) = propose(GRID, Known(plateau, (), {0: 0.88, 24: 0.88, 48: 0.88}), SHAPE)
    assert without < 48 < bounded < 72


@pytest.mark.parametrize("kind", ["shape", "paper"])
def test_the_lowest_point_that_reaches_what_is_needed_is_found(kind: Kind) -> None:
    """E - E(no reduction), a plateau above a cliff at 60; what is needed is 0.02 below it."""

    def difference(index: int) -> float:
        return -0.5 / (1 + np.exp((index - 60) / 3))

    values = {index: difference(index) for index in spread(145, 10)}
    for _ in range(6):
        (index,) = propose(GRID, Known(values), Surrogate(kind), needed=-0.02)
        assert index < min(i for i, value in values.items() if value >= -0.02)
        values[index] = difference(index)
    best = min(index for index in range(145) if difference(index) >= -0.02)
    found = min(index for index, value in values.items() if value >= -0.02)
    assert found - best <= (0 if kind == "shape" else 2)
    assert len(set(propose(GRID, Known(values), Surrogate(kind), count=2, needed=-0.02))) == 2


@pytest.mark.parametrize("kind", KINDS)
def test_random_states_and_threads_are_left_alone(kind: Kind) -> None:
    def states() -> tuple[object, ...]:
        numbers = np.random.get_state()[1].tolist()
        return numbers, random.getstate(), torch.get_num_threads(), torch.get_default_dtype()

    torch.manual_seed(11)
    np.random.seed(11)
    random.seed(11)
    torch_before, before = torch.get_rng_state(), states()
    propose(GRID, Known(seen()), Surrogate(kind), count=3, seed=9)
    assert torch.equal(torch_before, torch.get_rng_state())
    assert before == states()


def test_numbers_are_made_on_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[int] = []
    real = optimiser.model_of

    def watched(*args: object) -> object:
        threads.append(torch.get_num_threads())
        return real(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(optimiser, "model_of", watched)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        propose(GRID, Known(seen()), PAPER)
        assert threads == [1]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_constant_outcomes_fill_the_largest_gaps_without_a_warning() -> None:
    values = dict.fromkeys([0, 8, 16], 0.5)
    grid = [index / 16 for index in range(17)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert propose(grid, Known(values), SHAPE) == [4]
        assert propose(grid, Known(values), SHAPE, count=3) == [4, 12, 2]
        assert propose(grid, Known({}, [0, 16]), SHAPE) == [8]
        assert propose(grid, Known({3: 0.5}), SHAPE) == [16]


def test_nothing_unseen_gives_nothing_and_few_give_all() -> None:
    grid = [0.0, 0.5, 1.0]
    assert propose(grid, Known({0: 0.1, 1: 0.2, 2: 0.3}), SHAPE) == []
    assert propose(grid, Known({0: 0.1, 1: 0.2}), SHAPE, count=4) == [2]
    assert propose(grid, Known({0: 0.1}, [2]), SHAPE) == [1]


def test_a_failing_fit_and_failing_numbers_still_give_an_unseen_point(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import botorch.fit
    from botorch.exceptions import ModelFittingError
    from linear_operator.utils.errors import NotPSDError

    def fail_fit(*args: object, **kwargs: object) -> None:
        raise ModelFittingError("no")

    monkeypatch.setattr(botorch.fit, "fit_gpytorch_mll", fail_fit)
    (index,) = propose(GRID, Known(seen()), PAPER)
    assert abs(GRID[index] - 0.37) < 0.15  # the prior's median lengthscale still sees the hump

    def broken(*args: object) -> None:
        raise NotPSDError("no")

    monkeypatch.setattr(optimiser, "model_of", broken)
    assert propose(GRID, Known({0: 0.1, 144: 0.2}), PAPER) == [72]


@pytest.mark.parametrize("kind", KINDS)
def test_extreme_outcomes_need_no_fallback(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: object) -> list[int]:
        raise AssertionError("the surrogate gave up")

    monkeypatch.setattr(optimiser, "_furthest", never)
    steep = {index: (1.0 if index > 70 else 0.0) - 1e-9 * index for index in spread(145, 40)}
    near = {70: 0.5, 71: 0.5 + 1e-9, 72: 0.4}
    for values in (steep, near):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            points = propose(GRID, Known(values), Surrogate(kind), count=2)
        assert len(set(points)) == 2 and not set(points) & set(values)


def test_importing_searches_loads_neither_torch_nor_ray() -> None:
    code = (
        "import sys, vtr_ray.search as s; s.GSearch(12, 144).ask();"
        "print([m for m in ('torch', 'botorch', 'ray', 'mlflow', 'lmms_eval') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
