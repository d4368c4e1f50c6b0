"""`vtr-ray reproduce` as users run it, with searches that are there; and what it refuses."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
from commands import finished_search

from vtr_ray import strategies
from vtr_ray.cli import main
from vtr_ray.commands.reproduce import _shown, lines_of, paper_rows
from vtr_ray.studies import paper
from vtr_ray.studies.beside import counted_by, measured

FASTV = strategies.fastv(12, 0.875)


def status(*arguments: str) -> int:
    try:
        main(["reproduce", *arguments])
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VTR_RAY_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--table", "12"], "Table 12 is not reproduced; use one of 1, 2,"),
        (["--table", "4"], "Table 4 compares models; give two or more with --model"),
        (["--table", "1", "-m", "embedded", "-m", "embedded:deco"], "Table 1 is of one model; give one"),
        (["--table", "1", "--beside", "GPT"], "Table 1 has no 'GPT'; use one of: LLaVA-1.5-7B"),
        (["--table", "4", "-m", "a", "-m", "b", "--beside", "InternVL2-1B"], "2 --model and 1 --beside"),
        (["--table", "1", "nowhere"], "nowhere is no run of a search; name run directories"),
    ],
)
def test_what_cannot_be_reproduced_is_said_in_one_line(
    home: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert status(*arguments) == 2
    error = capsys.readouterr().err.strip()
    assert said in error and "\n" not in error
    assert list(home.iterdir()) == []


@pytest.mark.slow
def test_a_table_stands_beside_the_papers(
    home: Path, capsys: pytest.CaptureFixture[str], ray_here: None
) -> None:
    ours = strategies.p_sigmoid(12, 0.11, 0.5)
    run = finished_search(home / "p", ours, "psigmoid")
    arguments = [
        "--table", "9", "--suite", "vtr_text", "--limit", "6", "--repeats", "2", "--out", "nine",
        "--cpus-per-actor", "1", run,
    ]  # fmt: skip
    assert status(*arguments) == 0
    out = capsys.readouterr().out
    assert "Table 9: LLaVA-1.5-7B in the paper, embedded here" in out
    content = json.loads((home / "nine" / "reproduction.json").read_text())
    lines = {(line["method"], line["figure"]): line for line in content["lines"]}
    theirs = {row.method: row for row in paper.rows(9)["LLaVA-1.5-7B"]}
    for method, schedule in (("FastV 87.5 %", FASTV), ("P-Sigmoid", ours)):
        line = lines[method, "memory_cost"]
        assert line["paper"] == theirs[method].figures["memory_cost"]
        assert line["ours"] == pytest.approx(schedule.memory_cost)
        assert line["where"] == f"Table 9, LLaVA-1.5-7B, {method}"
        assert lines[method, "decode_s"]["ours"] > 0 and lines[method, "average"]["ours"] <= 100
    assert lines["none", "tflops"]["ours"] > lines["P-Sigmoid", "tflops"]["ours"]
    with (home / "nine" / "beside.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == len(content["lines"])
    studies = [
        json.loads((home / "nine" / name / "study.json").read_text()) for name in ("tradeoff", "efficiency")
    ]
    assert [one["model"] for one in studies] == ["embedded"] * 2
    assert status(*arguments) == 2  # nothing is overwritten
    assert "holds a reproduction already" in capsys.readouterr().err


def test_models_with_each_others_schedules_stand_beside_table_4() -> None:
    pairs = paper_rows(4, ["embedded", "embedded:deco"], ["InternVL2-1B", "InternVL2-2B"])
    columns = ["model", "schedule", "accuracy", "TFLOPs", "memory cost", "difference", "significant"]
    rows = [
        ["embedded", "its own", 0.9, 2.0, 0.5, 0, False],
        ["embedded", "embedded:deco", 0.8, 1.0, 0.4, -0.1, True],
        ["embedded", "one cut", 0.85, 2.0, 0.5, -0.05, True],
        ["embedded:deco", "its own", 0.7, 1.0, 0.4, 0, False],
        ["embedded:deco", "embedded", 0.6, 2.0, 0.5, -0.1, True],
    ]
    exchange = {"tables": {"accuracies": {"columns": columns, "rows": rows}}}
    lines = {
        (line["model"], line["method"], line["figure"]): (line["paper"], line["ours"])
        for line in lines_of(4, pairs, measured(4, "embedded", {"exchange": exchange}))
    }
    assert lines["embedded", "self", "average"] == (59.19, 90.0)
    assert lines["embedded", "InternVL2-2B", "average"] == (57.58, 80.0)
    assert lines["embedded:deco", "self", "average"] == (61.22, 70.0)
    assert lines["embedded:deco", "InternVL2-1B", "average"] == (60.90, 60.0)
    assert lines["embedded:deco", "InternVL2-1B", "tflops"] == (None, 2.0)
    assert lines["embedded", "one cut", "average"] == (None, 85.0)


def test_one_cut_has_a_row_that_the_paper_has_not() -> None:
    columns = ["model", "schedule", "accuracy", "TFLOPs", "memory cost"]
    rows = [
        ["m", "no reduction", 0.9, 2.0, 1.0],
        ["m", "its own", 0.8, 1.0, 0.5],
        ["m", "one cut", 0.7, 1.0, 0.5],
    ]
    content = {"ontop": {"tables": {"accuracies": {"columns": columns, "rows": rows}}}}
    assert [one.method for one in measured(2, "m", content)] == ["none", "G-Search", "one cut"]


def test_kernels_stand_beside_table_10_as_the_paper_ran_them() -> None:
    columns = ["method", "kernel", "TFLOPs", "prefill s", "decode s"]
    rows = [
        ["no reduction", "eager", 9.0, 0.4, 0.1],
        ["no reduction", "SDPA", 9.0, 0.3, 0.1],
        ["no reduction", "flash", 9.0, 0.2, 0.1],
        ["G-Search", "eager", 4.0, 0.1, 0.1],
        ["G-Search", "flash", 4.0, 0.05, 0.1],
    ]
    content = {"tables": {"kernels": {"columns": columns, "rows": rows}}}
    found = {one.method: one.figures["prefill_s"] for one in measured(10, "m", {"efficiency": content})}
    assert found == {"none": 0.4, "FlashAttention2": 0.2, "G-Search": 0.1}


def test_a_column_of_costs_is_of_one_study_and_named() -> None:
    columns = ["method", "average", "low", "high", "memory cost", "TFLOPs"]
    rows = [["no reduction", 0.9, 0.8, 1.0, 1.0, 0.000951], ["random tokens", 0.8, 0.7, 0.9, 0.4, 0.0004]]
    benchmarks = {
        "tables": {
            "methods": {"columns": columns, "rows": rows},
            "benchmarks": {"columns": ["method"], "rows": [["no reduction"], ["random tokens"]]},
        }
    }
    columns = ["method", "kernel", "memory cost", "TFLOPs", "TMACs", "prefill s"]
    rows = [["no reduction", "sdpa", 1.0, 0.00119, 0.000595, 0.03]]
    timed = {"tables": {"methods": {"columns": columns, "rows": rows}}}
    contents = {"benchmarks": benchmarks, "efficiency": timed}
    ours = {one.method: one.figures for one in measured(1, "m", contents)}
    assert ours["none"] == {
        "average": 90.0, "memory_cost": 1.0, "tflops": 0.00119, "tmacs": 0.000595, "prefill_s": 0.03
    }  # fmt: skip
    assert ours["random tokens"] == {"average": 80.0}  # what counted the column has not counted this one
    assert set(counted_by(1, "m", contents).values()) == {"the timed sample, one picture and 75 text tokens"}
    alone = {"benchmarks": benchmarks}
    assert counted_by(1, "m", alone)["tflops"] == "the benchmarks' prompts, means over them"
    pairs = paper_rows(1, ["llava-hf/llava-1.5-7b-hf"], [])
    found = [replace(one, model=pairs[0].here) for one in measured(1, "m", contents)]
    table = _shown(pairs[0], lines_of(1, pairs, found), counted_by(1, "m", contents))
    assert "FLOPs (the paper's convention): the timed sample" in str(table.caption)
    heads = [column.header for column in table.columns]
    assert "TFLOPs\npaper" in heads and "GFLOPs\nours" in heads
    assert "1.190" in list(table.columns[heads.index("GFLOPs\nours")].cells)


def test_benchmarks_are_in_the_papers_units_and_under_its_titles() -> None:
    pairs = paper_rows(1, ["llava-hf/llava-1.5-7b-hf"], [])
    methods = {
        "columns": ["method", "average", "low", "high", "memory cost", "TFLOPs", "prefill ms"],
        "rows": [["no reduction", 0.5, 0.4, 0.6, 1.0, 9.0, 100.0]],
    }
    figures = {"columns": ["method", "MME", "GQA", "own"], "rows": [["no reduction", 0.6, 0.62, None]]}
    content = {"tables": {"methods": methods, "benchmarks": figures}}
    found = measured(1, pairs[0].here, {"benchmarks": content})
    lines = {
        line["figure"]: line
        for line in lines_of(6, paper_rows(6, [pairs[0].here], []), found)
        if line["method"] == "none"
    }
    assert lines["MME"]["paper"] == 1743.2 and lines["MME"]["ours"] == pytest.approx(1680)
    assert lines["GQA"]["paper"] == 62.8 and lines["GQA"]["ours"] == pytest.approx(62)
    assert "own" not in lines
