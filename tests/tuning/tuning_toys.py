"""An evaluator that computes instead of running a model, and a hand-driven search loop to compare with."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vtr_ray.errors import InputError
from vtr_ray.evaluation.outcome import Outcome, effectiveness, scores_of
from vtr_ray.schedule import Schedule
from vtr_ray.store import ui_command
from vtr_ray.tuning.directory import Entry, Settings, read_ledger

if TYPE_CHECKING:
    from vtr_ray.search import GSearch

LAYERS, TOKENS = 8, 36
SETTINGS = Settings(command="gsearch", parameters={"weight": 0.01, "stride": 3}, seed=0, samples="toy")


def needs(sample: int, layer: int) -> float:
    """The keeping rate that a sample needs at a layer: falls with depth, differs between samples."""
    return (0.3 + 0.05 * sample) * (1 - layer / (LAYERS + 2))


class Analytic:
    """Samples lose a bit of their score wherever a layer keeps less than they need."""

    num_layers, vision_tokens = LAYERS, TOKENS

    def __init__(self, seconds: float = 0.0, batch: int = 3, samples: int = 11) -> None:
        self.seconds = seconds
        ids = range(samples)
        self.batches = [list(ids[start : start + batch]) for start in range(0, samples, batch)]
        self.num_batches, self.num_samples = len(self.batches), samples

    def evaluate(self, schedule: Schedule, batches: list[int] | None = None) -> list[Outcome]:
        chosen = range(self.num_batches) if batches is None else batches
        outcomes = []
        for batch in chosen:
            time.sleep(self.seconds)
            for sample in self.batches[batch]:
                lost = sum(
                    max(0.0, needs(sample, layer) - rate)
                    for layer, rate in enumerate(schedule.rates, start=1)
                )
                outcomes.append(Outcome(f"s{sample}", 1 / (1 + 3 * lost), answer=str(batch)))
        return outcomes

    def describe(self) -> dict[str, int]:
        return {
            "samples": self.num_samples,
            "pid": os.getpid(),
            "threads": int(os.environ["OMP_NUM_THREADS"]),
        }


@dataclass
class Make:
    """Factory of `Analytic`; pickles."""

    seconds: float = 0.0

    def __call__(self) -> Analytic:
        return Analytic(self.seconds)


def refuse() -> Analytic:
    raise InputError("no model at /nowhere; name a checkpoint")


def new_search(iterations: int = 4) -> GSearch:
    from vtr_ray.search import GSearch  # here: the evaluators must not pay for torch

    return GSearch(
        num_layers=LAYERS,
        vision_tokens=TOKENS,
        stride=3,
        initial=4,
        iterations=iterations,
        weight=0.01,
        seed=0,
    )


def undisturbed(
    search: GSearch,
    evaluator: Any = None,
    fails: Callable[[Any], bool] = lambda trial: False,
) -> list[tuple[int, float | None]]:
    """The same search in a for-loop without Ray: (trial id, score) of all; None for one that `fails`."""
    evaluator, told = evaluator or Analytic(), []
    while not search.finished:
        trial = search.ask()
        if fails(trial):
            search.fail(trial, "as in the disturbed one")
            told.append((trial.id, None))
            continue
        outcomes = evaluator.evaluate(trial.schedule)
        score = effectiveness(outcomes)
        search.tell(trial, score, scores=scores_of(outcomes))
        told.append((trial.id, score))
    return told


def check_run(
    path: Path,
    store: str,
    evaluator: Any = None,
    fails: Callable[[Any], bool] = lambda trial: False,
) -> None:
    """The run directory and MLflow hold the undisturbed run, each trial once."""
    from mlflow import MlflowClient

    alone = new_search()
    expected = undisturbed(alone, evaluator, fails)
    assert [(entry.trial, entry.score) for entry in read_ledger(path)] == expected
    assert Schedule.load(path / "schedule.json") == alone.best
    client = MlflowClient(tracking_uri=store)
    runs = client.search_runs([client.get_experiment_by_name(path.parent.name).experiment_id])
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    nested = [run.info.run_id for run in runs if run is not parent]
    logged = {
        name: sorted(
            (metric.step, metric.value) for run in nested for metric in client.get_metric_history(run, name)
        )
        for name in ("E", "failed")
    }
    assert logged["E"] == [(trial, score) for trial, score in expected if score is not None]
    assert logged["failed"] == [(trial, 1.0) for trial, score in expected if score is None]
    curve = client.get_metric_history(parent.info.run_id, "keeping_rate")
    assert {metric.step: metric.value for metric in curve} == dict(enumerate(alone.best.rates, start=1))
    assert {run.info.status for run in runs} == {"FINISHED"}


def wait_for_lines(
    path: Path, count: int, writer: subprocess.Popen[str] | None = None, timeout: float = 180.0
) -> None:
    """Until a growing file has so many lines."""
    end = time.monotonic() + timeout
    while not path.is_file() or path.read_bytes().count(b"\n") < count:
        assert writer is None or writer.poll() is None, f"the writer ended: {writer.communicate()}"
        assert time.monotonic() < end, f"{path} has no {count} lines after {timeout} s"
        time.sleep(0.02)


def wait_for_files(folder: Path, count: int, timeout: float = 180.0) -> None:
    """Until a folder holds so many."""
    end = time.monotonic() + timeout
    while len(list(folder.iterdir())) < count:
        assert time.monotonic() < end, f"{folder} has no {count} files after {timeout} s"
        time.sleep(0.02)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for_port(port: int, timeout: float = 180.0) -> None:
    """Until somebody listens."""
    end = time.monotonic() + timeout
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        assert time.monotonic() < end, f"nobody listens at port {port} after {timeout} s"
        time.sleep(0.1)


@contextmanager
def mlflow_ui(uri: str, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """The UI over a store, started with the very line that users are given; it listens."""
    command = [*shlex.split(ui_command(uri, port)), "--workers", "1"]  # four by default
    server = subprocess.Popen(
        [str(Path(sys.executable).with_name(command[0])), *command[1:]],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # its workers end with it
    )
    try:
        wait_for_port(port)
        yield server
    finally:
        if server.poll() is None:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def json_line(entry: Entry) -> str:
    return json.dumps(entry.to_dict()) + "\n"
