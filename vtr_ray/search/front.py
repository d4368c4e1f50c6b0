"""Non-dominated points of E (larger is better) against a cost (smaller is better), and their area."""

from __future__ import annotations

from collections.abc import Sequence

Point = tuple[float, float]  # (E, cost)


def non_dominated(points: Sequence[Point]) -> list[int]:
    """Indices of the points that no other point beats, by rising cost; of equal points the first.

    A point is beaten by one that is no worse in either and better in one of E and cost.
    """
    front: list[int] = []
    order = sorted(range(len(points)), key=lambda index: (points[index][1], -points[index][0], index))
    for index in order:
        if not front or points[index][0] > points[front[-1]][0]:
            front.append(index)
    return front


def hypervolume(points: Sequence[Point], low: float, high: float) -> float:
    """The best E to be had within a cost limit, averaged over all limits from `low` to `high`.

    It is the area dominated by `points` above the reference point (E = 0, cost = `high`), in units of E,
    costs counted from `low` in units of `high - low`; a point cheaper than `low` counts as costing `low`.
    `low < high`.
    """
    area, best, since = 0.0, 0.0, low
    for index in non_dominated(points):
        score, cost = points[index]
        cost = max(cost, low)
        if cost >= high:
            break
        area += best * (cost - since)
        best, since = max(score, best), cost
    return (area + best * (high - since)) / (high - low)
