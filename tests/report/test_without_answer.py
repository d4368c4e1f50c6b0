"""Samples that the model has no answer to, in the table that every search ends with."""

from __future__ import annotations

from typing import Any

import pytest

from vtr_ray import strategies
from vtr_ray.efficiency.schedule_cost import ScheduleCost
from vtr_ray.errors import InputError
from vtr_ray.evaluation.outcome import NOT_A_NUMBER, Outcome
from vtr_ray.report.comparison import compare_schedules, comparison_table
from vtr_ray.schedule import Schedule

SAMPLES = 40


class Pool:
    """Every sample is answered right, but for the first few where tokens are taken away, or always."""

    num_layers = 5

    def __init__(self, reduced: int, always: int = 0) -> None:
        self.lost = {True: reduced, False: always}

    def call(self, name: str, *arguments: Any) -> Any:
        if name == "costs":
            return [ScheduleCost(0.5, 1.0, 1.0, SAMPLES) for _ in arguments[0]]
        return {f"s{number:02}": "quiz" for number in range(SAMPLES)}

    def evaluate(self, schedule: Schedule) -> list[Outcome]:
        lost = self.lost[schedule.reduces]
        return [
            Outcome(f"s{number:02}", float(number >= lost), error=NOT_A_NUMBER if number < lost else None)
            for number in range(SAMPLES)
        ]


def test_they_are_wrong_and_named() -> None:
    rows = compare_schedules(Pool(4), {"FastV": strategies.fastv(5)})
    assert [row.accuracy for row in rows] == [1.0, 0.9]
    assert rows[1].to_dict()["without_answer"] == ["s00", "s01", "s02", "s03"]
    assert rows[0].to_dict()["without_answer"] == []
    assert f"counted as wrong, because {NOT_A_NUMBER}: FastV: 4 (s00, s01, s02 and 1 more)" in str(
        comparison_table(rows, SAMPLES).caption
    )
    assert NOT_A_NUMBER not in str(comparison_table(rows[:1], SAMPLES).caption)


def test_a_model_that_answers_too_few_is_refused() -> None:
    assert compare_schedules(Pool(2, 2), {})[0].accuracy == 0.95
    with pytest.raises(InputError, match=r"^no reduction: 3 of 40 samples have no answer, more than 5%"):
        compare_schedules(Pool(3, 3), {})
