"""`vtr-ray compare` as users run it, on made-up run directories and a real MLflow store."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

sys.path.append(str(Path(__file__).parent / "report"))
import page_files

from vtr_ray import cli
from vtr_ray.commands.compare import compare
from vtr_ray.schedule import Schedule
from vtr_ray.tracking import log_run

SCHEDULE = Schedule.from_rates([1, 1, *[0.25] * 10])


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("VTR_RAY_HOME", "MLFLOW_TRACKING_URI", "RAY_JOB_CONFIG_JSON_ENV_VAR"):
        monkeypatch.delenv(name, raising=False)


def run(*words: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        cli.main(["compare", *words])
    said = capsys.readouterr()
    return int(str(caught.value.code)), said.out, said.err


def test_bad_input_is_a_line_and_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = page_files.evaluation(SCHEDULE)
    chosen = page_files.samples(content, 1)
    chosen["samples"][0]["image"] = "data:image/png;base64,AAAA"  # seen when the page is half made
    page_files.write_evaluation(tmp_path / "bad", content, chosen)
    page_files.write_evaluation(tmp_path / "good", content)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").touch()
    before = sorted(tmp_path.rglob("*"))
    for words, line in (
        (["bad", "--out", "page"], "the image of scenes 0 cannot be read"),
        (["nowhere", "--out", "page"], "nowhere is no run directory"),
        (["good", "--out", "full"], "full is there already; name another folder"),
        (["good", "--out", "good/evaluation.json/x"], "evaluation.json"),
        ([], "Missing argument"),
    ):
        status, out, err = run(*words, capsys=capsys)
        assert (status, out, len(err.splitlines())) == (2, "", 1) and line in err, err
        assert sorted(tmp_path.rglob("*")) == before


def test_a_store_that_is_away_costs_the_log_and_not_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////proc/nowhere/mlflow.db")
    page_files.write_evaluation(tmp_path / "evaluate-x", page_files.evaluation(SCHEDULE))
    file = io.StringIO()
    folder = compare(["evaluate-x"], None, Console(file=file, width=80))
    assert folder.parent == tmp_path / "runs" and folder.name.startswith("compare-")
    said = file.getvalue().splitlines()
    assert said[0].startswith("Significantly less accurate than no reduction on average")
    assert f"Page:       {folder / 'index.html'}" in said
    assert said[-1].startswith("Not in MLflow: MLflow at sqlite:////proc/nowhere/mlflow.db cannot be written")
    assert compare(["evaluate-x"], None, Console(file=io.StringIO())) != folder


@pytest.mark.slow
def test_runs_come_from_mlflow_and_the_page_goes_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from mlflow import MlflowClient

    found = page_files.write_search(tmp_path / "gsearch-x", iterations=0)
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    search = log_run(tmp_path / "gsearch-x", uri, experiment="ours")
    status, out, err = run(f"runs:/{search}", "--out", "page", capsys=capsys)
    assert (status, err) == (0, "")
    rates = (tmp_path / "page" / "data" / "keeping-rates.csv").read_text().splitlines()[1:]
    assert tuple(float(line.split(",")[2]) for line in rates) == found.rates

    client = MlflowClient(tracking_uri=uri)
    (line,) = (line for line in out.splitlines() if line.startswith("MLflow run: "))
    logged: Any = client.get_run(line.split()[2].strip(","))
    assert logged.info.run_name == "compare gsearch-x" and logged.info.status == "FINISHED"
    # Beside the runs that it compares.
    assert logged.info.experiment_id == client.get_experiment_by_name("ours").experiment_id
    assert {file.path for file in client.list_artifacts(logged.info.run_id)} == {
        "index.html",
        "figures",
        "data",
    }
    copy = client.download_artifacts(logged.info.run_id, "index.html", str(tmp_path))
    assert Path(copy).read_text() == (tmp_path / "page" / "index.html").read_text()

    status, out, err = run("runs:/none", "--out", "other", capsys=capsys)
    assert status == 2 and len(err.splitlines()) == 1
    assert err.startswith("vtr-ray: runs:/none cannot be fetched from MLflow at sqlite:")
    assert not (tmp_path / "other").exists()
