"""Which differences between schedules are real: intervals and paired tests over the same documents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from vtr_ray.evaluation.benchmarks.results import Figures

AVERAGE = "average"
LEVEL = 0.05  # of significance, two-sided, for each difference alone


@dataclass(frozen=True)
class Difference:
    """`first` minus `second` in one benchmark's figure, or in the average.

    low, high: 95 %, percentiles of the paired bootstrap; NaN where there is none. p: of "no difference".
    test: "mcnemar" (exact, over documents that only one of both answered rightly) or "bootstrap".
    """

    first: str
    second: str
    benchmark: str
    difference: float
    low: float
    high: float
    p: float
    test: str

    @property
    def significant(self) -> bool:
        """Whether chance alone would hardly give it."""
        return self.p < LEVEL

    def turned(self) -> Difference:
        """Return `second` minus `first`."""
        return replace(
            self,
            first=self.second,
            second=self.first,
            difference=0.0 - self.difference,  # not -0.0
            low=0.0 - self.high,
            high=0.0 - self.low,
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON."""
        return {**self.__dict__, "significant": self.significant}


@dataclass(frozen=True)
class Average:
    """The mean of benchmarks' fractions, with its 95 % interval; NaN where a benchmark has no bootstrap."""

    value: float
    low: float
    high: float
    replicates: NDArray[np.float64]


def average(figures: Mapping[str, Figures]) -> Average:
    """Over the benchmarks that have a value. Benchmarks are resampled independently."""
    known = [one for one in figures.values() if one.value is not None]
    if not known:
        return Average(float("nan"), float("nan"), float("nan"), np.empty(0))
    shortest = min(len(one.replicates) for one in known)
    replicates = np.mean([one.replicates[:shortest] for one in known], axis=0) if shortest else np.empty(0)
    value = float(np.mean([one.value for one in known]))
    return Average(value, *interval(replicates), replicates)


def documents_of_average(documents: Sequence[int]) -> int:
    """Return how many documents of the largest weight would make up an average of benchmarks.

    documents: of each benchmark.
    """
    return len(documents) * min(documents, default=0)


def interval(replicates: NDArray[np.float64], level: float = 0.95) -> tuple[float, float]:
    """Percentile interval; NaN where there are no replicates."""
    if not len(replicates):
        return float("nan"), float("nan")
    low, high = np.quantile(replicates, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def differences(by_strategy: Mapping[str, Mapping[str, Figures]]) -> list[Difference]:
    """Of every two schedules, on each benchmark that has a value under both, and on average.

    by_strategy: figures by schedule's name and task.
    """
    averages = {name: average(figures) for name, figures in by_strategy.items()}
    found: list[Difference] = []
    for second, first in combinations(by_strategy, 2):
        for task, ours in by_strategy[first].items():
            theirs = by_strategy[second].get(task)
            if theirs is not None and ours.value is not None and theirs.value is not None:
                found.append(_difference(first, second, task, ours, theirs))
        one, other = averages[first], averages[second]
        low, high, p = _bootstrap(one.replicates, other.replicates)
        found.append(Difference(first, second, AVERAGE, one.value - other.value, low, high, p, "bootstrap"))
    return found


def _difference(first: str, second: str, task: str, ours: Figures, theirs: Figures) -> Difference:
    assert ours.value is not None and theirs.value is not None
    low, high, p = _bootstrap(ours.replicates, theirs.replicates)
    test = "bootstrap"
    binary = set(ours.scores.values()) | set(theirs.scores.values()) <= {0.0, 1.0}
    if ours.scores and binary and ours.scores.keys() == theirs.scores.keys():
        places = list(ours.scores)
        p = mcnemar([ours.scores[place] for place in places], [theirs.scores[place] for place in places])
        test = "mcnemar"
    return Difference(first, second, task, ours.value - theirs.value, low, high, p, test)


def mcnemar(first: Sequence[float], second: Sequence[float]) -> float:
    """Two-sided p-value of the exact McNemar test: right (1) and wrong (0) answers to the same questions."""
    pairs = list(zip(first, second, strict=True))
    won, lost = sum(a > b for a, b in pairs), sum(a < b for a, b in pairs)
    return 1.0 if not won + lost else float(stats.binomtest(won, won + lost).pvalue)


def _bootstrap(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> tuple[float, float, float]:
    """Interval and two-sided p-value of the difference; the same resamples on both sides."""
    shortest = min(len(ours), len(theirs))
    if not shortest:
        return float("nan"), float("nan"), float("nan")
    drawn = ours[:shortest] - theirs[:shortest]
    # One is added to both counts, so that no p-value is 0 (Davison and Hinkley 1997, section 4.2).
    below, above = int((drawn <= 0).sum()) + 1, int((drawn >= 0).sum()) + 1
    return *interval(drawn), min(1.0, 2 * min(below, above) / (shortest + 1))
