"""`vtr-ray evaluate`: given schedules and named strategies side by side with no reduction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from vtr_ray.commands.inputs import DataOptions, ModelOptions, PoolOptions, Samples, evaluated
from vtr_ray.commands.labelling import with_labels
from vtr_ray.commands.named import (
    CONTROL,
    Given,
    given_schedule,
    name_of,
    named_schedule,
    read_schedule,
)
from vtr_ray.commands.suite import SuiteOptions, evaluate_suite
from vtr_ray.errors import InputError, first_line
from vtr_ray.evaluation.outcome import Outcome
from vtr_ray.evaluation.statistics import check_comparable
from vtr_ray.evaluation.suites import figure_tasks, task_figures, with_answers
from vtr_ray.reduction import DecodeReduction
from vtr_ray.report.comparison import (
    NO_REDUCTION,
    Row,
    claim_lines,
    compare_schedules,
    comparison_table,
    figures_table,
    sources_table,
)
from vtr_ray.report.controls import control_name, controls_of
from vtr_ray.report.live import comparing
from vtr_ray.schedule import Schedule
from vtr_ray.store import REGISTERED
from vtr_ray.tuning.cluster import connected
from vtr_ray.tuning.directory import read_settings

_TITLES = {
    "gsearch": "G-Search",
    "psigmoid": "P-Sigmoid",
    "pareto": "Pareto",
    "fastv": "FastV",
    "vtw": "VTW",
    "pyramid_drop": "PDrop",
    "p_sigmoid": "P-Sigmoid, fixed k",
}


@dataclass(frozen=True)
class StrategyOptions:
    """Strategies by name; see `vtr_ray.commands.named`.

    memory_cost: solve each one's free parameter for it. find_k: search VTW's layer on the samples.
    controls: each schedule that chooses tokens is followed by its controls (`vtr_ray.report.controls`).
    """

    names: tuple[str, ...] = ()
    memory_cost: float | None = None
    find_k: bool = False
    seed: int = 0
    controls: bool = True


def evaluate(
    schedules: Sequence[Path],
    model: ModelOptions,
    samples: DataOptions,
    pool_options: PoolOptions,
    console: Console,
    named: StrategyOptions = StrategyOptions(),
    decode: DecodeReduction | None = None,
    suite: SuiteOptions | None = None,
    force: bool = False,
) -> list[Row]:
    """Prints the comparison of schedule files and strategies on the held-out samples of `samples`.

    decode: a second table has the same schedules with it. Gives the rows of both. suite: benchmarks instead
    of samples; gives no rows. force: also evaluates schedules that were found on another model.
    """
    if not schedules and not named.names:
        raise InputError("nothing to evaluate; give schedule files, or --strategy fastv")
    if not named.controls and CONTROL in named.names:
        raise InputError(f"--strategy {CONTROL} and --no-controls are opposites; give one of them")
    layers = model.num_layers()
    if suite is not None:
        if decode is not None or named.find_k:
            raise InputError("--decode-every and --find-k go with --samples or --task, not with --suite")
        if samples.labels == "self":
            raise InputError("--labels self goes with --samples or --task; benchmarks have their answers")
        given = _given(schedules, named, layers, model.model, force)
        evaluate_suite(given, model, suite, pool_options, console)
        return []
    loaded = _files(schedules, named.names, model.model, force)
    for path, schedule in loaded.items():
        if schedule.num_layers != layers:
            raise InputError(
                f"{path} has {schedule.num_layers} layers, the model {layers}; search one for this model"
            )
    _add(loaded, _named(named, layers))
    for name, schedule in loaded.items():
        if decode is not None and schedule.positions == "renumber":
            raise InputError(
                f"{name} renumbers positions, which --decode-every does not support; leave it out"
            )
    data = samples.test_samples(model)
    if data is None:
        raise InputError(
            "a model of your own needs samples: give --samples FILE.json and --images DIR, or --task NAME"
        )
    check_comparable(data.set)
    if named.controls:
        loaded = _with_controls(loaded, named.seed)
    say = partial(console.print, soft_wrap=True, highlight=False, markup=False)
    with connected():
        data = with_labels(data, model, pool_options, None, say)
        answering = replace(data, load=partial(with_answers, data.load))
        with pool_options.open(model, answering, "evaluate", say=say) as pool:
            if named.find_k:
                _add(loaded, _searched_vtw(pool, console))
            baseline: list[Outcome] = []
            with comparing(console, data.set.labels) as on_row:
                rows = compare_schedules(pool, loaded, on_row, baseline)
            asked = evaluated(data, pool)
    _print(console, rows, asked)
    if decode is None:
        return rows
    with (
        connected(),
        pool_options.open(model, data, "evaluate", decode, say=say) as pool,
        comparing(console, data.set.labels) as on_row,
    ):
        decoded = compare_schedules(pool, loaded, on_row, baseline)
    title = (
        f"after every {decode.every} decoded tokens, each cache keeps {decode.keep:g} of its vision tokens"
    )
    _print(console, decoded, asked, title)
    return rows + decoded


def _files(paths: Sequence[Path], names: Sequence[str], model: str, force: bool) -> dict[str, Schedule]:
    """Schedules by their files' names, the short one of a single file unless another row has it."""
    short = {path: path.stem for path in paths if len(paths) == 1 and path.stem not in (*names, NO_REDUCTION)}
    loaded: dict[str, Schedule] = {}
    for path in dict.fromkeys(paths):
        _add(loaded, {short.get(path, str(path)): read_schedule(path, model, force)})
    return loaded


