"""`vtr-ray evaluate --suite` as users run it: real model, actors, lmms-eval tasks, MLflow store."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import run_here

from vtr_ray import Schedule, embedded, strategies
from vtr_ray.cli import main

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_here")]

SUITE = ["--suite", "vtr_text", "--suite", "vtr_existence", "--limit", "24", "--cpus-per-actor", "1"]


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory, ray_here: None) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("evaluated")
    strategies.p_sigmoid(12, 0.3, 0.8).save(folder / "mine.json")
    out = run_here(
        folder, "evaluate", "mine.json", "--strategy", "vtw", *SUITE, "--actors", "2", "--out", "one"
    )
    return folder, out


def test_figures_documents_and_pictures_are_on_disk(evaluated: tuple[Path, str]) -> None:
    folder, out = evaluated
    content = json.loads((folder / "one" / "evaluation.json").read_text())
    names = ["no reduction", "mine", "mine, random tokens", "mine, one cut", "VTW"]
    assert list(content["strategies"]) == names
    assert content["benchmarks"]["vtr_existence"]["metric"] == "pope_f1_score"
    assert content["benchmarks"]["vtr_text"] == {
        "title": "text", "group": "embedded", "metric": "exact_match", "full": 1.0, "documents": 24,
        "note": "",
    }  # fmt: skip
    row = content["strategies"]["no reduction"]
    assert row["average"]["value"] == pytest.approx(
        sum(one["value"] for one in row["benchmarks"].values()) / 2
    )
    assert set(row["benchmarks"]["vtr_existence"]["figures"]) == {"pope_accuracy", "pope_f1_score"}
    assert row["tflops"] > 0 and row["memory_cost"] == 1.0 and row["counted_samples"] == 48
    assert row["prefill_ms"] is None and row["decode_ms"] is None  # too small to be timed
    with (folder / "one" / "documents" / "vtw.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 48
    right = [float(one["score"]) for one in lines if one["benchmark"] == "vtr_text"]
    assert sum(right) / 24 == pytest.approx(content["strategies"]["VTW"]["benchmarks"]["vtr_text"]["value"])
    assert all((one["answer"] == one["target"]) == (one["score"] == "1.0") for one in lines)
    pairs = [one for one in content["pairs"] if one["benchmark"] == "vtr_text"]
    assert len(pairs) == 10 and {one["test"] for one in pairs} == {"mcnemar"}
    lost = next(one for one in pairs if (one["first"], one["second"]) == ("VTW", "no reduction"))
    assert lost["significant"] and lost["difference"] < -0.5
    shown = json.loads((folder / "one" / "samples.json").read_text())["samples"]
    assert len(shown) == 6 and {one["task"] for one in shown} == {"vtr_text", "vtr_existence"}
    kept = shown[0]["strategies"]["mine"]["kept"]
    assert [len(layer) for layer in kept] == Schedule.load(folder / "mine.json").counts(144)
    for words in (
        "no reduction", "VTW", "difference", "Results:", "mlflow ui --backend-store-uri",
        "Accuracy fell (significant; paired, 95 %): ", "Against one cut (the same ranking and memory cost",
    ):  # fmt: skip
        assert words in out


def test_another_schedule_never_asks_the_baseline_again(evaluated: tuple[Path, str]) -> None:
    folder, _ = evaluated
    import sqlite3

    def known() -> int:
        return (
            sqlite3.connect(folder / "responses.sqlite")
            .execute("SELECT count(*) FROM responses")
            .fetchone()[0]
        )

    before = known()
    assert before == 5 * 48
    out = run_here(folder, "evaluate", "--strategy", "fastv", "--no-random", *SUITE, "--out", "two")
    assert known() == before + 48 and "FastV" in out
    first, second = (
        json.loads((folder / name / "evaluation.json").read_text())["strategies"]["no reduction"]
        for name in ("one", "two")
    )
    assert first["benchmarks"] == second["benchmarks"]


def test_mlflow_has_an_experiment_a_model_and_a_run_a_schedule(evaluated: tuple[Path, str]) -> None:
    from mlflow import MlflowClient

    folder, _ = evaluated
    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("vtr-ray embedded")
    content = json.loads((folder / "one" / "evaluation.json").read_text())
    runs = client.search_runs([experiment.experiment_id], f"tags.`vtr_ray.evaluation` = '{content['id']}'")
    assert len(runs) == 5 and {one.info.status for one in runs} == {"FINISHED"}
    mine = next(one for one in runs if one.data.tags["vtr_ray.strategy"] == "mine")
    row = content["strategies"]["mine"]
    assert mine.data.params["suite"] == "vtr_text+vtr_existence" and mine.data.params["model"] == "embedded"
    assert not {"prefill_ms", "decode_ms"} & mine.data.metrics.keys()
    for name in ("memory_cost", "tflops", "tflops_executed"):
        assert mine.data.metrics[name] == pytest.approx(row[name])
    assert mine.data.metrics["accuracy/text"] == row["benchmarks"]["vtr_text"]["value"]
    assert mine.data.metrics["accuracy/average"] == row["average"]["value"]
    curve = client.get_metric_history(mine.info.run_id, "keeping_rate")
    assert [one.step for one in curve] == list(range(1, 13))
    assert [one.value for one in curve] == row["schedule"]["rates"]
    files = {one.path for one in client.list_artifacts(mine.info.run_id)}
    assert files == {"documents", "evaluation.json", "samples.json", "schedule.json"}
    assert [one.path for one in client.list_artifacts(mine.info.run_id, "documents")] == [
        "documents/mine.csv"
    ]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """A command in this process; gives what it prints, of a mistake the line."""

    def call(folder: Path, *arguments: str, status: int = 0) -> str:
        monkeypatch.chdir(folder)
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        out, error = capsys.readouterr()
        assert ended.value.code == status, error
        return error.splitlines()[-1] if status else out

    return call


def test_a_registered_schedule_is_what_every_command_takes(
    evaluated: tuple[Path, str], command: Callable[..., str]
) -> None:
    folder, _ = evaluated
    assert "mlflow:toy/1" in command(folder, "register", "mine.json", "toy")
    assert command(folder, "show", "mlflow:toy@champion") == command(folder, "show", "mine.json")
    command(folder, "register", "one", "toy", status=2)  # an evaluation has no schedule of its own
    assert "toy@challenger" in command(folder, "show", "mlflow:toy@challenger", status=2)
    assert "letters" in command(folder, "register", "mine.json", "a/b", status=2)
    assert "toy@champion" in command(folder, "plan", "mlflow:toy@champion", "--tflops-per-gpu", "1")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--suite", "embedded"], "nothing to evaluate"),
        (["--strategy", "fastv", "--suite", "nonsense"], "unknown task 'nonsense'"),
        (["--strategy", "fastv", "--suite", "gqa"], "hf download --repo-type dataset"),
        (["--strategy", "fastv", "--suite", "embedded", "--task", "vtr_text"], "give one of them"),
        (["--strategy", "fastv", "--limit", "3"], "go with --suite"),
        (["--strategy", "vtw", "--find-k", "--suite", "embedded"], "not with --suite"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(
    tmp_path: Path, command: Callable[..., str], arguments: list[str], words: str
) -> None:
    assert words in command(tmp_path, "evaluate", *arguments, status=2)
    assert not list(tmp_path.iterdir())


def test_results_are_never_overwritten(evaluated: tuple[Path, str], command: Callable[..., str]) -> None:
    folder, _ = evaluated
    before = (folder / "one" / "evaluation.json").read_bytes()
    again = command(folder, "evaluate", "mine.json", *SUITE, "--out", "one", status=2)
    assert "holds an evaluation already" in again
    assert (folder / "one" / "evaluation.json").read_bytes() == before


def test_lmms_eval_runs_with_a_schedule_applied(tmp_path: Path) -> None:
    strategies.vtw(12).save(tmp_path / "vtw.json")
    done = subprocess.run(
        [sys.executable, "-m", "lmms_eval", "--model", "vtr_ray", "--model_args",
         f"pretrained=embedded,schedule={tmp_path / 'vtw.json'},device=cpu", "--tasks", "vtr_existence",
         "--include_path", str(embedded.TASKS_FOLDER), "--limit", "10"],
        cwd=tmp_path, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "pope_f1_score" in done.stdout and "vtr_ray" in done.stdout
