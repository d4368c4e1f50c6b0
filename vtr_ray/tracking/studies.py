"""Studies in MLflow: a run each, in the experiment of the model."""

from __future__ import annotations

import json
from pathlib import Path

from vtr_ray.errors import InputError, first_line
from vtr_ray.tracking.client import client_of, experiment_of, send_metrics, send_params
from vtr_ray.tracking.evaluations import experiment_name
from vtr_ray.tuning.facts import Fact


def log_study(folder: Path, uri: str) -> str:
    """Logs a finished study's folder; gives the run's id.

    Raises:
        InputError: MLflow cannot be written.
    """
    content = json.loads((folder / "study.json").read_text(encoding="utf-8"))
    tags = {
        "vtr_ray.kind": "study",
        "vtr_ray.study": content["study"],
        "vtr_ray.model": content["model"],
        "vtr_ray.directory": str(folder),
        "mlflow.source.name": "vtr-ray study",
        "mlflow.note.content": "\n\n".join([content["claim"], content["inequality"], *content["sentences"]]),
    }
    try:
        client = client_of(uri)
        experiment = experiment_of(client, uri, experiment_name(content["model"]))
        run = str(client.create_run(experiment, run_name=content["title"], tags=tags).info.run_id)
        send_params(client, run, {name: content[name] for name in ("study", "paper", "model")}, {})
        when = content["created"]
        send_metrics(client, run, [Fact(name, value, when, 0) for name, value in content["metrics"].items()])
        for file in sorted(folder.iterdir()):
            if file.is_file():
                client.log_artifact(run, str(file))
        client.set_terminated(run)
    except Exception as error:
        raise InputError(f"MLflow at {uri} cannot be written: {first_line(error)}") from error
    return run
