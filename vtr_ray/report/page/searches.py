"""Search runs as the page reads them: what was found, every trial, and G-Search's layers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vtr_ray.errors import InputError
from vtr_ray.schedule import Schedule
from vtr_ray.search import GSearch
from vtr_ray.tuning.directory import SCHEDULE, SEARCH, Entry, read_ledger, read_search

TITLES = {"gsearch": "G-Search", "psigmoid": "P-Sigmoid", "pareto": "Pareto search"}


@dataclass(frozen=True)
class SearchRun:
    """One search. name: its directory's. found: None while it has not ended. gsearch: None: another kind."""

    path: Path
    name: str
    title: str
    parameters: dict[str, Any]
    found: Schedule | None
    trials: Sequence[Entry]
    gsearch: GSearch | None


def search_directories(run: Path) -> list[Path]:
    """The searches of a run directory: itself, or one in each of its folders (several budgets)."""
    return [run] if (run / SEARCH).is_file() else sorted(file.parent for file in run.glob(f"*/{SEARCH}"))


def read_search_run(path: Path, name: str | None = None) -> SearchRun:
    """Reads a search's directory. Raises InputError where its files are broken or do not belong together."""
    content, entries = read_search(path), sorted(read_ledger(path), key=lambda entry: entry.trial)
    command = content["command"]
    return SearchRun(
        path=path,
        name=name or path.name,
        title=TITLES.get(command, command),
        parameters=dict(content["parameters"]),
        found=Schedule.load(path / SCHEDULE) if (path / SCHEDULE).is_file() else None,
        trials=entries,
        gsearch=_recalled(path, content["state"], entries) if command == "gsearch" else None,
    )


def _recalled(path: Path, state: Any, entries: Sequence[Entry]) -> GSearch:
    """The search as its ledger left it. A round that was cut may lack trials before its last ones."""
    try:
        search = GSearch.from_state_dict(state)
        for entry in _unbroken(entries):
            stopped = entry.bound if entry.stopped else None
            bound = None if entry.stopped else entry.bound
            search.recall(entry.layer, entry.rate, entry.score, bound, stopped, entry.error, entry.scores)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return search


def _unbroken(entries: Sequence[Entry]) -> Iterator[Entry]:
    for number, entry in enumerate(entries, start=1):
        if entry.trial != number:
            return
        yield entry
