"""Evaluations in MLflow: an experiment for each model, in it a run for each schedule and suite."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vtr_ray.errors import InputError, first_line
from vtr_ray.evaluation.benchmarks.record import DOCUMENTS, EVALUATION, SAMPLES, file_name
from vtr_ray.schedule import Schedule
from vtr_ray.tracking.client import client_of, experiment_of, send_metrics, send_params
from vtr_ray.tracking.searches import LINK
from vtr_ray.tuning.directory import SCHEDULE, write_json
from vtr_ray.tuning.facts import Fact

_EVALUATION, _STRATEGY = "vtr_ray.evaluation", "vtr_ray.strategy"


def experiment_name(model: str) -> str:
    """The experiment of a model's evaluations."""
    return f"vtr-ray {model}"


def log_evaluation(folder: str | Path, uri: str) -> dict[str, str]:
    """Logs an evaluation from its folder; gives the run ids by schedule. What is there is not doubled.

    Raises:
        InputError: MLflow cannot be reached.
    """
    path = Path(folder)
    content = json.loads((path / EVALUATION).read_text(encoding="utf-8"))
    try:
        client = client_of(uri)
        experiment = experiment_of(client, uri, experiment_name(content["model"]))
        runs = {
            name: _log(client, experiment, path, content, name, row)
            for name, row in content["strategies"].items()
        }
    except Exception as error:
        raise InputError(f"MLflow at {uri} cannot be written: {first_line(error)}") from error
    link = {"uri": uri, "experiment_id": experiment, "run_id": next(iter(runs.values())), "runs": runs}
    write_json(path / LINK, link)
    return runs


def _log(client: Any, experiment: str, path: Path, content: Mapping[str, Any], name: str, row: Any) -> str:
    quoted = name.replace("'", "")  # of which MLflow's filters have no escape
    tags = {
        _EVALUATION: content["id"],
        _STRATEGY: quoted,
        "vtr_ray.kind": "evaluation",
        "vtr_ray.model": content["model"],
        "vtr_ray.suite": content["suite"],
        "vtr_ray.directory": str(path.absolute()),
        "mlflow.source.name": "vtr-ray evaluate",
        **_search_tags(row["search"]),
    }
    wanted = f"tags.`{_EVALUATION}` = '{content['id']}' and tags.`{_STRATEGY}` = '{quoted}'"
    runs = client.search_runs([experiment], wanted, max_results=1)
    run = (
        runs[0]
        if runs
        else client.create_run(
            experiment,
            start_time=int(content["created"] * 1000),
            run_name=f"{name} on {content['suite']}",
            tags=tags,
        )
    )
    identity = str(run.info.run_id)
    facts = ("model", "revision", "suite", "limit", "dtype", "attn", "max_pixels", "layers", "vision_tokens")
    parameters = {fact: str(content[fact]) for fact in facts if content.get(fact) is not None}
    parameters |= {"strategy": name, "ranking": row["schedule"]["ranking"]}
    send_params(client, identity, parameters, run.data.params)
    if not runs:
        send_metrics(client, identity, list(_facts(content, row)))
        _log_files(client, identity, path, name, row)
        client.set_terminated(identity, "FINISHED", int(time.time() * 1000))
    return identity


def _facts(content: Mapping[str, Any], row: Mapping[str, Any]) -> Iterator[Fact]:
    when = content["created"]
    titles = {task: one["title"] for task, one in content["benchmarks"].items()}
    for task, figure in row["benchmarks"].items():
        yield Fact(f"accuracy/{titles[task]}", figure["value"], when, 0)
    for bound, suffix in (("value", ""), ("low", "_low"), ("high", "_high")):
        if row["average"][bound] is not None:
            yield Fact(f"accuracy/average{suffix}", row["average"][bound], when, 0)
    for name in ("memory_cost", "tflops", "tflops_executed", "prefill_ms", "decode_ms"):
        if row.get(name) is not None:  # small models are not timed
            yield Fact(name, row[name], when, 0)
    for layer, rate in enumerate(row["schedule"]["rates"], start=1):
        yield Fact("keeping_rate", rate, when, layer)


def _log_files(client: Any, run: str, path: Path, name: str, row: Mapping[str, Any]) -> None:
    for file in (EVALUATION, SAMPLES):
        client.log_artifact(run, str(path / file))
    client.log_artifact(run, str(path / DOCUMENTS / f"{file_name(name)}.csv"), DOCUMENTS)
    client.log_dict(run, Schedule.from_dict(row["schedule"]).to_dict(), SCHEDULE)


def _search_tags(search: str | None) -> dict[str, str]:
    """Where the schedule comes from: the run directory, and its run in MLflow where it has one."""
    if search is None:
        return {}
    tags = {"vtr_ray.search_directory": search}
    link = Path(search) / LINK
    if link.is_file():
        run = json.loads(link.read_text(encoding="utf-8"))
        address = f"#/experiments/{run['experiment_id']}/runs/{run['run_id']}"
        tags |= {
            "vtr_ray.search_run": run["run_id"],
            "mlflow.note.content": f"The schedule is that of search [{Path(search).name}]({address}).",
        }
    return tags
