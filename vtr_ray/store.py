"""Where MLflow's store is: its address, the line that shows it, its creation by one process at a time."""

from __future__ import annotations

import fcntl
import os
import shlex
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vtr_ray.errors import InputError

RUN, REGISTERED = "runs:/", "mlflow:"  # what addresses of runs, and of registered schedules, begin with


def default_uri(folder: str | Path = ".") -> str:
    """`MLFLOW_TRACKING_URI` where it is set, else the SQLite store `mlflow.db` in `folder`."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path(folder).absolute() / 'mlflow.db'}"


def ui_command(uri: str, port: int | None = None) -> str:
    """The line that shows the runs: a command that serves them on this machine, or a server's own address.

    port: default: the first free one from 5000. Raises InputError when the named one is none or busy.
    """
    if port is not None and not 1 <= port <= 65535:
        raise InputError(f"port {port} is none; name one from 1 to 65535 for the MLflow UI")
    if uri.startswith(("http://", "https://")):
        return uri
    if port is None:
        port = next(candidate for candidate in range(5000, 6000) if _free(candidate))
    elif not _free(port):
        raise InputError(f"port {port} is busy; name another one for the MLflow UI")
    return f"mlflow ui --backend-store-uri {shlex.quote(uri)} --host 127.0.0.1 --port {port}"


@contextmanager
def alone(uri: str) -> Iterator[None]:
    """One process at a time: several that create one SQLite store at once all fail."""
    folder = sqlite_folder(uri)
    if folder is None:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def sqlite_folder(uri: str) -> Path | None:
    """The folder of a SQLite store; None: another kind of store."""
    return Path(uri.removeprefix("sqlite:///")).absolute().parent if uri.startswith("sqlite:///") else None


def _free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
