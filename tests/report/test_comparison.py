"""The comparison: paired differences to no reduction and to what was found, and what is said of them."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from vtr_ray import strategies
from vtr_ray.efficiency import Latency
from vtr_ray.efficiency.schedule_cost import ScheduleCost
from vtr_ray.evaluation.outcome import Outcome
from vtr_ray.evaluation.statistics import compare, wilson_interval
from vtr_ray.report.comparison import (
    compare_schedules,
    comparison_lines,
    comparison_table,
    rivals,
)
from vtr_ray.report.live import comparing
from vtr_ray.schedule import Schedule

OURS = strategies.p_sigmoid(12, 0.3, 0.5)
FASTV = strategies.fastv(12)
VTW = strategies.vtw(12)
WRONG = {OURS: range(10, 12), FASTV: range(3), VTW: range(5, 17)}  # of 40 samples


class Pool:
    num_layers, timed = 12, True

    def call(self, name: str, *args: Any) -> Any:
        if name == "sources":
            return {f"s{i}": "quiz" for i in range(40)}
        time = Latency((0.0122, 0.0123, 0.0124)) if self.timed else None
        return [ScheduleCost(one.memory_cost, 0.001234, 0.000987, 40, time) for one in args[0]]

    def evaluate(self, schedule: Schedule) -> list[Outcome]:
        return [Outcome(f"s{i}", float(i not in WRONG.get(schedule, ()))) for i in range(40)]


def rows(console: Console | None = None) -> list[Any]:
    with comparing(console or Console(file=io.StringIO())) as on_row:
        return compare_schedules(
            Pool(),
            {"Ours": OURS, "FastV": FASTV, "VTW": VTW},
            on_row,
            found={"FastV": "Ours", "VTW": "Ours"},
        )


def test_rivals_are_compared_with_what_was_found_sample_by_sample() -> None:
    none, ours, fastv, vtw = rows()
    pool = Pool()
    assert (none.to_found, ours.to_found) == (None, None)
    assert fastv.to_found == compare(pool.evaluate(FASTV), pool.evaluate(OURS))
    assert fastv.to_found.difference == pytest.approx(-1 / 40) and not fastv.to_found.significant
    assert vtw.to_found.difference == pytest.approx(-10 / 40) and vtw.to_found.significant
    assert vtw.difference.difference == pytest.approx(-12 / 40)
    stored = vtw.to_dict()
    assert stored["to_found"]["high"] == vtw.to_found.high and "outcomes" not in stored
    assert (stored["accuracy_low"], stored["accuracy_high"]) == wilson_interval(28 / 40, 40)
    assert ours.to_dict()["to_found"] is None


def test_what_is_significantly_better_is_named() -> None:
    said = comparison_lines(rows(), "Ours", {"PDrop": "its lowest is 0.5"})
    assert said == [
        "Significantly more accurate than Ours (paired, 95 %): none",
        "Left out: PDrop (its lowest is 0.5)",
    ]
    worse = compare_schedules(Pool(), {"Theirs": VTW, "FastV": FASTV}, found={"FastV": "Theirs"})
    assert comparison_lines(worse, "Theirs", {}) == [
        "Significantly more accurate than Theirs (paired, 95 %): FastV"
    ]


def test_a_hundred_columns_hold_the_table() -> None:
    file = io.StringIO()
    wide = [*rows(), *compare_schedules(Pool(), {"random tokens": VTW})[1:]]
    Console(file=file, width=100).print(comparison_table(wide, 40, found="P-Sigmoid"))
    lines = file.getvalue().splitlines()
    assert "to P-Sigmoid" in lines[2] and max(map(len, lines)) <= 100
    (fastv,) = (line for line in lines if line.startswith("│ FastV"))
    assert [cell.strip() for cell in fastv.strip("│").split("│")] == [
        "FastV", "92.5", "-7.5 [-16.0, +1.0]", "-2.5 ±11.4", "0.583", "1.234", "12.3 ±0.05"
    ]  # fmt: skip
    assert sum("│ random tokens" in line for line in lines) == 1  # in one line


def test_the_caption_says_convention_sample_and_what_is_not_told_apart() -> None:
    said = " ".join(str(comparison_table(rows(), 40).caption).split())
    assert "and GFLOPs (the paper's convention): means over the samples' prompts" in said
    assert "prefill: median" in said and "; no two rows are told apart" in said
    executed = comparison_table(rows(), 40, convention="executed")
    assert "MFLOPs (executed in a prefill)" in str(executed.caption)
    assert next(iter(executed.columns[-2].cells)) == "987.0"
    assert rows()[0].to_dict()["prefill_seconds"] == 0.0123


def test_models_too_small_to_be_timed_have_no_column_of_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pool, "timed", False)
    table = comparison_table(rows(), 40)
    assert [column.header for column in table.columns][-1] == "GFLOPs"
    assert "prefill" not in str(table.caption)
    stored = rows()[0].to_dict()
    assert stored["prefill_seconds"] is None and stored["prefill_quartiles"] is None


def test_a_log_has_a_line_for_each_row_and_a_terminal_none() -> None:
    log, screen = io.StringIO(), io.StringIO()
    rows(Console(file=log, width=40))
    assert log.getvalue().splitlines()[:2] == [
        "compared: no reduction: accuracy 100.0",
        "compared: Ours: accuracy 95.0, difference -5.0 [-12.1, +2.1]",
    ]
    rows(Console(file=screen, force_terminal=True, width=200))
    assert "compared: VTW" not in screen.getvalue().replace("\r", "\n").splitlines()


def test_strategies_that_cannot_reach_the_cost_are_left_out_with_the_reason() -> None:
    cheap = Schedule.from_rates([1.0] + [0.0] * 11)
    found = rivals(cheap, 0)
    assert list(found.schedules) == ["VTW"]
    assert found.left_out.keys() == {"FastV", "PDrop", "P-Sigmoid", "random tokens", "one cut"}
    assert found.left_out["FastV"] == "fastv cannot reach a memory cost of 0.08333: its lowest is 0.1667"
    assert rivals(OURS, 0).left_out == {}
