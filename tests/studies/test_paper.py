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


@pytest.mark.parametrize(
    ("table", "model", "better", "worse", "printed"),
    [
        (2, "LLaVA-1.5-7B + TokenPacker", "G-Search", "none", [0.08, -0.589, -1.15, -0.086]),
        (2, "LLaVA-1.5-7B + DeCo", "G-Search", "none", [-0.26, -0.568, -1.1, -0.070]),
        (11, "InternVL2-8B", "G-Search", "FastV 50 %", [-0.107, -3.78, -0.172]),
        (11, "InternVL2-8B", "P-Sigmoid", "FastV 87.5 %", [-0.009, -0.40, -0.005]),
        (3, "LLaVA-1.5-7B", "P-Sigmoid", "FastV 87.5 %", [-0.08, 3.38]),
        (3, "InternVL2-1B", "P-Sigmoid", "FastV 87.5 %", [-0.05, 4.67]),
        (3, "InternVL2-2B", "P-Sigmoid", "FastV 87.5 %", [-0.10, 3.88]),
        (3, "InternVL2-4B", "P-Sigmoid", "FastV 87.5 %", [-0.10, 6.36]),
        (3, "InternVL2-8B", "P-Sigmoid", "FastV 87.5 %", [-0.25, 7.69]),
        (7, "LLaVA-1.5-7B + TokenPacker", "G-Search", "none", [-1.15, 0.08]),
        (7, "LLaVA-1.5-7B + DeCo", "G-Search", "none", [-1.10, -0.26]),
    ],
)
def test_rows_are_as_far_apart_as_printed(
    table: int, model: str, better: str, worse: str, printed: list[float]
) -> None:
    rows = {row.method: row for row in paper.rows(table)[model]}
    ours, theirs = rows[better].figures, rows[worse].figures
    assert [ours[name] - theirs[name] for name in ours] == pytest.approx(printed, abs=1e-6)


@pytest.mark.parametrize(
    ("table", "model", "better", "worse", "printed"),
    [
        (3, "LLaVA-1.5-7B", "P-Sigmoid", "FastV 87.5 %",
         [55.9, 3.5, 4.3, -0.2, 0.2, 2.4, 5.4, 1.3, 5.2, 11.7, 4.3, 0.4]),
        (3, "InternVL2-1B", "P-Sigmoid", "FastV 87.5 %",
         [109.9, 4.1, 3.3, -0.7, 2.8, 0.5, 10.0, 16.7, 9.7, 3.8, 1.5, 0.1]),
        (3, "InternVL2-2B", "P-Sigmoid", "FastV 87.5 %",
         [49.7, 0.0, 2.2, -0.1, 2.7, -1.3, 6.8, 19.2, 12.5, 2.1, 0.4, 0.5]),
        (3, "InternVL2-4B", "P-Sigmoid", "FastV 87.5 %",
         [88.2, 2.2, 2.7, 1.7, 4.2, 3.4, 8.8, 26.7, 15.3, 2.4, 2.0, 3.8]),
        (3, "InternVL2-8B", "P-Sigmoid", "FastV 87.5 %",
         [110.4, 5.0, 4.3, 1.1, 7.4, 3.7, 10.2, 26.8, 20.3, 5.2, 5.0, -0.6]),
        (7, "LLaVA-1.5-7B + TokenPacker", "G-Search", "none",
         [30.3, 0.1, -0.4, 0.0, 0.1, 0.5, 0.1, -0.6, -0.4, 0.7, -1.0, 0.8]),
        (7, "LLaVA-1.5-7B + DeCo", "G-Search", "none",
         [-16.5, 0.2, -0.7, -0.2, -0.3, -0.1, -0.1, -0.2, 0.0, 0.1, -0.9, -0.4]),
        (11, "InternVL2-8B", "G-Search", "FastV 50 %", [-0.07, 0.04]),
        (11, "InternVL2-8B", "P-Sigmoid", "FastV 87.5 %", [0.82, 0.85]),
    ],
)  # fmt: skip
def test_benchmarks_are_as_far_apart_as_printed(
    table: int, model: str, better: str, worse: str, printed: list[float]
) -> None:
    rows = {row.method: row for row in paper.rows(table)[model]}
    ours, theirs = rows[better].benchmarks, rows[worse].benchmarks
    assert [ours[task] - theirs[task] for task in ours] == pytest.approx(printed, abs=1e-6)


def test_later_tables_take_up_the_averages_and_memory_costs_of_earlier_ones() -> None:
    found = {
        (model, row.method): row.figures["average"]
        for table in (1, 3)
        for model, rows in paper.rows(table).items()
        for row in rows
    }
    for model, rows in paper.rows(4).items():
        assert rows[0].method == "self" and rows[0].figures["average"] == found[model, "G-Search"]
    for row in paper.rows(5)["LLaVA-1.5-7B"]:
        method, _, weights = row.method.partition(", ")
        if weights == "pretrained":
            same = row.figures["average"] == found["LLaVA-1.5-7B", method]
            assert same != (f"Table 5/LLaVA-1.5-7B/{row.method}/average" in paper.slips())
    costs = {
        row.method: row.figures["memory_cost"]
        for table in (8, 9)
        for row in paper.rows(table)["InternVL2-8B"]
    }
    for row in paper.rows(11)["InternVL2-8B"]:
        assert row.figures["memory_cost"] == costs[row.method]


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
