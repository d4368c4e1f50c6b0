"""An evaluation on disk: figures, differences, every document's answer, pictures of some samples."""

from __future__ import annotations

import csv
import math
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vtr_ray.efficiency.schedule_cost import ScheduleCost
from vtr_ray.evaluation.benchmarks.answering import Answers
from vtr_ray.evaluation.benchmarks.differences import Difference, average, interval
from vtr_ray.evaluation.benchmarks.loading import Chosen
from vtr_ray.evaluation.benchmarks.results import Figures, metrics_of
from vtr_ray.files import replacing
from vtr_ray.schedule import Schedule
from vtr_ray.tuning.directory import write_json

EVALUATION, SAMPLES, DOCUMENTS = "evaluation.json", "samples.json", "documents"


@dataclass(frozen=True)
class Evaluated:
    """One schedule's row. search: the run that found the schedule; None: no search did.

    figures: by task.
    """

    schedule: Schedule
    search: str | None
    cost: ScheduleCost
    figures: Mapping[str, Figures]
    without_answer: Sequence[str] = field(default=())

    def to_dict(self) -> dict[str, Any]:
        """JSON; what is not a number is null."""
        mean = average(self.figures)
        return {
            "schedule": self.schedule.to_dict(),
            "search": self.search,
            **self.cost.to_dict(),
            "average": _bounded(mean.value, mean.low, mean.high),
            "benchmarks": {
                task: {**_bounded(one.value, *interval(one.replicates)), "figures": dict(one.figures)}
                for task, one in self.figures.items()
                if one.value is not None
            },
            "problems": {task: one.problem for task, one in self.figures.items() if one.problem},
            "without_answer": list(self.without_answer),
        }


def write_evaluation(
    folder: Path,
    facts: Mapping[str, Any],
    chosen: Sequence[Chosen],
    missing: Mapping[str, str],
    rows: Mapping[str, Evaluated],
    pairs: Sequence[Difference],
) -> None:
    """Writes `evaluation.json`. facts: model, suite, layers and what else says what was evaluated."""
    content = {
        "kind": "evaluation",
        "version": 1,
        "id": uuid.uuid4().hex,
        "created": time.time(),
        **facts,
        "benchmarks": {one.benchmark.task: _described(one) for one in chosen},
        "missing": dict(missing),
        "strategies": {name: row.to_dict() for name, row in rows.items()},
        "pairs": [{name: _number(value) for name, value in pair.to_dict().items()} for pair in pairs],
    }
    write_json(folder / EVALUATION, content)


def write_documents(
    folder: Path, name: str, chosen: Sequence[Chosen], answers: Answers, figures: Mapping[str, Figures]
) -> Path:
    """Writes one schedule's table of documents as CSV; gives its path."""
    path = folder / DOCUMENTS / f"{file_name(name)}.csv"
    path.parent.mkdir(exist_ok=True)
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["benchmark", "document", "question", "target", "answer", "score"])
        for one in chosen:
            scores = figures[one.benchmark.task].scores
            for sample in one.samples:
                place = sample.source, sample.document
                asked = sample.question, sample.answers[0]
                writer.writerow([*place, *asked, answers[place], scores.get(place, "")])
    return path


def file_name(name: str) -> str:
    """A schedule's name as a file's: "FastV, random tokens" is "fastv-random-tokens"."""
    letters = "".join(letter if letter.isalnum() or letter in "._=" else " " for letter in name.lower())
    return "-".join(letters.split()) or "schedule"


def _described(chosen: Chosen) -> dict[str, Any]:
    benchmark = chosen.benchmark
    first = next(iter(chosen.tasks))
    return {
        "title": benchmark.name.removeprefix("vtr_"),
        "group": benchmark.group,
        "metric": " + ".join(metrics_of(chosen, first)),
        "full": benchmark.full,
        "documents": len(chosen.samples),
        "note": chosen.note,
    }


def _bounded(value: float | None, low: float, high: float) -> dict[str, float | None]:
    return {"value": _number(value), "low": _number(low), "high": _number(high)}


def _number(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
