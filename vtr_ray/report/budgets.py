"""The steepness found for each budget (paper, Figure 5): table, JSON and figure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.table import Table

from vtr_ray.efficiency.units import FlopsUnit, flops_unit
from vtr_ray.evaluation.samples import AGREEMENT
from vtr_ray.files import replacing
from vtr_ray.report.curve import draw_curve
from vtr_ray.schedule import Schedule
from vtr_ray.tuning.directory import write_json


@dataclass(frozen=True)
class Found:
    """What one P-Sigmoid search found.

    name: of its folder. label: as the user named the goal. budget: mean keeping rate over layers 3..L.
    score: E. tflops: the paper's convention. target: TFLOPs that were to be met; None: a budget was given.
    tflops, target and memory_cost are means over the samples' prompts.
    """

    name: str
    label: str
    budget: float
    k: float
    score: float | None
    tflops: float
    target: float | None
    schedule: Schedule
    memory_cost: float

    def to_dict(self) -> dict[str, Any]:
        """JSON."""
        return {
            "name": self.name,
            "label": self.label,
            "budget": self.budget,
            "k": self.k,
            "E": self.score,
            "memory_cost": self.memory_cost,
            "tflops": self.tflops,
            "target_tflops": self.target,
            "schedule": self.schedule.to_dict(),
        }


def budgets_table(found: Sequence[Found], labels: str = "given") -> Table:
    """A table for the terminal, a line for each search. labels: of the samples (`SampleSet.labels`)."""
    table = Table(title="k by budget", title_justify="left", caption_justify="left")
    unit = _unit(found)
    meaning = f"{AGREEMENT}, " if labels == "self" else ""
    table.caption = (
        f"b: mean keeping rate over layers 3..L; E: {meaning}on the search samples; memory cost (share of "
        f"vision tokens kept) and {unit.name} (the paper's convention): means over the samples' prompts"
    )
    table.add_column("search")
    columns = ["b", "k", "E", "memory cost", unit.name]
    matched = any(one.target is not None for one in found)
    for column in [*columns, *(["to match"] if matched else [])]:
        table.add_column(column, justify="right")
    for one in found:
        cells = [
            f"{one.budget:.4f}",
            f"{one.k:.3f}",
            "-" if one.score is None else f"{one.score:.4f}",
            f"{one.memory_cost:.3f}",
            unit.show(one.tflops),
        ]
        target = "" if one.target is None else unit.show(one.target)
        table.add_row(one.label, *cells, *([target] if matched else []))
    return table


def write_budgets(found: Sequence[Found], folder: Path) -> list[Path]:
    """Writes `psigmoid.json`, `k_by_budget.png` and `keeping_rates.png`; gives their paths.

    Lines of an earlier call that `found` does not name stay in the JSON: budgets may be added one by one.
    """
    file = folder / "psigmoid.json"
    before = json.loads(file.read_text(encoding="utf-8"))["searches"] if file.is_file() else []
    names = {one.name for one in found}
    kept = [line for line in before if line["name"] not in names]
    write_json(file, {"searches": [*kept, *(one.to_dict() for one in found)]})
    curves = {f"{one.label}, k = {one.k:.3f}": one.schedule for one in found}
    return [
        file,
        draw_budgets(found, folder / "k_by_budget.png"),
        draw_curve(curves, folder / "keeping_rates.png", "Keeping rate by layer"),
    ]


def draw_budgets(found: Sequence[Found], path: Path) -> Path:
    """Draws k against FLOPs, each point named by its b; gives the path, whose ending decides the format."""
    figure = Figure(figsize=(6.0, 4.0), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    points = sorted(found, key=lambda one: one.tflops)
    unit = _unit(found)
    axes.plot([unit.of(one.tflops) for one in points], [one.k for one in points], marker="o")
    for one in points:
        axes.annotate(
            f"b = {one.budget:.3g}",
            (unit.of(one.tflops), one.k),
            textcoords="offset points",
            xytext=(5, 5),
            fontsize=8,
        )
    label = f"{unit.name} (paper's convention, mean over samples)"
    axes.set(xlabel=label, ylabel="k", title="Steepness of P-Sigmoid by budget")
    axes.margins(0.15)
    axes.grid(alpha=0.25)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120)
    return path


def _unit(found: Sequence[Found]) -> FlopsUnit:
    return flops_unit(value for one in found for value in (one.tflops, one.target))
