"""Comparison pages in MLflow, and runs of it as folders that a page can be made of."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from vtr_ray.errors import InputError, first_line
from vtr_ray.store import RUN, default_uri
from vtr_ray.tracking.client import client_of, experiment_of, key_of
from vtr_ray.tracking.searches import EXPERIMENT, LINK
from vtr_ray.tuning.directory import write_json


def fetch_run(reference: str, folder: Path, uri: str | None = None) -> Path:
    """The artifacts of the run `runs:/RUN_ID`, copied into a folder of its name below `folder`.

    They are what a search or an evaluation left: its directory.

    Raises:
        InputError: MLflow has no such run, or cannot be reached.
    """
    uri, run_id = uri or default_uri(), reference.removeprefix(RUN).strip("/")
    try:
        client = client_of(uri)
        run = client.get_run(run_id)
        target = folder / run_id / key_of(run.info.run_name or run_id).replace("/", "-")
        target.mkdir(parents=True)
        client.download_artifacts(run_id, "", str(target))
    except Exception as error:
        raise InputError(
            f"{reference} cannot be fetched from MLflow at {uri}: {first_line(error)}; name another run, "
            "or set MLFLOW_TRACKING_URI"
        ) from error
    link = {"uri": uri, "experiment_id": run.info.experiment_id, "run_id": run_id}
    write_json(target / LINK, link)
    return target


def log_page(page: Path, name: str, runs: Iterable[Path], uri: str | None = None) -> str:
    """Logs a folder with an HTML page as the artifacts of a run of its own; gives the run's id.

    runs: the directories that the page is about; it goes where the first of them that this MLflow has is.

    Raises:
        InputError: MLflow cannot be written.
    """
    uri = uri or default_uri()
    files = [file for run in runs if (file := run / LINK).is_file()]
    links = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    known = [link["experiment_id"] for link in links if link.get("uri") == uri]
    tags = {
        "vtr_ray.kind": "comparison",
        "vtr_ray.directory": str(page),
        "mlflow.source.name": "vtr-ray compare",
    }
    try:
        client = client_of(uri)
        experiment = known[0] if known else experiment_of(client, uri, EXPERIMENT)
        run_id = str(client.create_run(experiment, run_name=name, tags=tags).info.run_id)
        client.log_artifacts(run_id, str(page))
        client.set_terminated(run_id)
    except Exception as error:
        raise InputError(f"MLflow at {uri} cannot be written: {first_line(error)}") from error
    return run_id
