"""Training with reductions in place, beside training without them (the paper's section 4.4, Table 5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vtr_ray.studies.finding import Finding, Table
from vtr_ray.studies.methods import G_SEARCH, P_SIGMOID

START, TUNED, SHIPPED = "trained", "fine-tuned", "pretrained"
REDUCED, PLAIN = "with reduction", "without"


@dataclass(frozen=True)
class Trained:
    """Weights that were trained in one way, evaluated under one schedule.

    schedule: `G_SEARCH`, `P_SIGMOID` or `NONE`. weights: `START`, `TUNED` or `SHIPPED`. how: `REDUCED` (under
    that schedule), `PLAIN`, or empty where they are as shipped. accuracy: average over benchmarks, in [0, 1].
    difference: to the weights of the same steps trained plainly, under the same schedule, paired;
    significant: whether it is.
    """

    schedule: str
    weights: str
    how: str
    accuracy: float
    difference: float = 0.0
    significant: bool = False


def trained_with_reductions(rows: Sequence[Trained], steps: int, tuning_steps: int) -> Finding:
    """rows: every weights under every schedule it was asked with. steps: from the start, and further ones."""
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
        f"{one.weights.capitalize()} with {one.schedule}'s rates in place: {100 * one.difference:+.1f} "
        f"points ({'' if one.significant else 'not '}significant)."
        for one in gains
    ]
    helped = {(one.schedule, one.weights) for one in gains if one.significant and one.difference > 0}
    boosted = [schedule for schedule, _ in helped if schedule == G_SEARCH]
    return Finding(
        study="training",
        title="Training with reductions",
        paper="Table 5",
        claim="Training with G-Search's rates brings no boost; fine-tuning with P-Sigmoid's helps slightly.",
        holds=not boosted and (P_SIGMOID, TUNED) in helped,
        sentences=tuple(sentences),
        tables={
            "accuracies": Table(
                ("schedule", "weights", "trained", "accuracy", "difference", "significant"),
                [
                    (one.schedule, one.weights, one.how, one.accuracy, one.difference, one.significant)
                    for one in rows
                ],
            )
        },
        metrics={
            f"accuracy/{one.schedule}/{one.weights}/{one.how}".rstrip("/"): one.accuracy for one in rows
        },
    )
