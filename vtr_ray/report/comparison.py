"""The table that every search ends with: schedules side by side on the same held-out samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rich.table import Table

from vtr_ray import strategies
from vtr_ray.efficiency.schedule_cost import ScheduleCost
from vtr_ray.efficiency.times import TIMES, untold_words
from vtr_ray.efficiency.units import flops_unit
from vtr_ray.errors import InputError
from vtr_ray.evaluation.outcome import (
    NOT_A_NUMBER,
    Outcome,
    by_source,
    effectiveness,
    some_of,
    too_many_without_answer,
    without_answer,
)
from vtr_ray.evaluation.samples import AGREEMENT
from vtr_ray.evaluation.statistics import MARGIN, Comparison, compare, wilson_interval
from vtr_ray.report.claims import accuracy_line, accuracy_lines, control_lines, turned
from vtr_ray.report.controls import control_in, controlled, controls_of, explained
from vtr_ray.schedule import Schedule

if TYPE_CHECKING:
    from vtr_ray.efficiency.flops import Convention

NO_REDUCTION = "no reduction"
TFLOPS = {"paper": "tflops", "executed": "tflops_executed"}  # a convention's key in files and metrics


@dataclass(frozen=True)
class Row:
    """One schedule's figures.

    accuracy: mean per-sample score. difference: to no reduction, paired. per_source: accuracy by task.
    interval: 95 % interval of the accuracy by itself (`wilson_interval`); None: not known.
    to_found: paired difference to the schedule that a search found, where it stands beside one; beside: the
    name of that schedule's row.
    """

    name: str
    schedule: Schedule
    accuracy: float
    difference: Comparison | None
    per_source: Mapping[str, float]
    cost: ScheduleCost
    to_found: Comparison | None = None
    beside: str | None = None
    interval: tuple[float, float] | None = None
    outcomes: Sequence[Outcome] = field(default=(), repr=False)

    def to_dict(self) -> dict[str, Any]:
        """JSON."""
        return {
            "name": self.name,
            "schedule": self.schedule.to_dict(),
            "accuracy": self.accuracy,
            "accuracy_low": None if self.interval is None else self.interval[0],
            "accuracy_high": None if self.interval is None else self.interval[1],
            "difference": _interval(self.difference),
            "to_found": _interval(self.to_found),
            "per_source": dict(self.per_source),
            **_costs(self.cost),
            "without_answer": list(without_answer(self.outcomes)),
        }


@dataclass(frozen=True)
class Rivals:
    """What stands beside a found schedule. left_out: why a strategy does not."""

    schedules: dict[str, Schedule]
    left_out: dict[str, str]


def rivals(found: Schedule, seed: int) -> Rivals:
    """The fixed strategies solved to a schedule's memory cost, and its controls.

    VTW leaves after whole layers, so its cost is the nearest it can have. P-Sigmoid's k is the steepness of
    k = 0.3 at 32 layers. A strategy that cannot reach the cost is left out.
    """
    layers, cost = found.num_layers, found.memory_cost
    solved: dict[str, Schedule] = {}
    left_out: dict[str, str] = {}
    for label, name, fixed in (
        ("FastV", "fastv", {}),
        ("PDrop", "pyramid_drop", {}),
        ("VTW", "vtw", {}),
        ("P-Sigmoid", "p_sigmoid", {"k": 0.3 * 32 / layers}),
    ):
        try:
            solved[label] = strategies.at_memory_cost(name, layers, cost, **fixed)
        except InputError as error:
            left_out[label] = str(error).partition(";")[0]
    controls = controls_of(found, seed)
    return Rivals(solved | controls.schedules, left_out | controls.left_out)


def compare_schedules(
    pool: Any,
    schedules: Mapping[str, Schedule],
    on_row: Callable[[Row], None] | None = None,
    baseline: list[Outcome] | None = None,
    found: Mapping[str, str] | None = None,
) -> list[Row]:
    """Evaluates every schedule on all samples of the pool, no reduction first.

    baseline: outcomes that differences are to; an empty list is filled with those of no reduction.
    found: by name, the found schedule that one is also compared to; that stands before it.
    Raises InputError where the model has no answer to more than 5 % of the samples, with nothing reduced.
    """
    found = found or {}
    named = {NO_REDUCTION: strategies.none(pool.num_layers), **schedules}
    costs = pool.call("costs", list(named.values()))
    sources: Mapping[str, str] = pool.call("sources")
    rows: list[Row] = []
    baseline = [] if baseline is None else baseline
    for (name, schedule), cost in zip(named.items(), costs, strict=True):
        outcomes = pool.evaluate(schedule)
        difference = compare(outcomes, baseline) if baseline else None
        if not baseline:
            if (problem := too_many_without_answer(outcomes)) is not None:
                advice = "where float16 overflows, use --dtype bfloat16 or float32"
                raise InputError(f"{name}: {problem}; {advice}")
            baseline += outcomes
        beside = next((row for row in rows if row.name == found.get(name)), None)
        row = Row(
            name=name,
            schedule=schedule,
            accuracy=effectiveness(outcomes),
            difference=difference,
            per_source=by_source(outcomes, sources),
            cost=cost,
            to_found=None if beside is None else compare(outcomes, beside.outcomes),
            beside=None if beside is None else beside.name,
            interval=wilson_interval(effectiveness(outcomes), len(outcomes)),
            outcomes=outcomes,
        )
        rows.append(row)
        if on_row is not None:
            on_row(row)
    return rows


def score_name(labels: str) -> str:
    """What the mean score is called: accuracy, or agreement where the labels are the model's own answers."""
    return "agreement" if labels == "self" else "accuracy"


