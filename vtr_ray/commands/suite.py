"""`vtr-ray evaluate --suite`: schedules side by side on lmms-eval benchmarks, on disk and in MLflow."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from vtr_ray import strategies
from vtr_ray.commands.inputs import ModelOptions, PoolOptions, Samples
from vtr_ray.commands.named import Given
from vtr_ray.commands.searching import claimed, home
from vtr_ray.efficiency.times import untold
from vtr_ray.errors import InputError
from vtr_ray.evaluation.benchmarks.answering import Answers, collect_answers
from vtr_ray.evaluation.benchmarks.catalogue import benchmarks_of
from vtr_ray.evaluation.benchmarks.content import versions
from vtr_ray.evaluation.benchmarks.differences import differences, documents_of_average
from vtr_ray.evaluation.benchmarks.evaluator import BenchmarkEvaluator
from vtr_ray.evaluation.benchmarks.loading import Chosen, choose, load_samples
from vtr_ray.evaluation.benchmarks.record import (
    EVALUATION,
    SAMPLES,
    Evaluated,
    write_documents,
    write_evaluation,
)
from vtr_ray.evaluation.benchmarks.responses import NAME as RESPONSES
from vtr_ray.evaluation.benchmarks.responses import Responses
from vtr_ray.evaluation.benchmarks.results import Figures, figures_of
from vtr_ray.evaluation.benchmarks.shown import shown_samples
from vtr_ray.evaluation.outcome import MAX_WITHOUT_ANSWER, some_of
from vtr_ray.models import revision_of
from vtr_ray.report.benchmarks import benchmark_tables, claim_lines, cost_table, difference_table
from vtr_ray.report.comparison import NO_REDUCTION
from vtr_ray.schedule import Schedule
from vtr_ray.store import default_uri, ui_command
from vtr_ray.tracking import log_evaluation
from vtr_ray.tuning.cluster import connected
from vtr_ray.tuning.directory import write_json


@dataclass(frozen=True)
class SuiteOptions:
    """What is asked, and where results go.

    names: suites or lmms-eval tasks. limit: documents of each task at most. responses: file of known answers;
    None: `responses.sqlite` under `home()`. shown: samples whose tokens are recorded layer by layer.
    """

    names: tuple[str, ...]
    include: Path | None = None
    limit: int | None = None
    out: Path | None = None
    responses: Path | None = None
    shown: int = 6
    ui_port: int | None = None


def evaluate_suite(
    given: Mapping[str, Given],
    model: ModelOptions,
    options: SuiteOptions,
    pool: PoolOptions,
    console: Console,
) -> Path:
    """Evaluates schedules, no reduction first; gives the folder of the results.

    Raises:
        InputError: nothing to evaluate that can be evaluated here, a folder that cannot be made.
    """
    say = partial(console.print, soft_wrap=True, highlight=False, markup=False)
    uri = default_uri(home())
    ui = ui_command(uri, options.ui_port)
    chosen, missing = choose(benchmarks_of(options.names), options.include, options.limit, model.frames)
    _announce(chosen, missing, say)
    if not chosen:
        raise InputError("none of the benchmarks can be evaluated here: " + "; ".join(missing.values()))
    layers = model.num_layers()
    rows = {NO_REDUCTION: Given(strategies.none(layers)), **given}
    schedules = {name: one.schedule for name, one in rows.items()}
    folder = _folder(options.out)
    identity = {
        "model": model.path,
        "revision": revision_of(model.path),
        "dtype": model.dtype,
        "attn": model.attn,
        "max_pixels": model.max_pixels,
    }
    samples = load_samples(chosen)
    source = Samples(samples, partial(load_samples, chosen))
    with (
        Responses((options.responses or home() / RESPONSES).absolute()) as responses,
        connected(),
        pool.open(model, source, "benchmarks", say=say, kind=BenchmarkEvaluator) as actors,
    ):
        decided_by = {**identity, "numerics": actors.call("numerics"), "versions": versions()}
        answers, lost = _answered(actors, chosen, schedules, responses, decided_by, len(samples), console)
        figures = _judged(chosen, answers, console)
        costs = actors.call("costs", list(schedules.values()), new_tokens=5)
        shown = shown_samples(actors, chosen, schedules, answers, figures, options.shown)
        vision = actors.vision_tokens
    evaluated = {
        name: Evaluated(one.schedule, one.search, cost, figures[name], lost[name])
        for (name, one), cost in zip(rows.items(), costs, strict=True)
    }
    pairs = differences(figures)
    facts = {
        **identity,
        "model": model.model,
        "suite": "+".join(options.names),
        "limit": options.limit,
        "frames": model.frames,
        "layers": layers,
        "vision_tokens": vision,
        "prefill_not_told_apart": untold({name: row.cost.prefill for name, row in evaluated.items()}),
    }
    for name in rows:
        write_documents(folder, name, chosen, answers[name], figures[name])
    write_json(folder / SAMPLES, {"samples": shown})
    write_evaluation(folder, facts, chosen, missing, evaluated, pairs)
    console.print(
        cost_table(evaluated, pairs, _without_value(missing, figures)),
        *benchmark_tables(evaluated, chosen, pairs),
        difference_table(pairs),
    )
    _complain(figures, lost, len(samples), say)
    for line in claim_lines(pairs, documents_of_average([len(one.samples) for one in chosen])):
        say(line)
    say(f"Results:    {folder}")
    _log(folder, uri, ui, say)
    return folder


def _without_value(missing: Mapping[str, str], figures: Mapping[str, Mapping[str, Figures]]) -> list[str]:
    """Benchmarks that no average holds, or not every one."""
    lost = [task for own in figures.values() for task, one in own.items() if one.value is None]
    return [*missing, *dict.fromkeys(lost)]


def _log(folder: Path, uri: str, ui: str, say: Any) -> None:
    try:
        runs = log_evaluation(folder, uri)
    except InputError as error:
        say(f"{error}; everything is in {folder}")
        return
    say(f"MLflow:     {len(runs)} runs, one a schedule; open the UI with")
    say(f"  {ui}")


def _complain(
    figures: Mapping[str, Mapping[str, Figures]], lost: Mapping[str, Sequence[str]], count: int, say: Any
) -> None:
    for name, own in figures.items():
        for task, one in own.items():
            if one.problem:
                say(f"{name}: no figure of {task}: {one.problem}.")
    for name, ids in lost.items():
        if ids:
            much = (
                "; that is too many for its figures to stand" if len(ids) > MAX_WITHOUT_ANSWER * count else ""
            )
            say(f"{name}: {len(ids)} answers are empty, because logits are NaN ({some_of(ids)}){much}.")


def _folder(out: Path | None) -> Path:
    """Where results go, made: a new folder, or a named one that holds none (of a killed evaluation, say)."""
    if out is None:
        return claimed(home() / "runs" / time.strftime("evaluate-%Y%m%d-%H%M%S"))
    if (out / EVALUATION).exists():
        raise InputError(f"{out} holds an evaluation already; name another folder with --out")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make {out}: {error.strerror}; name another folder with --out") from None
    return out.absolute()


def _announce(chosen: Sequence[Chosen], missing: Mapping[str, str], say: Any) -> None:
    for one in chosen:
        if one.note:
            say(f"{one.benchmark.name}: {one.note}.")
    for task, why in missing.items():
        say(f"Not evaluated: {why if task in why else f'{task}: {why}'}.")


def _answered(
    actors: Any,
    chosen: Sequence[Chosen],
    schedules: Mapping[str, Schedule],
    responses: Responses,
    identity: Mapping[str, Any],
    count: int,
    console: Console,
) -> tuple[dict[str, Answers], dict[str, list[str]]]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("reading the documents", total=count * len(schedules))

        def on_answers(name: str, new: int) -> None:
            progress.update(bar, advance=new, description=name)

        return collect_answers(actors, chosen, schedules, responses, identity, on_answers)


def _judged(
    chosen: Sequence[Chosen], answers: Mapping[str, Answers], console: Console
) -> dict[str, dict[str, Figures]]:
    with console.status("judging"), tempfile.TemporaryDirectory() as folder:
        return {
            name: {one.benchmark.task: figures_of(one, own, Path(folder)) for one in chosen}
            for name, own in answers.items()
        }
