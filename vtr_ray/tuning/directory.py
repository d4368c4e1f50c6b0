"""The run directory: what a search was, every finished trial, the found schedule. Files come first.

```
RUN/search.json      settings, versions and fresh state of the search; written once, at the start
RUN/ledger.jsonl     one line per finished trial, appended and synced before anybody else hears of it
RUN/schedule.json    the found schedule
RUN/front.json       of a Pareto search: the front
RUN/baseline.json    of a search that keeps accuracy: each sample's score without reduction
RUN/results.json     final metrics and the files that belong to the run, for MLflow
```
"""

from __future__ import annotations

import fcntl
import json
import os
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Self

from vtr_ray.errors import InputError
from vtr_ray.files import replacing
from vtr_ray.schedule import Schedule

SEARCH, LEDGER, SCHEDULE, RESULTS = "search.json", "ledger.jsonl", "schedule.json", "results.json"
FRONT = "front.json"
BASELINE = "baseline.json"
_LATER = ("revision", "frames")  # parameters that earlier versions did not record
_LIBRARIES = ("vtr-ray", "torch", "transformers", "botorch", "gpytorch", "ray", "mlflow", "lmms-eval")


@dataclass(frozen=True)
class Settings:
    """What makes a search this search and no other; JSON values only.

    samples: fingerprint of the search samples.
    """

    command: str
    parameters: Mapping[str, Any]
    seed: int
    samples: str


