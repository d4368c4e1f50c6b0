"""Figures of studies, from their tables alone."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from vtr_ray.efficiency.units import flops_unit
from vtr_ray.report.page.drawing import Drawing, axes_of, looks
from vtr_ray.studies.finding import Finding, Table


def draw(finding: Finding) -> list[Drawing]:
    """The study's figures; none where it has only tables."""
    return [figure(finding) for figure in _FIGURES.get(finding.study, ())]


def _drawing(finding: Finding, name: str, table: Table, title: str, figure: Any) -> Drawing:
    return Drawing(
        name=f"{finding.study}-{name}",
        title=title,
        text=" ".join(finding.sentences),
        columns=table.columns,
        rows=table.rows,
        figure=figure,
    )


def _consecutive(finding: Finding) -> Drawing:
    table = finding.tables["consecutive"]
    layers, tau, spread = (np.array([row[i] for row in table.rows]) for i in (0, 2, 3))
    with axes_of(5.0, 3.2) as (figure, axes):
        _band(axes, layers, tau, tau - spread, tau + spread)
        axes.set(xlabel="layer", ylabel="tau to the next layer", ylim=(min(0, (tau - spread).min()), 1.02))
    title = "Kendall's tau between a layer and the next; band: standard deviation over samples"
    return _drawing(finding, "consecutive", table, title, figure)


def _band(axes: Any, x: Any, y: Any, low: Any, high: Any) -> None:
    (look,) = looks(["one"]).values()
    axes.fill_between(x, low, high, color=look.colour, alpha=0.18, linewidth=0)
    axes.plot(x, y, color=look.colour, marker=look.marker, markersize=5)


def _matrix(finding: Finding) -> Drawing:
    table = finding.tables["every_two"]
    size = max(row[0] for row in table.rows)
    tau = np.array([row[2] for row in table.rows]).reshape(size, size)
    with axes_of(4.6, 4.0) as (figure, axes):
        image = axes.imshow(
            tau,
            vmin=0,
            vmax=1,
            cmap="viridis",
            extent=(0.5, size + 0.5, size + 0.5, 0.5),
            interpolation="none",
        )
        axes.grid(False)
        axes.set(xlabel="layer", ylabel="layer")
        figure.colorbar(image, ax=axes, label="tau")
    return _drawing(finding, "matrix", table, "Kendall's tau between every two layers", figure)


def _attention(finding: Finding) -> Drawing:
    table = finding.tables["by_layer"]
    layer, median, low, high = (np.array([row[i] for row in table.rows]) for i in range(4))
    with axes_of(5.0, 3.2) as (figure, axes):
        _band(axes, layer, median, low, high)
        axes.set(xlabel="layer", ylabel="score of a vision token")
        axes.set_yscale("log" if low.min() > 0 else "linear")
    return _drawing(finding, "by-layer", table, "Median score of vision tokens; band: quartiles", figure)


def _curves(finding: Finding) -> Drawing:
    table = finding.tables["rates"]
    names = list(dict.fromkeys(row[0] for row in table.rows))
    with axes_of(5.0, 3.6 + 0.12 * len(names)) as (figure, axes):
        for name, look in looks(names).items():
            layers, rates, fitted = zip(*(row[1:] for row in table.rows if row[0] == name), strict=True)
            axes.plot(
                layers, rates, drawstyle="steps-mid", color=look.colour, marker=look.marker, markersize=5,
                linestyle=look.dash, label=name,
            )  # fmt: skip
            axes.plot(layers[2:], fitted[2:], color=look.colour, linewidth=0.9, linestyle=(0, (3, 2)))
        axes.set(xlabel="layer", ylabel="keeping rate", ylim=(-0.03, 1.05))
        figure.legend(loc="outside lower center", ncols=2, title="model; thin: its P-Sigmoid")
    return _drawing(finding, "rates", table, "Keeping rates by layer", figure)


def _trade_off(finding: Finding) -> Drawing:
    return _lines(finding, "points", 4, "average, %", "Accuracy against TFLOPs", 3.8, scale=100)


def _steepness(finding: Finding) -> Drawing:
    return _lines(finding, "k", 3, "k", "Searched steepness by TFLOPs", 3.4)


