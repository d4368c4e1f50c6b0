"""Models with each other's schedules (Table 4), and G-Search over what reduces before it (Tables 2, 7)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vtr_ray.efficiency.units import flops_text
from vtr_ray.schedule import Schedule
from vtr_ray.studies.finding import Finding, Table, records
from vtr_ray.studies.methods import CONTROLS, G_SEARCH, NONE, ONE_CUT, RANDOM
from vtr_ray.studies.verdict import (
    NO_DROP,
    PairedDifference,
    cells_of,
    credit,
    every,
    no_drop,
)

OWN = "its own"
_EXCHANGE = (
    "Holds where every model is significantly less accurate with another's schedule than with its own, and "
    "not all of these schedules have less TFLOPs. Does not hold where one is significantly more accurate, or "
    f"shows {NO_DROP}."
)
_ON_TOP = (
    f"Holds where every model has, with its schedule, less TFLOPs and {NO_DROP}. Does not hold where one has "
    "no less TFLOPs or a significant drop."
)


@dataclass(frozen=True)
class Run:
    """A model under one schedule. schedule: whose; `OWN`, `NONE`, a control or another model's name.

    accuracy: average over benchmarks, in [0, 1]. difference: of the model's own schedule to no reduction, of
    every other one to the model's own; None where there is none.
    """

    model: str
    schedule: str
    accuracy: float
    tflops: float
    memory_cost: float
    difference: PairedDifference | None = None


def mapped(schedule: Schedule, num_layers: int) -> Schedule:
    """The schedule at another depth: each layer gets the rate at its relative depth.

    The first two layers keep everything, as in every searched schedule.
    """
    rates = [1.0, 1.0]
    for layer in range(3, num_layers + 1):
        place = math.ceil((layer - 0.5) / num_layers * schedule.num_layers)
        rates.append(schedule.rates[min(schedule.num_layers, max(1, place)) - 1])
    return Schedule.from_rates(
        rates[:num_layers], schedule.ranking, schedule.positions, schedule.seed, schedule.rounding
    )


def exchanged(runs: Sequence[Run]) -> Finding:
    """runs: of every model, its own schedule, its controls and the others' schedules.

    The claim holds where `another's - own < 0` significantly for every model with every other's schedule, and
    for one of them at least at TFLOPs that are not less. It does not hold where another's schedule leaves
    more (significantly), or shows no drop.
    """
    own = {run.model: run for run in runs if run.schedule == OWN}
    foreign = [run for run in runs if run.schedule not in (OWN, NONE, *CONTROLS)]
    verdicts = {(run.model, run.schedule): _lost(run.difference) for run in foreign}
    cheaper = [run for run in foreign if run.tflops < own[run.model].tflops]
    holds = every(verdicts.values())
    if holds and len(cheaper) == len(foreign):
        holds = None
    sentences = [
        f"{run.model} with the schedule of {run.schedule}: {100 * run.accuracy:.1f} instead of "
        f"{100 * own[run.model].accuracy:.1f} ({_shown(run.difference)}) at {flops_text(run.tflops)} instead "
        f"of {flops_text(own[run.model].tflops)}."
        for run in foreign
    ]
    for verdict, words in ((False, "No accuracy is lost by"), (None, "A loss cannot be told for")):
        if found := [names for names, one in verdicts.items() if one is verdict]:
            pairs = ", ".join(f"{model} with that of {other}" for model, other in found)
            sentences.append(f"{words} {pairs}.")
    if lower := [run for run in cheaper if verdicts[run.model, run.schedule]]:
        pairs = ", ".join(f"{run.model} with that of {run.schedule}" for run in lower)
        sentences.append(f"At less TFLOPs too, which may be why: {pairs}.")
    return Finding(
        study="exchange",
        title="Schedules exchanged between models",
        paper="Table 4",
        claim="A model loses accuracy with another's schedule: schedules do not carry over.",
        inequality=_EXCHANGE,
        holds=holds,
        sentences=(*sentences, *_controls(runs)),
        tables={"accuracies": _table(runs)},
        metrics={f"accuracy/{run.model}/{run.schedule}": run.accuracy for run in runs},
    )


def on_top(runs: Sequence[Run], tokens: Mapping[str, int]) -> Finding:
    """runs: of every model no reduction, its own schedule and its controls. tokens: of a sample, by model.

    The claim holds where for each model `TFLOPs(own) < TFLOPs(no reduction)` and
    `no_drop(own - no reduction)`.
    """
    before = {run.model: run for run in runs if run.schedule == NONE}
    after = [run for run in runs if run.schedule == OWN]
    kept = {run.model: no_drop(run.difference) for run in after}
    sentences = [
        f"{run.model} ({tokens.get(run.model, 'unrecorded')} vision tokens): "
        f"{100 * before[run.model].accuracy:.1f} to {100 * run.accuracy:.1f} ({_shown(run.difference)}) with "
        f"{100 * (1 - run.tflops / before[run.model].tflops):.1f} % less TFLOPs."
        for run in after
    ]
    if lost := [model for model, one in kept.items() if one is False]:
        sentences.append(
            f"The drop is significant on {', '.join(lost)}: at lambda = 0.01 a search may give a point of E "
            "for all tokens of the layers it searches at once, and --objective keep-accuracy gives less."
        )
    if unclear := [model for model, one in kept.items() if one is None]:
        sentences.append(f"Whether a point is lost cannot be told on {', '.join(unclear)}.")
    return Finding(
        study="ontop",
        title="G-Search on top of fewer vision tokens",
        paper="Tables 2, 7",
        claim="G-Search reduces TFLOPs further on top of DeCo and TokenPacker, at no loss of accuracy.",
        inequality=_ON_TOP,
        holds=every([*kept.values(), *(run.tflops < before[run.model].tflops for run in after)]),
        sentences=(*sentences, *_controls(runs)),
        tables={"accuracies": _table(runs)},
        metrics={f"accuracy/{run.model}/{run.schedule}": run.accuracy for run in runs},
        facts={"vision_tokens": dict(tokens)},
    )


def _lost(change: PairedDifference | None) -> bool | None:
    """Whether accuracy is lost: the opposite of none lost."""
    if change is not None and change.significant:
        return change.difference < 0
    return False if no_drop(change) else None


def _shown(difference: PairedDifference | None) -> str:
    return "the paired difference was not recorded" if difference is None else str(difference)


def _controls(runs: Sequence[Run]) -> list[str]:
    """Of every model what its schedule gains over one cut, and what random tokens leave."""
    cuts = {run.model: run.difference for run in runs if run.schedule == ONE_CUT}
    gains = {model: -change for model, change in cuts.items() if change is not None}
    random = {run.model: run.accuracy for run in runs if run.schedule == RANDOM}
    return [
        f"{model}: "
        + (f"random tokens at its rates leave {100 * random[model]:.1f}. " if model in random else "")
        + credit(G_SEARCH, gains.get(model))
        for model in dict.fromkeys(run.model for run in runs if run.schedule == OWN)
    ]


def _table(runs: Sequence[Run]) -> Table:
    return Table(
        ("model", "schedule", "accuracy", "TFLOPs", "memory cost", *PairedDifference.COLUMNS),
        [
            (
                run.model,
                run.schedule,
                run.accuracy,
                run.tflops,
                run.memory_cost,
                *cells_of(run.difference),
            )
            for run in runs
        ],
    )


def _read(tables: Mapping[str, Any]) -> list[Run]:
    return [
        Run(
            row["model"], row["schedule"], row["accuracy"], row["TFLOPs"], row["memory cost"],
            PairedDifference.of(row),
        )
        for row in records(tables["accuracies"])
    ]  # fmt: skip


def judged(tables: Mapping[str, Any], facts: Mapping[str, Any]) -> Finding:
    """Judge `exchanged` from its table."""
    return exchanged(_read(tables))


def on_top_judged(tables: Mapping[str, Any], facts: Mapping[str, Any]) -> Finding:
    """Judge `on_top` from its table."""
    return on_top(_read(tables), facts.get("vision_tokens", {}))
