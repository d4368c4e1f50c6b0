"""Studies of every method at once: on every benchmark, and on videos."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vtr_ray.commands.study_accuracy import difference_of, evaluated
from vtr_ray.commands.study_job import Job
from vtr_ray.commands.study_searches import (
    first_scenario,
    named,
    second_scenario,
)
from vtr_ray.report.comparison import NO_REDUCTION
from vtr_ray.studies import methods
from vtr_ray.studies.finding import Finding
from vtr_ray.studies.methods import DROP, G_SEARCH, P_SIGMOID, RANDOM, Method, fastv_name


def every_benchmark(job: Job) -> Finding:
    """All methods on the benchmarks; P-Sigmoid runs that were named stand beside them."""
    given = first_scenario(job)
    for run, settings in named(job, "psigmoid", job.model.model):
        goal = settings.parameters["match"] or f"b = {settings.parameters['budget']:g}"
        given[f"{P_SIGMOID}, {goal}"] = job.given(run)
    return methods.every_benchmark(_methods(evaluated(job, given, "evaluation", job.model)))


def on_videos(job: Job) -> Finding:
    """FastV's and the schedules that were searched on images, on benchmarks of videos."""
    first = first_scenario(job)
    given = {name: first[name] for name in (fastv_name(0.5), G_SEARCH, RANDOM)} | second_scenario(job)
    content = evaluated(job, given, "evaluation", job.model, moving=True)
    lead = difference_of(content, P_SIGMOID, fastv_name(DROP))
    return methods.on_videos(_methods(content), fastv_name(DROP), lead)


def _methods(content: Mapping[str, Any]) -> list[Method]:
    return [_method(content, name) for name in content["strategies"]]


def _method(content: Mapping[str, Any], name: str) -> Method:
    row = content["strategies"][name]
    difference = (0.0, False) if name == NO_REDUCTION else difference_of(content, name, NO_REDUCTION)
    return Method(
        name,
        row["average"]["value"],
        row["average"]["low"],
        row["average"]["high"],
        row["memory_cost"],
        row["tflops"],
        row["prefill_ms"],
        {content["benchmarks"][task]["title"]: one["value"] for task, one in row["benchmarks"].items()},
        *difference,
    )
