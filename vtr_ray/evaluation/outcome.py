"""What one sample came to under one schedule, and E over many of them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Outcome:
    """One sample's verdict.

    sample_id: unique among the samples of an evaluator.
    score: in [0, 1].
    answer: the decoded answer where the sample generated one; None where one forward pass decided.
    error: why the model has no answer, which counts as a wrong one; None: it has.
    tokens: of the answer, without the end token, where they are asked for (`LabelEvaluator`).
    """

    sample_id: str
    score: float
    answer: str | None = None
    error: str | None = None
    tokens: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if not 0.0 <= self.score <= 1.0:  # also catches NaN
            raise ValueError(f"sample {self.sample_id}: score {self.score} is not in [0, 1]")


NOT_A_NUMBER = "its logits are not numbers (NaN)"

MAX_WITHOUT_ANSWER = 0.05
"""Share of samples without an answer above which E says nothing of a schedule."""


def without_answer(outcomes: Iterable[Outcome]) -> tuple[str, ...]:
    """Ids of the samples that have no answer, sorted."""
    return tuple(sorted(outcome.sample_id for outcome in outcomes if outcome.error is not None))


def some_of(ids: Sequence[str], most: int = 3) -> str:
    """Some of many ids."""
    more = f" and {len(ids) - most} more" if len(ids) > most else ""
    return ", ".join(ids[:most]) + more


def too_many_without_answer(outcomes: Sequence[Outcome]) -> str | None:
    """The line about it; None: there are few enough for E to stand."""
    ids = without_answer(outcomes)
    if len(ids) <= MAX_WITHOUT_ANSWER * len(outcomes):
        return None
    return (
        f"{len(ids)} of {len(outcomes)} samples have no answer, more than {MAX_WITHOUT_ANSWER:.0%} "
        f"({some_of(ids)}: {NOT_A_NUMBER})"
    )


def effectiveness(outcomes: Iterable[Outcome]) -> float:
    """E: the mean per-sample score, in [0, 1].

    The same to the last bit however the samples were sharded: the sum is exact (`math.fsum`) and taken in
    the order of the sample ids. Raises ValueError when there are no outcomes or a sample counts twice.
    """
    scores = scores_of(outcomes)
    return math.fsum(scores) / len(scores)


def scores_of(outcomes: Iterable[Outcome]) -> list[float]:
    """Each sample's score, in the order of the sample ids: what E is the mean of, and a search may be told.

    Raises ValueError as `effectiveness` does.
    """
    ordered = sorted(outcomes, key=lambda outcome: outcome.sample_id)
    if not ordered:
        raise ValueError("effectiveness of no outcomes")
    for one, other in itertools.pairwise(ordered):
        if one.sample_id == other.sample_id:
            raise ValueError(f"sample {one.sample_id} has two outcomes")
    return [outcome.score for outcome in ordered]


def by_source(outcomes: Iterable[Outcome], sources: Mapping[str, str]) -> dict[str, float]:
    """E of each source, in alphabetical order; `sources`: each sample's source by its id."""
    groups: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault(sources[outcome.sample_id], []).append(outcome)
    return {source: effectiveness(group) for source, group in sorted(groups.items())}
