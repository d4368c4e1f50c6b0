"""`vtr-ray evaluate`: given schedules and named strategies side by side with no reduction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from vtr_ray import strategies
from vtr_ray.commands.inputs import DataOptions, ModelOptions, PoolOptions
from vtr_ray.commands.named import CONTROL, name_of, named_schedule
from vtr_ray.errors import InputError
from vtr_ray.evaluation.outcome import Outcome
from vtr_ray.reduction import DecodeReduction
from vtr_ray.report.comparison import Row, compare_schedules, comparison_table, sources_table
from vtr_ray.schedule import Schedule
from vtr_ray.tuning.cluster import connected


@dataclass(frozen=True)
class StrategyOptions:
    """Strategies by name; see `vtr_ray.commands.named`.

    memory_cost: solve each one's free parameter for it. find_k: search VTW's layer on the samples.
    """

    names: tuple[str, ...] = ()
    memory_cost: float | None = None
    find_k: bool = False
    seed: int = 0


def evaluate(
    schedules: Sequence[Path],
    model: ModelOptions,
    samples: DataOptions,
    pool_options: PoolOptions,
    console: Console,
    named: StrategyOptions = StrategyOptions(),
    decode: DecodeReduction | None = None,
) -> list[Row]:
    """Prints the comparison of schedule files and strategies on the held-out samples of `samples`.

    decode: a second table has the same schedules with it. Gives the rows of both.
    """
    if not schedules and not named.names:
        raise InputError("nothing to evaluate; give schedule files, or --strategy fastv")
    loaded = {path.stem if len(schedules) == 1 else str(path): Schedule.load(path) for path in schedules}
    layers = model.num_layers()
    for path, schedule in loaded.items():
        if schedule.num_layers != layers:
            raise InputError(
                f"{path} has {schedule.num_layers} layers, the model {layers}; search one for this model"
            )
    loaded |= _named(named, layers)
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
    with connected(), pool_options.open(model, data, "evaluate") as pool:
        if named.find_k:
            loaded |= _searched_vtw(pool, console)
        if CONTROL in named.names:
            loaded |= _controls(loaded, named.seed)
        baseline: list[Outcome] = []
        rows = compare_schedules(pool, loaded, baseline=baseline)
    _print(console, rows, len(data.set))
    if decode is None:
        return rows
    with connected(), pool_options.open(model, data, "evaluate", decode) as pool:
        decoded = compare_schedules(pool, loaded, baseline=baseline)
    title = (
        f"after every {decode.every} decoded tokens, each cache keeps {decode.keep:g} of its vision tokens"
    )
    _print(console, decoded, len(data.set), title)
    return rows + decoded


def _print(console: Console, rows: list[Row], samples: int, title: str = "") -> None:
    console.print(comparison_table(rows, samples, title))
    console.print(sources_table(rows))


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


def _controls(loaded: Mapping[str, Schedule], seed: int) -> dict[str, Schedule]:
    """Random tokens at the rates of every schedule that has to choose among tokens."""
    return {
        f"{name}, random tokens": strategies.random(schedule, seed)
        for name, schedule in loaded.items()
        if any(0 < rate < 1 for rate in schedule.rates)
    }