def _given(
    paths: Sequence[Path], named: StrategyOptions, layers: int, model: str, force: bool
) -> dict[str, Given]:
    """Schedules and strategies by the names that tables have of them, each followed by its controls."""
    found: dict[str, Given] = {}
    for path in dict.fromkeys(paths):
        given = given_schedule(path, model, force)
        if given.schedule.num_layers != layers:
            raise InputError(
                f"{path} has {given.schedule.num_layers} layers, the model {layers}; search one for it"
            )
        command = "" if given.search is None else read_settings(given.search).command
        title = _TITLES.get(command, str(path).removeprefix(REGISTERED) if command else path.stem)
        found[f"{title} ({path})" if title in (*found, NO_REDUCTION) else title] = given
    for text, schedule in _named(named, layers).items():
        if text != "none":
            found[_TITLES.get(text, text)] = Given(schedule)
    if named.controls:
        schedules = {name: one.schedule for name, one in found.items()}
        controlled = _with_controls(schedules, named.seed)
        found = {name: found.get(name, Given(schedule)) for name, schedule in controlled.items()}
    return found


def _add(loaded: dict[str, Schedule], more: Mapping[str, Schedule]) -> None:
    """Raises InputError where a row would take the place of another."""
    for name, schedule in more.items():
        if name in loaded or name == NO_REDUCTION:
            raise InputError(f"two rows would be called {name!r}; rename the schedule's file")
        loaded[name] = schedule


def _print(console: Console, rows: list[Row], samples: Samples, title: str = "") -> None:
    labels = samples.set.labels
    console.print(comparison_table(rows, len(samples.set), title, labels=labels))
    console.print(sources_table(rows, labels))
    for task in figure_tasks(samples.set):
        own = [sample for sample in samples.set if sample.source == task]
        known = {sample.id for sample in own}
        try:
            figures = {
                row.name: task_figures(own, [one for one in row.outcomes if one.sample_id in known])[task]
                for row in rows
            }
        except Exception as error:  # a task's own aggregation raises whatever it meets, as in half a set
            console.print(f"No figures of {task}: {first_line(error)}", soft_wrap=True, markup=False)
        else:
            console.print(figures_table(task, figures))
    for line in claim_lines(rows):
        console.print(line, soft_wrap=True, highlight=False, markup=False)


def _named(options: StrategyOptions, layers: int) -> dict[str, Schedule]:
    """All named strategies but those that need the model."""
    names = {text: name_of(text) for text in options.names}
    if options.find_k and "vtw" not in options.names:
        raise InputError("--find-k searches VTW's layer: add --strategy vtw, without withdraw_after")
    if options.find_k and options.memory_cost is not None:
        raise InputError("--find-k and --memory-cost both choose VTW's layer; give one of them")
    if CONTROL in names.values() and CONTROL not in options.names:
        raise InputError(f"{CONTROL} takes no options: it draws tokens at the other schedules' rates")
    return {
        text: named_schedule(text, layers, options.memory_cost)
        for text, name in names.items()
        if name != CONTROL and not (options.find_k and text == "vtw")
    }


def _searched_vtw(pool: Any, console: Console) -> dict[str, Schedule]:
    with console.status("searching VTW's K"):
        found = pool.call("find_withdrawal")
    tried = ", ".join(f"{layer}: {value:.2g}" for layer, value in found.divergences.items())
    console.print(
        f"VTW's K is {found.layer} (mean KL divergence by K: {tried})", soft_wrap=True, highlight=False
    )
    return {f"vtw, K = {found.layer} found": found.schedule}


def _with_controls(loaded: Mapping[str, Schedule], seed: int) -> dict[str, Schedule]:
    """Each schedule, followed by its controls."""
    rows: dict[str, Schedule] = {}
    for name, schedule in loaded.items():
        _add(rows, {name: schedule})
        own = controls_of(schedule, seed).schedules
        _add(rows, {control_name(name, control): one for control, one in own.items()})
    return rows
