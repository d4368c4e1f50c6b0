"""Models with each other's schedules (Table 4), and G-Search over what reduces before it (Tables 2, 7)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vtr_ray.efficiency.units import flops_text
from vtr_ray.schedule import Schedule
from vtr_ray.studies.finding import Finding, Table
from vtr_ray.studies.methods import NONE

OWN = "its own"


@dataclass(frozen=True)
class Run:
    """A model under one schedule. schedule: whose; `OWN`, `NONE` or another model's name.

    accuracy: average over benchmarks, in [0, 1]. difference: to no reduction; of another's schedule, to the
    model's own. significant: whether it is.
    """

    model: str
    schedule: str
    accuracy: float
    tflops: float
    memory_cost: float
    difference: float = 0.0
    significant: bool = False


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
    """runs: of every model, its own schedule and the others'."""
    own = {run.model: run for run in runs if run.schedule == OWN}
    foreign = [run for run in runs if run.schedule not in (OWN, NONE)]
    # Another's schedule serves as well where it costs no more and loses nothing that is significant.
    as_good = [
        run
        for run in foreign
        if run.tflops <= own[run.model].tflops and not (run.significant and run.difference < 0)
    ]
    sentences = [
        f"{run.model} with the schedule of {run.schedule}: {100 * run.accuracy:.1f} instead of "
        f"{100 * own[run.model].accuracy:.1f} ({'' if run.significant else 'not '}significant) at "
        f"{flops_text(run.tflops)} instead of {flops_text(own[run.model].tflops)}."
        for run in foreign
    ]
    if as_good:
        pairs = ", ".join(f"{run.model} with that of {run.schedule}" for run in as_good)
        sentences.append(f"No worse at no more TFLOPs: {pairs}.")
    return Finding(
        study="exchange",
        title="Schedules exchanged between models",
        paper="Table 4",
        claim="A model loses accuracy with another's schedule: schedules do not carry over.",
        holds=not as_good,
        sentences=tuple(sentences),
        tables={"accuracies": _table(runs)},
        metrics={f"accuracy/{run.model}/{run.schedule}": run.accuracy for run in runs},
    )


def on_top(runs: Sequence[Run], tokens: Mapping[str, int]) -> Finding:
    """runs: of every model no reduction and its own schedule. tokens: vision tokens of a sample, by model."""
    before = {run.model: run for run in runs if run.schedule == NONE}
    after = [run for run in runs if run.schedule == OWN]
    sentences = [
        f"{run.model} ({tokens[run.model]} vision tokens): {100 * before[run.model].accuracy:.1f} to "
        f"{100 * run.accuracy:.1f} ({'' if run.significant else 'not '}significant) with "
        f"{100 * (1 - run.tflops / before[run.model].tflops):.1f} % less TFLOPs."
        for run in after
    ]
    lost = [run.model for run in after if run.significant and run.difference < 0]
    if lost:
        sentences.append(
            f"The drop is significant on {', '.join(lost)}: at lambda = 0.01 a search may give a point of E "
            "for all tokens of the layers it searches at once, and --objective keep-accuracy gives less."
        )
    return Finding(
        study="ontop",
        title="G-Search on top of fewer vision tokens",
        paper="Tables 2, 7",
        claim="G-Search reduces TFLOPs further on top of DeCo and TokenPacker, at no loss of accuracy.",
        holds=not lost and all(run.tflops < before[run.model].tflops for run in after),
        sentences=tuple(sentences),
        tables={"accuracies": _table(runs)},
        metrics={f"accuracy/{run.model}/{run.schedule}": run.accuracy for run in runs},
    )


def _table(runs: Sequence[Run]) -> Table:
    return Table(
        ("model", "schedule", "accuracy", "TFLOPs", "memory cost", "difference", "significant"),
        [
            (
                run.model,
                run.schedule,
                run.accuracy,
                run.tflops,
                run.memory_cost,
                run.difference,
                run.significant,
            )
            for run in runs
        ],
    )
