"""Run a search: ask, evaluate through Tune and the pool, write the ledger, tell; resume where it was cut."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from vtr_ray.errors import InputError, Stopped
from vtr_ray.evaluation.outcome import NOT_A_NUMBER, some_of
from vtr_ray.evaluation.pool import PoolClient
from vtr_ray.evaluation.statistics import lower_bound
from vtr_ray.interrupts import interruptible
from vtr_ray.provenance import with_provenance
from vtr_ray.schedule import Schedule
from vtr_ray.tuning.directory import Entry, RunDirectory, Settings
from vtr_ray.tuning.metrics import SearchMetrics
from vtr_ray.tuning.progress import Clock, Progress
from vtr_ray.tuning.trials import Measured, Terms, Trial, run_trials

_TRIES = 2  # of one trial whose evaluation raises
_FAILURES = 3  # trials in a row, after which the fault is not the trials'


class Search(Protocol):
    """What `run_search` needs of a search: see `vtr_ray.search`."""

    @property
    def finished(self) -> bool: ...  # noqa: D102
    @property
    def best(self) -> Schedule: ...  # noqa: D102
    @property
    def best_score(self) -> float | None: ...  # noqa: D102
    @property
    def total_trials(self) -> int: ...  # noqa: D102
    def ask(self) -> Any: ...  # noqa: D102
    @property
    def needs_bound(self) -> bool: ...  # noqa: D102
    @property
    def uses_scores(self) -> bool: ...  # noqa: D102
    def tell(  # noqa: D102
        self, trial: Any, score: float, bound: float | None = None, scores: Sequence[float] | None = None
    ) -> None: ...
    def threshold(self, trial: Any) -> float | None: ...  # noqa: D102
    def stop(self, trial: Any, ceiling: float) -> None: ...  # noqa: D102
    def fail(self, trial: Any, reason: str) -> None: ...  # noqa: D102
    def describe(self, trial: Any) -> Mapping[str, Any]: ...  # noqa: D102
    def state_dict(self) -> dict[str, Any]: ...  # noqa: D102


class Listener(Protocol):
    """Told whenever the run directory has changed; `vtr_ray.tracking.Tracker` is one. Must not block."""

    def notify(self) -> None: ...  # noqa: D102


@dataclass(frozen=True)
class Found:
    """A finished search.

    schedule: the found one. score: its E; score_before: E without reduction; None where no trial measured it.
    entries: all finished trials. path: the run directory.
    """

    schedule: Schedule
    score: float | None
    score_before: float | None
    entries: tuple[Entry, ...]
    path: Path


def run_search(
    search: Search,
    pool: PoolClient,
    run_dir: str | Path,
    settings: Settings,
    *,
    resume: bool = False,
    on_trial: Callable[[Progress], None] | None = None,
    tracker: Listener | None = None,
    cost: Callable[[Schedule], Mapping[str, float]] | None = None,
    save: bool = True,
    found: Mapping[str, Any] | None = None,
) -> Found:
    """Run a fresh `search` to its end through Ray Tune; every finished trial is on disk at once.

    With `resume`, the trials in the ledger of `run_dir` are told to the search first and not run again:
    searches are deterministic, so the result is that of an undisturbed run. Nothing is left to resume of a
    finished search; its schedule is written again.

    on_trial: called in this process after each finished trial, also for those read from the ledger.
    tracker: notified after each change of the run directory.
    cost: numbers that stand beside each trial's schedule, in the ledger and in MLflow.
    save: whether the search's best becomes `schedule.json`; else the caller picks and saves one.
    found: what `schedule.json` says of the search beside E, as `vtr_ray.provenance.provenance` gives it.

    What actors warn of is said by the pool; samples that count as wrong for want of an answer are, too.

    Raises InputError: see `RunDirectory`; a mistake that the evaluators report. Stopped: three trials in
    a row failed, or all of them; no actor lives. Interrupted on SIGINT or SIGTERM. The directory can be
    resumed after all of these.
    """
    with (
        RunDirectory(run_dir, settings, search.state_dict(), resume=resume) as run,
        SearchMetrics(pool.search) as metrics,
    ):
        session = _Session(search, run, on_trial, tracker, cost, pool.heard, metrics)
        session.replay()
        if not session.exhausted:
            with interruptible():
                run_trials(session, pool)
        best = session.end()
        score = search.best_score
        before = next((entry.score for entry in run.entries if not entry.schedule.reduces), None)
        if save:
            run.save_schedule(best if found is None else with_provenance(best, found, score, before))
        if tracker is not None:
            tracker.notify()
        return Found(
            schedule=best,
            score=score,
            score_before=before,
            entries=tuple(run.entries),
            path=run.path,
        )


class _Session:
    """One search in one run directory: the `Source` of its trials."""

    def __init__(
        self,
        search: Search,
        run: RunDirectory,
        on_trial: Callable[[Progress], None] | None,
        tracker: Listener | None,
        cost: Callable[[Schedule], Mapping[str, float]] | None,
        heard: Callable[[Sequence[str]], None],
        metrics: SearchMetrics,
    ) -> None:
        self._search, self._run, self._cost, self.heard = search, run, cost, heard
        self._on_trial, self._tracker, self._metrics = on_trial, tracker, metrics
        self._clock = Clock()
        self._waiting: deque[Trial] = deque()  # asked for, not running
        self._tries: dict[int, int] = {}
        self._failed: list[Entry] = []  # in a row; on disk only once a later trial succeeds
        self._error: Exception | None = None
        self._baseline: dict[str, float] | None = None  # each sample's score without reduction
        self._without_answer: set[str] = set()  # samples that were named
        if tracker is not None:
            tracker.notify()

    def replay(self) -> None:
        """Tell the search what the ledger knows; what it asked for beyond that waits to be run."""
        known = {entry.trial: entry for entry in self._run.entries}
        while known:
            while (trial := self._search.ask()) is not None:
                self._waiting.append(trial)
            told = [trial for trial in self._waiting if trial.id in known]
            if not told:
                raise InputError(
                    f"the search does not ask for trial {min(known)} of {self._run.path}'s ledger; "
                    "start it again in another directory"
                )
            self._waiting = deque(trial for trial in self._waiting if trial.id not in known)
            for trial in told:
                self._replay_one(trial, known.pop(trial.id))

    def _replay_one(self, trial: Trial, entry: Entry) -> None:
        if trial.schedule != entry.schedule:
            raise InputError(
                f"trial {trial.id} of {self._run.path}'s ledger has another schedule than the search now "
                "asks for (other library versions?); start it again in another directory"
            )
        if entry.stopped and entry.bound is not None:
            self._search.stop(trial, entry.bound)
        elif entry.score is None:
            self._search.fail(trial, entry.error or "")
        else:
            self._search.tell(trial, entry.score, entry.bound, entry.scores)
        self._announce(entry, replayed=True)

    def next(self) -> Trial | None:
        """The next trial; None: nothing now."""
        if self._error is not None:
            return None
        if self._waiting:
            return self._waiting.popleft()
        try:
            trial: Trial | None = self._search.ask()
        except Exception as error:
            self._error = error
            return None
        return trial

    @property
    def exhausted(self) -> bool:
        """Whether there will be no more trials."""
        return self._error is not None or (not self._waiting and self._search.finished)

    def terms(self, trial: Trial) -> Terms:
        """How to evaluate a trial."""
        self._metrics.started(self._search.describe(trial))
        paired = self._search.needs_bound or self._search.uses_scores
        return Terms(self._search.threshold(trial), paired)

    def done(self, trial: Trial, result: Measured | None, seconds: float, error: Exception | None) -> None:
        """Take a result. What goes wrong here is kept: Tune would count it as the trial's failure."""
        try:
            if result is None:
                self._failure(trial, seconds, error or RuntimeError("no score"))
            else:
                self._success(trial, result, seconds)
        except Exception as caught:
            self._error = self._error or caught

    def end(self) -> Schedule:
        """The found schedule, once everything that finished is on disk. Raises what stopped the search."""
        if self._error is not None:
            raise self._error
        if not self._search.finished:
            self._write_failed()
            raise Stopped("Ray Tune ended before the search did; --resume goes on")
        try:
            best = self._search.best
        except Stopped as error:
            # What failed now stays out of the ledger, as after several failures in a row.
            then = "mend it, then --resume" if self._failed else "search again in another directory"
            raise Stopped(f"{str(error).rstrip('.')}; {then}") from None
        self._write_failed()
        return best

    def _success(self, trial: Trial, result: Measured, seconds: float) -> None:
        scores = None
        if result.ceiling is not None:
            self._search.stop(trial, result.ceiling)
        else:
            assert result.score is not None
            if self._search.uses_scores and result.scores is not None:
                scores = tuple(result.scores[name] for name in sorted(result.scores))
            self._search.tell(trial, result.score, self._bound(trial, result), scores)
        self._write_failed()
        entry = self._entry(trial, result.score, seconds, None)
        entry = replace(entry, without_answer=result.without_answer, scores=scores)
        self._name(trial, result.without_answer)
        if result.ceiling is not None:
            fields = {**entry.fields, "evaluated": result.share}
            entry = replace(entry, stopped=True, bound=result.ceiling, fields=fields)
        self._run.append(entry)
        self._announce(entry)

    def _failure(self, trial: Trial, seconds: float, error: Exception) -> None:
        if isinstance(error, InputError):
            raise error
        if isinstance(error, Stopped):
            raise Stopped(f"{error}; then --resume") from error
        self._tries[trial.id] = self._tries.get(trial.id, 0) + 1
        if self._tries[trial.id] < _TRIES:
            self._waiting.append(trial)
            return
        entry = self._entry(trial, None, seconds, str(error))
        self._failed.append(entry)
        if len(self._failed) >= _FAILURES:
            raise Stopped(
                f"{_FAILURES} trials in a row failed, the last with: {error}; mend it, then --resume"
            ) from error
        self._search.fail(trial, str(error))
        self._announce(entry)

    def _name(self, trial: Trial, without_answer: Sequence[str]) -> None:
        """Say which samples count as wrong for want of an answer, each once."""
        new = [name for name in without_answer if name not in self._without_answer]
        self._without_answer.update(new)
        if new:
            counts = "sample counts" if len(new) == 1 else "samples count"
            self.heard([f"Trial {trial.id}: {len(new)} {counts} as wrong ({some_of(new)}): {NOT_A_NUMBER}."])

    def _bound(self, trial: Trial, result: Measured) -> float | None:
        """What `E - E(no reduction)` is at least, where the search asks for it; at no reduction it is 0."""
        if not self._search.needs_bound:
            return None
        assert result.scores is not None
        if not trial.schedule.reduces:
            self._baseline = result.scores
            self._run.save_baseline(result.scores)
            return 0.0
        if self._baseline is None:
            self._baseline = self._run.read_baseline()
        return lower_bound(result.scores, self._baseline)

    def _write_failed(self) -> None:
        for entry in self._failed:
            self._run.append(entry)
        self._failed.clear()

    def _entry(self, trial: Trial, score: float | None, seconds: float, error: str | None) -> Entry:
        said = dict(self._search.describe(trial))
        layer, rate, objective = (said.pop(name, None) for name in ("layer", "rate", "objective"))
        numbers = {name: float(said[name]) for name in ("budget", "k", "alpha") if said.get(name) is not None}
        return Entry(
            trial=trial.id,
            layer=layer,
            rate=rate,
            schedule=trial.schedule,
            score=score,
            seconds=seconds,
            objective=objective,
            time=time.time(),
            error=error,
            bound=said.get("bound"),
            fields=numbers | dict(self._cost(trial.schedule) if self._cost else {}),
        )

    def _announce(self, entry: Entry, replayed: bool = False) -> None:
        if self._tracker is not None:
            self._tracker.notify()
        progress = self._clock.finished(entry, self._search.total_trials, replayed)
        self._metrics.finished(progress)
        if self._on_trial is not None:
            self._on_trial(progress)
