"""Documents of lmms-eval tasks as a command names them: `NAME` or `NAME:LIMIT`, wherever the task is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from vtr_ray.embedded import TASKS_FOLDER
from vtr_ray.errors import InputError
from vtr_ray.evaluation.samples import FRAMES, SampleSet
from vtr_ray.evaluation.suites import load_tasks, task_metrics, task_names


@dataclass(frozen=True)
class TaskDocuments:
    """A task and how many of its documents count; pickles. include: its folder; None: lmms-eval's own."""

    name: str
    limit: int | None
    include: str | None


def find_documents(texts: Sequence[str], include: Path | None = None) -> tuple[TaskDocuments, ...]:
    """What `NAME` and `NAME:LIMIT` name: tasks of `include` first, then what ships, then lmms-eval's own.

    Raises:
        InputError: a limit that is no number above 0, a task named twice, no such folder, a name that is
            nearly one of a user's or of what ships. `load_documents` refuses other unknown tasks.
    """
    folders = [str(folder.absolute()) for folder in (include, TASKS_FOLDER) if folder is not None]
    known = {folder: set(task_names(folder)) for folder in folders}
    found: dict[str, TaskDocuments] = {}
    for text in texts:
        name, colon, limit = text.partition(":")
        if colon and not (limit.isascii() and limit.isdigit() and int(limit) > 0):
            raise InputError(f"task {text!r}: {limit!r} is no number of documents; write {name}:100")
        if name in found:
            raise InputError(f"task {name} is named twice; name it once")
        where = next((folder for folder in folders if name in known[folder]), None)
        near = get_close_matches(name, sorted(set().union(*known.values())), 3, 0.8) if where is None else []
        if near and name not in task_names(None):
            raise InputError(f"unknown task {name!r}; near it: {', '.join(near)}")
        found[name] = TaskDocuments(name, int(limit) if colon else None, where)
    return tuple(found.values())


def load_documents(
    parts: Sequence[TaskDocuments], score: str | None = None, frames: int = FRAMES
) -> SampleSet:
    """The documents as samples, judged by their tasks.

    score: the metric that is the score of each task that has it; the others' scores are as `load_tasks` says.
    frames: read of a video, spread evenly over it.

    Raises:
        InputError: see `load_tasks`; a `score` that no task has.
    """
    metrics = {part: task_metrics(part.name, part.include) for part in parts}
    if score is not None and not any(score in names for names in metrics.values()):
        listed = "; ".join(f"{part.name}: {', '.join(names)}" for part, names in metrics.items())
        raise InputError(f"no task has the metric {score!r}; they have: {listed}")
    return SampleSet.joined(
        load_tasks(
            [part.name],
            part.include,
            score=score if score in metrics[part] else None,
            limit=part.limit,
            frames=frames,
        )
        for part in parts
    )
