"""MLflow's client without its noise, and what every kind of run needs of it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from vtr_ray.store import alone, sqlite_folder
from vtr_ray.tuning.facts import Fact

_KIND = {"mlflow.experimentKind": "custom_model_development"}  # else the UI opens on traces and prompts
_MAX_PARAMS, _MAX_METRICS = 100, 1000  # of one log_batch
_ENVIRONMENT = {
    # An outage must cost seconds. A request that failed is made again by the next look at the directory.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_TRUNCATE_LONG_VALUES": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "GIT_PYTHON_REFRESH": "quiet",
}


def client_of(uri: str) -> Any:
    """MLflow's client, its import (2.6 s) included, without its noise. A new SQLite store is created."""
    import logging

    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic", "urllib3.connectionpool"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with alone(uri):
        client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        client.search_experiments(max_results=1)  # a new SQLite store is created here
    return client


def experiment_of(client: Any, uri: str, name: str) -> str:
    """The id of the experiment of that name, created where there is none."""
    with alone(uri):
        found = client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        where = sqlite_folder(uri)
        location = (where / "mlartifacts").as_uri() if where is not None else None
        return str(client.create_experiment(name, artifact_location=location, tags=_KIND))


def send_metrics(client: Any, run: str, facts: Sequence[Fact]) -> None:
    """Logs metrics with their steps and times."""
    from mlflow.entities import Metric

    batch = [Metric(key_of(fact.name), float(fact.value), int(fact.time * 1000), fact.step) for fact in facts]
    for start in range(0, len(batch), _MAX_METRICS):
        client.log_batch(run, metrics=batch[start : start + _MAX_METRICS])


def send_params(client: Any, run: str, params: Mapping[str, str], there: Mapping[str, str]) -> None:
    """Logs the parameters that are not `there`."""
    from mlflow.entities import Param

    named = {key_of(name): value for name, value in params.items()}
    batch = [Param(name, value) for name, value in named.items() if name not in there]
    for start in range(0, len(batch), _MAX_PARAMS):
        client.log_batch(run, params=batch[start : start + _MAX_PARAMS])


def key_of(name: str) -> str:
    """A name as MLflow allows it."""
    return "".join(letter if letter.isalnum() or letter in "_-. /" else "_" for letter in name)
