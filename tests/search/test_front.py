"""Fronts and hypervolumes against brute force."""

import random

import pytest

from vtr_ray.search.front import hypervolume, non_dominated

LEVELS = 12  # few, so that many points tie


def drawn(seed: int, count: int = 30) -> list[tuple[float, float]]:
    rng = random.Random(seed)
    return [(rng.randint(0, LEVELS) / LEVELS, rng.randint(0, LEVELS) / LEVELS) for _ in range(count)]


def beats(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one[0] >= other[0] and one[1] <= other[1] and one != other


@pytest.mark.parametrize("seed", range(20))
def test_front_is_what_no_other_point_beats(seed: int) -> None:
    points = drawn(seed)
    front = non_dominated(points)
    unbeaten = {p for p in points if not any(beats(q, p) for q in points)}
    assert {points[index] for index in front} == unbeaten
    assert len(front) == len(unbeaten)  # equal points stand once, the first of them
    assert all(points.index(points[index]) == index for index in front)
    assert [points[index][1] for index in front] == sorted(points[index][1] for index in front)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.25, 0.75)])
def test_hypervolume_is_the_mean_of_the_best_e_over_all_limits(seed: int, low: float, high: float) -> None:
    points = drawn(seed, 8)
    # All costs are on a grid of twelfths: between two grid lines the best E does not change.
    steps = 24 * LEVELS
    limits = [low + (high - low) * (step + 0.5) / steps for step in range(steps)]
    best = [max((score for score, cost in points if cost <= limit), default=0.0) for limit in limits]
    assert hypervolume(points, low, high) == pytest.approx(sum(best) / steps, abs=1e-12)


def test_hypervolume_of_few_points() -> None:
    assert hypervolume([], 2.0, 4.0) == 0
    assert hypervolume([(0.5, 3.0)], 2.0, 4.0) == 0.25
    assert hypervolume([(0.5, 1.0)], 2.0, 4.0) == 0.5  # cheaper than the range
    assert hypervolume([(0.5, 4.0)], 2.0, 4.0) == 0  # at its end
    assert hypervolume([(0.5, 3.0), (0.4, 3.5), (0.9, 3.5)], 2.0, 4.0) == pytest.approx(0.125 + 0.225)
