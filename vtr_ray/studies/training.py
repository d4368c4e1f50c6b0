"""Training with reductions in place, beside training without them (the paper's section 4.4, Table 5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vtr_ray.studies.finding import Finding, Table, records
from vtr_ray.studies.methods import G_SEARCH, P_SIGMOID
from vtr_ray.studies.verdict import PairedDifference, cells_of, every, more, no_drop

START, TUNED, SHIPPED = "trained", "fine-tuned", "pretrained"
REDUCED, PLAIN = "with reduction", "without"
_INEQUALITY = (
    "Holds where G-Search's rates, trained from the start and fine-tuned, bring no significant gain and an "
    "interval below +1 point, and where fine-tuning with P-Sigmoid's brings a significant gain. Does not "
    "hold where one of the former gains significantly, or the latter loses."
)


@dataclass(frozen=True)
class Trained:
    """Weights that were trained in one way, evaluated under one schedule.

    schedule: `G_SEARCH`, `P_SIGMOID` or `NONE`. weights: `START`, `TUNED` or `SHIPPED`. how: `REDUCED` (under
    that schedule), `PLAIN`, or empty where they are as shipped. accuracy: average over benchmarks, in [0, 1].
    difference: to the weights of the same steps trained plainly, under the same schedule, paired; None where
    there is none.
    """

    schedule: str
    weights: str
    how: str
    accuracy: float
    difference: PairedDifference | None = None


def trained_with_reductions(rows: Sequence[Trained], steps: int, tuning_steps: int) -> Finding:
    """rows: every weights under every schedule it was asked with. steps: from the start, and further ones.

    The claim holds where `no_drop(-gain)` for both trainings with G-Search's rates (`gain < 1 point`), and
    `gain > 0` significantly for fine-tuning with P-Sigmoid's.
    """
    gains = [one for one in rows if one.how == REDUCED]
    sentences = [
        f"Trained anew for {steps} steps, fine-tuned for {tuning_steps}; each beside as many steps without "
        "reduction, on the same questions."
    ]
    for schedule in (G_SEARCH, P_SIGMOID):
        own = [one for one in rows if one.schedule == schedule]
        parts = [f"{one.weights} {one.how} {100 * one.accuracy:.1f}" for one in own if one.weights != SHIPPED]
        shipped = next(one for one in own if one.weights == SHIPPED)
        sentences.append(
            f"Under {schedule}'s rates: as shipped {100 * shipped.accuracy:.1f}, {', '.join(parts)}."
        )
    sentences += [
        f"{one.weights.capitalize()} with {one.schedule}'s rates in place: {one.difference}." for one in gains
    ]
    gained = {(one.schedule, one.weights): one.difference for one in gains}
    boosts = [gained.get((G_SEARCH, weights)) for weights in (START, TUNED)]
    no_boost = [None if boost is None else no_drop(-boost) for boost in boosts]
    helps = [more(gained.get((P_SIGMOID, TUNED)), margin=None)]
    for part, verdict in (("no boost", every(no_boost)), ("the help of fine-tuning", every(helps))):
        if verdict is None:
            sentences.append(f"Whether there is {part} cannot be told from these differences.")
    return Finding(
        study="training",
        title="Training with reductions",
        paper="Table 5",
        claim="Training with G-Search's rates brings no boost; fine-tuning with P-Sigmoid's helps slightly.",
        inequality=_INEQUALITY,
        holds=every([*no_boost, *helps]),
        sentences=tuple(sentences),
        tables={
            "accuracies": Table(
                ("schedule", "weights", "trained", "accuracy", *PairedDifference.COLUMNS),
                [
                    (one.schedule, one.weights, one.how, one.accuracy, *cells_of(one.difference))
                    for one in rows
                ],
            )
        },
        metrics={
            f"accuracy/{one.schedule}/{one.weights}/{one.how}".rstrip("/"): one.accuracy for one in rows
        },
        facts={"steps": steps, "tuning_steps": tuning_steps},
    )


def judged(tables: Mapping[str, Any], facts: Mapping[str, Any]) -> Finding:
    """Judge from the table."""
    rows = [
        Trained(row["schedule"], row["weights"], row["trained"], row["accuracy"], PairedDifference.of(row))
        for row in records(tables["accuracies"])
    ]
    return trained_with_reductions(rows, facts["steps"], facts["tuning_steps"])
