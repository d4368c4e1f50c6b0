"""The Ray actors behind a pool: what runs in them, how a driver gives them work and hears of their deaths."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from vtr_ray.errors import InputError, Stopped
from vtr_ray.evaluation.dealing import Report
from vtr_ray.evaluation.outcome import Outcome
from vtr_ray.metrics import Exporter
from vtr_ray.schedule import Schedule

RETRIES = 10  # of a call that is no evaluation, when the actor's process ends
_ALONE = 900.0  # seconds without any living actor, after which waiting ends: a node takes minutes to come


class Warnings(logging.Handler):
    """Warnings of this package, each line once: what an actor writes to its own log no user reads."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._lines: list[str] = []
        self._known: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the line."""
        line = record.getMessage()
        if line not in self._known:
            self._known.add(line)
            self._lines.append(line)

    def take(self) -> list[str]:
        """Those since the last call."""
        lines, self._lines = self._lines, []
        return lines


class Holder:
    """The actor: builds its evaluator on first use, so that an error of the factory is an ordinary error."""

    def __init__(self, factory: bytes, threads: int, gpus: float) -> None:
        self._warnings = Warnings()
        logging.getLogger("vtr_ray").addHandler(self._warnings)
        self._factory = factory
        self._threads = threads
        self._gpus = gpus
        self._evaluator: Any = None
        self._cache_counts: dict[str, int] = {}
        context = ray.get_runtime_context()
        self._metrics = Exporter(**tags_of(context.get_actor_name()))
        with suppress(Exception):  # the count is not worth a search
            self._metrics.count("vtr_ray_actor_restarts_total", int(context.was_current_actor_reconstructed))

    def place(self) -> int:
        """Process id, once the actor has found room."""
        return os.getpid()

    def get(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """An attribute of the evaluator, or the result of calling its method."""
        attribute = getattr(self._built(), name)
        return attribute(*args, **kwargs) if callable(attribute) else attribute

    def warned(self) -> list[str]:
        """What the evaluator warned of since the last call."""
        return self._warnings.take()

    def evaluate(
        self, schedule: Schedule, batches: Sequence[int]
    ) -> tuple[list[tuple[list[Outcome], float]], list[str]]:
        """Outcomes and seconds of each batch: only whole batches merge again in their order. And warnings."""
        evaluator = self._built()
        results = []
        for batch in batches:
            started = time.perf_counter()
            outcomes = list(evaluator.evaluate(schedule, [batch]))
            results.append((outcomes, time.perf_counter() - started))
            self._export(evaluator, *results[-1])
        return results, self._warnings.take()

    def _export(self, evaluator: Any, outcomes: Sequence[Outcome], seconds: float) -> None:
        self._metrics.count("vtr_ray_samples_evaluated_total", len(outcomes))
        self._metrics.count("vtr_ray_busy_seconds_total", seconds)
        prefixes = getattr(evaluator, "prefixes", None)
        if prefixes is None:
            return
        for kind, total in (("hits", prefixes.found), ("misses", prefixes.missed)):
            self._metrics.count(f"vtr_ray_prefix_cache_{kind}_total", total - self._cache_counts.get(kind, 0))
            self._cache_counts[kind] = total
        for tier, size in prefixes.tiers.used.items():
            self._metrics.show("vtr_ray_prefix_cache_bytes", size, tier=tier)

    def _built(self) -> Any:
        if self._evaluator is None:
            # Before the factory is unpickled: that may import torch, whose OpenMP reads this once.
            os.environ["OMP_NUM_THREADS"] = str(self._threads)
            if not self._gpus:
                os.environ["CUDA_VISIBLE_DEVICES"] = ""  # Ray shows all GPUs to an actor that holds none
            factory = ray.cloudpickle.loads(self._factory)
            if "torch" in sys.modules:
                sys.modules["torch"].set_num_threads(self._threads)
            self._evaluator = factory()
            if "torch" in sys.modules:
                sys.modules["torch"].set_num_threads(self._threads)
            with suppress(AttributeError):  # an evaluator of another kind
                self._metrics.show("vtr_ray_skipped_samples", len(self._evaluator.samples.skipped))
        return self._evaluator


class RayCrew:
    """Actors as `vtr_ray.evaluation.dealing` sees them, in one process; kept from evaluation to evaluation.

    A call that an actor's death interrupts is not repeated there: its batches go to the others, while a probe
    waits for the actor to be started again. What an earlier evaluation left running keeps its actor busy.

    warnings: what the actors warned of; whoever reads it empties it.
    """

    def __init__(self, actors: Sequence[Any], alone: float = _ALONE) -> None:
        self._actors = list(actors)
        self._alone = alone
        self._schedule: Schedule | None = None
        self._turn = 0
        self._running: dict[Any, tuple[int, int, tuple[int, ...]]] = {}  # ref -> turn, actor, batches
        self._probes: dict[Any, int] = {}
        self._dead: set[int] = set()  # for good
        self.warnings: list[str] = []

    def begin(self, schedule: Schedule) -> RayCrew:
        """For one evaluation; what still runs of the last one is no longer reported."""
        self._schedule, self._turn = schedule, self._turn + 1
        return self

    def now(self) -> float:
        """Monotonic seconds."""
        return time.monotonic()

    def free(self) -> list[int]:
        """Actors without a call."""
        busy = {actor for _, actor, _ in self._running.values()}
        return sorted(self.present() - busy)

    def present(self) -> set[int]:
        """All but those whose death was heard of and whose return was not."""
        return set(range(len(self._actors))) - set(self._probes.values()) - self._dead

    def start(self, actor: int, batches: tuple[int, ...]) -> None:
        """Send a call."""
        call = self._actors[actor].evaluate.options(max_task_retries=0)
        self._running[call.remote(self._schedule, batches)] = (self._turn, actor, batches)

    def wait(self, timeout: float | None) -> list[Report]:
        """What came back of this evaluation.

        Raises InputError and RayTaskError where the evaluator raised, Stopped when no actor is left.
        """
        alone = not self._running and not self.present()
        ready = self._ready(self._alone if alone else timeout)
        if alone and not ready:
            raise Stopped(
                f"no evaluator process has lived for {self._alone:.0f} s; look for lost nodes (`ray status`)"
            )
        reports = [self._collect(ref) for ref in ready]
        return [report for report in reports if report is not None]

    def _ready(self, timeout: float | None) -> list[Any]:
        refs = [*self._running, *self._probes]
        if not refs:
            raise Stopped("all evaluator processes have ended for good")
        ready, _ = ray.wait(refs, num_returns=1, timeout=timeout)
        if ready:  # whatever else has come is collected with it
            ready, _ = ray.wait(refs, num_returns=len(refs), timeout=0)
        return list(ready)

    def _collect(self, ref: Any) -> Report | None:
        if ref in self._probes:
            actor = self._probes.pop(ref)
            try:
                ray.get(ref)
            except RayError:
                self._dead.add(actor)
            return None
        turn, actor, batches = self._running.pop(ref)
        ours = turn == self._turn
        try:
            results, warnings = ray.get(ref)
            self.warnings += warnings
        except RayTaskError as error:
            if not ours:
                return None
            raise mistake(error) from None
        except RayError:  # its process or its node ended
            self._probes[self._actors[actor].place.remote()] = actor
            return Report(actor, batches, None) if ours else None
        return Report(actor, batches, results) if ours else None


def tags_of(actor: str) -> dict[str, str]:
    """Search and number of an actor that a pool named `SEARCH-UNIQUE-NUMBER`: its metrics' tags."""
    search, _, number = actor.rsplit("-", 2)
    return {"search": search, "actor": number}


def mistake(error: RayTaskError) -> Exception:
    """A user's mistake as the one line it is; anything else as it came."""
    return InputError(str(error.cause)) if isinstance(error.cause, InputError) else error
