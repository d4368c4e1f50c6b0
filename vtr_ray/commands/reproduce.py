"""`vtr-ray reproduce`: searches and studies behind a table of the paper, ours beside its numbers."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from vtr_ray.commands.inputs import DataOptions, ModelOptions, PoolOptions
from vtr_ray.commands.searching import home
from vtr_ray.commands.study import STUDY, study
from vtr_ray.commands.study_job import Job, StudyOptions
from vtr_ray.commands.study_searches import g_search, p_sigmoid
from vtr_ray.efficiency.units import FlopsUnit, flops_unit
from vtr_ray.errors import InputError
from vtr_ray.evaluation.benchmarks.catalogue import PAPER, VIDEO
from vtr_ray.files import replacing
from vtr_ray.studies import paper
from vtr_ray.studies.beside import Ours, counted_by, measured
from vtr_ray.studies.methods import DROP
from vtr_ray.tuning.directory import write_json

RESULT = "reproduction.json"


@dataclass(frozen=True)
class _Plan:
    """What is behind a table: studies, and whether it is of several models, G-Search's and P-Sigmoid's."""

    studies: tuple[str, ...]
    several: bool = False
    searched: bool = True
    curve: bool = False


_PLANS = {
    1: _Plan(("benchmarks", "efficiency")),
    2: _Plan(("ontop",), several=True),
    3: _Plan(("tradeoff",), searched=False, curve=True),
    4: _Plan(("exchange",), several=True),
    5: _Plan(("training",), curve=True),
    6: _Plan(("benchmarks",)),
    7: _Plan(("ontop",), several=True),
    8: _Plan(("benchmarks", "efficiency")),
    9: _Plan(("tradeoff", "efficiency"), searched=False, curve=True),
    10: _Plan(("benchmarks", "efficiency")),
    11: _Plan(("video",), curve=True),
}
_TITLES = {one.task: one.name for one in (*PAPER, *VIDEO)}
_FULL = {one.name: one.full if one.full > 100 else 100.0 for one in (*PAPER, *VIDEO)}
_QUANTITIES = {
    "average": ("average", ".2f"),
    "memory_cost": ("memory cost", ".3f"),
    "tflops": ("TFLOPs", ".4g"),
    "tmacs": ("TMACs", ".4g"),
    "parameters_billion": ("parameters, B", ".4g"),
    "prefill_s": ("prefill s", ".3g"),
    "decode_s": ("decode s", ".3g"),
}
_FLOPS = ("tflops", "tmacs")
_CAPTIONS = {
    "memory_cost": "memory cost",
    "tflops": "FLOPs (the paper's convention)",
    "tmacs": "MACs (the paper's convention)",
}


def reproduce(
    table: int,
    models: Sequence[str],
    beside: Sequence[str],
    model: ModelOptions,
    data: DataOptions,
    options: StudyOptions,
    pool: PoolOptions,
    out: Path | None,
    console: Console,
) -> Path:
    """Runs what is missing in the folder, prints and writes the comparison; gives the folder.

    models: those to run; `model` has their other options. beside: the paper's model that each stands beside;
    none: the nearest by name.

    Raises:
        InputError: a table that is not reproduced, too few models, no such model in the paper's table.
    """
    if table not in _PLANS:
        raise InputError(f"Table {table} is not reproduced; use one of {', '.join(map(str, _PLANS))}")
    plan = _PLANS[table]
    if (len(models) < 2) if plan.several else (len(models) > 1):
        need = "compares models; give two or more" if plan.several else "is of one model; give one"
        raise InputError(f"Table {table} {need} with --model")
    pairs = paper_rows(table, models, beside)
    folder = (out or home() / "runs" / time.strftime(f"reproduce-{table}-%Y%m%d-%H%M%S")).absolute()
    if (folder / RESULT).exists():
        raise InputError(f"{folder} holds a reproduction already; name another folder with --out")
    model = replace(model, model=models[0])
    job = Job(model, data, replace(options, drops=(DROP,)), pool, folder, console)
    runs = [g_search(job, one) for one in models] if plan.searched else []
    if plan.curve:
        runs += p_sigmoid(job, job.options.drops).values()
    with_runs = replace(job.options, runs=tuple(runs))
    contents = {}
    for name in plan.studies:
        if not (folder / name / STUDY).exists():
            study(name, model, data, with_runs, pool, folder / name, console)
        contents[name] = json.loads((folder / name / STUDY).read_text(encoding="utf-8"))
    lines = lines_of(table, pairs, measured(table, models[0], contents))
    _write(folder, table, lines)
    for pair in pairs:
        job.say(f"Table {table}: {pair.there} in the paper, {pair.here} here")
        console.print(_shown(pair, lines, counted_by(table, models[0], contents)))
    job.say(f"Files: {folder}")
    return folder


@dataclass(frozen=True)
class _Pair:
    """A model here, the paper's that it stands beside, and the paper's rows of that one by method."""

    here: str
    there: str
    rows: Mapping[str, paper.Row]


def paper_rows(table: int, models: Sequence[str], beside: Sequence[str]) -> list[_Pair]:
    """Which rows of the paper stand beside which model. Raises InputError: names that the table lacks."""
    known = paper.rows(table)
    if beside and len(beside) != len(models):
        raise InputError(
            f"{len(models)} --model and {len(beside)} --beside; give one for each model, or none"
        )
    for name in beside:
        if name not in known:
            raise InputError(f"Table {table} has no {name!r}; use one of: {', '.join(known)}")
    names = beside or [paper.nearest(model, list(known)) for model in models]
    return [
        _Pair(model, name, {row.method: row for row in known[name]})
        for model, name in zip(models, names, strict=True)
    ]


def lines_of(table: int, pairs: Sequence[_Pair], ours: Sequence[Ours]) -> list[dict[str, Any]]:
    """One line for each model, method and figure that the paper or we have."""
    called = {pair.here: pair.there for pair in pairs}
    lines = []
    for pair in pairs:
        own = {called.get(one.method, one.method): one for one in ours if one.model == pair.here}
        for method in dict.fromkeys((*pair.rows, *own)):
            theirs, mine = pair.rows.get(method), own.get(method)
            there = {} if theirs is None else {**theirs.figures, **_titled(theirs.benchmarks)}
            here = {} if mine is None else {**mine.figures, **_scaled(mine.benchmarks)}
            lines += [
                {
                    "model": pair.here,
                    "beside": pair.there,
                    "method": method,
                    "figure": figure,
                    "paper": there.get(figure),
                    "ours": here.get(figure),
                    "where": paper.where(table, pair.there, method) if figure in there else "",
                }
                for figure in dict.fromkeys((*there, *here))
            ]
    return lines


def _titled(benchmarks: Mapping[str, float]) -> dict[str, float]:
    return {_TITLES[task]: value for task, value in benchmarks.items()}


def _scaled(benchmarks: Mapping[str, float]) -> dict[str, float]:
    """Fractions in the paper's units: points of MME, percent of all else."""
    return {title: _FULL.get(title, 100.0) * value for title, value in benchmarks.items()}


