"""Faults on a cluster of several nodes: no finished trial is lost, none counts twice, the schedule and MLflow
are those of the undisturbed run. A killed driver is in test_run.py.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import faulty
import pytest
import ray
import tuning_toys as toys
from ray._private.authentication.authentication_token_setup import ensure_token_if_auth_enabled
from ray._raylet import Config
from ray.cluster_utils import Cluster

from vtr_ray.errors import InputError, Stopped
from vtr_ray.evaluation.pool import EvaluatorPool
from vtr_ray.schedule import Schedule
from vtr_ray.store import default_uri, ui_command
from vtr_ray.tracking import Tracker
from vtr_ray.tuning.cluster import connected, on_every_node
from vtr_ray.tuning.directory import read_ledger
from vtr_ray.tuning.progress import Progress
from vtr_ray.tuning.run import Found, run_search

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Three nodes; the last has two GPUs, on paper."""
    patch = pytest.MonkeyPatch()
    patch.setenv("RAY_AUTH_MODE", "token")
    Config.initialize("")
    ensure_token_if_auth_enabled()  # Ray's own, which other tests in this process may have read already
    ray.cloudpickle.register_pickle_by_value(toys)
    ray.cloudpickle.register_pickle_by_value(faulty)
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        nodes.add_node(num_cpus=1)
        nodes.add_node(num_cpus=1, num_gpus=2)
        patch.setenv("RAY_ADDRESS", nodes.address)
        with connected():
            yield nodes
    finally:
        nodes.shutdown()
        patch.undo()
        ray.cloudpickle.unregister_pickle_by_value(toys)
        ray.cloudpickle.unregister_pickle_by_value(faulty)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return default_uri(tmp_path_factory.mktemp("mlflow"))


def search(
    pool: EvaluatorPool,
    path: Path,
    store: str,
    on_trial: Callable[[Progress], None] | None = None,
    **options: Any,
) -> Found:
    with Tracker(path, store, experiment=path.parent.name, warn=lambda text: None) as tracker:
        return run_search(
            toys.new_search(), pool, path, toys.SETTINGS, tracker=tracker, on_trial=on_trial, **options
        )


def test_an_actor_is_killed_in_mid_trial(cluster: Cluster, store: str, tmp_path: Path) -> None:
    path = tmp_path / "run"
    with EvaluatorPool(toys.Make(0.05), actors=2) as pool:
        victims = pool.pids()

        def kill(progress: Progress) -> None:
            if progress.done in (3, 8):  # one in its first half, then the other
                threading.Timer(0.05, os.kill, (victims[progress.done == 8], signal.SIGKILL)).start()

        search(pool, path, store, kill)
        assert not set(pool.pids()) & set(victims)
    check(path, store)


def test_a_node_is_killed_and_comes_back(cluster: Cluster, store: str, tmp_path: Path) -> None:
    path = tmp_path / "run"
    victim = cluster.add_node(num_cpus=1, resources={"victim": 1})
    killer = threading.Timer(0.05, cluster.remove_node, (victim,), {"allow_graceful": False})
    with EvaluatorPool(toys.Make(0.05), actors=4) as pool:  # one on each node

        def kill(progress: Progress) -> None:
            if progress.done == 5:
                killer.start()
            if progress.done == 10:
                killer.join()
                end = time.monotonic() + 60
                while sum(node["Alive"] for node in ray.nodes()) != 3:
                    assert time.monotonic() < end, "the node's death is not heard of"
                    time.sleep(0.1)
                cluster.add_node(num_cpus=1)

        search(pool, path, store, kill)
        assert len(set(pool.pids())) == 4  # the fourth actor has found the new node
    check(path, store)


@pytest.mark.parametrize(
    ("kind", "stops_with", "said"),
    [
        ("not a number", InputError, r"^the logits of 1 samples \(s10\) are NaN"),
        ("memory", RuntimeError, r"3 trials in a row failed.*OutOfMemoryError: out of memory at one sample"),
        (
            "killed",
            RuntimeError,
            r"3 trials in a row failed.*3 evaluator processes ended on batch 3; most",
        ),
    ],
)
def test_a_fault_stops_the_search_with_its_reason_and_once_mended_it_goes_on(
    cluster: Cluster, store: str, tmp_path: Path, kind: str, stops_with: type[Exception], said: str
) -> None:
    path, flag = tmp_path / "run", tmp_path / "flag"
    with EvaluatorPool(faulty.MakeFaulty(kind, flag), actors=2) as pool:

        def break_it(progress: Progress) -> None:
            if progress.done == 4:
                flag.touch()

        with pytest.raises(stops_with, match=said):
            search(pool, path, store, break_it)
        kept = read_ledger(path)
        assert len(kept) == 4
        flag.unlink()
        search(pool, path, store, resume=True)
    assert read_ledger(path)[:4] == kept
    check(path, store)


