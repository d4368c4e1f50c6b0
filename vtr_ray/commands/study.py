"""`vtr-ray study`: the paper's studies on any model: figures, data and text, on disk and in MLflow."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from vtr_ray import strategies
from vtr_ray.commands import psigmoid
from vtr_ray.commands.inputs import DataOptions, ModelOptions, PoolOptions
from vtr_ray.commands.named import Given, given_schedule
from vtr_ray.commands.searching import RunOptions, home
from vtr_ray.commands.suite import SuiteOptions, evaluate_suite
from vtr_ray.errors import InputError
from vtr_ray.evaluation.benchmarks.record import EVALUATION
from vtr_ray.evaluation.suites import spread_documents
from vtr_ray.files import replacing
from vtr_ray.report.studies import draw
from vtr_ray.schedule import Schedule
from vtr_ray.store import default_uri
from vtr_ray.studies import tradeoff
from vtr_ray.studies.attention import attention_by_layer
from vtr_ray.studies.correlation import rank_correlation
from vtr_ray.studies.curves import keeping_rates
from vtr_ray.studies.finding import Finding
from vtr_ray.tracking import log_study
from vtr_ray.tuning.cluster import connected
from vtr_ray.tuning.directory import SEARCH, read_settings, write_json

STUDY = "study.json"


@dataclass(frozen=True)
class StudyOptions:
    """What a study needs besides a model.

    runs: of searches, for studies that compare them. count: samples whose scores are read. suite, limit: of
    benchmarks, where accuracies are compared. iterations: of each P-Sigmoid search, after 10 initial points.
    """

    runs: tuple[Path, ...] = ()
    count: int = 60
    suite: tuple[str, ...] = ("embedded",)
    limit: int | None = None
    iterations: int = 15
    seed: int = 0


@dataclass(frozen=True)
class Job:
    """One call of the command."""

    model: ModelOptions
    data: DataOptions
    options: StudyOptions
    pool: PoolOptions
    folder: Path
    console: Console

    def say(self, line: str) -> None:
        """Prints a line as it is."""
        self.console.print(line, soft_wrap=True, highlight=False, markup=False)


def study(
    name: str,
    model: ModelOptions,
    data: DataOptions,
    options: StudyOptions,
    pool: PoolOptions,
    out: Path | None,
    console: Console,
) -> Path:
    """Runs it and gives its folder. A folder of a killed study is used again: what is done is not done again.

    Raises:
        InputError: no such study, runs that it cannot use, a folder that holds a finished one.
    """
    if name not in _STUDIES:
        raise InputError(f"no study {name!r}; use one of: {', '.join(_STUDIES)}")
    folder = (out or home() / "runs" / time.strftime(f"study-{name}-%Y%m%d-%H%M%S")).absolute()
    if (folder / STUDY).exists():
        raise InputError(f"{folder} holds a study already; name another folder with --out")
    job = Job(model, data, options, pool, folder, console)
    finding = _STUDIES[name](job)
    folder.mkdir(parents=True, exist_ok=True)
    for drawing in draw(finding):
        with replacing(folder / f"{drawing.name}.png") as file:
            file.write_bytes(drawing.png)
        with replacing(folder / f"{drawing.name}.svg") as file:
            file.write_text(drawing.svg, encoding="utf-8")
        with replacing(folder / f"{drawing.name}.csv") as file:
            file.write_text(drawing.csv(), encoding="utf-8")
    facts = {"model": model.model, "created": time.time(), "versions": _versions()}
    write_json(folder / STUDY, {**finding.to_dict(), **facts})
    job.say(f"{finding.title} ({finding.paper}).")
    job.say(f"The paper: {finding.claim}")
    for sentence in finding.sentences:
        job.say(f"Measured:  {sentence}")
    job.say(f"The claim {_verdict(finding.holds)} here.")
    job.say(f"Files:     {folder}")
    try:
        job.say(f"MLflow run: {log_study(folder, default_uri(home()))}")
    except InputError as error:
        job.say(f"{error}; everything is in {folder}")
    return folder


def _verdict(holds: bool | None) -> str:
    return "is not decided" if holds is None else "holds" if holds else "does not hold"


def _versions() -> dict[str, str]:
    from importlib import metadata

    return {name: metadata.version(name) for name in ("torch", "transformers", "vtr-ray")}


def _scores(job: Job) -> list[Any]:
    """Of spread samples their scores, [L, N_s]."""
    samples = job.data.search_samples(job.model)
    places = spread_documents(len(samples.set), job.options.count)
    with (
        connected(),
        job.pool.open(job.model, samples, "study", say=job.say) as pool,
        job.console.status("reading scores"),
    ):
        return [np.array(pool.call("vision_scores", place)) for place in places]


def _correlation(job: Job) -> Finding:
    return rank_correlation(_scores(job))


def _attention(job: Job) -> Finding:
    return attention_by_layer(_scores(job))


def _curves(job: Job) -> Finding:
    found: dict[str, Schedule] = {}
    for run in job.options.runs:
        settings = _settings(run, "gsearch")
        name = str(settings.parameters["model"])
        found[name if name not in found else f"{name} ({run})"] = given_schedule(run).schedule
    return keeping_rates(found)


def _settings(run: Path, command: str) -> Any:
    if not (run / SEARCH).is_file() or read_settings(run).command != command:
        raise InputError(f"{run} is no run of vtr-ray {command}; name such runs")
    return read_settings(run)


def _trade_off(job: Job) -> Finding:
    layers = job.model.num_layers()
    found = _searched(job)
    given: dict[str, Given] = {}
    for drop, run in found.items():
        ours = given_schedule(run)
        fastv = strategies.fastv(layers, drop)
        given[_row(tradeoff.OURS, drop)] = ours
        given[_row("FastV", drop)] = Given(fastv)
        try:
            pdrop = strategies.at_memory_cost("pyramid_drop", layers, fastv.memory_cost)
        except InputError as error:
            job.say(f"No PDrop beside FastV's {drop:g}: {error}")
        else:
            given[_row("PDrop", drop)] = Given(pdrop)
        given[_row("random tokens", drop)] = Given(strategies.random(ours.schedule, job.options.seed))
    folder = job.folder / "evaluation"
    if not (folder / EVALUATION).exists():
        suite = SuiteOptions(job.options.suite, limit=job.options.limit, out=folder, shown=0)
        evaluate_suite(given, job.model, suite, job.pool, job.console)
    content = json.loads((folder / EVALUATION).read_text(encoding="utf-8"))
    points, leads = [], []
    for drop in found:
        for name in (tradeoff.OURS, "FastV", "PDrop", "random tokens"):
            row = content["strategies"].get(_row(name, drop))
            if row is None:
                continue
            accuracy = row["average"]["value"]
            points.append(tradeoff.Point(name, drop, row["tflops"], row["memory_cost"], accuracy))
            if name != tradeoff.OURS:
                leads.append(_lead(content["pairs"], name, drop))
    return tradeoff.trade_off(points, leads)


def _lead(pairs: Sequence[dict[str, Any]], other: str, drop: float) -> tradeoff.Lead:
    """P-Sigmoid minus another strategy, from the pair in whichever order it stands."""
    ours, theirs = _row(tradeoff.OURS, drop), _row(other, drop)
    pair = next(
        one
        for one in pairs
        if one["benchmark"] == "average" and {one["first"], one["second"]} == {ours, theirs}
    )
    sign = 1 if pair["first"] == ours else -1
    return tradeoff.Lead(other, drop, sign * pair["difference"], pair["significant"])


def _row(name: str, drop: float) -> str:
    return f"{name} at {100 * drop:g} %"


def _searched(job: Job) -> dict[float, Path]:
    """The P-Sigmoid searches at FastV's drops, by drop; those of the study's folder where it has them."""
    out = job.folder / "psigmoid"
    runs = {drop: out / f"match-fastv-{drop:g}" for drop in tradeoff.DROPS}
    if not all((run / "schedule.json").is_file() for run in runs.values()):
        settings = psigmoid.PSigmoidOptions(
            matches=tuple(f"fastv:{drop:g}" for drop in tradeoff.DROPS),
            iterations=job.options.iterations,
            seed=job.options.seed,
        )
        begun = any(out.glob(f"*/{SEARCH}"))
        psigmoid.psigmoid(
            job.model, job.data, settings, job.pool, RunOptions(out, begun, compare=False), job.console
        )
    return runs


def _budgets(job: Job) -> Finding:
    found: dict[str, list[tuple[float, float, float]]] = {}
    for folder in job.options.runs:
        runs = sorted(path.parent for path in folder.glob(f"*/{SEARCH}")) or [folder]
        for run in runs:
            model = str(_settings(run, "psigmoid").parameters["model"])
            metrics = json.loads((run / "results.json").read_text(encoding="utf-8"))["metrics"]
            found.setdefault(model, []).append((metrics["tflops"], metrics["budget"], metrics["best_k"]))
    return tradeoff.steepness_by_budget(found)


def _with_runs(what: str, function: Callable[[Job], Finding]) -> Callable[[Job], Finding]:
    def checked(job: Job) -> Finding:
        if not job.options.runs:
            raise InputError(f"this study compares {what}; name their run directories")
        return function(job)

    return checked


_STUDIES: dict[str, Callable[[Job], Finding]] = {
    "correlation": _correlation,
    "attention": _attention,
    "curves": _with_runs("G-Search runs", _curves),
    "tradeoff": _trade_off,
    "budgets": _with_runs("P-Sigmoid runs", _budgets),
}
