"""The paper's numbers: where two tables print the same, and where an average is printed beside its parts."""

from __future__ import annotations

import pytest

from vtr_ray.errors import InputError
from vtr_ray.evaluation.benchmarks.catalogue import PAPER, VIDEO
from vtr_ray.studies import paper


@pytest.mark.parametrize(("first", "second"), [(1, 6), (1, 8), (3, 9), (2, 7), (6, 8), (9, 8)])
def test_tables_that_print_the_same_agree_but_for_the_slips(first: int, second: int) -> None:
    compared = 0
    for model, rows in paper.rows(first).items():
        other = {row.method: row for row in paper.rows(second).get(model, [])}
        for row in rows:
            theirs = other[row.method].figures if row.method in other else {}
            for name, value in row.figures.items():
                if name in theirs and f"Table {first}/{model}/{row.method}/{name}" not in paper.slips():
                    assert value == theirs[name], (model, row.method, name)
                    compared += 1
    assert compared >= 4


@pytest.mark.parametrize("table", [3, 6, 7])
def test_an_average_is_the_mean_of_its_benchmarks_with_mme_over_2800(table: int) -> None:
    for model, rows in paper.rows(table).items():
        for row in rows:
            if f"Table {table}/{model}/{row.method}/mme" in paper.slips():
                continue
            assert len(row.benchmarks) == (11 if model == "InternVL2-26B" else 12)
            parts = [value / 28 if task == "mme" else value for task, value in row.benchmarks.items()]
            assert sum(parts) / len(parts) == pytest.approx(row.figures["average"], abs=0.015), (
                model,
                row.method,
            )


def test_every_slip_names_a_row_and_every_benchmark_is_a_task() -> None:
    for place in paper.slips():
        table, model, method, _ = place.split("/")
        assert method in [row.method for row in paper.rows(int(table.removeprefix("Table ")))[model]]
    tasks = {one.task for one in (*PAPER, *VIDEO)}
    for table in paper.tables():
        for rows in paper.rows(table).values():
            assert all(set(row.benchmarks) <= tasks for row in rows)


def test_macs_are_half_the_flops() -> None:
    for table in (8, 9, 10):
        for rows in paper.rows(table).values():
            for row in rows:
                assert row.figures["tmacs"] == pytest.approx(row.figures["tflops"] / 2, abs=0.011)


@pytest.mark.parametrize(
    ("model", "table", "expected"),
    [
        ("llava-hf/llava-1.5-7b-hf", 1, "LLaVA-1.5-7B"),
        ("llava-hf/llava-1.5-13b-hf", 6, "LLaVA-1.5-13B"),
        ("OpenGVLab/InternVL2-8B", 1, "InternVL2-8B"),
        ("/models/InternVL2-2B-native", 4, "InternVL2-2B"),
        ("embedded:deco", 2, "LLaVA-1.5-7B + DeCo"),
        ("embedded:tokenpacker", 7, "LLaVA-1.5-7B + TokenPacker"),
        ("embedded:internvl", 1, "InternVL2-1B"),
        ("embedded", 1, "LLaVA-1.5-7B"),
    ],
)
def test_a_checkpoint_stands_beside_the_paper_model_of_its_name(
    model: str, table: int, expected: str
) -> None:
    assert paper.nearest(model, list(paper.rows(table))) == expected


def test_a_table_without_numbers_is_refused() -> None:
    with pytest.raises(InputError, match="no numbers in Table 12"):
        paper.rows(12)
