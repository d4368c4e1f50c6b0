"""The table that every search ends with: schedules side by side on the same held-out samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from vtr_ray import strategies
from vtr_ray.errors import InputError
from vtr_ray.evaluation.outcome import Outcome, by_source, effectiveness
from vtr_ray.evaluation.statistics import Comparison, compare
from vtr_ray.schedule import Schedule

NO_REDUCTION = "no reduction"


@dataclass(frozen=True)
class Row:
    """One schedule's figures.

    accuracy: mean per-sample score. difference: to no reduction, paired. tflops: paper's convention, batch 1.
    prefill: median seconds of one prefill at batch 1, language model alone. per_source: accuracy by task.
    """

    name: str
    schedule: Schedule
    accuracy: float
    difference: Comparison | None
    per_source: Mapping[str, float]
    tflops: float
    prefill: float

    def to_dict(self) -> dict[str, Any]:
        """JSON."""
        interval = self.difference and {
            "mean": self.difference.difference,
            "low": self.difference.low,
            "high": self.difference.high,
            "samples": self.difference.samples,
        }
        return {
            "name": self.name,
            "schedule": self.schedule.to_dict(),
            "accuracy": self.accuracy,
            "difference": interval,
            "per_source": dict(self.per_source),
            "memory_cost": self.schedule.memory_cost,
            "tflops": self.tflops,
            "prefill_seconds": self.prefill,
        }


def rivals(found: Schedule, seed: int) -> dict[str, Schedule]:
    """The fixed strategies solved to a schedule's memory cost, and random tokens at its rates.

    VTW leaves after whole layers, so its cost is the nearest it can have. P-Sigmoid's k is the steepness of
    k = 0.3 at 32 layers. A strategy that cannot reach the cost is left out.
    """
    layers, cost = found.num_layers, found.memory_cost
    solved: dict[str, Schedule] = {}
    for label, name, fixed in (
        ("FastV", "fastv", {}),
        ("PDrop", "pyramid_drop", {}),
        ("VTW", "vtw", {}),
        ("P-Sigmoid", "p_sigmoid", {"k": 0.3 * 32 / layers}),
    ):
        try:
            solved[label] = strategies.at_memory_cost(name, layers, cost, **fixed)
        except InputError:
            continue
    return solved | {"random tokens": strategies.random(found, seed)}


def compare_schedules(
    pool: Any,
    schedules: Mapping[str, Schedule],
    on_row: Callable[[Row], None] | None = None,
    baseline: list[Outcome] | None = None,
) -> list[Row]:
    """Evaluates every schedule on all samples of the pool, no reduction first.

    baseline: outcomes that differences are to; an empty list is filled with those of no reduction.
    """
    named = {NO_REDUCTION: strategies.none(pool.num_layers), **schedules}
    costs = pool.call("costs", list(named.values()))
    sources: Mapping[str, str] = pool.call("sources")
    rows: list[Row] = []
    baseline = [] if baseline is None else baseline
    for (name, schedule), (tflops, prefill) in zip(named.items(), costs, strict=True):
        outcomes = pool.evaluate(schedule)
        difference = compare(outcomes, baseline) if baseline else None
        if not baseline:
            baseline += outcomes
        row = Row(
            name=name,
            schedule=schedule,
            accuracy=effectiveness(outcomes),
            difference=difference,
            per_source=by_source(outcomes, sources),
            tflops=tflops,
            prefill=prefill,
        )
        rows.append(row)
        if on_row is not None:
            on_row(row)
    return rows


def comparison_table(rows: Sequence[Row], samples: int, title: str = "") -> Table:
    """A table for the terminal."""
    table = Table(title=title or None, title_justify="left", caption_justify="left")
    table.caption = (
        f"accuracy: mean over {samples} samples; difference to no reduction in points with the paired 95 % "
        "interval; TFLOPs: the paper's convention; prefill: median, batch 1, language model only"
    )
    table.add_column("schedule")
    for column in ("accuracy", "difference", "memory cost", "TFLOPs", "prefill ms"):
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(
            row.name,
            f"{100 * row.accuracy:.1f}",
            "" if row.difference is None else _points(row.difference),
            f"{row.schedule.memory_cost:.3f}",
            f"{row.tflops:.4g}",
            f"{1000 * row.prefill:.1f}",
        )
    return table


def sources_table(rows: Sequence[Row]) -> Table:
    """Accuracy by source, schedule by schedule."""
    table = Table()
    table.add_column("accuracy")
    for source in rows[0].per_source:
        table.add_column(source.removeprefix("vtr_"), justify="right")
    for row in rows:
        table.add_row(row.name, *(f"{100 * value:.1f}" for value in row.per_source.values()))
    return table


def _points(difference: Comparison) -> str:
    mean, low, high = (100 * value for value in (difference.difference, difference.low, difference.high))
    return f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]"
