"""What is said of a comparison, never more than it shows; and the controls beside each schedule."""

from __future__ import annotations

import io
from collections.abc import Callable
from itertools import combinations
from typing import Any

import pytest
from rich.console import Console

from vtr_ray import Schedule, strategies
from vtr_ray.efficiency.schedule_cost import ScheduleCost
from vtr_ray.evaluation.benchmarks.differences import AVERAGE, Difference
from vtr_ray.evaluation.outcome import Outcome
from vtr_ray.evaluation.statistics import Comparison, compare
from vtr_ray.report.benchmarks import claim_lines as benchmark_claims
from vtr_ray.report.benchmarks import difference_table
from vtr_ray.report.claims import FELL, KEPT, UNKNOWN, accuracy_line, accuracy_lines, verdict
from vtr_ray.report.comparison import claim_lines, compare_schedules, found_lines, rivals
from vtr_ray.report.controls import control_in, controlled, controls_of, explained
from vtr_ray.schedule import Ranking

CURVE = strategies.p_sigmoid(12, 0.3, 0.5)


def difference(mean: float, half: float, samples: int = 400) -> Comparison:
    return Comparison(mean, mean - half, mean + half, 0.5, samples)


@pytest.mark.parametrize(
    ("found", "margin", "said"),
    [
        (difference(-0.001, 0.003), 0.01, KEPT),
        (difference(0.05, 0.02), 0.01, KEPT),
        (difference(-0.001, 0.003), 0.003, UNKNOWN),  # the same, and less may be lost
        (difference(-0.008, 0.013), 0.01, UNKNOWN),
        (difference(0.0, float("nan")), 0.01, UNKNOWN),
        (difference(-0.008, 0.0065), 0.01, FELL),
        (difference(-0.005, 0.003), 0.01, FELL),  # within the margin, and no less a fall
    ],
)
def test_accuracy_was_kept_only_where_a_loss_is_ruled_out(
    found: Comparison, margin: float, said: str
) -> None:
    assert verdict(found, margin) == said
    line = accuracy_line(found, "a smaller --weight", margin)
    starts = {
        KEPT: "Accuracy was kept: ",
        UNKNOWN: "It cannot be told whether accuracy was kept: ",
        FELL: "Accuracy fell: ",
    }
    assert [one for one, start in starts.items() if line.startswith(start)] == [said]
    assert ("to lose less: a smaller --weight" in line) == (said == FELL)
    assert [line.split(" (")[0] for line in accuracy_lines({"A": found}, margin)] == [
        starts[said].removesuffix(": ")
    ]


def test_equal_answers_to_few_samples_do_not_show_that_accuracy_was_kept() -> None:
    def same(count: int) -> Comparison:
        answers = [Outcome(f"{i:04}", 1.0) for i in range(count)]
        return compare(answers, answers)

    # 1.96 sqrt(2) / (n + 2) < 0.01 from n = 276 on
    assert [verdict(same(count)) for count in (2, 40, 275, 276)] == [UNKNOWN, UNKNOWN, UNKNOWN, KEPT]
    # a bootstrap of differences that are all 0 has no width, over however few documents
    assert [verdict(difference(0.0, 0.0, count)) for count in (2, 230, 231)] == [UNKNOWN, UNKNOWN, KEPT]
    assert verdict(difference(0.4, 0.1, 20)) == KEPT  # a gain needs no more samples than show it


def test_a_fall_within_what_an_option_allows_is_still_called_a_fall() -> None:
    line = accuracy_line(difference(-0.005, 0.003), "x", 0.01, "--objective keep-accuracy:1")
    assert line == (
        "Accuracy fell, within what --objective keep-accuracy:1 allows: -0.5 [-0.8, -0.2] points to no "
        "reduction (significant); a loss of more than 1 point is ruled out."
    )
    more = accuracy_line(difference(-0.009, 0.003), "x", 0.01, "--objective keep-accuracy:1")
    assert more.startswith("Accuracy fell: -0.9") and more.endswith("to lose less: x.")


@pytest.mark.parametrize(
    ("schedule", "names", "why"),
    [
        (CURVE, ["random tokens", "one cut"], ""),
        (strategies.pyramid_drop(12), ["random tokens", "one cut"], ""),
        (strategies.fastv(12), ["random tokens"], "it is one cut itself"),
        (strategies.fastv(12, after_layer=5), ["random tokens"], "it is one cut itself"),
        (strategies.p_sigmoid(12, 0.3, 0.0), ["random tokens"], "it is one cut itself"),
        (strategies.vtw(12), [], "it never chooses among tokens"),
        (strategies.none(12), [], "it never chooses among tokens"),
        (strategies.random(CURVE), [], "it draws its tokens at random itself"),
        (
            Schedule((1.0, *[0.1] * 5, *[0.0] * 6)),
            ["random tokens"],
            "one_cut cannot reach a memory cost of 0.125: its lowest is 0.1667",
        ),
    ],
)
def test_controls_stand_beside_what_chooses_tokens(schedule: Schedule, names: list[str], why: str) -> None:
    found = controls_of(schedule, 7)
    assert list(found.schedules) == names and found.left_out.get("one cut", "") == why
    if "random tokens" in names:
        assert found.schedules["random tokens"] == strategies.random(schedule, 7)
    if "one cut" in names:
        cut = found.schedules["one cut"]
        assert cut.memory_cost == pytest.approx(schedule.memory_cost) and cut.ranking == schedule.ranking
        assert len({*cut.rates[:2]}) == len({*cut.rates[2:]}) == 1 and cut.rates[1] == 1 > cut.rates[2]
    assert [name for name in rivals(schedule, 7).schedules if control_in(name)] == names


