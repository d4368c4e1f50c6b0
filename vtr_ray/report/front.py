"""The front of E against executed FLOPs: as a figure, and as tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.table import Table

from vtr_ray.evaluation.samples import AGREEMENT
from vtr_ray.files import replacing
from vtr_ray.schedule import Schedule

Point = tuple[float, float]  # (executed TFLOPs, E)


@dataclass(frozen=True)
class FrontPoint:
    """One schedule of a front.

    file: where it is saved, relative to the run directory. score: E. drop: E lost to no reduction, None where
    that is not known. tflops: executed, a median sample's prefill at batch 1; tflops_paper: the same by the
    paper's convention. prefill: median seconds on this device. budget, k, alpha: None at the fronts' ends.
    """

    file: str
    trial: int
    schedule: Schedule
    score: float
    drop: float | None
    tflops: float
    tflops_paper: float
    prefill: float
    budget: float | None
    k: float | None
    alpha: float | None

    def to_dict(self) -> dict[str, Any]:
        """JSON."""
        return {
            "file": self.file,
            "trial": self.trial,
            "budget": self.budget,
            "k": self.k,
            "alpha": self.alpha,
            "E": self.score,
            "drop": self.drop,
            "tflops_executed": self.tflops,
            "tflops_paper": self.tflops_paper,
            "memory_cost": self.schedule.memory_cost,
            "prefill_seconds": self.prefill,
            "schedule": self.schedule.to_dict(),
        }


@dataclass(frozen=True)
class Rival:
    """A reference strategy beside the search; see `vtr_ray.search.pareto.Group`. points: its trials."""

    name: str
    points: Sequence[Point]
    hypervolume: float
    ours: float


def draw_front(
    path: str | Path,
    front: Sequence[Point],
    others: Sequence[Point],
    rivals: Mapping[str, Sequence[Point]],
    chosen: Point | None = None,
) -> Path:
    """Draw E against executed TFLOPs; gives the path, whose ending decides the format.

    front: by rising cost; drawn as the steps of what can be had. others: the search's further trials. Written
    to a temporary name and renamed.
    """
    path = Path(path)
    figure = Figure(figsize=(7.0, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for marker, (name, points) in zip("s^vPDX*" * (1 + len(rivals) // 7), rivals.items(), strict=False):
        axes.plot(*_columns(points), marker, markersize=5, alpha=0.6, label=name)
    axes.plot(*_columns(others), ".", color="0.6", label="search, off the front")
    axes.plot(*_columns(front), "o-", color="black", drawstyle="steps-post", markersize=4, label="front")
    if chosen is not None:
        axes.plot(*_columns([chosen]), "o", color="none", mec="crimson", ms=12, mew=2, label="chosen")
    axes.set(xlabel="TFLOPs of a prefill, executed", ylabel="E")
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120)
    return path


def front_table(front: Sequence[FrontPoint], chosen: int | None, labels: str = "given") -> Table:
    """The front by rising cost. chosen: the trial that was picked, marked. labels: `SampleSet.labels`."""
    table = Table(title="Front", title_justify="left", caption_justify="left")
    table.caption = (
        "drop: points of E below no reduction; TFLOPs: executed, a median sample's prefill; prefill: median, "
        "batch 1, language model only; *: chosen" + (f"; E: {AGREEMENT}" if labels == "self" else "")
    )
    table.add_column("file")
    for column in ("b", "k", "alpha", "E", "drop", "TFLOPs", "memory cost", "prefill ms"):
        table.add_column(column, justify="right")
    for point in front:
        place = [f"{x:.3f}" if x is not None else "-" for x in (point.budget, point.k, point.alpha)]
        table.add_row(
            point.file + (" *" if point.trial == chosen else ""),
            *place,
            f"{point.score:.4f}",
            "-" if point.drop is None else f"{100 * point.drop:.1f}",
            f"{point.tflops:.4g}",
            f"{point.schedule.memory_cost:.3f}",
            f"{1000 * point.prefill:.1f}",
        )
    return table


def volume_table(trials: int, hypervolume: float, rivals: Sequence[Rival]) -> Table:
    """Hypervolumes of the search, after all its `trials`, and of the reference strategies."""
    table = Table(title="Hypervolume", title_justify="left", caption_justify="left")
    table.caption = (
        "the best E to be had within a FLOPs limit, averaged over all limits from no vision token after "
        "layer 2 to no reduction, these two belonging to every front"
    )
    table.add_column("points of")
    for column in ("trials", "hypervolume", "search at as many trials"):
        table.add_column(column, justify="right")
    table.add_row("search", str(trials), f"{hypervolume:.4f}", "")
    for rival in rivals:
        table.add_row(rival.name, str(len(rival.points)), f"{rival.hypervolume:.4f}", f"{rival.ours:.4f}")
    return table


def _columns(points: Sequence[Point]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]