def comparison_table(
    rows: Sequence[Row],
    samples: int,
    title: str = "",
    found: str = "",
    convention: Convention = "paper",
    labels: str = "given",
) -> Table:
    """A table for the terminal, 100 columns wide unless names are long.

    found: what a search found, where rows are compared to it. convention: of its FLOPs. labels: of the
    samples (`SampleSet.labels`).
    """
    table = Table(title=title or None, title_justify="left", caption_justify="left")
    beside = f"; to {found}: the same to what was found, ± the interval" if found else ""
    lost = {row.name: ids for row in rows if (ids := without_answer(row.outcomes))}
    cases = "; ".join(f"{name}: {len(ids)} ({some_of(ids)})" for name, ids in lost.items())
    controls = f"; {said}" if (said := explained(row.name for row in rows)) else ""
    wrong = f"; counted as wrong, because {NOT_A_NUMBER}: {cases}" if lost else ""
    mean = AGREEMENT if labels == "self" else "accuracy"
    table.caption = (
        f"{mean}: mean over {samples} samples; difference to no reduction in points with the paired 95 % "
        f"interval{beside}; {_cost_words(rows, convention)}{controls}{wrong}"
    )
    timed = any(row.cost.prefill is not None for row in rows)
    unit = flops_unit(_tflops(row, convention) for row in rows)
    table.add_column("schedule")
    score = score_name(labels)
    for column in (
        score, "difference", *([f"to {found}"] if found else []), "memory\ncost", unit.name,
        *(["prefill\nms"] if timed else []),
    ):  # fmt: skip
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            row.name,
            f"{100 * row.accuracy:.1f}",
            "" if row.difference is None else _points(row.difference),
            *([_short_points(row.to_found)] if found else []),
            f"{row.cost.memory_cost:.3f}",
            unit.show(_tflops(row, convention)),
            *(["" if row.cost.prefill is None else row.cost.prefill.shown()] if timed else []),
        )
    return table


def comparison_lines(rows: Sequence[Row], found: str, left_out: Mapping[str, str]) -> list[str]:
    """What the table of a search says of its schedule's rivals, and which of them it lacks."""
    better = [row.name for row in rows if row.to_found is not None and row.to_found.low > 0]
    lines = [f"Significantly more accurate than {found} (paired, 95 %): {'; '.join(better) or 'none'}"]
    if left_out:
        lines.append("Left out: " + "; ".join(f"{name} ({why})" for name, why in left_out.items()))
    return lines


