"""Whole batches dealt to actors by measured speed. No Ray here: a `Crew` starts the work and reports it.

Actors pull. A batch has a home, the actor that evaluated it last, so that what an actor keeps per batch stays
useful; it moves when another would finish it sooner. A batch that runs for much longer than expected is also
given to an idle actor, and counts where it is finished first: the outcomes are one evaluator's in any case.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from vtr_ray.errors import Stopped
from vtr_ray.evaluation.outcome import Outcome
from vtr_ray.evaluation.speeds import Speeds

Enough = Callable[[list[Outcome], int], bool]

LOSSES = 3  # a batch under which so many processes ended would end more (not enough memory)
_CHUNK = 0.05  # seconds of work that are worth a message of their own
_SHARE = 8  # of an actor's queue one chunk is at most this part: one that turns slow holds little up
_MARGIN = 0.25  # of a batch; what a move must gain, so that chance alone moves nothing
_OVERDUE = 2.0  # times the expected time, after which an idle actor takes a copy
_LOOK = 0.1  # seconds between looks for overdue batches, while an actor is idle


class TooManyLosses(Stopped):
    """The same batch has ended too many processes: under another schedule it may not."""


@dataclass(frozen=True)
class Report:
    """What came back from an actor: per batch its outcomes and seconds, or None where its process ended."""

    actor: int
    batches: tuple[int, ...]
    results: list[tuple[list[Outcome], float]] | None


class Crew(Protocol):
    """The actors: numbered from 0, each does one thing at a time."""

    def now(self) -> float:
        """Seconds on a clock of its own."""

    def free(self) -> list[int]:
        """Actors that can start now."""

    def present(self) -> set[int]:
        """Actors whose process lives, as far as is known."""

    def start(self, actor: int, batches: tuple[int, ...]) -> None:
        """Set a free actor to work."""

    def wait(self, timeout: float | None) -> list[Report]:
        """Until something has come back, an actor has become free, or the time is up."""


@dataclass
class _Running:
    batches: tuple[int, ...]
    since: float
    expected: float


@dataclass
class _Record:
    """Of one actor in one evaluation."""

    measured: float = 0.0  # seconds of what it has done
    expected: float = 0.0  # of the same, as was expected before it
    queue: deque[int] = field(default_factory=deque)
    queued: float = 0.0  # seconds, as was expected before it
    running: _Running | None = None


class Deal:
    """One evaluation: which batches go where, decided whenever an actor is free.

    present: actors whose process lives. free: those of them that still do something of an earlier evaluation
    are not; what is theirs may be taken at once.
    """

    def __init__(
        self, speeds: Speeds, chosen: Iterable[int], present: set[int], free: Iterable[int], now: float
    ) -> None:
        self._speeds = speeds
        self._actors = [_Record() for _ in range(speeds.actors)]
        self._present = set(present)
        self._ready = self._present & set(free)
        self._losses: dict[int, int] = {}
        self._copied: set[int] = set()
        self._measured = self._expected = 0.0  # sums over the actors
        self._wall = 0.0  # seconds between giving and taking: more than measured where other trials share
        self.done: dict[int, list[Outcome]] = {}
        self.left = set(chosen)
        self.seen: list[tuple[int, int, float]] = []
        for batch in dict.fromkeys(chosen):
            self._assign(batch, speeds.home.get(batch, batch % speeds.actors), now)

    def give(self, actor: int, now: float) -> tuple[int, ...]:
        """What a free actor does next; nothing: wait for news, or look again soon."""
        self._present.add(actor)
        self._ready.add(actor)
        chosen = self._from_own(actor, now) or self._from_others(actor, now) or self._copy(actor, now)
        if chosen:
            expected = sum(self._seconds(batch, actor) for batch in chosen)
            self._actors[actor].running = _Running(chosen, now, expected)
        return chosen

    def take(self, report: Report, now: float) -> None:
        """Take what came back. Raises TooManyLosses when the same batch ends process after process."""
        record = self._actors[report.actor]
        running, record.running = record.running, None
        if report.results is None:
            self._lost(report.actor, report.batches, now)
            return
        self._wall += now - running.since if running is not None else 0.0
        for batch, (outcomes, seconds) in zip(report.batches, report.results, strict=True):
            expected = self._speeds.seconds(batch, report.actor)
            self.seen.append((batch, report.actor, seconds))
            record.measured += seconds
            record.expected += expected
            self._measured += seconds
            self._expected += expected
            if batch in self.left:
                self.left.remove(batch)
                self.done[batch] = outcomes
                self._speeds.home[batch] = report.actor

    def _from_own(self, actor: int, now: float) -> tuple[int, ...]:
        """The front of its own queue, less what somebody else would finish sooner."""
        record = self._actors[actor]
        limit = max(_CHUNK, self._factor(actor) * record.queued / _SHARE)
        chosen: list[int] = []
        spent = 0.0
        while record.queue:
            batch = record.queue[0]
            needed = self._seconds(batch, actor)
            alone = not self._speeds.measured or batch in self._losses
            if chosen and (alone or spent + needed > limit):
                break
            self._pop(actor, first=True)
            if batch not in self.left:
                continue
            sooner = None if chosen else self._sooner(batch, actor, now + needed, now)
            if sooner is not None:
                self._push(sooner, batch)
                continue
            chosen.append(batch)
            spent += needed
            if alone:
                break
        return tuple(chosen)

    def _sooner(self, batch: int, actor: int, end: float, now: float) -> int | None:
        """Another actor that would finish the batch clearly sooner, after all that it has to do."""
        ends = {
            other: self._end(other, now) + (1 + _MARGIN) * self._seconds(batch, other)
            for other in self._ready - {actor}
        }
        best = min(ends, key=lambda other: (ends[other], other), default=None)
        return best if best is not None and ends[best] < end else None

    def _from_others(self, actor: int, now: float) -> tuple[int, ...]:
        """The last batch of whoever would end last, where that ends it sooner."""
        while victims := [other for other, record in enumerate(self._actors) if record.queue]:
            victim = max(victims, key=lambda other: self._end(other, now))
            batch = self._actors[victim].queue[-1]
            if batch in self.left:
                if now + (1 + _MARGIN) * self._seconds(batch, actor) >= self._end(victim, now):
                    return ()
                self._pop(victim, first=False)
                return (batch,)
            self._pop(victim, first=False)
        return ()

    def _copy(self, actor: int, now: float) -> tuple[int, ...]:
        """A batch that runs elsewhere for much longer than expected, and of which there is no copy yet."""
        if not self.seen:
            return ()
        shared = max(1.0, self._wall / self._measured) if self._measured else 1.0
        for other, record in enumerate(self._actors):
            if record.running is None:
                continue
            elapsed = now - record.running.since
            expected = sum(self._seconds(batch, other) for batch in record.running.batches)
            if elapsed <= _OVERDUE * shared * expected:
                continue
            for batch in record.running.batches:
                wanted = batch in self.left and batch not in self._copied
                if wanted and self._seconds(batch, actor) <= elapsed:
                    self._copied.add(batch)
                    return (batch,)
        return ()

    def _lost(self, actor: int, batches: tuple[int, ...], now: float) -> None:
        self._present.discard(actor)
        self._ready.discard(actor)
        record = self._actors[actor]
        waiting = list(record.queue)
        record.queue.clear()
        record.queued = 0.0
        for batch in self.left.intersection(batches):
            self._losses[batch] = self._losses.get(batch, 0) + 1
            if self._losses[batch] >= LOSSES:
                raise TooManyLosses(f"{LOSSES} evaluator processes ended on batch {batch}")
            self._copied.discard(batch)
        elsewhere = {
            batch for other in self._actors if other.running is not None for batch in other.running.batches
        }
        for batch in (*batches, *waiting):
            if batch in self.left and batch not in elsewhere:
                self._assign(batch, actor, now)

    def _assign(self, batch: int, actor: int, now: float) -> None:
        """To that actor's queue, or to whoever would finish it first where that one is gone."""
        if actor not in self._present and self._present:
            actor = min(
                self._ready or self._present,
                key=lambda other: (self._end(other, now) + self._seconds(batch, other), other),
            )
        self._push(actor, batch)

    def _push(self, actor: int, batch: int) -> None:
        self._actors[actor].queue.append(batch)
        self._actors[actor].queued += self._speeds.seconds(batch, actor)

    def _pop(self, actor: int, *, first: bool) -> None:
        record = self._actors[actor]
        batch = record.queue.popleft() if first else record.queue.pop()
        record.queued -= self._speeds.seconds(batch, actor)

    def _end(self, actor: int, now: float) -> float:
        """When an actor would have done all that it has; infinite: nobody knows when it begins."""
        if actor not in self._ready:
            return math.inf
        record = self._actors[actor]
        queued = self._factor(actor) * max(0.0, record.queued)
        if record.running is None:
            return now + queued
        late = max(1.0, (now - record.running.since) / record.running.expected)
        return max(now, record.running.since + record.running.expected) + late * queued

    def _seconds(self, batch: int, actor: int) -> float:
        return self._speeds.seconds(batch, actor) * self._factor(actor)

    def _factor(self, actor: int) -> float:
        """Measured by expected seconds in this evaluation so far: schedules differ in cost, actors in mood.

        Half a batch's worth of trust in what all actors show, the rest in the actor's own.
        """
        overall = self._measured / self._expected if self._expected else 1.0
        record, trust = self._actors[actor], 0.5 * self._speeds.typical(actor)
        return (record.measured + trust * overall) / (record.expected + trust)


def evaluate(
    speeds: Speeds, crew: Crew, chosen: Sequence[int], enough: Callable[[Deal], bool] | None = None
) -> dict[int, list[Outcome]]:
    """Outcomes by batch of all `chosen`, or of those that were done when `enough` said so.

    enough: asked after each report. What still runs then goes on, and is ignored.
    Raises TooManyLosses, and what `crew.wait` raises.
    """
    deal = Deal(speeds, chosen, crew.present(), crew.free(), crew.now())
    try:
        while deal.left and not (enough is not None and deal.done and enough(deal)):
            while any(_give(deal, crew, actor) for actor in crew.free()):
                pass  # again: a batch may have been handed to an actor that had nothing before
            for report in crew.wait(_LOOK if crew.free() else None):
                deal.take(report, crew.now())
    finally:
        speeds.learn(deal.seen)
    return deal.done


def _give(deal: Deal, crew: Crew, actor: int) -> tuple[int, ...]:
    batches = deal.give(actor, crew.now())
    if batches:
        crew.start(actor, batches)
    return batches
