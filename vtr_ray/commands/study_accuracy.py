"""Studies of accuracies: searches made or named, evaluations on benchmarks, kept in the study's folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from vtr_ray import strategies
from vtr_ray.commands.inputs import ModelOptions
from vtr_ray.commands.named import Given
from vtr_ray.commands.study_job import Job, settings_of
from vtr_ray.commands.study_searches import controls, one_cut, p_sigmoid, runs_in
from vtr_ray.commands.suite import SuiteOptions, evaluate_suite
from vtr_ray.errors import InputError
from vtr_ray.evaluation.benchmarks.differences import documents_of_average
from vtr_ray.evaluation.benchmarks.record import EVALUATION, file_name
from vtr_ray.models import revision_of
from vtr_ray.report.comparison import NO_REDUCTION
from vtr_ray.schedule import Schedule
from vtr_ray.studies import exchange, tradeoff
from vtr_ray.studies.finding import Finding
from vtr_ray.studies.methods import CONTROLS, G_SEARCH, NONE, ONE_CUT, RANDOM
from vtr_ray.studies.verdict import PairedDifference
from vtr_ray.tuning.directory import read_ledger

_NET = 5  # five wins and no loss: p = 0.0625


def trade_off(job: Job) -> Finding:
    """P-Sigmoid searched at FastV's FLOPs for each drop; all strategies evaluated on the benchmarks."""
    layers = job.model.num_layers()
    found = p_sigmoid(job, job.options.drops)
    given: dict[str, Given] = {}
    for drop, run in found.items():
        ours = job.given(run)
        fastv = strategies.fastv(layers, drop)
        given[_row(tradeoff.OURS, drop)] = ours
        given[_row("FastV", drop)] = Given(fastv)
        try:
            pdrop = strategies.at_memory_cost("pyramid_drop", layers, fastv.memory_cost)
        except InputError as error:
            job.say(f"No PDrop beside FastV's {drop:g}: {error}")
        else:
            given[_row("PDrop", drop)] = Given(pdrop)
        given[_row(RANDOM, drop)] = Given(strategies.random(ours.schedule, job.options.seed))
        given |= one_cut(job, _row(ONE_CUT, drop), ours.schedule)
    content = evaluated(job, given, "evaluation", job.model)
    points, leads = [], []
    for drop in found:
        for name in (tradeoff.OURS, "FastV", "PDrop", RANDOM, ONE_CUT):
            row = content["strategies"].get(_row(name, drop))
            if row is None:
                continue
            accuracy = row["average"]["value"]
            points.append(tradeoff.Point(name, drop, row["tflops"], row["memory_cost"], accuracy))
            if name != tradeoff.OURS:
                difference = difference_of(content, _row(tradeoff.OURS, drop), _row(name, drop))
                leads.append(tradeoff.Lead(name, drop, difference))
    return tradeoff.trade_off(points, leads)


def difference_of(content: Mapping[str, Any], first: str, second: str) -> PairedDifference:
    """`first` minus `second` in the average of an `evaluation.json`, whichever way their pair stands."""
    pair = next(
        one
        for one in content["pairs"]
        if one["benchmark"] == "average" and {one["first"], one["second"]} == {first, second}
    )
    found = PairedDifference(
        pair["difference"], pair.get("low"), pair.get("high"), pair["significant"], _documents(content, first)
    )
    return found if pair["first"] == first else -found


def _documents(content: Mapping[str, Any], name: str) -> int | None:
    """How many documents of the largest weight would make up a schedule's average."""
    counts = [
        content["benchmarks"][task].get("documents") for task in content["strategies"][name]["benchmarks"]
    ]
    return documents_of_average(counts) if counts and all(counts) else None


def _row(name: str, drop: float) -> str:
    return f"{name}, R = {100 * drop:g} %"  # as reports know the controls: by what stands before the comma


def _own_runs(job: Job) -> dict[str, tuple[Path, Schedule]]:
    """The G-Search runs that were named, by their model, with what they found."""
    found: dict[str, tuple[Path, Schedule]] = {}
    for run in job.options.runs:
        model = str(settings_of(run, "gsearch").parameters["model"])
        if model in found:
            raise InputError(f"{run} and {found[model][0]} are both of {model}; name one run a model")
        found[model] = run, job.given(run, model).schedule
    return found


def evaluated(
    job: Job, given: Mapping[str, Given], name: str, model: ModelOptions, moving: bool = False
) -> dict[str, Any]:
    """What `evaluation.json` says of a model under schedules; evaluated unless the study's folder has it.

    moving: on videos, unless the job names its benchmarks.

    Raises:
        InputError: the folder's evaluation is of another model, other weights, benchmarks or schedules.
    """
    folder = job.folder / name
    there = (folder / EVALUATION).exists()
    if not there:
        suite = SuiteOptions(job.suite(moving), limit=job.options.limit, out=folder, shown=0)
        evaluate_suite(given, model, suite, job.pool, job.console)
    content: dict[str, Any] = json.loads((folder / EVALUATION).read_text(encoding="utf-8"))
    if there:
        _check_same(folder, content, job, given, model, moving)
    return content


