"""What the studies of all methods, of videos and of trainings say of the paper's claims."""

from __future__ import annotations

import posixpath
from dataclasses import replace

import pytest

from vtr_ray.report.studies import draw
from vtr_ray.studies.exchange import OWN, Run, on_top
from vtr_ray.studies.methods import (
    G_SEARCH,
    NONE,
    ONE_CUT,
    P_SIGMOID,
    RANDOM,
    Method,
    every_benchmark,
    on_videos,
)
from vtr_ray.studies.training import PLAIN, REDUCED, SHIPPED, START, TUNED, Trained, trained_with_reductions
from vtr_ray.studies.verdict import PairedDifference


def method(name: str, accuracy: float, tflops: float, **more: object) -> Method:
    benchmarks = {"GQA": accuracy, "POPE": accuracy}
    return replace(
        Method(name, accuracy, accuracy - 0.01, accuracy + 0.01, 0.5, tflops, 3.0, benchmarks), **more
    )


WHOLE, OURS = method(NONE, 0.9, 9.0), method(G_SEARCH, 0.89, 4.0)


def test_what_is_no_worse_and_no_dearer_is_named_and_controls_are_no_rivals() -> None:
    rows = [
        WHOLE,
        method("FastV 50 %", 0.95, 3.0),
        OURS,
        method(RANDOM, 0.99, 1.0),
        method(ONE_CUT, 0.99, 1.0),
    ]
    ahead = PairedDifference(0.06, 0.04, 0.08, True, 1000)
    found = every_benchmark(rows, {("FastV 50 %", G_SEARCH): ahead, (ONE_CUT, G_SEARCH): ahead})
    assert "No less accurate at no more TFLOPs than G-Search: FastV 50 %." in found.sentences
    assert [row[0] for row in found.tables["methods"].rows] == [one.name for one in rows]
    assert found.tables["benchmarks"].columns == ("method", "GQA", "POPE")
    assert not any(ONE_CUT in line or RANDOM in line for line in found.sentences if "Beside it" in line)
    assert any("99.0 with the one cut" in line for line in found.sentences)


def test_a_benchmark_that_one_method_lacks_is_empty_there() -> None:
    found = every_benchmark([WHOLE, replace(OURS, benchmarks={"POPE": 0.5}, prefill_ms=None)], {})
    assert found.tables["benchmarks"].rows[1] == (G_SEARCH, None, 0.5)


def trainings(boost: float, tuned: float) -> list[Trained]:
    rows = []
    for name, gain in ((G_SEARCH, boost), (P_SIGMOID, 0.0)):
        rows += [
            Trained(name, SHIPPED, "", 0.9),
            Trained(name, START, PLAIN, 0.5),
            Trained(name, START, REDUCED, 0.5 + gain, PairedDifference(gain)),
            Trained(name, TUNED, PLAIN, 0.9),
        ]
        gain = tuned if name == P_SIGMOID else 0.0
        rows.append(Trained(name, TUNED, REDUCED, 0.9 + gain, PairedDifference(gain)))
    return [*rows, Trained(NONE, START, PLAIN, 0.6)]


def test_trainings_are_told_with_their_steps() -> None:
    found = trained_with_reductions(trainings(0.0, 0.03), 400, 100)
    assert "400 steps" in found.sentences[0] and "100" in found.sentences[0]
    assert found.metrics[f"accuracy/{P_SIGMOID}/{TUNED}/{REDUCED}"] == pytest.approx(0.93)


def test_their_figures_draw_their_tables_and_mlflow_takes_their_names() -> None:
    findings = [
        every_benchmark([WHOLE, OURS, method(ONE_CUT, 0.9, 4.0)], {}),
        on_videos([WHOLE, OURS, method("FastV", 0.8, 2.0), method(P_SIGMOID, 0.8, 2.0)], "FastV", {}),
        on_top(
            [Run("m", NONE, 0.9, 2.0, 1.0), Run("m", OWN, 0.9, 1.0, 0.5), Run("m", ONE_CUT, 0.9, 1.0, 0.5)],
            {},
        ),
        trained_with_reductions(trainings(0.0, 0.0), 4, 1),
    ]
    for finding in findings:
        (drawing,) = draw(finding)
        assert drawing.png.startswith(b"\x89PNG")
        assert any(table.rows == drawing.rows for table in finding.tables.values())
        assert all(posixpath.normpath(name) == name for name in finding.metrics)