@pytest.mark.parametrize(
    ("name", "control", "own"),
    [
        ("one cut", "one cut", ""),
        ("FastV, one cut", "one cut", "FastV"),
        ("one cut, b = 0.3", "one cut", ""),
        ("one cut at 75 %", "one cut", ""),
        ("A, B, random tokens", "random tokens", "A, B"),
        ("FastV", None, ""),
        ("uncut", None, ""),
        ("one cutter", None, ""),
    ],
)
def test_controls_are_known_by_their_names(name: str, control: str | None, own: str) -> None:
    assert (control_in(name), controlled(name)) == (control, own)
    assert explained([name]).startswith(f"{control}: the same") if control else explained([name]) == ""


class Pool:
    """Right but for so many of 400 samples, by the schedule."""

    num_layers = 12

    def __init__(self, wrong: Callable[[Schedule], int]) -> None:
        self._wrong = wrong

    def call(self, name: str, *args: Any) -> Any:
        if name == "sources":
            return {f"{i:03}": "quiz" for i in range(400)}
        return [ScheduleCost(one.memory_cost, 1.0, 1.0, 400) for one in args[0]]

    def evaluate(self, schedule: Schedule) -> list[Outcome]:
        return [Outcome(f"{i:03}", float(i >= self._wrong(schedule))) for i in range(400)]


def wrong(schedule: Schedule) -> int:
    """What the ranking is worth, and nothing that the curve would be."""
    return 0 if not schedule.reduces else 80 if schedule.ranking == Ranking.RANDOM else 9


def test_a_search_is_not_credited_with_what_its_ranking_does() -> None:
    others = rivals(CURVE, 0).schedules
    rows = compare_schedules(Pool(wrong), {"Ours": CURVE, **others}, found=dict.fromkeys(others, "Ours"))
    fell, random, cut = found_lines(rows, "more samples")
    assert fell.startswith("Accuracy fell: -2.2 [-3.7, -0.8] points to no reduction (significant)")
    assert "Against random tokens" in random and "Ours is more accurate (+17.8 [" in random
    assert cut.startswith("Against one cut (the same ranking and memory cost, cut once before layer 3): ")
    assert "Ours is not told apart (+0.0 [" in cut and cut.endswith("worth more than one cut.")
    better = Pool(lambda schedule: 3 if schedule == CURVE else wrong(schedule))
    rows = compare_schedules(better, {"Ours": CURVE, **others}, found=dict.fromkeys(others, "Ours"))
    assert found_lines(rows, "")[2].endswith("Ours is more accurate (+1.5 [+0.3, +2.7] points, significant).")


def test_several_schedules_are_each_held_against_their_own_controls() -> None:
    pdrop = strategies.pyramid_drop(12)
    named = {"A": CURVE, "B": pdrop}
    named |= {
        f"{name}, {kind}": made
        for name, one in [*named.items()]
        for kind, made in controls_of(one, 0).schedules.items()
    }
    pool = Pool(lambda schedule: 200 if schedule == strategies.one_cut(pdrop) else wrong(schedule))
    fell, random, cut = claim_lines(compare_schedules(pool, named))
    assert fell.startswith("Accuracy fell (significant; paired, 95 %): A -2.2 [") and "; B -2.2 [" in fell
    assert random.count("more accurate") == 2
    assert "A is not told apart" in cut and "B is more accurate (+47.8 [" in cut


def test_a_suites_table_has_each_schedule_beside_its_own_controls() -> None:
    rows = ["no reduction", "A", "A, random tokens", "A, one cut", "B", "B, one cut"]
    worth = dict(zip(rows, (0.9, 0.85, 0.5, 0.86, 0.895, 0.7), strict=True))
    pairs = []
    for second, first in combinations(rows, 2):
        gap = worth[first] - worth[second]
        said = gap, gap - 0.02, gap + 0.02, 0.0 if abs(gap) > 0.02 else 0.5, "bootstrap"
        pairs += [Difference(first, second, task, *said) for task in ("x", AVERAGE)]
    file = io.StringIO()
    Console(file=file, width=140).print(difference_table(pairs))
    cells = [[cell.strip() for cell in line.strip("│").split("│")] for line in file.getvalue().splitlines()]
    shown = {(row[0], row[1]): (row[2], row[4]) for row in cells if len(row) == 5}
    assert shown.keys() == {
        ("A", "no reduction"), ("B", "no reduction"), ("B", "A"), ("A", "A, random tokens"),
        ("A", "A, one cut"), ("B", "B, one cut"),
    }  # fmt: skip
    assert shown["A", "A, random tokens"] == ("+35.0 [+33.0, +37.0]", "1 better, 0 worse")
    fell, unknown, random, cut = benchmark_claims(pairs, 1200)
    assert fell.endswith(": A -5.0 [-7.0, -3.0] points.") and ": B -0.5 [-2.5, +1.5] points." in unknown
    assert random.endswith(": A is more accurate (+35.0 [+33.0, +37.0] points, significant).")
    assert "A is not told apart (-1.0 [-3.0, +1.0] points); B is more accurate (+19.5" in cut


def test_controls_whose_names_do_not_say_of_what_are_no_schedules_that_keep_accuracy() -> None:
    said = -0.1, -0.12, -0.08, 0.0, "bootstrap"
    pairs = [
        Difference("G-Search", "no reduction", AVERAGE, *said),
        Difference("one cut", "no reduction", AVERAGE, *said),
        Difference("one cut", "G-Search", AVERAGE, *said),
    ]
    assert [len(column._cells) for column in difference_table(pairs).columns] == [3] * 5
    (line,) = benchmark_claims(pairs, 1200)
    assert line.endswith(": G-Search -10.0 [-12.0, -8.0] points.")