def _write(folder: Path, table: int, lines: Sequence[Mapping[str, Any]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (
        replacing(folder / "beside.csv") as temporary,
        temporary.open("w", encoding="utf-8", newline="") as file,
    ):
        writer = csv.DictWriter(file, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)
    write_json(folder / RESULT, {"kind": "reproduction", "version": 1, "table": table, "lines": list(lines)})


def _shown(pair: _Pair, lines: Sequence[Mapping[str, Any]], counted: Mapping[str, str]) -> Table:
    """A model's figures by method, the paper's and ours in turns.

    counted: by quantity, whose prompts our costs are of.
    """
    own = [line for line in lines if line["model"] == pair.here]
    values = {(line["method"], line["figure"]): line for line in own}
    methods = list(dict.fromkeys(line["method"] for line in own))
    both = {line["figure"] for line in own if line["paper"] is not None and line["ours"] is not None}
    figures = [name for name in dict.fromkeys(line["figure"] for line in own) if name in both]
    shown = Table(caption=_caption(figures, counted), caption_justify="left")
    units = {
        (figure, side): flops_unit(line[side] for line in own if line["figure"] == figure)
        for figure in _FLOPS
        for side in ("paper", "ours")
    }
    shown.add_column("method")
    for figure in figures:
        title = _QUANTITIES.get(figure, (figure, ""))[0]
        names = (
            [_unit_name(figure, units[figure, side]) for side in ("paper", "ours")]
            if figure in _FLOPS
            else [title, ""]
        )
        shown.add_column(f"{names[0]}\npaper", justify="right")
        shown.add_column(f"{names[1]}\nours", justify="right", style="bold")
    for method in methods:
        cells = [
            _cell(figure, values.get((method, figure), {}).get(side), units.get((figure, side)))
            for figure in figures
            for side in ("paper", "ours")
        ]
        shown.add_row(method, *cells)
    return shown


def _caption(figures: Sequence[str], counted: Mapping[str, str]) -> str:
    """The convention of the FLOPs, and the prompts that our costs are of."""
    parts = []
    for words in dict.fromkeys(counted[figure] for figure in figures if figure in counted):
        own = [_CAPTIONS[figure] for figure in figures if counted.get(figure) == words]
        parts.append(f"our {' and '.join(dict.fromkeys(own))}: {words}")
    return "; ".join(parts)


def _unit_name(figure: str, unit: FlopsUnit) -> str:
    return unit.name if figure == "tflops" else unit.macs


def _cell(figure: str, value: float | None, unit: FlopsUnit | None = None) -> str:
    if value is not None and unit is not None:
        return unit.show(value)
    return "" if value is None else format(value, _QUANTITIES.get(figure, ("", ".1f"))[1])