@dataclass(frozen=True)
class Entry:
    """A finished trial: one line of the ledger.

    score: E; None where the trial failed, then `error` says why.
    seconds: evaluation time. time: when it finished, seconds since 1970.
    fields: further numbers that the search reports of the trial.
    stopped: the trial was stopped early; it has no score, and E is at most `bound`.
    bound: else, of a search that keeps accuracy, what `E - E(no reduction)` is at least.
    without_answer: ids of the samples that counted as wrong because their logits were not numbers.
    scores: each sample's score, in the order of their ids, where the search uses them.
    """

    trial: int
    layer: int | None
    rate: float | None
    schedule: Schedule
    score: float | None
    seconds: float
    objective: float | None = None
    time: float = 0.0
    error: str | None = None
    fields: Mapping[str, float] = field(default_factory=dict)
    stopped: bool = False
    bound: float | None = None
    without_answer: tuple[str, ...] = ()
    scores: tuple[float, ...] | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON; `from_dict` is the inverse."""
        content = {name: getattr(self, name) for name in self.__dataclass_fields__} | {
            "schedule": self.schedule.to_dict(),
            "without_answer": list(self.without_answer),
        }
        scores = content.pop("scores")
        if scores is not None:  # most are 0 or 1
            content["scores"] = [int(score) if score == int(score) else score for score in scores]
        return content

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Entry:
        """Raises KeyError, TypeError or InputError on content that `to_dict` did not give."""
        without_answer = tuple(content.get("without_answer", ()))
        schedule = Schedule.from_dict(content["schedule"])
        scores = None if content.get("scores") is None else tuple(map(float, content["scores"]))
        return cls(**{**content, "schedule": schedule, "without_answer": without_answer, "scores": scores})


def check_run_directory(path: str | Path, resume: bool) -> None:
    """Refuse early, before models load, what `RunDirectory` would refuse.

    Raises InputError: `resume` without a run there, or a run there without `resume`; a place where no
    directory can be.
    """
    path = Path(path)
    try:
        _check_run_directory(path, resume)
    except OSError as error:  # no right to look, a name that is too long
        raise InputError(f"{path} cannot be a run directory: {error.strerror}; name another") from None


def _check_run_directory(path: Path, resume: bool) -> None:
    if resume and not (path / SEARCH).is_file():
        raise InputError(
            f"{path} is not a run directory (no {SEARCH}); name the directory of a search to resume"
        )
    if not resume and (path / SEARCH).exists():
        raise InputError(
            f"{path} already holds a search; pass --resume to go on with it, or another directory"
        )
    there = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    if not there.is_dir():
        raise InputError(f"{there} is a file; name a directory for the run")
    if not resume and not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f"{there} cannot be written; name another directory for the run")


def read_settings(path: str | Path) -> Settings:
    """The settings of the search in a run directory. Raises InputError where there is none."""
    content = read_search(path)
    return Settings(**{name: content[name] for name in Settings.__dataclass_fields__})


def read_search(path: str | Path) -> dict[str, Any]:
    """The whole `search.json`. Raises InputError: no run directory, or a broken file."""
    check_run_directory(path, resume=True)
    file = Path(path) / SEARCH
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        missing = {*Settings.__dataclass_fields__, "id", "state"} - content.keys()
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise InputError(
            f"{file} cannot be read as JSON ({error}); start a search in another directory"
        ) from None
    if missing:
        raise InputError(f"{file} lacks {', '.join(sorted(missing))}; start a search in another directory")
    return dict(content)


def read_ledger(path: str | Path) -> list[Entry]:
    """The finished trials of a run directory, in the order they finished; a torn last line is left out."""
    return [entry for entry, _ in _ledger_lines(Path(path) / LEDGER)]


def write_json(path: Path, content: Any) -> None:
    """Write to a temporary name in the same directory, sync, rename."""
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        json.dump(content, file, indent=1)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())


def record_results(
    path: str | Path, metrics: Mapping[str, float] | None = None, artifacts: Iterable[str | Path] = ()
) -> None:
    """Add final metrics and files of a run to its `results.json`, from where tracking takes them."""
    path = Path(path)
    content = read_results(path)
    content["metrics"].update(metrics or {})
    known = dict.fromkeys(content["artifacts"])
    known.update(dict.fromkeys(str(Path(artifact).resolve()) for artifact in artifacts))
    write_json(path / RESULTS, {"metrics": content["metrics"], "artifacts": list(known)})


def read_results(path: str | Path) -> dict[str, Any]:
    """`metrics` {name: value} and `artifacts` [absolute paths] recorded so far."""
    file = Path(path) / RESULTS
    content = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return {"metrics": content.get("metrics", {}), "artifacts": content.get("artifacts", [])}


class RunDirectory:
    """A run directory held open by the one process that searches in it; a context manager.

    state: the JSON state of the fresh search; with `settings` it must equal what a resumed run recorded.

    Raises InputError: see `check_run_directory`; another search's directory; a broken ledger; a process
    that is still searching there; a directory that cannot be written.
    """

    def __init__(
        self, path: str | Path, settings: Settings, state: Mapping[str, Any], *, resume: bool = False
    ) -> None:
        self.path = Path(path).absolute()
        check_run_directory(self.path, resume)
        ours = json.loads(json.dumps({**asdict(settings), "state": state}))
        if resume:
            self._check_same(ours, read_search(self.path))
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            # No ledger to resume: killed between the two files, nothing had finished yet.
            there = resume and (self.path / LEDGER).exists()
            self._ledger = (self.path / LEDGER).open("r+b" if there else "a+b", buffering=0)
        except OSError as error:
            raise InputError(f"cannot write the run directory {self.path}: {error.strerror}") from None
        try:
            self._lock()
            check_run_directory(self.path, resume)  # again: another process may have begun meanwhile
            self.entries = self._read_and_mend() if resume else self._begin(ours)
        except BaseException:
            self.close()
            raise

    def append(self, entry: Entry) -> None:
        """Add a finished trial; on return it is on disk. Raises InputError when the disk refuses."""
        line = json.dumps(entry.to_dict()).encode() + b"\n"
        try:
            if self._ledger.write(line) != len(line):
                raise OSError(0, "the disk is full")
            os.fsync(self._ledger.fileno())
        except OSError as error:
            raise InputError(
                f"cannot write {self.path / LEDGER}: {error.strerror}; mend it, then --resume"
            ) from None
        self.entries.append(entry)

    def save_schedule(self, schedule: Schedule) -> Path:
        """Write the found schedule; gives its path."""
        schedule.save(self.path / SCHEDULE)
        return self.path / SCHEDULE

    def save_baseline(self, scores: Mapping[str, float]) -> None:
        """Keep each sample's score without reduction, by sample id."""
        write_json(self.path / BASELINE, dict(scores))

    def read_baseline(self) -> dict[str, float]:
        """What `save_baseline` kept. Raises InputError where it is gone."""
        try:
            return dict(json.loads((self.path / BASELINE).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise InputError(
                f"{self.path / BASELINE} cannot be read ({error}); restore it or start another search"
            ) from None

    def close(self) -> None:
        """Let go of the directory. Safe to call twice."""
        self._ledger.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _begin(self, ours: dict[str, Any]) -> list[Entry]:
        self._ledger.truncate(0)
        versions = {name: _version(name) for name in _LIBRARIES}
        write_json(
            self.path / SEARCH,
            {"format": 1, "id": uuid.uuid4().hex, "created": time.time(), "versions": versions, **ours},
        )
        return []

    def _read_and_mend(self) -> list[Entry]:
        lines = list(_ledger_lines(self.path / LEDGER))
        end = lines[-1][1] if lines else 0
        self._ledger.truncate(end)
        self._ledger.seek(end)
        entries: dict[int, Entry] = {}
        for entry, _ in lines:
            entries.setdefault(entry.trial, entry)
        return list(entries.values())

    def _lock(self) -> None:
        # The kernel lets go of it with the process, also after SIGKILL.
        try:
            fcntl.flock(self._ledger.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"another process is searching in {self.path}; wait for it or end it") from None
        except OSError:
            pass  # a file system without locks

    def _check_same(self, ours: dict[str, Any], theirs: dict[str, Any]) -> None:
        recorded = theirs["parameters"] if isinstance(theirs["parameters"], dict) else {}
        unknown = {name for name in _LATER if name not in recorded}
        ours = {**ours, "parameters": {k: v for k, v in ours["parameters"].items() if k not in unknown}}
        for name, here in ours.items():
            difference = _first_difference(name, theirs[name], here)
            if difference:
                raise InputError(
                    f"{self.path} holds another search: {difference}; "
                    "repeat its settings or use another directory"
                )


def _first_difference(name: str, theirs: Any, ours: Any) -> str | None:
    if isinstance(theirs, dict) and isinstance(ours, dict):
        for key in dict.fromkeys([*theirs, *ours]):
            difference = _first_difference(f"{name}.{key}", theirs.get(key), ours.get(key))
            if difference:
                return difference
        return None
    return None if theirs == ours else f"{name} is {_short(theirs)} there and {_short(ours)} here"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _ledger_lines(path: Path) -> Iterator[tuple[Entry, int]]:
    """Entries, each with the file position after its line. Only the last line may be torn."""
    if not path.is_file():
        return
    lines = path.read_bytes().splitlines(keepends=True)
    position = 0
    for number, line in enumerate(lines, start=1):
        position += len(line)
        try:
            entry = Entry.from_dict(json.loads(line))
            if not line.endswith(b"\n"):
                return
        except (ValueError, KeyError, TypeError):
            if number == len(lines):
                return
            raise InputError(
                f"{path} is broken at line {number}; restore it or start another search"
            ) from None
        yield entry, position


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "unknown"
