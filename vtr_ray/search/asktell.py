"""The ask/tell part that all searches share: trials, rounds, and a state that is JSON."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from vtr_ray.errors import InputError
from vtr_ray.schedule import Schedule
from vtr_ray.search.line import Line

STATE_VERSION = 1


@dataclass(frozen=True)
class Trial:
    """One evaluation to be done: measure E of `schedule`, then `tell` it.

    G-Search sets `layer` (counted from 1) and `rate`, P-Sigmoid sets `k`. Ids count from 1.
    """

    id: int
    schedule: Schedule
    layer: int | None = None
    rate: float | None = None
    k: float | None = None


@dataclass(frozen=True)
class TrialResult:
    """What became of a trial: `score` (E) and `objective`, or the reason of its `failure`, or neither yet."""

    id: int
    schedule: Schedule
    layer: int | None
    rate: float | None
    k: float | None
    score: float | None
    objective: float | None
    failure: str | None


@dataclass
class _Entry:
    trial: Trial
    point: int
    score: float | None = None
    failure: str | None = None

    @property
    def outstanding(self) -> bool:
        return self.score is None and self.failure is None


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

    def __init__(self, settings: dict[str, Any], round_size: int) -> None:
        self.settings = settings
        self._round_size = round_size
        self._entries: list[_Entry] = []
        self._queue: list[int] = []
        self._pending: set[int] = set()
        self._line: Line | None = None  # None: finished

    @abstractmethod
    def _trial(self, trial_id: int, point: int) -> Trial:
        """The trial at a grid point of the current line."""

    @abstractmethod
    def _objective(self, trial: Trial, score: float) -> float:
        """What is maximised."""

    @abstractmethod
    def _close(self) -> None:
        """Take the current line's best point and set the next line, or None."""

    @property
    @abstractmethod
    def best(self) -> Schedule:
        """The schedule found; before the end, the best so far. RuntimeError where every trial failed."""

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

    def tell(self, trial: Trial, score: float) -> None:
        """Take the trial's E.

        Raises:
            InputError: a trial that this search did not ask or that was told before; a score outside [0, 1].
        """
        entry = self._outstanding(trial)
        entry.score = _checked_score(score, f"trial {trial.id}")
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
        return {"trial": result.id, **where, "score": result.score, "objective": result.objective}

    def state_dict(self) -> dict[str, Any]:
        """Everything, as JSON content. Trials without score and failure will be asked again."""
        return {
            "search": self.name,
            "version": STATE_VERSION,
            "settings": dict(self.settings),
            "trials": [
                {
                    "id": entry.trial.id,
                    "layer": entry.trial.layer,
                    "point": entry.point,
                    "score": entry.score,
                    "failure": entry.failure,
                }
                for entry in self._entries
            ],
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

    def _add(self, point: int) -> _Entry:
        entry = _Entry(self._trial(len(self._entries) + 1, point), point)
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
        if record["score"] is not None:
            entry.score = _checked_score(record["score"], f"trial {entry.trial.id}")
        elif record["failure"] is not None:
            entry.failure = str(record["failure"])
        self._settle(entry)

    def _outstanding(self, trial: Trial) -> _Entry:
        if not isinstance(trial, Trial):
            raise InputError(f"Tell a trial that ask() gave, not {type(trial).__name__}.")
        entry = self._entries[trial.id - 1] if 1 <= trial.id <= len(self._entries) else None
        if entry is None or entry.trial != trial:
            raise InputError(f"Trial {trial.id} is not of this search; tell only trials that it asked.")
        if not entry.outstanding:
            raise InputError(f"Trial {trial.id} was told before; tell each trial once.")
        return entry

    def _settle(self, entry: _Entry) -> None:
        if entry.outstanding:
            return
        trial_id = entry.trial.id
        self._pending.discard(trial_id)
        if trial_id in self._queue:  # told from a ledger before it was asked again
            self._queue.remove(trial_id)
        assert self._line is not None  # an outstanding trial keeps its line open
        if entry.score is not None:
            self._line.values[entry.point] = self._objective(entry.trial, entry.score)
        if self._line.exhausted and not any(e.outstanding for e in self._entries):
            self._close()

    def _result(self, entry: _Entry) -> TrialResult:
        trial, score = entry.trial, entry.score
        return TrialResult(
            id=trial.id,
            schedule=trial.schedule,
            layer=trial.layer,
            rate=trial.rate,
            k=trial.k,
            score=score,
            objective=None if score is None else self._objective(trial, score),
            failure=entry.failure,
        )

    def _all_failed(self) -> RuntimeError:
        reason = self._entries[0].failure if self._entries else "none was run"
        return RuntimeError(f"The search found nothing: every trial failed (the first: {reason}).")


def checked_int(name: str, value: Any, least: int) -> int:
    """`value`, if it is an integer of at least `least`; InputError otherwise."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InputError(f"{name} is {value!r}; use an integer of at least {least}.")
    return value


def checked_float(name: str, value: Any, least: float, most: float = math.inf) -> float:
    """`value` as float, if it is a finite number within the bounds; InputError otherwise."""
    ok = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not ok or not least <= value <= most:
        bounds = f"of at least {least:g}" if math.isinf(most) else f"in [{least:g}, {most:g}]"
        raise InputError(f"{name} is {value!r}; use a number {bounds}.")
    return float(value)


def _checked_score(score: Any, where: str) -> float:
    try:
        value = float(score)
    except (TypeError, ValueError):
        value = math.nan
    if not 0.0 <= value <= 1.0:
        raise InputError(f"The score of {where} is {score!r}; E must be in [0, 1] (or report search.fail).")
    return value
