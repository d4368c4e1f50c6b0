"""Accuracy against TFLOPs at FastV's drops, and the steepness that each budget wants (Figures 4, 5, 7)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, groupby, pairwise
from typing import Any, NamedTuple

from vtr_ray.efficiency.units import flops_text
from vtr_ray.studies.finding import Finding, Table, read, records
from vtr_ray.studies.methods import ONE_CUT, RANDOM
from vtr_ray.studies.verdict import SAME_FLOPS, PairedDifference, at_same_flops, credit, every, more

DROPS = (0.5, 0.75, 0.875, 0.9375)  # of FastV, whose FLOPs the others are given: section 4.2's Scenario II
OURS = "P-Sigmoid"
_RIVALS = ("FastV", "PDrop", RANDOM)
_INEQUALITY = (
    "Holds where at every drop P-Sigmoid minus FastV, minus random tokens and, wherever PDrop reaches these "
    f"TFLOPs, minus PDrop is significantly above 0, at TFLOPs at most {100 * SAME_FLOPS:g} % higher. Does "
    "not hold where one of these differences is significantly below 0, or its 95 % interval shows a lead of "
    "less than a point."
)
_SAME_BUDGET = 0.01  # how far apart those of two models may be
_RISE = (
    "Holds where in every model k rises from each budget to the next larger one, of two or more, and where "
    "two models share a budget, their k differ. Does not hold where k falls somewhere. Two k are told apart "
    "where their ranges do not overlap: of the k that no paired test could tell from the found one."
)


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
    """P-Sigmoid minus another strategy at one drop."""

    other: str
    drop: float
    difference: PairedDifference


def trade_off(points: Sequence[Point], leads: Sequence[Lead]) -> Finding:
    """points: of every strategy at every drop. leads: of `OURS` against each other one at each drop.

    The claim holds where every lead but those over one cut is significantly above 0 at the same TFLOPs. None
    may be missing, but those over a PDrop that has no point at that drop because it cannot reach the TFLOPs.
    """
    tflops = {(one.strategy, one.drop): one.tflops for one in points}
    verdicts = {lead: _ahead(lead, tflops) for lead in leads if lead.other != ONE_CUT}
    drops = list(dict.fromkeys(one.drop for one in points))
    compared = {(lead.other, lead.drop) for lead in leads}
    lacking = [(name, drop) for drop in drops for name in _RIVALS if (name, drop) not in compared]
    out_of_reach = [drop for name, drop in lacking if name == "PDrop" and (name, drop) not in tflops]
    out_of_reach = out_of_reach if len(out_of_reach) < len(drops) else []  # PDrop must stand somewhere
    missing = [(name, drop) for name, drop in lacking if name != "PDrop" or drop not in out_of_reach]
    better = [lead for lead, verdict in verdicts.items() if verdict]
    worse = [lead for lead in verdicts if lead.difference.significant and lead.difference.difference < 0]
    sentences = [
        f"At FastV's R = {100 * drop:g} %: "
        + ", ".join(f"{one.strategy} {100 * one.accuracy:.1f}" for one in points if one.drop == drop)
        + "."
        for drop in drops
    ]
    sentences.append(
        f"Of {len(verdicts)} comparisons P-Sigmoid wins {len(better)} significantly and loses {len(worse)}."
    )
    if out_of_reach:
        at = ", ".join(f"{100 * drop:g} %" for drop in out_of_reach)
        sentences.append(f"PDrop cannot reach FastV's TFLOPs at R = {at}, and is not compared there.")
    if missing:
        at = ", ".join(f"{name} at {100 * drop:g} %" for name, drop in missing)
        sentences.append(f"Not compared, so that the claim cannot hold: {at}.")
    if worse:
        sentences.append(f"It loses to {_named(worse)}.")
    if even := [lead for lead, verdict in verdicts.items() if verdict is False and lead not in worse]:
        sentences.append(f"It leads by less than a point over {_named(even)}.")
    if unclear := [lead for lead, verdict in verdicts.items() if verdict is None]:
        sentences.append(f"Not told apart at the same TFLOPs: {_named(unclear)}.")
    cuts = {lead.drop: lead for lead in leads if lead.other == ONE_CUT}
    sentences += [
        f"At R = {100 * drop:g} %: {credit(OURS, lead.difference)}" for drop, lead in cuts.items()
    ] or [credit(OURS, None)]
    return Finding(
        study="tradeoff",
        title="Accuracy against TFLOPs",
        paper="Figure 4, Tables 3, 9",
        claim="At the same FLOPs P-Sigmoid is more accurate than FastV, PDrop and random tokens.",
        inequality=_INEQUALITY,
        holds=every([*verdicts.values(), *(None for _ in missing)]),
        sentences=tuple(sentences),
        tables={
            "points": Table(
                ("strategy", "FastV's drop", "TFLOPs", "memory cost", "accuracy"),
                [(one.strategy, one.drop, one.tflops, one.memory_cost, one.accuracy) for one in points],
            ),
            "leads": Table(
                ("P-Sigmoid minus", "FastV's drop", *PairedDifference.COLUMNS),
                [(one.other, one.drop, *one.difference.cells) for one in leads],
            ),
        },
        metrics={f"accuracy/{one.strategy}/{one.drop:g}": one.accuracy for one in points},
    )


def _ahead(lead: Lead, tflops: Mapping[tuple[str, float], float]) -> bool | None:
    ours, theirs = tflops.get((OURS, lead.drop)), tflops.get((lead.other, lead.drop))
    return at_same_flops(more(lead.difference), ours, theirs)


def _named(leads: Sequence[Lead]) -> str:
    return ", ".join(f"{lead.other} at {100 * lead.drop:g} %" for lead in leads)


def judged(tables: Mapping[str, Any], facts: Mapping[str, Any]) -> Finding:
    """Judge from the tables."""
    points = [Point(*row) for row in read(tables["points"]).rows]
    leads = [
        Lead(row["P-Sigmoid minus"], row["FastV's drop"], difference)
        for row in records(tables["leads"])
        if (difference := PairedDifference.of(row)) is not None
    ]
    return trade_off(points, leads)


class Steepness(NamedTuple):
    """What one search of k found.

    tflops: of the found schedule. budget: its mean rate over the reduced layers. low, high: the range of the
    tried k that no paired test could tell from the found one; None where that is not known.
    """

    tflops: float
    budget: float
    k: float
    low: float | None = None
    high: float | None = None

    def below(self, other: Steepness) -> bool | None:
        """Whether this k is smaller; None where the ranges overlap."""
        (low, high), (other_low, other_high) = self._ends, other._ends
        if high < other_low:
            return True
        return False if low > other_high else None

    @property
    def _ends(self) -> tuple[float, float]:
        return (self.k, self.k) if self.low is None or self.high is None else (self.low, self.high)

    def __str__(self) -> str:
        low, high = self._ends
        return f"{self.k:.2f}{'' if low == high else f' ({low:.2f} to {high:.2f})'}"


def steepness_by_budget(found: Mapping[str, Sequence[tuple[Any, ...]]]) -> Finding:
    """found: by model, of each searched budget what was found, as `Steepness` has it.

    The claim holds where `high(k at a budget) < low(k at the next larger one)` throughout in each model, and
    the ranges of two models at one budget are disjoint. It does not hold where
    `low(k at a budget) > high(k at the next larger one)` somewhere.
    """
    searched = {
        model: sorted((Steepness(*one) for one in own), key=lambda one: (one.budget, one.tflops, one.k))
        for model, own in found.items()
    }
    rising = {
        model: every(
            one.below(later)
            for lower, higher in pairwise(_by_budget(own))
            for one in lower
            for later in higher
        )
        for model, own in searched.items()
    }
    differing = [
        (first, second, one.budget, True if one.below(other) is not None else None)
        for (first, ours), (second, theirs) in combinations(searched.items(), 2)
        for one in ours
        for other in theirs
        if abs(one.budget - other.budget) <= _SAME_BUDGET
    ]
    described = "; ".join(
        f"{model}: k {', '.join(f'{one} at {flops_text(one.tflops)}' for one in own)}"
        for model, own in searched.items()
    )
    sentences = [f"{described}."]
    for verdict, words in (
        (False, "k does not rise throughout for"),
        (None, "A rise cannot be told, with one budget alone or k that are not told apart, for"),
    ):
        if models := [model for model, one in rising.items() if one is verdict]:
            sentences.append(f"{words} {', '.join(models)}.")
    sentences += [
        f"{first} and {second} at b = {budget:.3f}: their k {'differ' if differ else 'are not told apart'}."
        for first, second, budget, differ in differing
    ]
    if not differing:
        sentences.append("No two models share a budget, so that only the rise was tested.")
    rows = [(model, *one) for model, own in searched.items() for one in own]
    return Finding(
        study="budgets",
        title="Steepness by budget",
        paper="Figures 5, 7",
        claim="k increases with TFLOPs: small budgets want flat curves; models differ at the same budget.",
        inequality=_RISE,
        holds=every([*rising.values(), *(differ for *_, differ in differing)]),
        sentences=tuple(sentences),
        tables={"k": Table(("model", "TFLOPs", "budget", "k", "lowest k", "highest k"), rows)},
        metrics={f"k/{model}/{budget:g}": k for model, _, budget, k, _, _ in rows},
    )


def _by_budget(found: Sequence[Steepness]) -> list[list[Steepness]]:
    """What was found, a list a budget, in their order; a budget may have been searched twice."""
    return [list(own) for _, own in groupby(found, key=lambda one: round(one.budget, 6))]


def budgets_judged(tables: Mapping[str, Any], facts: Mapping[str, Any]) -> Finding:
    """Judge `steepness_by_budget` from its table; without the ranges of k by the found ones alone."""
    found: dict[str, list[tuple[Any, ...]]] = {}
    for model, *values in read(tables["k"]).rows:
        found.setdefault(model, []).append(tuple(values))
    return steepness_by_budget(found)
