"""The ask/tell part that all searches share: trials, rounds, and a state that is JSON."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol, Self

from vtr_ray.errors import InputError, Stopped
from vtr_ray.schedule import Schedule
from vtr_ray.search.checks import checked_float, checked_score, checked_scores
from vtr_ray.search.trial import Entry, Trial, TrialResult

STATE_VERSION = 1


class Points(Protocol):
    """Where a search goes through: `Line`, or the Pareto search's plane."""

    values: dict[int, float]
    tried: set[int]

    @property
    def points(self) -> Sequence[float]: ...  # noqa: D102
    @property
    def exhausted(self) -> bool: ...  # noqa: D102
    def next_points(self, size: int) -> list[int]: ...  # noqa: D102


class Search(ABC):
    """A pure ask/tell search over schedules.

    ```
    while not search.finished:
        trial = search.ask()                    # None: nothing until a pending trial is told
        search.tell(trial, score)               # or search.fail(trial, "reason")
    search.best
    ```

    At most `round_size` trials are pending at a time. What is asked depends only on the settings and on the
    told trials of complete rounds, never on the order in which they were told, so any run can be repeated
    and resumed exactly.
    """

    name: ClassVar[str]
    needs_bound = False
    """Whether `tell` takes the lower bound of the paired difference to no reduction, the first trial."""
    uses_scores = False
    """Whether each sample's score, told with E, makes the proposals better."""

    def __init__(self, settings: dict[str, Any], round_size: int) -> None:
        self.settings = settings
        self._round_size = round_size
        self._entries: list[Entry] = []
        self._queue: list[int] = []
        self._pending: set[int] = set()
        self._line: Points | None = None  # None: finished

    @abstractmethod
    def _trial(self, trial_id: int, point: int) -> Trial:
        """The trial at a grid point of the current line."""

    @abstractmethod
    def _objective(self, trial: Trial, score: float, bound: float | None) -> float:
        """What is maximised."""

    def _outcome(self, trial: Trial, score: float, bound: float | None) -> float:
        """What the line's surrogate models."""
        return self._objective(trial, score, bound)

    def _bounded(self, trial: Trial, point: int, ceiling: float) -> None:
        """Take that E of a stopped trial is at most `ceiling`. Searches without thresholds stop none."""
        raise NotImplementedError

    def _scored(self, point: int, scores: Sequence[float]) -> None:
        """Take each sample's score at a point of the line. Only searches that use them are given any."""
        raise NotImplementedError

    def _threshold(self, trial: Trial) -> float | None:
        """What E must reach for the trial to be the best, by the complete rounds; None: not known."""
        return None

    @abstractmethod
    def _close(self) -> None:
        """Take the current line's best point and set the next line, or None."""

    @property
    @abstractmethod
    def best(self) -> Schedule:
        """The schedule found; before the end, the best so far. Stopped where every trial failed."""

    @property
    @abstractmethod
    def best_score(self) -> float | None:
        """E of `best`; None while it was not measured."""

    @property
    @abstractmethod
    def total_trials(self) -> int:
        """Upper bound of the number of trials, those done included; it never rises."""

    def ask(self) -> Trial | None:
        """The next trial; None when finished, or when a pending trial must be told first."""
        if self._line is not None and not self._queue and not self._pending:
            for point in self._line.next_points(self._round_size):
                self._add(point)
        if not self._queue or len(self._pending) >= self._round_size:
            return None
        trial_id = self._queue.pop(0)
        self._pending.add(trial_id)
        return self._entries[trial_id - 1].trial

    def tell(
        self,
        trial: Trial,
        score: float,
        bound: float | None = None,
        scores: Sequence[float] | None = None,
    ) -> None:
        """Take the trial's E; with `needs_bound` also the `bound` below which `E - E(no reduction)` is not.

        scores: each sample's, in [0, 1], the same samples in the same order in all trials; their mean is E.

        Raises:
            InputError: a trial that this search did not ask or that was told before; a score outside [0, 1];
                a bound that is missing or outside [-1, 1]; scores of other samples than before, or whose
                mean is not E.
        """
        entry = self._outstanding(trial)
        value = checked_score(score, f"trial {trial.id}")
        if scores is not None:
            scores = self._checked_scores(scores, value, trial)
            entry.scores = scores if self.uses_scores else None
        if self.needs_bound:
            entry.bound = checked_float(f"the bound of trial {trial.id}", bound, -1.0, 1.0)
        entry.score = value
        self._settle(entry)

    def threshold(self, trial: Trial) -> float | None:
        """E below which the trial cannot become the best; None: it must be evaluated to the end.

        It depends on complete rounds alone, so a run that is repeated stops the same trials.
        """
        return self._outstanding(trial).threshold

    def stop(self, trial: Trial, ceiling: float) -> None:
        """Give a trial up because its E is at most `ceiling`, below its threshold: it cannot become the best.

        It has no outcome and is not asked again.

        Raises:
            InputError: a trial that this search did not ask or that was told before; one that can still win.
        """
        entry = self._outstanding(trial)
        value = checked_score(ceiling, f"trial {trial.id}")
        if entry.threshold is None or value >= entry.threshold:
            raise InputError(
                f"Trial {trial.id} may have E {value:g}, which can still be the best; evaluate it to the end."
            )
        entry.stopped = value
        self._settle(entry)

    def fail(self, trial: Trial, reason: str) -> None:
        """Give a trial up: it counts as tried, has no value, and is not asked again.

        Raises:
            InputError: a trial that this search did not ask or that was told before.
        """
        entry = self._outstanding(trial)
        entry.failure = str(reason) or "no reason given"
        self._settle(entry)

    @property
    def finished(self) -> bool:
        """Whether no trial is left to ask or to tell."""
        return self._line is None

    @property
    def results(self) -> tuple[TrialResult, ...]:
        """All trials so far in the order of their ids, outstanding ones included."""
        return tuple(self._result(entry) for entry in self._entries)

    def describe(self, trial: Trial) -> dict[str, Any]:
        """What a display shows of a trial: trial, layer, rate or k; score and objective, None until told."""
        entry = self._entries[trial.id - 1] if 1 <= trial.id <= len(self._entries) else None
        if entry is None or entry.trial != trial:
            raise InputError(f"Trial {trial.id} is not of this search; describe only trials that it asked.")
        result = self._result(entry)
        where = {"k": result.k} if result.k is not None else {"layer": result.layer, "rate": result.rate}
        some = {"bound": result.bound, "stopped": result.stopped}
        return {
            "trial": result.id,
            **where,
            "score": result.score,
            "objective": result.objective,
            **{name: value for name, value in some.items() if value is not None},
        }

    def state_dict(self) -> dict[str, Any]:
        """Everything, as JSON content. Trials without score and failure will be asked again."""
        return {
            "search": self.name,
            "version": STATE_VERSION,
            "settings": dict(self.settings),
            "trials": [entry.record for entry in self._entries],
        }

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> Self:
        """The search that `state_dict` described; pending trials are asked again under their ids.

        Raises:
            InputError: not a state of this kind of search, or a damaged one.
        """
        kind = state.get("search") if isinstance(state, Mapping) else None
        if kind != cls.name or state.get("version") != STATE_VERSION:
            raise InputError(
                f"This is no state of a {cls.name} search (version {STATE_VERSION}); give the one it saved."
            )
        try:
            search = cls(**state["settings"])
            for record in state["trials"]:
                search._restore(record)
        except InputError:
            raise
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise InputError(
                f"The state of the {cls.name} search is damaged ({error!r}); start anew."
            ) from None
        search._queue = [entry.trial.id for entry in search._entries if entry.outstanding]
        return search

    def _add(self, point: int) -> Entry:
        trial = self._trial(len(self._entries) + 1, point)
        entry = Entry(trial, point, self._threshold(trial))
        self._entries.append(entry)
        self._queue.append(entry.trial.id)
        return entry

    def _restore(self, record: Mapping[str, Any]) -> None:
        line, point = self._line, record["point"]
        if line is None or point in line.tried or not 0 <= point < len(line.points):
            raise ValueError(f"trial {record['id']}")
        line.tried.add(point)
        entry = self._add(point)
        if (entry.trial.id, entry.trial.layer) != (record["id"], record["layer"]):
            raise ValueError(f"trial {record['id']}")
        # As it was: trials of its own round may be told by now.
        entry.threshold = record.get("threshold")
        entry.bound, entry.stopped = record.get("bound"), record.get("stopped")
        if record["score"] is not None:
            entry.score = checked_score(record["score"], f"trial {entry.trial.id}")
            if record.get("scores") is not None:
                entry.scores = self._checked_scores(record["scores"], entry.score, entry.trial)
        elif record["failure"] is not None:
            entry.failure = str(record["failure"])
        self._settle(entry)

    def _outstanding(self, trial: Trial) -> Entry:
        if not isinstance(trial, Trial):
            raise InputError(f"Tell a trial that ask() gave, not {type(trial).__name__}.")
        entry = self._entries[trial.id - 1] if 1 <= trial.id <= len(self._entries) else None
        if entry is None or entry.trial != trial:
            raise InputError(f"Trial {trial.id} is not of this search; tell only trials that it asked.")
        if not entry.outstanding:
            raise InputError(f"Trial {trial.id} was told before; tell each trial once.")
        return entry

    def _settle(self, entry: Entry) -> None:
        if entry.outstanding:
            return
        trial_id = entry.trial.id
        self._pending.discard(trial_id)
        if trial_id in self._queue:  # told from a ledger before it was asked again
            self._queue.remove(trial_id)
        assert self._line is not None  # an outstanding trial keeps its line open
        if entry.score is not None:
            self._line.values[entry.point] = self._outcome(entry.trial, entry.score, entry.bound)
            if entry.scores is not None:
                self._scored(entry.point, entry.scores)
        elif entry.stopped is not None:
            self._bounded(entry.trial, entry.point, entry.stopped)
        if self._line.exhausted and not any(e.outstanding for e in self._entries):
            self._close()

    def _checked_scores(self, scores: Sequence[float], mean: float, trial: Trial) -> tuple[float, ...]:
        known = next((entry.scores for entry in self._entries if entry.scores is not None), None)
        return checked_scores(f"trial {trial.id}", scores, mean, None if known is None else len(known))

    def _result(self, entry: Entry) -> TrialResult:
        trial, score = entry.trial, entry.score
        return TrialResult(
            id=trial.id,
            schedule=trial.schedule,
            layer=trial.layer,
            rate=trial.rate,
            k=trial.k,
            score=score,
            objective=None if score is None else self._objective(trial, score, entry.bound),
            failure=entry.failure,
            bound=entry.bound,
            stopped=entry.stopped,
            budget=trial.budget,
            alpha=trial.alpha,
            strategy=trial.strategy,
        )

    def _all_failed(self) -> Stopped:
        reason = self._entries[0].failure if self._entries else "none was run"
        return Stopped(f"The search found nothing: every trial failed (the first: {reason}).")
