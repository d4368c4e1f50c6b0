"""`vtr-ray study`: the paper's studies on any model: figures, data and text, on disk and in MLflow."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from vtr_ray.commands import study_accuracy, study_efficiency, study_methods, study_training
from vtr_ray.commands.inputs import DataOptions, ModelOptions, PoolOptions
from vtr_ray.commands.named import given_schedule
from vtr_ray.commands.searching import home
from vtr_ray.commands.study_job import Job, StudyOptions, settings_of
from vtr_ray.errors import InputError
from vtr_ray.evaluation.suites import spread_documents
from vtr_ray.files import replacing
from vtr_ray.report.studies import draw
from vtr_ray.schedule import Schedule
from vtr_ray.store import default_uri
from vtr_ray.studies.attention import attention_by_layer
from vtr_ray.studies.correlation import rank_correlation
from vtr_ray.studies.curves import keeping_rates
from vtr_ray.studies.finding import Finding
from vtr_ray.studies.verdict import WORDS
from vtr_ray.tracking import log_study
from vtr_ray.tuning.cluster import connected
from vtr_ray.tuning.directory import write_json

STUDY = "study.json"


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
        for written, content in drawing.files().items():
            with replacing(folder / written) as file:
                file.write_bytes(content)
    facts = {"model": model.model, "created": time.time(), "versions": _versions()}
    write_json(folder / STUDY, {**finding.to_dict(), **facts})
    job.say(f"{finding.title} ({finding.paper}).")
    job.say(f"The paper: {finding.claim}")
    for sentence in finding.sentences:
        job.say(f"Measured:  {sentence}")
    job.say(f"The claim {finding.inequality[0].lower()}{finding.inequality[1:]}")
    job.say(f"Verdict:   {WORDS[finding.holds]} here.")
    job.say(f"Files:     {folder}")
    try:
        job.say(f"MLflow run: {log_study(folder, default_uri(home()))}")
    except InputError as error:
        job.say(f"{error}; everything is in {folder}")
    return folder


def _versions() -> dict[str, str]:
    from importlib import metadata

    return {name: metadata.version(name) for name in ("torch", "transformers", "vtr-ray")}


def _scores(job: Job) -> list[Any]:
    """Of spread samples their scores, [L, N_s]."""
    samples = job.data.search_samples(job.model)
    with (
        connected(),
        job.pool.open(job.model, samples, "study", say=job.say) as pool,
        job.console.status("reading scores"),
    ):
        places = spread_documents(pool.num_samples, job.options.count)
        return [np.array(pool.call("vision_scores", place)) for place in places]


def _correlation(job: Job) -> Finding:
    return rank_correlation(_scores(job))


def _attention(job: Job) -> Finding:
    return attention_by_layer(_scores(job))


def _curves(job: Job) -> Finding:
    found: dict[str, Schedule] = {}
    strides: dict[str, int] = {}
    for run in job.options.runs:
        parameters = settings_of(run, "gsearch").parameters
        name = str(parameters["model"])
        name = name if name not in found else f"{name} ({run})"
        found[name] = given_schedule(run).schedule
        strides[name] = int(parameters.get("stride", 1))
    return keeping_rates(found, strides)


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
    "tradeoff": study_accuracy.trade_off,
    "budgets": _with_runs("P-Sigmoid runs", study_accuracy.budgets),
    "exchange": _with_runs("G-Search runs of several models", study_accuracy.exchanged),
    "ontop": _with_runs("G-Search runs of several models", study_accuracy.on_top),
    "training": study_training.trained_with_reductions,
    "benchmarks": study_methods.every_benchmark,
    "efficiency": study_efficiency.efficiency,
    "video": study_methods.on_videos,
}
