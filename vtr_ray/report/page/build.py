"""The comparison of runs: one HTML page that is whole by itself, with its figures and data beside it."""

from __future__ import annotations

import base64
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from vtr_ray.report.page.accuracy import draw_accuracy
from vtr_ray.report.page.curves import draw_curves, fits_of
from vtr_ray.report.page.drawing import SERIES, Drawing, Look, slug
from vtr_ray.report.page.evaluations import Evaluation
from vtr_ray.report.page.inputs import EvaluationRun, Inputs
from vtr_ray.report.page.progress import draw_layers, draw_trials
from vtr_ray.report.page.sheets import Sheet, benchmark_sheet, fits_sheet, pairs_sheet, verdict
from vtr_ray.report.page.tables import benchmark_table, figures_table, fits_table, pairs_table
from vtr_ray.report.page.viewer import viewer

INDEX = "index.html"


@dataclass
class _Page:
    sections: list[tuple[str, str, str]] = field(default_factory=list)  # id, title, HTML
    drawings: list[Drawing] = field(default_factory=list)
    sheets: list[Sheet] = field(default_factory=list)

    def add(self, title: str, *parts: str) -> None:
        self.sections.append((slug(title), title, "".join(parts)))

    def figure(self, drawing: Drawing) -> str:
        self.drawings.append(drawing)
        links = (
            ("PNG", f"{drawing.name}.png", "image/png", drawing.png()),
            ("SVG", f"{drawing.name}.svg", "image/svg+xml", drawing.svg().encode()),
            ("CSV", f"{drawing.name}.csv", "text/csv", drawing.csv().encode()),
        )
        return (
            f'<figure class="chart">{drawing.inline()}<figcaption>{escape(drawing.title)} '
            f"{_downloads(*links)}</figcaption></figure>"
        )

    def sheet(self, sheet: Sheet) -> str:
        self.sheets.append(sheet)
        link = ("CSV", f"{sheet.name}.csv", "text/csv", sheet.csv().encode())
        return f"<p>{_downloads(link)}</p>"


def write_page(inputs: Inputs, folder: Path, title: str = "Strategies compared") -> Path:
    """Writes `index.html`, `figures/NAME.png`, `figures/NAME.svg` and `data/NAME.csv` into an empty folder.

    Gives the page. Raises InputError where a sample's image cannot be read.
    """
    page = _Page()
    _curves(page, inputs)
    for run in inputs.evaluations:
        _evaluation(page, inputs, run, alone=len(inputs.evaluations) == 1)
    if inputs.searches:
        _searches(page, inputs)
    for name in ("figures", "data"):
        (folder / name).mkdir()
    for drawing in page.drawings:
        (folder / "figures" / f"{drawing.name}.png").write_bytes(drawing.png())
        (folder / "figures" / f"{drawing.name}.svg").write_text(drawing.svg(), encoding="utf-8")
    for data in (*page.drawings, *page.sheets):
        (folder / "data" / f"{data.name}.csv").write_text(data.csv(), encoding="utf-8")
    (folder / INDEX).write_text(_html(page, inputs, title), encoding="utf-8")
    return folder / INDEX


def _curves(page: _Page, inputs: Inputs) -> None:
    if not inputs.schedules:
        return
    looks, fits = inputs.looks, fits_of(inputs.schedules)
    parts = [page.figure(draw_curves(inputs.schedules, fits, looks))]
    if fits:
        table = fits_table(fits, {name: _mark(look) for name, look in looks.items()})
        parts.append(f"<div>{table}{page.sheet(fits_sheet(fits))}</div>")
    page.add("Keeping rates", f'<div class="figures">{"".join(parts)}</div>')


def _evaluation(page: _Page, inputs: Inputs, run: EvaluationRun, alone: bool) -> None:
    results, ending, part = run.results, "" if alone else f", {run.name}", "" if alone else f"-{slug(run.name)}"
    looks = inputs.looks_of(results)
    marks = {
        name: _mark(look, hollow=results.strategies[name].control) for name, look in looks.items()
    }
    lines = "".join(f"<li>{escape(line)}</li>" for line in verdict(results))
    page.add(
        f"Benchmarks{ending}",
        f"<p>{escape(_about(results))}</p>",
        f'<ul class="lines">{lines}</ul>' if lines else "",
        benchmark_table(results, marks),
        page.sheet(benchmark_sheet(results, f"benchmarks{part}")),
        figures_table(results),
        pairs_table(results) if results.pairs else "",
        page.sheet(pairs_sheet(results, f"differences{part}")) if results.pairs else "",
    )
    page.add(
        f"Accuracy against TFLOPs{ending}",
        page.figure(draw_accuracy(results, looks, f"accuracy{part}")),
    )
    if run.samples:
        page.add(f"Samples{ending}", _SAMPLES, viewer(run.samples, f"image{part}"))