def test_a_schedule_that_needs_too_much_memory_fails_alone(cluster: Cluster, tmp_path: Path) -> None:
    """The other trials go on; the ledger says why this one has no score."""
    path, flag = tmp_path / "run", tmp_path / "flag"
    with EvaluatorPool(faulty.MakeFaulty("memory", flag), actors=2) as pool:

        def one_trial(progress: Progress) -> None:
            flag.touch() if progress.done == 4 else flag.unlink(missing_ok=True)

        found = run_search(toys.new_search(), pool, path, toys.SETTINGS, on_trial=one_trial)
    failed = [entry for entry in read_ledger(path) if entry.error is not None]
    assert [entry.trial for entry in failed] == [5] and failed[0].score is None
    assert str(failed[0].error).startswith("OutOfMemoryError: out of memory at one sample")
    assert found.score is not None and len(found.entries) == len({e.trial for e in found.entries})


def test_the_mlflow_server_is_away_for_a_while(
    cluster: Cluster, store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    path, port = tmp_path / "run", toys.free_port()
    command = ui_command(store, port).split()

    def serve() -> subprocess.Popen[bytes]:
        server = subprocess.Popen(
            [str(Path(sys.executable).with_name(command[0])), *command[1:]],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=tmp_path,  # where its artifacts go
            start_new_session=True,
        )
        toys.wait_for_port(port)
        return server

    def end(server: subprocess.Popen[bytes]) -> None:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()

    server = serve()
    uri, away = f"http://127.0.0.1:{port}", []
    try:
        with (
            EvaluatorPool(toys.Make(), actors=1) as pool,
            Tracker(path, uri, experiment=tmp_path.name, warn=pytest.fail, pause=0.5) as tracker,
        ):

            def outage(progress: Progress) -> None:
                nonlocal server
                if progress.done == 4:
                    while tracker.run_id is None:
                        time.sleep(0.05)
                    end(server)
                if progress.done == 8:
                    while tracker.problem is None:  # it has noticed
                        time.sleep(0.05)
                    away.append(tracker.problem)
                    server = serve()

            run_search(toys.new_search(), pool, path, toys.SETTINGS, tracker=tracker, on_trial=outage)
        assert len(away) == 1
    finally:
        end(server)
    check(path, store)


def test_a_download_runs_once_on_every_node(cluster: Cluster, tmp_path: Path) -> None:
    nodes = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
    said = on_every_node(lambda: faulty.node_and_count(tmp_path))
    assert said == {node: node for node in nodes} and len(list(tmp_path.iterdir())) == len(nodes)

    def refuse() -> None:
        raise InputError("no model at /nowhere; name a checkpoint")

    with pytest.raises(InputError, match=r"^no model at /nowhere"):
        on_every_node(refuse)


def test_a_node_that_dies_during_a_download_is_left_out(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
    victim = cluster.add_node(num_cpus=1)

    def kill() -> None:
        toys.wait_for_files(tmp_path, len(nodes) + 1)
        cluster.remove_node(victim, allow_graceful=False)

    killer = threading.Thread(target=kill)
    killer.start()
    said = on_every_node(lambda: faulty.node_and_count(tmp_path, seconds=2.0))
    killer.join()
    assert said == {node: node for node in nodes}

    monkeypatch.setattr("vtr_ray.tuning.cluster._DEATH", 1.0)
    with pytest.raises(Stopped, match=r"^the process that prepares node .* ended again and again"):
        on_every_node(faulty.end)


@pytest.mark.parametrize(("gpus", "actors", "seen"), [(0.5, 4, ["0", "0", "1", "1"]), (2.0, 1, ["0,1"])])
def test_gpus_are_shared_out(cluster: Cluster, gpus: float, actors: int, seen: list[str]) -> None:
    with EvaluatorPool(faulty.Devices, actors=actors, cpus=0.1, gpus=gpus) as pool:
        found = ray.get([actor.get.remote("devices") for actor in pool.actors])
        two = [",".join(sorted(visible.split(","))) for visible in found]
    assert sorted(two) == seen
