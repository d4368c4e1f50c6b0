"""MLflow, real SQLite stores and a real server: what a run directory becomes there, outages included."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parent / "tuning"))
import tuning_toys as toys

from vtr_ray.errors import InputError, Stopped
from vtr_ray.evaluation.outcome import effectiveness
from vtr_ray.interrupts import Interrupted
from vtr_ray.report.curve import draw_curve
from vtr_ray.schedule import Schedule
from vtr_ray.store import default_uri, ui_command
from vtr_ray.tracking import LINK, Tracker, log_run
from vtr_ray.tuning.directory import Entry, RunDirectory, read_ledger, record_results

pytestmark = pytest.mark.slow
OPEN = "import sys; from vtr_ray.tracking.searches import _Mirror; from pathlib import Path; "
OPEN += "_Mirror(Path('.'), sys.argv[1], 'at once').open()"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A SQLite store that two processes created at the same time."""
    uri = default_uri(tmp_path_factory.mktemp("mlflow"))
    makers = [
        subprocess.Popen([sys.executable, "-c", OPEN, uri], stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    assert [(maker.communicate(timeout=180)[1], maker.returncode) for maker in makers] == [("", 0)] * 2
    return uri


@pytest.fixture
def client(store: str) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=store)


def write_run(
    path: Path, after: Callable[[Entry], object] = lambda entry: None, trials: int = 99
) -> list[Entry]:
    """A whole run directory, or one that was cut after some trials; no Ray."""
    search, evaluator = toys.new_search(iterations=0), toys.Analytic()
    with RunDirectory(path, toys.SETTINGS, search.state_dict()) as run:
        while not search.finished:
            if len(run.entries) == trials:
                return run.entries
            trial = search.ask()
            score = effectiveness(evaluator.evaluate(trial.schedule))
            search.tell(trial, score)
            objective = search.describe(trial)["objective"]
            entry = Entry(
                trial.id, trial.layer, trial.rate, trial.schedule, score, 0.01, objective, time.time()
            )
            run.append(entry)
            after(entry)
        run.save_schedule(search.best)
    picture = draw_curve({"G-Search": search.best, "none": Schedule.from_rates([1] * 8)}, path / "curve.png")
    record_results(path, {"TFLOPs": 0.25, "accuracy/no reduction": 0.9}, [picture])
    return run.entries


def logged(client: Any, experiment: str) -> tuple[Any, dict[str, Any]]:
    """The one parent run of an experiment, and its nested runs by name."""
    found = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    parents = [run for run in found if "mlflow.parentRunId" not in run.data.tags]
    assert len(parents) == 1
    nested = {run.info.run_name: run for run in found if run is not parents[0]}
    assert len(nested) == len(found) - 1
    assert all(run.data.tags["mlflow.parentRunId"] == parents[0].info.run_id for run in nested.values())
    return parents[0], nested


def history(client: Any, run: Any, name: str) -> dict[int, float]:
    values = client.get_metric_history(run.info.run_id, name)
    assert len({value.step for value in values}) == len(values), "a step was logged twice"
    return {value.step: value.value for value in values}


def check_complete(client: Any, experiment: str, path: Path) -> None:
    """Everything that the directory holds is there, once."""
    entries, schedule = read_ledger(path), Schedule.load(path / "schedule.json")
    parent, nested = logged(client, experiment)
    layers = sorted({entry.layer for entry in entries})
    assert sorted(nested) == [f"layer {layer}" for layer in layers]
    for layer in layers:
        run = nested[f"layer {layer}"]
        own = [entry for entry in entries if entry.layer == layer]
        for name, attribute in (("rate", "rate"), ("E", "score"), ("objective", "objective")):
            assert history(client, run, name) == {e.trial: getattr(e, attribute) for e in own}
        assert run.info.status == "FINISHED" and run.data.params["layer"] == str(layer)
    rates = dict(enumerate(schedule.rates, start=1))
    assert history(client, parent, "keeping_rate") == rates
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics["memory_cost"] == schedule.memory_cost
    assert parent.data.metrics["E_before"] == next(e.score for e in entries if not e.schedule.reduces)
    assert parent.data.metrics["E_after"] == next(e.score for e in entries if e.schedule == schedule)
    assert parent.data.metrics["TFLOPs"] == 0.25 and parent.data.metrics["accuracy/no reduction"] == 0.9
    params = parent.data.params
    assert (params["seed"], params["weight"], params["samples"]) == ("0", "0.01", "toy")
    assert params["version.torch"] and params["version.ray"]
    names = {file.path for file in client.list_artifacts(parent.info.run_id)}
    assert names == {"schedule.json", "search.json", "ledger.jsonl", "curve.png"}


def test_a_search_is_followed_while_it_runs(store: str, client: Any, tmp_path: Path) -> None:
    path, said = tmp_path / "run", []
    with Tracker(path, store, experiment="followed", warn=said.append) as tracker:
        write_run(path, after=lambda entry: tracker.notify())
        tracker.notify()
        end = time.monotonic() + 120
        while tracker.run_id is None or not history(client, logged(client, "followed")[0], "keeping_rate"):
            assert time.monotonic() < end, "nothing arrived while the tracker was open"
            time.sleep(0.05)
    check_complete(client, "followed", path)
    assert said == [] and tracker.run_id == logged(client, "followed")[0].info.run_id
    copy = client.download_artifacts(tracker.run_id, "schedule.json", str(tmp_path))
    assert Schedule.load(copy) == Schedule.load(path / "schedule.json")


def test_logging_again_doubles_nothing(store: str, client: Any, tmp_path: Path) -> None:
    path = tmp_path / "run"
    write_run(path)
    first = log_run(path, store, "again")
    assert log_run(path, store, "again") == first
    (path / LINK).unlink()  # as after a kill between the two steps
    assert log_run(path, store, "again") == first
    check_complete(client, "again", path)
    # Without it the UI opens on traces and prompts instead of runs.
    shown = client.get_experiment_by_name("again")
    assert shown.tags["mlflow.experimentKind"] == "custom_model_development"


@pytest.mark.parametrize(
    ("error", "status"), [(Interrupted(15), "KILLED"), (Stopped("3 trials in a row failed"), "FAILED")]
)
@pytest.mark.parametrize("trials", [5, 99])
def test_how_the_work_ended_is_what_the_run_says(
    store: str, client: Any, tmp_path: Path, error: BaseException, status: str, trials: int
) -> None:
    """In mid-search, or when the search is done and its schedule is compared."""
    path = tmp_path / "run"
    experiment = f"ended {status} {trials}"
    with (
        pytest.raises(type(error)),
        Tracker(path, store, experiment=experiment, warn=pytest.fail) as tracker,
    ):
        write_run(path, trials=trials)
        tracker.notify()
        raise error
    parent, nested = logged(client, experiment)
    assert parent.info.status == status
    layers = {name: run.info.status for name, run in nested.items()}
    done = {"layer 3": "FINISHED"}
    assert layers == done | ({"layer 6": status} if trials == 5 else dict.fromkeys(layers, "FINISHED"))
    if trials == 99:  # and once it was compared after all
        with Tracker(path, store, experiment=experiment, warn=pytest.fail) as tracker:
            tracker.notify()
        assert logged(client, experiment)[0].info.status == "FINISHED"


def test_an_interrupted_search_is_logged_as_such_and_completed(
    store: str, client: Any, tmp_path: Path
) -> None:
    whole, path = tmp_path / "whole", tmp_path / "run"
    entries = write_run(whole)
    write_run(path, trials=5)
    failed = replace(read_ledger(path)[-1], trial=99, score=None, objective=None, error="OSError: gone")
    with Tracker(path, store, experiment="cut", warn=lambda text: pytest.fail(text)) as tracker:
        tracker.notify()
    parent, nested = logged(client, "cut")
    assert parent.info.status == "KILLED" and history(client, nested["layer 3"], "E").keys() == {1, 2, 3, 4}

    search = toys.new_search(iterations=0)
    with RunDirectory(path, toys.SETTINGS, search.state_dict(), resume=True) as run:
        for entry in entries[5:]:
            run.append(entry)
        run.save_schedule(Schedule.load(whole / "schedule.json"))
    picture = draw_curve({"G-Search": Schedule.load(path / "schedule.json")}, path / "curve.png")
    record_results(path, {"TFLOPs": 0.25, "accuracy/no reduction": 0.9}, [picture])
    log_run(path, store, "cut")
    check_complete(client, "cut", path)

    with (path / "ledger.jsonl").open("a") as file:
        file.write(toys.json_line(failed))
    log_run(path, store, "cut")
    assert history(client, logged(client, "cut")[1][f"layer {failed.layer}"], "failed") == {99: 1.0}


@pytest.mark.parametrize("outage", ["closed port", "no answer", "not writable"])
def test_an_outage_neither_stops_nor_slows_the_search(
    outage: str,
    store: str,
    client: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    path, said, waits = tmp_path / "run", [], []
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        uri = {
            "closed port": f"http://127.0.0.1:{toys.free_port()}",
            "no answer": f"http://127.0.0.1:{deaf.getsockname()[1]}",
            "not writable": "sqlite:////proc/nowhere/mlflow.db",
        }[outage]
        tracker = Tracker(path, uri, experiment=outage, warn=said.append)

        def after(entry: Entry) -> None:
            before = time.perf_counter()
            tracker.notify()
            waits.append(time.perf_counter() - before)

        write_run(path, after)
        started = time.monotonic()
        assert not tracker.close(timeout=6.0)
        assert time.monotonic() - started < 9.0
    assert max(waits) < 0.1
    assert capfd.readouterr() == ("", "")
    assert len(said) == 1 and "\n" not in said[0] and uri in said[0] and str(path) in said[0]
    log_run(path, store, outage)
    check_complete(client, outage, path)


def test_a_server_that_dies_midway_costs_nothing(
    store: str, client: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The server is started with the very line that users are given."""
    client.create_experiment("dies", artifact_location=(tmp_path / "artifacts").as_uri())
    path, said = tmp_path / "run", []
    port = toys.free_port()
    with toys.mlflow_ui(store, port) as server:
        with pytest.raises(InputError, match=rf"port {port} is busy"):
            ui_command(store, port)
        tracker = Tracker(path, ui_command(f"http://127.0.0.1:{port}"), experiment="dies", warn=said.append)

        def after(entry: Entry) -> None:
            tracker.notify()
            if entry.trial == 6:
                end = time.monotonic() + 120
                while tracker.run_id is None or "layer 6" not in logged(client, "dies")[1]:
                    assert time.monotonic() < end, "nothing arrived before the server's death"
                    time.sleep(0.1)
                os.killpg(server.pid, signal.SIGKILL)
                server.wait()

        write_run(path, after)
        assert not tracker.close(timeout=20.0) and len(said) == 1
    assert capfd.readouterr() == ("", "")
    assert len(history(client, logged(client, "dies")[1]["layer 3"], "E")) == 4
    assert logged(client, "dies")[0].info.status == "RUNNING"
    log_run(path, store, "dies")
    check_complete(client, "dies", path)


def test_where_the_store_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    assert default_uri() == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://there:5000")
    assert default_uri() == ui_command(default_uri()) == "http://there:5000"


def test_logging_by_hand_says_what_is_wrong_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"not a run directory"):
        log_run(tmp_path, "sqlite:////proc/nowhere/mlflow.db")
    write_run(tmp_path / "run", trials=1)
    with pytest.raises(InputError, match=r"^MLflow at http.* cannot be written: [^\n]*$"):
        log_run(tmp_path / "run", f"http://127.0.0.1:{toys.free_port()}")


@pytest.fixture(autouse=True)
def no_user_settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    yield
