"""The comparison of runs: one HTML page that is whole by itself, with its figures and data beside it."""

from __future__ import annotations

import base64
import time
from dataclasses import dataclass, field
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template

from vtr_ray.evaluation.samples import AGREEMENT
from vtr_ray.report.page.accuracy import draw_accuracy
from vtr_ray.report.page.curves import draw_curves, fits_of
from vtr_ray.report.page.drawing import Drawing, slug
from vtr_ray.report.page.evaluations import Evaluation
from vtr_ray.report.page.inputs import EvaluationRun, Inputs
from vtr_ray.report.page.marks import mark_of
from vtr_ray.report.page.progress import draw_layers, draw_trials
from vtr_ray.report.page.sheets import Sheet, benchmark_sheet, fits_sheet, pairs_sheet, verdict
from vtr_ray.report.page.tables import (
    benchmark_table,
    figures_table,
    fits_table,
    front_table,
    pairs_table,
    tasks_list,
)
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
        kinds = (("PNG", "image/png"), ("SVG", "image/svg+xml"), ("CSV", "text/csv"))
        files = drawing.files().items()
        links = [(label, name, kind, held) for (label, kind), (name, held) in zip(kinds, files, strict=True)]
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
        for name, content in drawing.files().items():
            (folder / ("data" if name.endswith(".csv") else "figures") / name).write_bytes(content)
    for sheet in page.sheets:
        (folder / "data" / f"{sheet.name}.csv").write_text(sheet.csv(), encoding="utf-8")
    (folder / INDEX).write_text(_html(page, inputs, title), encoding="utf-8")
    return folder / INDEX


def _curves(page: _Page, inputs: Inputs) -> None:
    if not inputs.schedules:
        return
    looks, fits = inputs.looks, fits_of(inputs.schedules)
    parts = [page.figure(draw_curves(inputs.schedules, fits, looks))]
    if fits:
        table = fits_table(fits, {name: mark_of(look) for name, look in looks.items()})
        parts.append(f"<div>{table}{page.sheet(fits_sheet(fits))}</div>")
    page.add("Keeping rates", f'<div class="figures">{"".join(parts)}</div>')


def _evaluation(page: _Page, inputs: Inputs, run: EvaluationRun, alone: bool) -> None:
    results = run.results
    ending, part = ("", "") if alone else (f", {run.name}", f"-{slug(run.name)}")
    looks = inputs.looks_of(run)
    marks = {name: mark_of(look, results.control(name)) for name, look in looks.items()}
    lines = "".join(f"<li>{escape(line)}</li>" for line in verdict(results))
    page.add(
        f"Benchmarks{ending}",
        f"<p>{escape(_about(results))}</p>",
        f'<ul class="lines">{lines}</ul>' if lines else "",
        benchmark_table(results, marks),
        page.sheet(benchmark_sheet(results, f"benchmarks{part}")),
        tasks_list(results.benchmarks),
        figures_table(results),
        pairs_table(results, page.sheet(pairs_sheet(results, f"differences{part}"))) if results.pairs else "",
    )
    page.add(
        f"Accuracy against TFLOPs{ending}",
        f'<div class="figures">{page.figure(draw_accuracy(results, looks, f"accuracy{part}"))}'
        f"<div>{front_table(results, marks)}</div></div>",
    )
    if run.samples:
        page.add(f"Samples{ending}", _SAMPLES, viewer(run.samples, f"image{part}"))


def _searches(page: _Page, inputs: Inputs) -> None:
    parts = []
    for run in inputs.searches:
        state = "" if run.found else " It has not ended."
        model = run.parameters.get("model", "")
        meaning = f" E is {AGREEMENT}." if run.parameters.get("labels") == "self" else ""
        words = f"{run.title} on {model}: {len(run.trials)} trials.{state}{meaning}"
        layers = "".join(page.figure(drawing) for drawing in draw_layers(run))
        parts += [f"<h3>{escape(run.name)}</h3><p>{escape(words)}</p>"]
        if layers:
            parts += [f'<p class="note">{_LAYERS}</p><div class="figures small">{layers}</div>']
        parts += [page.figure(draw_trials(run))] if run.trials else []
    page.add("Search progress", *parts)


_SAMPLES = (
    '<p class="screen">Tokens that a layer still has are lit and framed, those that have left are dark. '
    "Move the slider through the layers.</p>"
)
_LAYERS = (
    "Dots: what was measured. Line and band: mean and 95 % band of the search's surrogate after the layer's "
    "last trial; it is lax far below the best, where nothing is to be found. Diamond and dashed line: the "
    "rate chosen."
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
        runs=escape(", ".join(inputs.names)),
    )


def _subtitle(inputs: Inputs) -> str:
    models = [run.results.model for run in inputs.evaluations]
    models += [str(run.parameters.get("model", "")) for run in inputs.searches]
    return f"{', '.join(dict.fromkeys(filter(None, models)))}: {len(inputs.schedules)} strategies"


def _about(results: Evaluation) -> str:
    documents = sum(one.documents or 0 for one in results.benchmarks.values())
    counts = [
        f"{len(results.benchmarks)} benchmarks",
        *([f"{documents} documents"] if documents else []),
        f"{results.layers} layers",
        f"{results.vision_tokens} vision tokens",
    ]
    when = time.strftime("%Y-%m-%d", time.localtime(results.created))
    return f"Suite {results.suite} on {results.model}: {', '.join(counts)}; evaluated {when}."


def _downloads(*links: tuple[str, str, str, bytes]) -> str:
    found = " ".join(
        f'<a download="{name}" href="data:{kind};base64,{base64.b64encode(content).decode()}">{label}</a>'
        for label, name, kind, content in links
    )
    return f'<span class="downloads">{found}</span>'
