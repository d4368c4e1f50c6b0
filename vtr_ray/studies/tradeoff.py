"""Accuracy against TFLOPs at FastV's drops, and the steepness that each budget wants (Figures 4, 5, 7)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from vtr_ray.efficiency.units import flops_text
from vtr_ray.studies.finding import Finding, Table

DROPS = (0.5, 0.75, 0.875, 0.9375)  # of FastV, whose FLOPs the others are given: section 4.2's Scenario II


@dataclass(frozen=True)
class Point:
    """One strategy at one of FastV's FLOPs. accuracy: average over benchmarks, in [0, 1]."""

    strategy: str
    drop: float
    tflops: float
    memory_cost: float
    accuracy: float


@dataclass(frozen=True)
class Lead:
    """P-Sigmoid minus another strategy at one drop; whether that is significant."""

    other: str
    drop: float
    difference: float
    significant: bool


OURS = "P-Sigmoid"


def trade_off(points: Sequence[Point], leads: Sequence[Lead]) -> Finding:
    """points: of every strategy at every drop. leads: of `OURS` against each other one at each drop."""
    better = [lead for lead in leads if lead.significant and lead.difference > 0]
    worse = [lead for lead in leads if lead.significant and lead.difference < 0]
    sentences = [
        f"At FastV's R = {100 * drop:g} %: "
        + ", ".join(f"{one.strategy} {100 * one.accuracy:.1f}" for one in points if one.drop == drop)
        + "."
        for drop in dict.fromkeys(one.drop for one in points)
    ]
    sentences.append(
        f"Of {len(leads)} comparisons P-Sigmoid wins {len(better)} significantly and loses {len(worse)}."
    )
    if worse:
        lost = ", ".join(f"{lead.other} at {100 * lead.drop:g} %" for lead in worse)
        sentences.append(f"It loses to {lost}.")
    return Finding(
        study="tradeoff",
        title="Accuracy against TFLOPs",
        paper="Figure 4, Tables 3, 9",
        claim="At the same FLOPs P-Sigmoid is more accurate than FastV, PDrop and random tokens.",
        holds=bool(better) and not worse,
        sentences=tuple(sentences),
        tables={
            "points": Table(
                ("strategy", "FastV's drop", "TFLOPs", "memory cost", "accuracy"),
                [(one.strategy, one.drop, one.tflops, one.memory_cost, one.accuracy) for one in points],
            ),
            "leads": Table(
                ("P-Sigmoid minus", "FastV's drop", "difference", "significant"),
                [(one.other, one.drop, one.difference, one.significant) for one in leads],
            ),
        },
        metrics={f"accuracy/{one.strategy}/{one.drop:g}": one.accuracy for one in points},
    )


def steepness_by_budget(found: Mapping[str, Sequence[tuple[float, float, float]]]) -> Finding:
    """found: by model, of each searched budget its TFLOPs, the budget b and the k that was searched."""
    rows = [(model, tflops, budget, k) for model, own in found.items() for tflops, budget, k in sorted(own)]
    rising = {
        model: all(k <= later for (_, _, k), (_, _, later) in pairwise(sorted(own)))
        for model, own in found.items()
    }
    described = "; ".join(
        f"{model}: k {', '.join(f'{k:.2f} at {flops_text(tflops)}' for tflops, _, k in sorted(own))}"
        for model, own in found.items()
    )
    falling = [model for model, rises in rising.items() if not rises]
    return Finding(
        study="budgets",
        title="Steepness by budget",
        paper="Figures 5, 7",
        claim="k increases with TFLOPs: small budgets want flat curves; models differ at the same budget.",
        holds=not falling,
        sentences=(
            f"{described}.",
            *([f"k does not rise throughout for {', '.join(falling)}."] if falling else []),
        ),
        tables={"k": Table(("model", "TFLOPs", "budget", "k"), rows)},
        metrics={f"k/{model}/{budget:g}": k for model, _, budget, k in rows},
    )
