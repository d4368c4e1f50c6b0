"""Ray: started here on this machine, or joined where a cluster runs."""

from __future__ import annotations

import json
import logging
import os
import secrets
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import ray
from ray._private import ray_constants
from ray._private import worker as ray_worker
from ray._raylet import Config  # type: ignore[attr-defined]
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from vtr_ray.errors import InputError, Stopped
from vtr_ray.evaluation.crew import mistake
from vtr_ray.files import replacing
from vtr_ray.interrupts import Interrupted, interruptible

_DEATH = 30.0  # seconds until the cluster has heard of a node's death
_STORE = 256 * 2**20  # bytes; only schedules and outcomes travel


@contextmanager
def connected(cpus: int | None = None) -> Iterator[None]:
    """Ray for the time of a `with` block, quietly.

    Joins the cluster at `RAY_ADDRESS` (set inside every Ray job), else starts Ray on this machine alone:
    loopback addresses, no dashboard, token authentication, all CPUs (or `cpus`) and GPUs. A Ray that this
    process already runs is used and left running. SIGINT and SIGTERM raise `Interrupted` inside the block.

    Raises InputError: no cluster at `RAY_ADDRESS`, or an address of another kind.
    """
    if ray.is_initialized():
        with interruptible():
            yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    with interruptible(), _silence():
        try:
            address = os.environ.get("RAY_ADDRESS", "")
            if address and address != "local":
                _join(address)
            else:
                _start(cpus)
            with interruptible():  # again: ray.init takes SIGTERM for itself
                yield
        except SystemExit as error:
            if error.code == signal.SIGTERM:  # Ray's handler, while it started
                raise Interrupted(signal.SIGTERM) from None
            raise
        finally:
            ray.shutdown()


def fair_share(actors: int) -> tuple[float, float]:
    """(CPUs, GPUs) that each of `actors` evaluators may hold when they share the whole cluster evenly.

    Where there are GPUs, each actor gets one, or an even fraction of one when there are more actors.
    """
    total = ray.cluster_resources()
    cpus, gpus = total.get("CPU", 0.0), total.get("GPU", 0.0)
    per_gpu = -(-actors // int(gpus)) if gpus else 0
    return max(1.0, cpus // actors), (1.0 / per_gpu if per_gpu else 0.0)


def on_every_node(call: Callable[[], Any], gpus: bool = False) -> dict[str, Any]:
    """`call()` once on every living node (`gpus`: that has any), at the same time; results by node id.

    Takes no CPU, so that it runs beside whatever holds the nodes. A node that dies meanwhile has no result.
    Raises InputError where `call` does, Stopped where its process ends again and again or no node is left.
    """
    task = ray.remote(num_cpus=0, max_retries=2)(call)
    refs = {
        node["NodeID"]: task.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote()
        for node in ray.nodes()
        if node["Alive"] and (not gpus or node["Resources"].get("GPU"))
    }
    results, ended = {}, []
    for node, ref in refs.items():
        try:
            results[node] = ray.get(ref)
        except RayTaskError as error:
            raise mistake(error) from None
        except RayError:
            ended.append(node)
    if stays := [node for node in ended if _stays_alive(node)]:
        raise Stopped(
            f"the process that prepares node {stays[0][:8]} of the Ray cluster ended again and again; look "
            "at the node's memory and disk"
        )
    if ended and not results:
        raise Stopped("all nodes of the Ray cluster died while they were prepared; look at `ray status`")
    return results


def _stays_alive(node: str) -> bool:
    """Whether a node whose process ended is there still: of its death the cluster hears late."""
    end = time.monotonic() + _DEATH
    while any(one["Alive"] and one["NodeID"] == node for one in ray.nodes()):
        if time.monotonic() > end:
            return True
        time.sleep(0.5)
    return False


@contextmanager
def _silence() -> Iterator[None]:
    """Keeps Ray from printing each death of a worker, which `log_to_driver=False` leaves."""
    printer = ray_worker.print_to_stdstream
    ray_worker.print_to_stdstream = lambda *_, **__: None
    try:
        yield
    finally:
        ray_worker.print_to_stdstream = printer


def _start(cpus: int | None) -> None:
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    Config.initialize("")  # Ray read the mode when it was imported
    _give_token()
    switch = ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR
    before, variable = ray_constants.ENABLE_RAY_CLUSTER, os.environ.get(switch)
    # Ray's only switch for loopback addresses; it is meant for desktops, where Ray runs on one machine.
    ray_constants.ENABLE_RAY_CLUSTER, os.environ[switch] = False, "0"
    try:
        try:
            _init_here(cpus)
        except Exception:  # Ray gives its processes 30 s, which a machine under load may exceed once
            ray.shutdown()
            _init_here(cpus)
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before
        if variable is None:
            del os.environ[switch]
        else:
            os.environ[switch] = variable


def _init_here(cpus: int | None) -> None:
    ray.init(
        address="local",  # without it Ray joins whatever cluster somebody started on this machine
        num_cpus=cpus,
        include_dashboard=False,
        logging_level=logging.ERROR,
        log_to_driver=False,
        object_store_memory=_STORE,
    )
    with suppress(InputError, OSError):
        _say_where_metrics_are()


def _say_where_metrics_are() -> None:
    """For Prometheus, in a file that Ray itself writes only where its dashboard runs."""
    node = ray.nodes()[0]
    targets = [f"{node['NodeManagerAddress']}:{node['MetricsExportPort']}"]
    session = Path(ray_worker.global_worker.node.get_session_dir_path())
    with replacing(session / ray_constants.PROMETHEUS_SERVICE_DISCOVERY_FILE) as file:
        file.write_text(json.dumps([{"labels": {"job": "ray"}, "targets": targets}]))


def _join(address: str) -> None:
    if "://" in address:
        raise InputError(
            f"RAY_ADDRESS is {address}; set HOST:PORT of the cluster (or auto), or send the work there with "
            "`ray job submit`"
        )
    # Ray itself turns tokens on only for "auto". A cluster without authentication takes them, too.
    if "RAY_AUTH_MODE" not in os.environ and _has_token():
        os.environ["RAY_AUTH_MODE"] = "token"
    Config.initialize("")
    try:
        ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
    except (ConnectionError, RayError, RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"no Ray cluster to join at RAY_ADDRESS={address} ({reason}); check that it runs and that its "
            "token is this user's, or unset RAY_ADDRESS to run on this machine"
        ) from None


def _has_token() -> bool:
    if os.environ.get("RAY_AUTH_TOKEN"):
        return True
    path = os.environ.get("RAY_AUTH_TOKEN_PATH")
    return (Path(path) if path else Path.home() / ".ray" / "auth_token").is_file()


def _give_token() -> None:
    """Where Ray could not keep a token (a home that cannot be written), make one for this process's Ray."""
    if os.environ["RAY_AUTH_MODE"] != "token" or _has_token():
        return
    home = Path.home()
    if not os.access(home / ".ray" if (home / ".ray").is_dir() else home, os.W_OK):
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
