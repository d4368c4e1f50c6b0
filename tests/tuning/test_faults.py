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
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import faulty
import pytest
import ray
import tuning_toys as toys
from ray._private.authentication.authentication_token_setup import ensure_token_if_auth_enabled
from ray._raylet import Config
from ray.cluster_utils import Cluster

from vtr_ray import embedded
from vtr_ray.errors import InputError, Stopped
from vtr_ray.evaluation.evaluator import EvaluatorSpec
from vtr_ray.evaluation.outcome import NOT_A_NUMBER
from vtr_ray.evaluation.pool import EvaluatorPool
from vtr_ray.search import GSearch
from vtr_ray.store import default_uri, ui_command
from vtr_ray.tracking import Tracker
from vtr_ray.tuning.cluster import connected, on_every_node
from vtr_ray.tuning.directory import read_ledger
from vtr_ray.tuning.progress import Progress
from vtr_ray.tuning.run import Found, run_search

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster(no_ray: None) -> Iterator[Cluster]:
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
    toys.check_run(path, store)


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
    toys.check_run(path, store)


@pytest.mark.parametrize(
    ("kind", "said", "mended"),
    [
        ("memory", r"OutOfMemoryError: out of memory at one sample .*; mend it, then --resume$", {"room": 2}),
        ("killed", r"3 evaluator processes ended on batch 0; most.*; mend it, then --resume$", {"batch": 2}),
    ],
)
def test_a_fault_stops_the_search_with_its_reason_and_it_goes_on_with_what_is_advised(
    cluster: Cluster, store: str, tmp_path: Path, kind: str, said: str, mended: dict[str, int]
) -> None:
    """Larger actors or smaller batches, which are no settings of the search; the fault itself stays."""
    path, flag = tmp_path / "run", tmp_path / "flag"
    with EvaluatorPool(faulty.MakeFaulty(kind, flag), actors=2) as pool:

        def break_it(progress: Progress) -> None:
            if progress.done == 4:
                flag.touch()

        with pytest.raises(Stopped, match=r"^3 trials in a row failed, the last with: .*" + said):
            search(pool, path, store, break_it)
        kept = read_ledger(path)
        assert len(kept) == 4
    with EvaluatorPool(faulty.MakeFaulty(kind, flag, **mended), actors=2) as pool:
        search(pool, path, store, resume=True)
    assert read_ledger(path)[:4] == kept and flag.exists()
    toys.check_run(path, store)


def test_a_schedule_that_needs_too_much_memory_fails_alone(
    cluster: Cluster, store: str, tmp_path: Path
) -> None:
    """The other trials go on; the ledger says why this one has no score."""
    path, flag = tmp_path / "run", tmp_path / "flag"
    with EvaluatorPool(faulty.MakeFaulty("memory", flag), actors=2) as pool:

        def one_trial(progress: Progress) -> None:
            flag.touch() if progress.done == 4 else flag.unlink(missing_ok=True)

        search(pool, path, store, one_trial)
    failed = [entry for entry in read_ledger(path) if entry.error is not None]
    assert [entry.trial for entry in failed] == [5]
    assert str(failed[0].error).startswith("OutOfMemoryError: out of memory at one sample")
    toys.check_run(path, store, fails=lambda trial: trial.id == 5)


def test_samples_without_an_answer_are_wrong_named_and_end_nothing(
    cluster: Cluster, store: str, tmp_path: Path
) -> None:
    """One of 21 where the last layer keeps nothing: as in a for-loop, and as with any number of actors."""
    path, said = tmp_path / "run", list[str]()
    with EvaluatorPool(faulty.MakeOverflowing(21), actors=2, say=said.append) as pool:
        search(pool, path, store)
    toys.check_run(path, store, faulty.Overflowing(21))
    lost = {entry.trial: entry.without_answer for entry in read_ledger(path) if entry.without_answer}
    assert set(lost.values()) == {("s10",)} and 0 < len(lost) < len(read_ledger(path))
    assert said == [f"Trial {min(lost)}: 1 sample counts as wrong (s10): {NOT_A_NUMBER}."]


def test_a_trial_fails_where_too_many_samples_have_no_answer(
    cluster: Cluster, store: str, tmp_path: Path
) -> None:
    """One of 11 is more than 5 %."""
    path = tmp_path / "run"
    with EvaluatorPool(faulty.MakeOverflowing(11), actors=2) as pool:
        search(pool, path, store)
    fails = [entry for entry in read_ledger(path) if entry.error is not None]
    assert all(str(entry.error).startswith("1 of 11 samples have no answer") for entry in fails) and fails
    toys.check_run(path, store, faulty.Overflowing(11), lambda trial: faulty.overflows(trial.schedule))


def test_a_full_cache_disk_is_said_once_and_changes_nothing(cluster: Cluster, tmp_path: Path) -> None:
    """The real evaluator with a real limit on files: prefixes go nowhere, trials run whole."""
    spec = EvaluatorSpec(embedded.checkpoint("embedded"), faulty.questions(8), batch_size=4)

    def new_search() -> GSearch:
        return GSearch(12, 144, stride=9, initial=3, iterations=1)

    alone, evaluator = new_search(), replace(spec, cache=0).build()
    expected = toys.undisturbed(alone, evaluator)
    said: list[str] = []
    with EvaluatorPool(faulty.FullDisk(spec, str(tmp_path)), say=said.append) as pool:
        found = run_search(new_search(), pool, tmp_path / "run", toys.SETTINGS)
        kept = pool.call("cached_bytes")
    assert [(entry.trial, entry.score) for entry in found.entries] == expected
    assert found.schedule == alone.best and kept == 0
    assert said[0].startswith("The disk takes no more prefixes (") and "File too large" in said[0]
    assert len(said) == 2 and said[1].startswith("The prefix cache is full")


def test_a_slow_actor_is_dealt_fewer_batches(cluster: Cluster, tmp_path: Path) -> None:
    schedule = toys.new_search().ask().schedule
    with EvaluatorPool(faulty.MakeStraggler(tmp_path), actors=3) as pool:
        expected = faulty.Straggler(tmp_path, 0.0).evaluate(schedule)
        for _ in range(2):
            (tmp_path / "dealt").unlink(missing_ok=True)
            assert pool.evaluate(schedule) == expected
        slow = int((tmp_path / "slow").read_text())
        dealt = Counter(map(int, (tmp_path / "dealt").read_text().split()))
        assert set(pool.pids()) >= set(dealt) and slow in pool.pids()
    others = [dealt[pid] for pid in dealt if pid != slow]
    assert len(others) == 2 and dealt[slow] < min(others) and sum(dealt.values()) >= 24


def test_the_mlflow_server_is_away_for_a_while(
    cluster: Cluster, store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    path, port = tmp_path / "run", toys.free_port()
    command = [*ui_command(store, port).split(), "--workers", "1"]  # four by default

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
    toys.check_run(path, store)


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