def claim_lines(rows: Sequence[Row]) -> list[str]:
    """Whether schedules kept the accuracy, and what they gain over their controls, in words."""
    by_name = {row.name: row for row in rows}
    differences = {
        row.name: row.difference for row in rows if row.difference is not None and not control_in(row.name)
    }
    gains: dict[str, dict[str, Comparison]] = {}
    for row in rows:
        control, own = control_in(row.name), by_name.get(controlled(row.name))
        if control is not None and own is not None:
            gains.setdefault(control, {})[own.name] = compare(own.outcomes, row.outcomes)
    return [*accuracy_lines(differences), *control_lines(gains)]


def found_lines(rows: Sequence[Row], advice: str, margin: float = MARGIN, allowed: str = "") -> list[str]:
    """The same of what searches found: rows that others stand beside. advice, ...: of `accuracy_line`."""
    found = [row for row in rows if row.difference is not None and row.to_found is None]
    lines, gains = [], dict[str, dict[str, Comparison]]()
    for row in found:
        assert row.difference is not None
        line = accuracy_line(row.difference, advice, margin, allowed)
        lines.append(line if len(found) == 1 else f"{row.name}: {line}")
    for row in rows:
        control = control_in(row.name)
        if control is not None and row.to_found is not None and row.beside is not None:
            gains.setdefault(control, {})[row.beside] = turned(row.to_found)
    return [*lines, *control_lines(gains)]


def row_line(row: Row, labels: str = "given") -> str:
    """A finished row where there is no terminal to watch."""
    difference = "" if row.difference is None else f", difference {_points(row.difference)}"
    return f"compared: {row.name}: {score_name(labels)} {100 * row.accuracy:.1f}{difference}"


def figures_table(task: str, figures: Mapping[str, Mapping[str, float]]) -> Table:
    """A task's figures of the whole set (F1, ...), schedule by schedule."""
    table = Table(
        caption="by the task's own aggregation of all answers; no part of E", caption_justify="left"
    )
    table.add_column(task.removeprefix("vtr_"))
    names = list(dict.fromkeys(name for row in figures.values() for name in row))
    for name in names:
        table.add_column(name, justify="right")
    for schedule, row in figures.items():
        table.add_row(schedule, *(f"{row[name]:.4g}" if name in row else "" for name in names))
    return table


def sources_table(rows: Sequence[Row], labels: str = "given") -> Table:
    """Accuracy by source, schedule by schedule."""
    table = Table()
    table.add_column(score_name(labels))
    for source in rows[0].per_source:
        table.add_column(source.removeprefix("vtr_"), justify="right")
    for row in rows:
        table.add_row(row.name, *(f"{100 * value:.1f}" for value in row.per_source.values()))
    return table


def convention_words(convention: Convention) -> str:
    """What a table says of its FLOPs."""
    return "the paper's convention" if convention == "paper" else "executed in a prefill"


def _tflops(row: Row, convention: Convention) -> float:
    return row.cost.tflops if convention == "paper" else row.cost.tflops_executed


def _cost_words(rows: Sequence[Row], convention: Convention) -> str:
    """What a table's caption says of its costs."""
    unit = flops_unit(_tflops(row, convention) for row in rows)
    times = {row.name: row.cost.prefill for row in rows}
    timed = any(one is not None for one in times.values())
    return (
        f"memory cost (share of vision tokens kept) and {unit.name} ({convention_words(convention)}): means "
        f"over the samples' prompts{f'; prefill: {TIMES}{untold_words(times)}' if timed else ''}"
    )


def _costs(cost: ScheduleCost) -> dict[str, Any]:
    return {
        "memory_cost": cost.memory_cost,
        "tflops": cost.tflops,
        "tflops_executed": cost.tflops_executed,
        "counted_samples": cost.samples,
        "prefill_seconds": None if cost.prefill is None else cost.prefill.median,
        "prefill_quartiles": None if cost.prefill is None else list(cost.prefill.quartiles),
    }


def _interval(difference: Comparison | None) -> dict[str, float] | None:
    return (
        None
        if difference is None
        else {
            "mean": difference.difference,
            "low": difference.low,
            "high": difference.high,
            "samples": difference.samples,
        }
    )


def _short_points(difference: Comparison | None) -> str:
    if difference is None:
        return ""
    return f"{100 * difference.difference:+.1f} ±{100 * (difference.high - difference.low) / 2:.1f}"


def _points(difference: Comparison) -> str:
    mean, low, high = (100 * value for value in (difference.difference, difference.low, difference.high))
    return f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]"
