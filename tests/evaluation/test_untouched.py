"""Before a search: how often no reduction must be right, and what is said where it is not."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from vtr_ray.evaluation.benchmarks.differences import mcnemar
from vtr_ray.evaluation.outcome import Outcome
from vtr_ray.evaluation.samples import Sample
from vtr_ray.evaluation.untouched import LEAST_RIGHT, Needed, refusal

PAPER = Needed(0.01, "--weight 0.01")


def outcomes(right: int, samples: int, score: float = 1.0) -> list[Outcome]:
    return [Outcome(f"{i:04}", score if i < right else 0.0) for i in range(samples)]


def test_so_many_right_answers_are_needed_that_losing_them_all_is_significant() -> None:
    def lost(count: int) -> float:
        return mcnemar([0.0] * count, [1.0] * count)

    assert lost(LEAST_RIGHT) < 0.05 <= lost(LEAST_RIGHT - 1)


@pytest.mark.parametrize(
    ("needed", "right", "samples", "score", "refused"),
    [
        (PAPER, 0, 40, 1.0, "right on 0 of 40 samples, fewer than 6"),
        (PAPER, 5, 6, 1.0, "fewer than 6"),
        (PAPER, 6, 6, 1.0, ""),
        (PAPER, 6, 40, 1.0, ""),
        (PAPER, 6, 600, 1.0, "(E 0.01), and --weight 0.01 gives away 0.01: removing every token"),
        (PAPER, 7, 600, 1.0, ""),
        (PAPER, 6, 601, 0.1, "removing every token"),
        (Needed(), 6, 100_000, 1.0, ""),  # E alone: nothing is given away
        (Needed(), 5, 100_000, 1.0, "fewer than 6"),
        (Needed(0.5, "--objective keep-accuracy:50"), 20, 40, 1.0, "keep-accuracy:50 gives away 0.5"),
        (Needed(0.5, "--objective keep-accuracy:50"), 21, 40, 1.0, ""),
        # Fewer than six samples show nothing whatever they score: they run unless nothing can be lost.
        (PAPER, 1, 5, 1.0, ""),
        (PAPER, 5, 5, 1.0, ""),
        (PAPER, 1, 1, 1.0, ""),
        (PAPER, 0, 1, 1.0, "removing every token"),
        (PAPER, 1, 5, 0.05, "removing every token"),
        (Needed(), 0, 5, 1.0, "right on 0 of 5 samples: there is nothing to lose"),
    ],
)
def test_what_no_reduction_must_reach(
    needed: Needed, right: int, samples: int, score: float, refused: str
) -> None:
    said = needed.lacking(outcomes(right, samples, score), samples)
    assert (said is None) == (refused == "") and refused in (said or "")


def test_no_more_is_evaluated_than_it_takes_to_know() -> None:
    found = outcomes(1000, 1000)
    assert not PAPER.enough(found[:10], 990)  # of 1000 samples more than ten must be right
    assert PAPER.enough(found[:11], 989)
    assert not PAPER.enough([], 1000)
    nothing = outcomes(0, 1000)
    assert not any(PAPER.enough(nothing[:seen], 1000 - seen) for seen in range(0, 1001, 100))


def test_a_refusal_shows_the_first_wrong_answers_beside_the_expected_ones() -> None:
    samples = [
        Sample(f"s{i}", "quiz", b"", "what?", ("It is " + "very " * 40 + "red.",) if i else ("blue",))
        for i in range(6)
    ]
    given = [Outcome("s5", 0.0, "x"), Outcome("s1", 0.0), Outcome("s0", 1.0), Outcome("s2", 0.0, "a\nb")]
    asked: list[Sequence[str]] = []

    def answers(names: Sequence[str]) -> dict[str, str]:
        asked.append(names)
        return dict.fromkeys(names, "it's red")

    line = refusal("it is so", samples, given, answers)
    assert asked == [["s1"]]  # those that were decided in one pass
    assert line.startswith("it is so. Sample s1: answered \"it's red\", expected 'It is very very")
    assert "; sample s2: answered 'a b', expected" in line and "; sample s5: answered 'x'" in line
    assert line.count("answered") == 3 and "\n" not in line and "..." in line and len(line) < 1000
    for advice in ("vtr-ray samples", "--labels self", "chat template"):
        assert advice in line
