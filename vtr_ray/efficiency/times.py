"""Times of rows that took turns: median, spread, and which rows are told apart."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from vtr_ray.efficiency.turns import median_interval, shared, sign_of

TIMES = "median ± half the quartiles' distance, batch 1, language model only, a sample of median tokens"


@dataclass(frozen=True)
class Latency:
    """Wall-clock times of one prefill or one decoded token, in seconds, turn by turn.

    looks: how often the order was to be looked at while the turns went on; see `sign_of`.
    """

    seconds: tuple[float, ...]
    looks: int = 1

    @property
    def median(self) -> float:
        """Median, in seconds."""
        return statistics.median(self.seconds)

    @property
    def quartiles(self) -> tuple[float, float]:
        """First and third quartile, in seconds."""
        if len(self.seconds) < 2:
            return self.seconds[0], self.seconds[0]
        first, _, third = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return first, third

    @property
    def spread(self) -> float:
        """Distance between the quartiles, in seconds."""
        first, third = self.quartiles
        return third - first

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the median, in seconds; infinite after too few turns."""
        return median_interval(self.seconds, shared(self.looks))

    def longer_than(self, other: Latency) -> int:
        """Return 1 where it takes longer than another of the same turns, -1 where less, 0: not told apart."""
        return sign_of(self.seconds, other.seconds, max(self.looks, other.looks))

    def shown(self) -> str:
        """Return milliseconds, "median ±half the quartiles' distance"."""
        return f"{1e3 * self.median:.1f} ±{1e3 * self.spread / 2:.2g}"

    def to_dict(self) -> dict[str, Any]:
        """JSON, in seconds."""
        low, high = self.quartiles
        return {"median": self.median, "quartiles": [low, high], "turns": len(self.seconds)}


def untold(times: Mapping[str, Latency | None]) -> dict[str, list[str]]:
    """Return the rows whose times are not told apart: by a row's name, the later rows' names.

    Rows that share their times, because their work is the same, are among them; rows without times are not.
    """
    found: dict[str, list[str]] = {}
    for (name, first), (other, second) in combinations(times.items(), 2):
        if first is not None and second is not None and not first.longer_than(second):
            found.setdefault(name, []).append(other)
    return found


def untold_words(times: Mapping[str, Latency | None]) -> str:
    """Return the rows that are not told apart, in words for a table's caption; empty where all are."""
    found = untold(times)
    timed = sum(one is not None for one in times.values())
    if timed > 2 and sum(map(len, found.values())) == timed * (timed - 1) // 2:
        return "; no two rows are told apart"
    pairs = [f"{name} from {', '.join(others)}" for name, others in found.items()]
    return f"; not told apart: {'; '.join(pairs)}" if pairs else ""
