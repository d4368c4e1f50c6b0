"""What the studies of all methods, of videos and of trainings say of the paper's claims."""

from __future__ import annotations

import posixpath
from dataclasses import replace

import pytest

from vtr_ray.report.studies import draw
from vtr_ray.studies.methods import G_SEARCH, NONE, P_SIGMOID, RANDOM, Method, every_benchmark, on_videos
from vtr_ray.studies.training import PLAIN, REDUCED, SHIPPED, START, TUNED, Trained, trained_with_reductions


def method(name: str, accuracy: float, tflops: float, **more: object) -> Method:
    benchmarks = {"GQA": accuracy, "POPE": accuracy}
    return replace(
        Method(name, accuracy, accuracy - 0.01, accuracy + 0.01, 0.5, tflops, 3.0, benchmarks), **more
    )


WHOLE, OURS = method(NONE, 0.9, 9.0), method(G_SEARCH, 0.89, 4.0)


@pytest.mark.parametrize(
    ("other", "ours", "holds"),
    [
        (method("FastV 50 %", 0.95, 5.0), OURS, True),  # dearer
        (method("FastV 50 %", 0.80, 3.0), OURS, True),  # worse
        (method("FastV 50 %", 0.89, 4.0), OURS, False),  # as good for as much
        (method("FastV 50 %", 0.95, 5.0), replace(OURS, difference=-0.01, significant=True), False),
    ],
)
def test_a_method_is_beaten_by_less_flops_or_more_accuracy(other: Method, ours: Method, holds: bool) -> None:
    found = every_benchmark([WHOLE, other, ours, method(RANDOM, 0.99, 1.0)])
    assert found.holds is holds
    assert [row[0] for row in found.tables["methods"].rows] == [NONE, "FastV 50 %", G_SEARCH, RANDOM]
    assert found.tables["benchmarks"].columns == ("method", "GQA", "POPE")
    assert any("No less accurate" in line for line in found.sentences) == (other.tflops == 4.0)


def test_a_benchmark_that_one_method_lacks_is_empty_there() -> None:
    found = every_benchmark([WHOLE, replace(OURS, benchmarks={"POPE": 0.5})])
    assert found.tables["benchmarks"].rows[1] == (G_SEARCH, None, 0.5)


@pytest.mark.parametrize(
    ("lead", "ours", "holds"),
    [
        ((0.02, True), OURS, True),
        ((0.02, False), OURS, None),
        ((-0.02, False), OURS, False),
        ((0.02, True), replace(OURS, difference=-0.2, significant=True), False),
    ],
)
def test_videos_decide_by_what_is_significant(
    lead: tuple[float, bool], ours: Method, holds: bool | None
) -> None:
    rows = [WHOLE, ours, method("FastV 87.5 %", 0.8, 2.0), method(P_SIGMOID, 0.8 + lead[0], 2.0)]
    assert on_videos(rows, "FastV 87.5 %", lead).holds is holds


def trainings(boost: float, tuned: float) -> list[Trained]:
    rows = []
    for name, gain in ((G_SEARCH, boost), (P_SIGMOID, 0.0)):
        rows += [
            Trained(name, SHIPPED, "", 0.9),
            Trained(name, START, PLAIN, 0.5),
            Trained(name, START, REDUCED, 0.5 + gain, gain, abs(gain) > 0.01),
            Trained(name, TUNED, PLAIN, 0.9),
        ]
        gain = tuned if name == P_SIGMOID else 0.0
        rows.append(Trained(name, TUNED, REDUCED, 0.9 + gain, gain, abs(gain) > 0.01))
    return [*rows, Trained(NONE, START, PLAIN, 0.6)]


@pytest.mark.parametrize(
    ("boost", "tuned", "holds"),
    [(0.0, 0.03, True), (0.0, 0.0, False), (0.05, 0.03, False), (-0.2, 0.03, True)],
)
def test_training_holds_where_only_tuning_for_the_budget_helps(
    boost: float, tuned: float, holds: bool
) -> None:
    found = trained_with_reductions(trainings(boost, tuned), 400, 100)
    assert found.holds is holds
    assert "400 steps" in found.sentences[0] and "100" in found.sentences[0]
    assert found.metrics[f"accuracy/{P_SIGMOID}/{TUNED}/{REDUCED}"] == pytest.approx(0.9 + tuned)


def test_their_figures_draw_their_tables_and_mlflow_takes_their_names() -> None:
    findings = [
        every_benchmark([WHOLE, OURS]),
        on_videos([WHOLE, OURS, method("FastV", 0.8, 2.0), method(P_SIGMOID, 0.8, 2.0)], "FastV", (0, False)),
        trained_with_reductions(trainings(0.0, 0.0), 4, 1),
    ]
    for finding in findings:
        (drawing,) = draw(finding)
        assert drawing.png.startswith(b"\x89PNG")
        assert any(table.rows == drawing.rows for table in finding.tables.values())
        assert all(posixpath.normpath(name) == name for name in finding.metrics)
