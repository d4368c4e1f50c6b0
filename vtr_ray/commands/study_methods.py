"""Studies of every method at once: on every benchmark, and on videos."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vtr_ray.commands.study_accuracy import difference_of, evaluated
from vtr_ray.commands.study_job import Job
from vtr_ray.commands.study_searches import (
    first_scenario,
    named,
    one_cut,
    second_scenario,
)
from vtr_ray.report.comparison import NO_REDUCTION
from vtr_ray.studies import methods
from vtr_ray.studies.finding import Finding
from vtr_ray.studies.methods import DROP, G_SEARCH, ONE_CUT, P_SIGMOID, RANDOM, Method, cut_of, fastv_name
from vtr_ray.studies.verdict import PairedDifference


def every_benchmark(job: Job) -> Finding:
    """All methods on the benchmarks; P-Sigmoid runs that were named stand beside them."""
    given = first_scenario(job)
    for run, settings in named(job, "psigmoid", job.model.model):
        goal = settings.parameters["match"] or f"b = {settings.parameters['budget']:g}"
        name, found = f"{P_SIGMOID}, {goal}", job.given(run)
        given |= {name: found, **one_cut(job, cut_of(name), found.schedule)}
    content = evaluated(job, given, "evaluation", job.model)
    searched = [name for name in content["strategies"] if methods.is_searched(name)]
    return methods.every_benchmark(_methods(content), _differences(content, *searched))


def on_videos(job: Job) -> Finding:
    """FastV's and the schedules that were searched on images, on benchmarks of videos."""
    first = first_scenario(job)
    wanted = (fastv_name(0.5), G_SEARCH, RANDOM, ONE_CUT)
    given = {name: first[name] for name in wanted if name in first} | second_scenario(job)
    content = evaluated(job, given, "evaluation", job.model, moving=True)
    return methods.on_videos(_methods(content), fastv_name(DROP), _differences(content, G_SEARCH, P_SIGMOID))


def _methods(content: Mapping[str, Any]) -> list[Method]:
    return [_method(content, name) for name in content["strategies"]]


def _differences(content: Mapping[str, Any], *searched: str) -> dict[tuple[str, str], PairedDifference]:
    """Of every method to no reduction, of the searched ones to their controls and to what is not searched."""
    names = [name for name in content["strategies"] if name != NO_REDUCTION]
    wanted = [(name, NO_REDUCTION) for name in names]
    for search in searched:
        rivals = [name for name in names if not name.startswith((G_SEARCH, P_SIGMOID, ONE_CUT))]
        cut = methods.cut_of(search)
        wanted += [(search, name) for name in (*rivals, *([cut] if cut in names else []))]
    return {pair: difference_of(content, *pair) for pair in wanted}


def _method(content: Mapping[str, Any], name: str) -> Method:
    row = content["strategies"][name]
    return Method(
        name,
        row["average"]["value"],
        row["average"]["low"],
        row["average"]["high"],
        row["memory_cost"],
        row["tflops"],
        row.get("prefill_ms"),
        {content["benchmarks"][task]["title"]: one["value"] for task, one in row["benchmarks"].items()},
    )
