"""What a live display shows after each trial."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass

from vtr_ray.tuning.directory import Entry

_RECENT = 10


@dataclass(frozen=True)
class Progress:
    """One finished trial and where the search stands.

    entry: trial id, layer, rate, E (`score`), objective, seconds; `error` where it failed.
    best: the best trial so far of the same layer (highest objective; the smaller rate, or k, on a tie).
    done, total: finished trials, and how many there will be at most.
    elapsed: seconds since this process began to search. remaining: estimated seconds, at most; None: unknown.
    replayed: read from the ledger of a resumed run, not evaluated now.
    """

    entry: Entry
    best: Entry | None
    done: int
    total: int
    elapsed: float
    remaining: float | None
    replayed: bool = False


class Clock:
    """Turns finished trials into `Progress`."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._finished = deque([self._start], maxlen=_RECENT + 1)
        self._done = 0
        self._seconds = 0.0
        self._best: dict[int | None, Entry] = {}

    def finished(self, entry: Entry, total: int, replayed: bool) -> Progress:
        """Count one finished trial; `total` is the search's present upper bound."""
        self._done += 1
        now = time.monotonic()
        if replayed:
            self._seconds += entry.seconds
            pace = self._seconds / self._done
            self._finished = deque([now], maxlen=_RECENT + 1)
        else:
            self._finished.append(now)
            # Wall-clock time between trials, so that parallel trials and the proposals themselves count.
            pace = (now - self._finished[0]) / (len(self._finished) - 1)
        best = self._best.get(entry.layer)
        if entry.score is not None and (best is None or _rank(entry) > _rank(best)):
            self._best[entry.layer] = entry
        return Progress(
            entry=entry,
            best=self._best.get(entry.layer),
            done=self._done,
            total=max(total, self._done),
            elapsed=now - self._start,
            remaining=pace * max(0, total - self._done),
            replayed=replayed,
        )


def _rank(entry: Entry) -> tuple[float, float]:
    value = entry.objective if entry.objective is not None else entry.score
    tie = entry.rate if entry.rate is not None else entry.fields.get("k", 0.0)
    return (value if value is not None else float("-inf"), -tie)
