"""Timed in turns until the order is told apart: paired differences, and when to stop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from typing import TypeVar

from vtr_ray.errors import InputError

LEVEL = 0.95
_LEAST = 8  # turns before the first look: fewer cannot tell two rows apart at the level of a look
_Run = TypeVar("_Run")


@dataclass(frozen=True)
class Turns:
    """How long to time. warmup: untimed turns. most: timed turns at most. seconds: no further turn after."""

    warmup: int = 2
    most: int = 32
    seconds: float = 120.0

    def __post_init__(self) -> None:
        if self.warmup < 0:
            raise InputError(f"warmup is {self.warmup}; use at least 0.")
        if self.most < 1:
            raise InputError(f"repeats is {self.most}; use at least 1.")
        if not self.seconds > 0:
            raise InputError(f"The time limit is {self.seconds} seconds; use more than 0.")

    @property
    def looks(self) -> tuple[int, ...]:
        """The numbers of turns after which the order is looked at: 8, 16, 32, ..., below `most`; `most`."""
        looks = [_LEAST << power for power in range(32) if _LEAST << power < self.most]
        return (*looks, self.most)


def take_turns(
    rows: Sequence[Callable[[], _Run]],
    told: Callable[[Sequence[Sequence[_Run]]], bool],
    turns: Turns,
    clock: Callable[[], float] = time.monotonic,
) -> list[list[_Run]]:
    """Run every row once a turn, in another order each turn, until the rows are told apart.

    The order rotates, forth and back, so that what a row leaves behind (caches, heat) meets all others. Turns
    end when `told` says so at one of `turns.looks`, after `turns.most`, or when a turn more would pass
    `turns.seconds`, warm-up included; one turn always counts.

    Args:
        rows: what to run; each gives what was measured.
        told: takes each row's runs, turn by turn, and says whether more are not needed.
        turns: the limits.
        clock: seconds.

    Returns:
        Each row's runs, in the order of the turns, equally many.
    """
    found: list[list[_Run]] = [[] for _ in rows]
    began, longest = clock(), 0.0
    for turn in range(turns.warmup + turns.most):
        start = clock()
        counted = turn >= turns.warmup
        if counted and found[0] and start - began + longest > turns.seconds:
            break
        for place in _order(len(rows), turn):
            run = rows[place]()
            if counted:
                found[place].append(run)
        longest = max(longest, clock() - start)
        if counted and len(found[0]) in turns.looks and told(found):
            break
    return found


def _order(rows: int, turn: int) -> list[int]:
    first = turn % max(1, rows)
    order = [*range(first, rows), *range(first)]
    return order if turn % 2 == 0 else order[::-1]


def median_interval(values: Sequence[float], level: float = LEVEL) -> tuple[float, float]:
    """Return an interval of the median by order statistics, infinite where there are too few values.

    Nothing is assumed of the distribution: it holds the median with at least the level's probability, by the
    sign test.
    """
    ordered, count = sorted(values), len(values)
    outside = _outside(count, level)
    if outside is None:
        return -math.inf, math.inf
    return ordered[outside], ordered[count - 1 - outside]


@cache
def _outside(count: int, level: float) -> int | None:
    """How many values may be left out at each side; None: not even the extremes hold the level."""
    allowed, below, found = (1 - level) / 2 * 2**count, 0, None
    for number in range(count // 2 + 1):
        below += math.comb(count, number)
        if below > allowed:
            break
        found = number
    return found


def sign_of(first: Sequence[float], second: Sequence[float], looks: int = 1) -> int:
    """Return which of two rows takes longer, told by their differences within turns.

    1: the first, -1: the second, 0: not told apart. looks: how often that was, or will be, asked of growing
    rows; the level is shared among them, so that asking until the answer comes does not make one.
    """
    differences = [one - two for one, two in zip(first, second, strict=True)]
    low, high = median_interval(differences, shared(looks))
    return 1 if low > 0 else -1 if high < 0 else 0


def shared(looks: int) -> float:
    """Return the level of each of so many looks that together have `LEVEL`."""
    return 1 - (1 - LEVEL) / looks


def all_told(rows: Sequence[Sequence[float]], looks: int, target: float | None = None) -> bool:
    """Return whether every two rows are told apart, and each from the target where there is one."""
    if any(not sign_of(first, second, looks) for first, second in combinations(rows, 2)):
        return False
    if target is None:
        return True
    bounds = [median_interval(row, shared(looks)) for row in rows]
    return all(high <= target or low > target for low, high in bounds)