def _lines(
    finding: Finding, name: str, column: int, label: str, title: str, height: float, scale: float = 1
) -> Drawing:
    """A line for each name in the table's first column: another column, scaled, against the TFLOPs."""
    table = finding.tables[name]
    tflops = table.columns.index("TFLOPs")
    unit = flops_unit(row[tflops] for row in table.rows)
    with axes_of(5.0, height) as (figure, axes):
        for one, look in looks(dict.fromkeys(row[0] for row in table.rows)).items():
            points = sorted(
                (unit.of(row[tflops]), scale * row[column]) for row in table.rows if row[0] == one
            )
            x, y = zip(*points, strict=True)
            axes.plot(x, y, color=look.colour, marker=look.marker, linestyle=look.dash, label=one)
        axes.set(xlabel=f"{unit.name} of a prefill (paper's convention)", ylabel=label)
        axes.locator_params(axis="x", nbins=5)
        figure.legend(loc="outside lower center", ncols=2)
    return _drawing(finding, name, table, title, figure)


def _bars(finding: Finding) -> Drawing:
    table = finding.tables["accuracies"]
    with axes_of(5.4, 3.6) as (figure, axes):
        _groups(axes, [(row[0], row[1], 100 * row[2]) for row in table.rows])
        lowest = min(100 * row[2] for row in table.rows)
        axes.set(ylabel="average, %", ylim=(max(0, lowest - 10), 101))
        figure.legend(loc="outside lower center", ncols=2)
    return _drawing(finding, "accuracies", table, finding.title, figure)


def _groups(axes: Any, bars: Sequence[tuple[str, str, float]]) -> None:
    """Bars of group, name and value: groups beside each other, a colour for each name."""
    groups = list(dict.fromkeys(group for group, _, _ in bars))
    names = list(dict.fromkeys(name for _, name, _ in bars))
    width = 0.8 / len(names)
    for number, (name, look) in enumerate(looks(names).items()):
        own = [(groups.index(group), value) for group, one, value in bars if one == name]
        places = [place + (number - (len(names) - 1) / 2) * width for place, _ in own]
        axes.bar(places, [value for _, value in own], width, color=look.colour, label=name)
    axes.set_xticks(range(len(groups)), [re.sub("(?<=[:/])", "\n", group) for group in groups])
    axes.grid(False, axis="x")


def _by_method(finding: Finding) -> Drawing:
    return _lines(finding, "methods", 1, "average, %", "Average of the benchmarks by method", 3.8, scale=100)


def _training(finding: Finding) -> Drawing:
    """Bars under each schedule: as shipped, then each training plainly and with its rates."""
    table = finding.tables["accuracies"]
    with axes_of(5.6, 3.8) as (figure, axes):
        _groups(axes, [(row[0], f"{row[1]} {row[2]}".strip(), 100 * row[3]) for row in table.rows])
        axes.set(ylabel="average, %", xlabel="evaluated under")
        figure.legend(loc="outside lower center", ncols=2)
    return _drawing(finding, "accuracies", table, finding.title, figure)


def _clock(finding: Finding) -> Drawing:
    """Prefill times: of the methods on one kernel, then of each kernel."""
    table = finding.tables["methods"]
    rows = [(row[0], row) for row in table.rows]
    rows += [(f"{row[0]}, {row[1]}", row) for row in finding.tables["kernels"].rows]
    place = {column: table.columns.index(column) for column in ("prefill s", "prefill spread")}
    median, spread = ([1e3 * row[place[name]] for _, row in rows] for name in place)
    (first, second) = looks(["methods", "kernels"]).values()
    colours = [first.colour] * len(table.rows) + [second.colour] * (len(rows) - len(table.rows))
    with axes_of(5.6, 1.2 + 0.26 * len(rows)) as (figure, axes):
        axes.barh(range(len(rows)), median, xerr=[half / 2 for half in spread], color=colours)
        axes.set_yticks(range(len(rows)), [name for name, _ in rows])
        axes.invert_yaxis()
        axes.set(xlabel="prefill, ms; lines: the quartiles' distance")
        axes.grid(False, axis="y")
    return _drawing(finding, "prefill", table, finding.title, figure)


_FIGURES: dict[str, Sequence[Callable[[Finding], Drawing]]] = {
    "correlation": (_consecutive, _matrix),
    "attention": (_attention,),
    "curves": (_curves,),
    "tradeoff": (_trade_off,),
    "budgets": (_steepness,),
    "exchange": (_bars,),
    "ontop": (_bars,),
    "training": (_training,),
    "benchmarks": (_by_method,),
    "efficiency": (_clock,),
    "video": (_by_method,),
}
