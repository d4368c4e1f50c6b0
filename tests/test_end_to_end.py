"""The command as users run it: real model, real Ray, real MLflow; what is ended, in a process of its own."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent / "tuning"))
import faulty
from commands import run_here

from vtr_ray import Schedule, strategies
from vtr_ray.cli import main

pytestmark = pytest.mark.slow

SHORT = ["--stride", "9", "--initial", "3", "--iterations", "1", "--cpus-per-actor", "1"]
SMALL = [
    *SHORT,
    *("--task", "vtr_scenes_search:64", "--task", "vtr_text_search:32", "--test-task", "vtr_scenes:80"),
]
VTR_RAY = [sys.executable, "-m", "vtr_ray.cli"]


def environment(**more):
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MLFLOW_"))}
    return kept | {"OMP_NUM_THREADS": "1"} | more


def gsearch(folder, *arguments):
    return run_here(folder, "gsearch", *SMALL, *arguments)


def trials(run):
    """What the ledger says of each trial, but for the clock."""
    lines = [json.loads(line) for line in (run / "ledger.jsonl").read_text().splitlines()]
    return [(one["trial"], one["layer"], one["rate"], one["score"]) for one in lines]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, ray_here):
    folder = tmp_path_factory.mktemp("undisturbed")
    return folder, gsearch(folder, "--out", "run")


def test_the_run_leaves_what_it_says(undisturbed):
    folder, output = undisturbed
    run = folder / "run"
    schedule = Schedule.load(run / "schedule.json")
    assert schedule.num_layers == 12 and schedule.reduces
    assert trials(run)[0][:2] == (1, 3)
    table = json.loads((run / "comparison.json").read_text())
    rows = {row["name"]: row for row in table["rows"]}
    assert table["samples"] == 80
    assert list(rows)[:2] == ["no reduction", "G-Search"] and "random tokens" in rows
    assert rows["G-Search"]["schedule"]["rates"] == list(schedule.rates)
    assert table["found"] == "G-Search" and rows["random tokens"]["to_found"]["samples"] == table["samples"]
    assert {"FastV", "PDrop", "VTW", "P-Sigmoid"} == (rows.keys() | table["left_out"].keys()) - {
        "no reduction", "G-Search", "random tokens", "one cut"
    }  # fmt: skip
    if "one cut" in rows:
        assert rows["one cut"]["schedule"] == strategies.one_cut(schedule).to_dict()
    else:  # so small a search may find one
        assert table["left_out"]["one cut"] == "it is one cut itself" and len({*schedule.rates}) == 2
    for row in rows.values():
        assert 0 <= row["accuracy_low"] < row["accuracy_high"] <= 1
    for name in ("FastV", "PDrop", "P-Sigmoid"):
        if name in rows:
            assert rows[name]["memory_cost"] == pytest.approx(schedule.memory_cost, abs=0.01)
    assert (run / "keeping_rate.png").read_bytes().startswith(b"\x89PNG")
    for words in (
        "no reduction", "memory cost", "FLOPs", "schedule.json", "mlflow ui --backend-store-uri",
        "to G-Search", "compared: random tokens: accuracy", "Significantly more accurate than G-Search",
        "ccuracy was kept: ", "Against random tokens (",
    ):  # fmt: skip
        assert words in output
    assert "Traceback" not in output


def test_mlflow_has_the_run(undisturbed):
    from mlflow import MlflowClient

    folder, _ = undisturbed
    schedule = Schedule.load(folder / "run" / "schedule.json")
    client = MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("vtr-ray")
    runs = client.search_runs([experiment.experiment_id])
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert len(parents) == 1
    parent = parents[0]
    curve = client.get_metric_history(parent.info.run_id, "keeping_rate")
    assert {metric.step: metric.value for metric in curve} == dict(enumerate(schedule.rates, start=1))
    rows = json.loads((folder / "run" / "comparison.json").read_text())["rows"]
    for row in rows:
        own = {end: parent.data.metrics[f"accuracy/{row['name']}_{end}"] for end in ("low", "high")}
        assert own == {end: row[f"accuracy_{end}"] for end in ("low", "high")}
    for metric in ("memory_cost", "E_before", "E_after", "tflops"):
        assert metric in parent.data.metrics
    artifacts = {file.path for file in client.list_artifacts(parent.info.run_id)}
    assert {"schedule.json", "keeping_rate.png", "comparison.json"} <= artifacts
    told = sum(len(client.get_metric_history(run.info.run_id, "E")) for run in runs if run is not parent)
    assert told == len(trials(folder / "run"))


def test_killed_and_resumed_is_the_undisturbed_run(undisturbed, tmp_path):
    folder, _ = undisturbed
    run = tmp_path / "run"
    command = [*VTR_RAY, "gsearch", *SMALL, "--out", "run", "--no-compare"]
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    ledger = run / "ledger.jsonl"
    limit = time.time() + 300
    while not (ledger.is_file() and len(ledger.read_bytes().splitlines()) >= 2):
        assert time.time() < limit and process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = trials(run)
    assert not (run / "schedule.json").exists()
    gsearch(tmp_path, "--out", "run", "--no-compare", "--resume")
    assert trials(run)[: len(before)] == before
    assert trials(run) == trials(folder / "run")
    assert Schedule.load(run / "schedule.json") == Schedule.load(folder / "run" / "schedule.json")


def test_a_terminated_search_says_how_to_go_on(tmp_path):
    """Status, line and MLflow; here the schedule is found, and its comparison is cut."""
    from mlflow import MlflowClient

    (tmp_path / "few.json").write_text(json.dumps(faulty.llava_entries(tmp_path, 6)))
    command = [*VTR_RAY, "gsearch", "--samples", "few.json", *SHORT]
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    limit = time.time() + 300
    while not any(tmp_path.glob("runs/*/schedule.json")):
        assert time.time() < limit and process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=120)
    assert (process.returncode, said) == (143, "vtr-ray: stopped by SIGTERM; --resume goes on\n")
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    (run,) = tmp_path.glob("runs/*")
    status = client.get_run(json.loads((run / "mlflow.json").read_text())["run_id"]).info.status
    assert status == "KILLED" and not (run / "comparison.json").exists()


def test_a_search_whose_model_is_right_on_nothing_is_refused(tmp_path, ray_here, monkeypatch, capsys):
    entries = faulty.llava_entries(tmp_path, 8)
    for entry in entries:
        entry["conversations"][1]["value"] = "It is a large circle."
    (tmp_path / "long.json").write_text(json.dumps(entries))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["gsearch", "--samples", "long.json", *SHORT, "--no-compare"])
    said = capsys.readouterr().err
    assert ended.value.code == 2 and len(said.strip().splitlines()) == 1
    assert "right on 0 of 8 samples" in said and said.count("expected 'It is a large circle.'") == 3
    assert not list(tmp_path.glob("runs/*"))


def test_resume_with_other_settings_is_refused(undisturbed, monkeypatch, capsys):
    folder, _ = undisturbed
    monkeypatch.chdir(folder)
    with pytest.raises(SystemExit) as ended:
        main(["gsearch", *SMALL, "--weight", "0.02", "--out", "run", "--resume"])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "another search" in said and len(said.strip().splitlines()) == 1
