"""Schedules in MLflow's model registry: `mlflow:NAME@ALIAS` and `mlflow:NAME/VERSION`."""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path
from typing import Any

from vtr_ray.errors import InputError, first_line
from vtr_ray.schedule import Schedule
from vtr_ray.store import REGISTERED
from vtr_ray.tracking.client import client_of, experiment_of
from vtr_ray.tracking.searches import EXPERIMENT, LINK
from vtr_ray.tuning.directory import SCHEDULE

CHAMPION = "champion"


def register_schedule(
    schedule: Schedule, name: str, uri: str, run: Path | None = None, alias: str = ""
) -> str:
    """Registers a schedule as a new version of `name`; gives its address, `mlflow:NAME/VERSION`.

    run: the run directory of the search that found it; its MLflow run is linked where the store has it.
    alias: promoted to it, as `champion`; "": to none.

    Raises:
        InputError: a name or alias that MLflow does not take, MLflow cannot be reached.
    """
    for kind, text in (("name", name), ("alias", alias or CHAMPION)):
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", text):
            raise InputError(
                f"{kind} {text!r} is none for the registry; use letters, digits, dots and dashes"
            )
    try:
        client = client_of(uri)
        source = _source(client, uri, schedule, name, run)
        try:
            client.get_registered_model(name)
        except Exception as error:
            if getattr(error, "error_code", "") != "RESOURCE_DOES_NOT_EXIST":
                raise
            client.create_registered_model(name, tags={"vtr_ray.kind": "schedule"})
        version = client.create_model_version(
            name, source=source.info.artifact_uri, run_id=source.info.run_id, tags=_tags(schedule)
        )
        if alias:
            client.set_registered_model_alias(name, alias, version.version)
    except Exception as error:
        raise InputError(f"MLflow at {uri} cannot register it: {first_line(error)}") from error
    return f"{REGISTERED}{name}/{version.version}"


def registered_schedule(address: str, uri: str) -> Schedule:
    """The schedule at `mlflow:NAME@ALIAS` or `mlflow:NAME/VERSION`.

    Raises:
        InputError: another form, no such schedule, MLflow cannot be reached.
    """
    found = re.fullmatch(rf"{REGISTERED}(?P<name>[^@/]+)(?:@(?P<alias>[^@/]+)|/(?P<version>\d+))", address)
    if found is None:
        raise InputError(
            f"{address!r} is no registered schedule; write {REGISTERED}NAME@{CHAMPION} or {REGISTERED}NAME/1"
        )
    try:
        client = client_of(uri)
        if found["alias"]:
            version = client.get_model_version_by_alias(found["name"], found["alias"])
        else:
            version = client.get_model_version(found["name"], found["version"])
        with tempfile.TemporaryDirectory() as folder:
            return Schedule.load(client.download_artifacts(version.run_id, SCHEDULE, folder))
    except InputError as error:
        raise InputError(f"{address}: {error}") from None
    except Exception as error:
        raise InputError(
            f"{address} is not in the registry of {uri} ({first_line(error)}); add it with: "
            f"vtr-ray register SCHEDULE {found['name']} --alias {found['alias'] or CHAMPION}"
        ) from error


def _tags(schedule: Schedule) -> dict[str, str]:
    """Where the schedule was found, for those who look at the registry; its file says all of it."""
    found = schedule.found or {}
    names = ("model", "revision", "vision_tokens", "labels", "E", "E_no_reduction")
    return {f"vtr_ray.{name}": str(found[name]) for name in names if found.get(name) is not None}


def _source(client: Any, uri: str, schedule: Schedule, name: str, run: Path | None) -> Any:
    """The MLflow run whose artifact the schedule is: the search's own, or a new one."""
    link = None if run is None else run / LINK
    if link is not None and link.is_file():
        said = json.loads(link.read_text(encoding="utf-8"))
        if said["uri"] == uri:
            found = client.get_run(said["run_id"])
            if any(one.path == SCHEDULE for one in client.list_artifacts(said["run_id"])):
                return found
    created = client.create_run(
        experiment_of(client, uri, EXPERIMENT),
        run_name=f"schedule of {name}",
        tags={"vtr_ray.kind": "schedule", "mlflow.source.name": "vtr-ray register"},
    )
    client.log_dict(created.info.run_id, schedule.to_dict(), SCHEDULE)
    client.set_terminated(created.info.run_id, "FINISHED")
    return created
