"""Jobs through the real job server of a head started as on a cluster: tokens on, logs streamed, stopped."""

from __future__ import annotations

import io
import json
import os
import runpy
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from PIL import Image

sys.path.append(str(Path(__file__).parent / "tuning"))
import tuning_toys as toys
from commands import run_here

from vtr_ray import embedded

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
RAY = str(Path(sys.executable).with_name("ray"))
TOKEN = "0" * 64


@dataclass
class Head:
    """A running head node and its job server."""

    environment: dict[str, str]
    address: str
    home: Path

    def submit(self, job: str, *arguments: object, identity: str, wait: bool = True) -> subprocess.Popen[str]:
        """The README's line."""
        return subprocess.Popen(
            [RAY, "job", "submit", "--working-dir", ".", "--submission-id", identity]
            + ([] if wait else ["--no-wait"])
            + ["--", sys.executable, f"jobs/{job}.py", *map(str, arguments)],
            cwd=ROOT, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def info(self, identity: str) -> dict[str, Any]:
        """What the server says of a job."""
        request = urllib.request.Request(
            f"{self.address}/api/jobs/{identity}", headers={"Authorization": f"Bearer {TOKEN}"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    home = tmp_path_factory.mktemp("home")
    token = home / "token"
    token.write_text(TOKEN)
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MLFLOW_"))}
    port, dashboard, agent = toys.free_port(), toys.free_port(), toys.free_port()
    environment = kept | {
        "OMP_NUM_THREADS": "1",
        "HOME": str(home),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard}",
        "RAY_JOB_STOP_WAIT_TIME_S": "60",  # as cluster.yaml has it
    }
    process = subprocess.Popen(
        [RAY, "start", "--head", "--block", f"--port={port}", f"--dashboard-port={dashboard}", "--num-cpus=2",
         f"--dashboard-agent-listen-port={agent}",  # its own default is another Ray's, too
         f"--temp-dir=/tmp/vtrj{os.getpid()}", "--disable-usage-stats"],
        env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        toys.wait_for_port(dashboard)
        toys.wait_for_port(agent)  # what starts jobs
        started = Head(environment, environment["RAY_API_SERVER_ADDRESS"], home)
        end = time.monotonic() + 120
        while True:  # listens before it can answer
            try:
                started.info("nobody")
            except urllib.error.HTTPError as error:
                if error.code == 404:
                    break
            except OSError:
                pass
            assert time.monotonic() < end, "the job server does not answer"
            time.sleep(0.5)
        yield started
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A dozen of the embedded model's questions as LLaVA-format JSON."""
    folder = tmp_path_factory.mktemp("samples")
    table = pyarrow.parquet.read_table(embedded.TASKS_FOLDER / "data" / "scenes_search.parquet")
    entries = []
    for number, row in enumerate(table.slice(0, 12).to_pylist()):
        Image.open(io.BytesIO(row["image"]["bytes"])).save(folder / f"{number}.png")
        turns = [("human", f"<image>\n{row['question']}"), ("gpt", row["answer"])]
        conversations = [{"from": who, "value": said} for who, said in turns]
        entries.append({"id": f"q{number}", "image": f"{number}.png", "conversations": conversations})
    (folder / "samples.json").write_text(json.dumps(entries))
    return ["--samples", str(folder / "samples.json"), "--images", str(folder)]


def ledger(run: Path) -> list[tuple[Any, ...]]:
    lines = [json.loads(line) for line in (run / "ledger.jsonl").read_text().splitlines()]
    return [(one["trial"], one["layer"], one["rate"], one["score"], one["schedule"]) for one in lines]


def test_a_job_streams_its_progress_and_leaves_its_results(
    head: Head, samples: list[str], tmp_path: Path
) -> None:
    run, here = tmp_path / "run", tmp_path / "here"
    few = [*samples, "--stride", "9", "--initial", "3", "--iterations", "1", "--no-compare", "--out"]
    submitted = head.submit("gsearch", *few, run, identity="gsearch")
    lines, while_running = [], 0
    assert submitted.stdout is not None
    for line in submitted.stdout:
        lines.append(line)
        if line.split()[:2] == ["3", "1"]:  # the first trial
            while_running += head.info("gsearch")["status"] == "RUNNING"
    assert submitted.wait(60) == 0, "".join(lines[-30:])
    info = head.info("gsearch")
    assert while_running == 1 and (info["status"], info["driver_exit_code"]) == ("SUCCEEDED", 0)
    assert (head.home / "vtr_ray" / "mlflow.db").is_file()
    run_here(tmp_path, "gsearch", *few, str(here))
    assert ledger(run) == ledger(here) and ledger(here)
    assert (run / "schedule.json").read_text() == (here / "schedule.json").read_text()


@pytest.mark.parametrize("job", ["gsearch", "psigmoid", "pareto", "evaluate", "study", "reproduce"])
def test_a_job_is_the_command_of_its_name(
    job: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [f"{job}.py", "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "jobs" / f"{job}.py"), run_name="__main__")
    assert ended.value.code == 0
    assert f" {job} [OPTIONS]" in capsys.readouterr().out


def test_a_mistake_is_the_jobs_failure(head: Head) -> None:
    submitted = head.submit("gsearch", "--model", "/nowhere", "--out", "/tmp/none", identity="mistake")
    output, _ = submitted.communicate(timeout=300)
    assert submitted.returncode != 0 and "vtr-ray: " in output and "Traceback" not in output
    info = head.info("mistake")
    assert (info["status"], info["driver_exit_code"]) == ("FAILED", 2)


def test_a_stopped_job_keeps_what_it_has(head: Head, samples: list[str], tmp_path: Path) -> None:
    from mlflow import MlflowClient

    run = tmp_path / "run"
    whole = [*samples, "--no-compare", "--out", run]
    submitted = head.submit("gsearch", *whole, identity="stopped", wait=False)
    output, _ = submitted.communicate(timeout=300)
    assert submitted.returncode == 0, output
    toys.wait_for_lines(run / "ledger.jsonl", 3)
    stopped = subprocess.run(
        [RAY, "job", "stop", "stopped"], env=head.environment, capture_output=True, text=True, timeout=120
    )
    assert stopped.returncode == 0, stopped.stdout + stopped.stderr
    assert head.info("stopped")["status"] == "STOPPED"
    before = ledger(run)
    assert len(before) >= 3 and not (run / "schedule.json").exists()
    client = MlflowClient(tracking_uri=f"sqlite:///{head.home / 'vtr_ray' / 'mlflow.db'}")
    link = json.loads((run / "mlflow.json").read_text())
    assert client.get_run(link["run_id"]).info.status == "KILLED"
    nested = client.search_runs([link["experiment_id"]], f"tags.`mlflow.parentRunId` = '{link['run_id']}'")
    logged = [metric.step for child in nested for metric in client.get_metric_history(child.info.run_id, "E")]
    assert sorted(logged) == [trial for trial, *_ in before]
