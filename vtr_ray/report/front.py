"""The front of E against executed FLOPs: as a figure, and as tables for the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.table import Table

from vtr_ray.efficiency.schedule_cost import ScheduleCost
from vtr_ray.efficiency.times import TIMES, untold_words
from vtr_ray.efficiency.units import flops_unit
from vtr_ray.evaluation.samples import AGREEMENT
from vtr_ray.files import replacing
from vtr_ray.schedule import Schedule

Point = tuple[float, float]  # (executed TFLOPs, E)


@dataclass(frozen=True)
class FrontPoint:
    """One schedule of a front.

    file: where it is saved, relative to the run directory. score: E. drop: E lost to no reduction, None where
    that is not known. cost: on the search samples; times on this device. budget, k, alpha: None at the
    fronts' ends.
    """

    file: str
    trial: int
    schedule: Schedule
    score: float
    drop: float | None
    cost: ScheduleCost
    budget: float | None
    k: float | None
    alpha: float | None

    @property
    def tflops(self) -> float:
        """TFLOPs that a prefill executes, mean over the samples."""
        return self.cost.tflops_executed

    def slowest(self, front: Sequence[FrontPoint]) -> float:
        """Return the seconds that its prefill takes at most, as far as the clock told; infinite: it did not.

        A point of the front that does no less, with at least as many tokens at every layer and as many cuts,
        takes no less either: a longer time of this one is noise.
        """
        own = [point.cost.prefill for point in front if self._does_no_more_than(point)]
        return min((one.interval[1] for one in own if one is not None), default=math.inf)

    def faster_than(self, seconds: float, front: Sequence[FrontPoint]) -> bool:
        """Return whether the clock told that its prefill takes no longer."""
        return self.slowest(front) <= seconds

    def _does_no_more_than(self, other: FrontPoint) -> bool:
        rates, others = self.schedule.rates, other.schedule.rates
        fewer = all(own <= one for own, one in zip(rates, others, strict=True))
        same = (self.schedule.ranking, self.schedule.positions) == (
            other.schedule.ranking,
            other.schedule.positions,
        )
        # A cut has a price of its own: with more of them fewer tokens may really take longer.
        return fewer and same and len(set(rates)) <= len(set(others))

    def to_dict(self) -> dict[str, Any]:
        """JSON."""
        prefill = self.cost.prefill
        return {
            "file": self.file,
            "trial": self.trial,
            "budget": self.budget,
            "k": self.k,
            "alpha": self.alpha,
            "E": self.score,
            "drop": self.drop,
            "tflops_executed": self.cost.tflops_executed,
            "tflops_paper": self.cost.tflops,
            "memory_cost": self.cost.memory_cost,
            "prefill_seconds": None if prefill is None else prefill.median,
            "prefill_quartiles": None if prefill is None else list(prefill.quartiles),
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
    unit = flops_unit(cost for points in (front, others, *rivals.values()) for cost, _ in points)

    def column(points: Sequence[Point]) -> tuple[list[float], list[float]]:
        return [unit.of(cost) for cost, _ in points], [score for _, score in points]

    for marker, (name, points) in zip("s^vPDX*" * (1 + len(rivals) // 7), rivals.items(), strict=False):
        axes.plot(*column(points), marker, markersize=5, alpha=0.6, label=name)
    axes.plot(*column(others), ".", color="0.6", label="search, off the front")
    axes.plot(*column(front), "o-", color="black", drawstyle="steps-post", markersize=4, label="front")
    if chosen is not None:
        axes.plot(*column([chosen]), "o", color="none", mec="crimson", ms=12, mew=2, label="chosen")
    axes.set(xlabel=f"{unit.name} executed in a prefill, mean over samples", ylabel="E")
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120)
    return path


def front_table(front: Sequence[FrontPoint], chosen: int | None, labels: str = "given") -> Table:
    """The front by rising cost. chosen: the trial that was picked, marked. labels: `SampleSet.labels`."""
    table = Table(title="Front", title_justify="left", caption_justify="left")
    times = {point.file: point.cost.prefill for point in front}
    timed = any(one is not None for one in times.values())
    unit = flops_unit(point.tflops for point in front)
    table.caption = (
        f"drop: points of E below no reduction; memory cost (share of vision tokens kept) and {unit.name} "
        "(executed in a prefill): means over the samples' prompts"
        + (f"; prefill: {TIMES}{untold_words(times)}" if timed else "")
        + "; *: chosen"
        + (f"; E: {AGREEMENT}" if labels == "self" else "")
    )
    table.add_column("file")
    costs = (unit.name, "memory cost", *(("prefill ms",) if timed else ()))
    for column in ("b", "k", "alpha", "E", "drop", *costs):
        table.add_column(column, justify="right")
    for point in front:
        place = [f"{x:.3f}" if x is not None else "-" for x in (point.budget, point.k, point.alpha)]
        prefill = point.cost.prefill
        table.add_row(
            point.file + (" *" if point.trial == chosen else ""),
            *place,
            f"{point.score:.4f}",
            "-" if point.drop is None else f"{100 * point.drop:.1f}",
            unit.show(point.tflops),
            f"{point.cost.memory_cost:.3f}",
            *(["" if prefill is None else prefill.shown()] if timed else []),
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