def _check_same(
    folder: Path,
    content: Mapping[str, Any],
    job: Job,
    given: Mapping[str, Given],
    model: ModelOptions,
    moving: bool,
) -> None:
    """Refuse an evaluation that is not the one asked for.

    What earlier versions did not record is not compared.
    """
    wanted = {
        "dtype": model.dtype,
        "attn": model.attn,
        "max_pixels": model.max_pixels,
        "frames": model.frames,
        "suite": "+".join(job.suite(moving)),
        "limit": job.options.limit,
    }
    if "revision" in content:
        wanted["revision"] = revision_of(model.path)
    rows = content["strategies"]
    others = [f"{key} {content[key]}" for key in wanted if content.get(key, wanted[key]) != wanted[key]]
    others += [
        f"another schedule as {name!r}"
        for name, one in given.items()
        if "schedule" in rows.get(name, ()) and Schedule.from_dict(rows[name]["schedule"]) != one.schedule
    ]
    if others:
        raise InputError(
            f"{folder} holds another evaluation than is asked for, with {others[0]}; name another folder "
            "with --out"
        )


def _of_model(job: Job, given: dict[str, Given], model: str) -> dict[str, Any]:
    return evaluated(job, given, f"evaluation-{file_name(model)}", replace(job.model, model=model))


def _run(content: dict[str, Any], model: str, row: str, name: str, beside: str | None) -> exchange.Run:
    """One row of an evaluation; beside: the row that its difference is to."""
    own = content["strategies"][row]
    difference = None if beside is None else difference_of(content, row, beside)
    return exchange.Run(model, name, own["average"]["value"], own["tflops"], own["memory_cost"], difference)


def _control_runs(content: dict[str, Any], model: str, own: str) -> list[exchange.Run]:
    return [_run(content, model, name, name, own) for name in CONTROLS if name in content["strategies"]]


def exchanged(job: Job) -> Finding:
    """Every model of the named runs evaluated with its own schedule, its controls and the others'."""
    found = _own_runs(job)
    if len(found) < 2:
        raise InputError("schedules are exchanged between models; name G-Search runs of two or more")
    runs = []
    for model, (_, ours) in found.items():
        layers = replace(job.model, model=model).num_layers()
        given = {
            f"schedule of {other}": Given(exchange.mapped(schedule, layers) if other != model else schedule)
            for other, (_, schedule) in found.items()
        }
        content = _of_model(job, given | controls(job, ours), model)
        own = f"schedule of {model}"
        runs.append(_run(content, model, own, exchange.OWN, NO_REDUCTION))
        runs += [
            _run(content, model, f"schedule of {other}", other, own) for other in found if other != model
        ]
        runs += _control_runs(content, model, own)
    return exchange.exchanged(runs)


def on_top(job: Job) -> Finding:
    """Every model of the named runs evaluated without reduction, with its own schedule and its controls."""
    runs, tokens = [], {}
    for model, (run, schedule) in _own_runs(job).items():
        given = {G_SEARCH: Given(schedule, str(run.absolute())), **controls(job, schedule)}
        content = _of_model(job, given, model)
        tokens[model] = content["vision_tokens"]
        runs.append(_run(content, model, NO_REDUCTION, NONE, None))
        runs.append(_run(content, model, G_SEARCH, exchange.OWN, NO_REDUCTION))
        runs += _control_runs(content, model, G_SEARCH)
    return exchange.on_top(runs, tokens)


def budgets(job: Job) -> Finding:
    """The steepness that each named search found, and which other ones it leaves as good."""
    found: dict[str, list[tradeoff.Steepness]] = {}
    for run in runs_in(job.options.runs):
        model = str(settings_of(run, "psigmoid").parameters["model"])
        metrics = json.loads((run / "results.json").read_text(encoding="utf-8"))["metrics"]
        ends = _not_told_apart(run, metrics)
        one = tradeoff.Steepness(metrics["tflops"], metrics["budget"], metrics["best_k"], *ends)
        found.setdefault(model, []).append(one)
    return tradeoff.steepness_by_budget(found)


def _not_told_apart(run: Path, metrics: Mapping[str, Any]) -> tuple[float, float] | tuple[()]:
    """The smallest and the largest tried k that no paired test could tell from the best; () if not recorded.

    Of two schedules whose scores differ by at most `_NET` samples in all, the exact McNemar test finds no
    significant difference, however many samples only one of them answers rightly.
    """
    tried = {entry.fields["k"]: entry.score for entry in read_ledger(run) if entry.score is not None}
    if not tried or "search_samples" not in metrics:
        return ()
    least = max(tried.values()) - (_NET + 1e-6) / metrics["search_samples"]
    good = [k for k, score in tried.items() if score >= least]
    return min(good), max(good)