def _searches(page: _Page, inputs: Inputs) -> None:
    parts = []
    for run in inputs.searches:
        state = "" if run.found else " It has not ended."
        model = run.parameters.get("model", "")
        words = f"{run.title} on {model}: {len(run.trials)} trials.{state}"
        layers = "".join(page.figure(drawing) for drawing in draw_layers(run))
        parts += [f"<h3>{escape(run.name)}</h3><p>{escape(words)}</p>"]
        if layers:
            parts += [f'<p class="note">{_LAYERS}</p><div class="figures small">{layers}</div>']
        parts += [page.figure(draw_trials(run))] if run.trials else []
    page.add("Search progress", *parts)


_SAMPLES = (
    "<p>Tokens that a layer still has are lit and framed, those that have left are dark. "
    "Move the slider through the layers.</p>"
)
_LAYERS = (
    "Dots: E that was measured. Line and band: mean and 95 % band of the search's surrogate after the layer's "
    "last trial. Diamond and dashed line: the rate chosen."
)


def _html(page: _Page, inputs: Inputs, title: str) -> str:
    assets = files("vtr_ray.report.page")
    return Template((assets / "page.html").read_text(encoding="utf-8")).substitute(
        title=escape(title),
        subtitle=escape(_subtitle(inputs)),
        style=(assets / "page.css").read_text(encoding="utf-8"),
        script=(assets / "page.js").read_text(encoding="utf-8"),
        links="".join(f'<a href="#{name}">{escape(title)}</a>' for name, title, _ in page.sections),
        sections="".join(
            f'<section id="{name}" aria-labelledby="{name}-head"><h2 id="{name}-head">{escape(title)}</h2>'
            f"{body}</section>\n"
            for name, title, body in page.sections
        ),
        date=time.strftime("%Y-%m-%d %H:%M"),
        runs=escape(", ".join(str(run.name) for run in (*inputs.evaluations, *inputs.searches))),
    )


def _subtitle(inputs: Inputs) -> str:
    models = [run.results.model for run in inputs.evaluations]
    models += [str(run.parameters.get("model", "")) for run in inputs.searches]
    return f"{', '.join(dict.fromkeys(filter(None, models)))}: {len(inputs.schedules)} strategies"


def _about(results: Evaluation) -> str:
    documents = sum(one.documents for one in results.benchmarks.values())
    when = time.strftime("%Y-%m-%d", time.localtime(results.created))
    return (
        f"Suite {results.suite} on {results.model}: {len(results.benchmarks)} benchmarks, {documents} documents, "
        f"{results.layers} layers, {results.vision_tokens} vision tokens; evaluated {when}."
    )


def _downloads(*links: tuple[str, str, str, bytes]) -> str:
    found = " ".join(
        f'<a download="{name}" href="data:{kind};base64,{base64.b64encode(content).decode()}">{label}</a>'
        for label, name, kind, content in links
    )
    return f'<span class="downloads">{found}</span>'


def _mark(look: Look, hollow: bool = False) -> str:
    """A strategy's look beside its name: line and marker as in the figures."""
    colour = f"var(--series-{SERIES.index(look.colour) + 1})"
    dash = "" if look.dash == "-" else f' stroke-dasharray="{" ".join(str(2 * x) for x in look.dash[1])}"'
    fill = "var(--card)" if hollow else colour
    line = "" if hollow else f'<path d="M0 5H20" stroke="{colour}" stroke-width="1.8"{dash}/>'
    return (
        f'<svg class="mark" viewBox="0 0 20 10" aria-hidden="true">{line}'
        f'<path d="{_SHAPES[look.marker]}" transform="translate(10 5)" fill="{fill}" stroke="{colour}"/></svg>'
    )


_SHAPES: Mapping[str, str] = {
    "o": "M-3.5 0a3.5 3.5 0 1 0 7 0a3.5 3.5 0 1 0-7 0z",
    "D": "M0-4 4 0 0 4-4 0z",
    "s": "M-3-3h6v6h-6z",
    "^": "M0-4 4 3h-8z",
    "v": "M0 4-4-3h8z",
    "P": "M-1.3-4h2.6v2.7h2.7v2.6h-2.7v2.7h-2.6v-2.7h-2.7v-2.6h2.7z",
    "X": "M-2-4 0-2 2-4 4-2 2 0 4 2 2 4 0 2-2 4-4 2-2 0-4-2z",
    "*": "M0-4.5 1.2-1.4 4.3-1.4 1.8.6 2.8 3.8 0 1.9-2.8 3.8-1.8.6-4.3-1.4-1.2-1.4z",
}
