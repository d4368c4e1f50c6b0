"""The numbers of a run directory that tracking shows, as (name, value, seconds since 1970, step)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from vtr_ray.schedule import Schedule
from vtr_ray.tuning.directory import RESULTS, SCHEDULE, Entry, read_results


class Fact(NamedTuple):
    """One value of one metric."""

    name: str
    value: float
    time: float
    step: int


def parameters(content: Mapping[str, Any]) -> dict[str, str]:
    """Settings, seed and library versions of a `search.json`; nested names are joined with dots."""
    flat = {name: content[name] for name in ("command", "seed", "samples")}
    flat |= dict(_flattened(content["parameters"]))
    flat |= {f"version.{name}": version for name, version in content.get("versions", {}).items()}
    return {name: str(value) for name, value in flat.items()}


def trial_facts(entries: Iterable[Entry]) -> list[Fact]:
    """Rate, E and objective of each trial, the step being its id.

    `failed` instead of E where it failed; `stopped` and `E_at_most` where it was stopped early.
    `without_answer`: how many samples count as wrong because the model had none.
    """
    facts = []
    for entry in entries:
        values = {"rate": entry.rate, "objective": entry.objective, **entry.fields}
        if entry.error is not None:
            values["failed"] = 1.0
        elif entry.stopped:
            values |= {"seconds": entry.seconds, "stopped": 1.0, "E_at_most": entry.bound}
        else:
            values |= {"seconds": entry.seconds, "E": entry.score, "difference_at_least": entry.bound}
            values["without_answer"] = len(entry.without_answer) or None
        facts += [
            Fact(name, value, entry.time, entry.trial) for name, value in values.items() if value is not None
        ]
    return facts


def curve_facts(path: Path) -> list[Fact]:
    """`keeping_rate` of the found schedule, the step being the layer."""
    when = (path / SCHEDULE).stat().st_mtime
    rates = Schedule.load(path / SCHEDULE).rates
    return [Fact("keeping_rate", rate, when, layer) for layer, rate in enumerate(rates, start=1)]


def final_facts(path: Path, entries: Iterable[Entry]) -> list[Fact]:
    """Memory cost, E before and after (where trials measured them), then what `results.json` adds."""
    facts = {}
    if (path / SCHEDULE).is_file():
        when = (path / SCHEDULE).stat().st_mtime
        schedule = Schedule.load(path / SCHEDULE)
        facts["memory_cost"] = Fact("memory_cost", schedule.memory_cost, when, 0)
        for entry in entries:
            if entry.score is not None and entry.schedule == schedule:
                facts["E_after"] = Fact("E_after", entry.score, when, 0)
            if entry.score is not None and not entry.schedule.reduces:
                facts["E_before"] = Fact("E_before", entry.score, when, 0)
    if (path / RESULTS).is_file():
        when = (path / RESULTS).stat().st_mtime
        for name, value in read_results(path)["metrics"].items():
            facts[name] = Fact(name, value, when, 0)
    return list(facts.values())


def _flattened(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in content.items():
        if isinstance(value, Mapping):
            yield from _flattened(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
