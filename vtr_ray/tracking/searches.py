"""MLflow: mirrors a run directory into one parent run and a nested run per searched layer.

The directory is the truth. Everything here reads it and logs what MLflow lacks, so the same code serves a
running search, a resumed one, and one whose MLflow was away.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

from vtr_ray.errors import InputError
from vtr_ray.store import default_uri
from vtr_ray.tracking.client import client_of, experiment_of, key_of, send_metrics, send_params
from vtr_ray.tuning.background import Mirroring, first_line
from vtr_ray.tuning.directory import (
    FRONT,
    LEDGER,
    SCHEDULE,
    SEARCH,
    Entry,
    read_ledger,
    read_results,
    read_search,
    write_json,
)
from vtr_ray.tuning.facts import Fact, curve_facts, final_facts, parameters, trial_facts

EXPERIMENT = "vtr-ray"
LINK = "mlflow.json"  # in the run directory: where its parent run is
_SEARCH_TAG, _LAYER_TAG, _PARENT_TAG = "vtr_ray.search", "vtr_ray.layer", "mlflow.parentRunId"


def log_run(run_dir: str | Path, uri: str | None = None, experiment: str = EXPERIMENT) -> str:
    """Log a whole run from its directory; gives the id of its parent run. What is there is not doubled.

    Raises InputError: no run directory, or MLflow cannot be reached.
    """
    read_search(run_dir)
    uri = uri or default_uri()
    try:
        return _Mirror(Path(run_dir), uri, experiment).log(final=True)
    except Exception as error:
        raise InputError(f"MLflow at {uri} cannot be written: {first_line(error)}") from error


class Tracker:
    """Logs a run directory from a background thread; a context manager. Never raises, never blocks.

    As a context manager it also says how the work ended: FAILED where an error leaves the block, KILLED where
    it is interrupted, though the search itself may be done.

    uri: default `default_uri()`. The store is opened (a new SQLite store: created) at once.
    name: of the parent run; default: the directory's.
    warn: takes the one line about what could not be logged, when the tracker is closed; default: stderr.
    pause: seconds until the next try after MLflow failed.
    """

    def __init__(
        self,
        run_dir: str | Path,
        uri: str | None = None,
        *,
        experiment: str = EXPERIMENT,
        name: str | None = None,
        warn: Callable[[str], None] | None = None,
        pause: float = 15.0,
    ) -> None:
        self.run_dir = Path(run_dir).absolute()
        self.uri = uri or default_uri()
        self._warn = warn or (lambda text: print(text, file=sys.stderr))
        self._mirror = _Mirror(self.run_dir, self.uri, experiment, name)
        self._status: str | None = None
        self._thread = Mirroring(self._mirror.open, self._log, "mlflow", pause)

    @property
    def run_id(self) -> str | None:
        """The parent run's id, once it is known."""
        return self._mirror.parent

    @property
    def experiment_id(self) -> str | None:
        """The experiment's id, once it is known."""
        return self._mirror.experiment_id or None

    @property
    def problem(self) -> str | None:
        """What kept the last try from reaching MLflow; None: nothing."""
        return self._thread.problem

    def notify(self) -> None:
        """The run directory has changed."""
        self._thread.notify()

    def close(self, timeout: float = 30.0) -> bool:
        """Log what is left, waiting at most `timeout` seconds; whether MLflow is complete."""
        problem = self._thread.close(timeout)
        if problem is not None and (self.run_dir / SEARCH).is_file():
            self._warn(
                f"MLflow at {self.uri} is not complete ({problem}); everything is in {self.run_dir}, "
                "the same command with --resume logs it again"
            )
        return problem is None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._status = "FAILED" if issubclass(kind, Exception) else "KILLED"
        self.close(30.0 if kind is None else 5.0)

    def _log(self, final: bool) -> None:
        if (self.run_dir / SEARCH).is_file():
            self._mirror.log(final, self._status)


class _Mirror:
    """What MLflow has of one run directory, and the logging of what it lacks. Used by one thread."""

    def __init__(self, path: Path, uri: str, experiment: str, name: str | None = None) -> None:
        self._path, self._uri, self._experiment = path, uri, experiment
        self._name = name or path.name
        self._client: Any = None
        self.experiment_id = ""
        self.parent: str | None = None
        self._forget()

    def _forget(self) -> None:
        """Know nothing of what is logged, so that the next look asks the store."""
        self._known = False
        self._layers: dict[int, str] = {}
        self._steps: dict[str, set[int]] = {}  # logged trials per run
        self._values: dict[str, float] = {}  # logged final metrics of the parent
        self._curve: list[float] = []
        self._files: dict[Path, tuple[int, int]] = {}
        self._ended: set[str] = set()

    def open(self) -> None:
        """Reach the store, create it where it is a new file, and the experiment in it."""
        if self.experiment_id:
            return
        client = client_of(self._uri)
        self.experiment_id = experiment_of(client, self._uri, self._experiment)
        self._client = client

    def log(self, final: bool, status: str | None = None) -> str:
        """Log what is new in the directory; `final`: also end the runs. Gives the parent run's id.

        status: what the runs end with; None: FINISHED where the search has found something, else KILLED.
        """
        try:
            return self._log(final, status)
        except BaseException:
            self._forget()  # a request that timed out may have been obeyed
            raise

    def _log(self, final: bool, status: str | None) -> str:
        self.open()
        parent = self.parent if self._known and self.parent else self._find_or_create_parent()
        entries = read_ledger(self._path)
        deepest = max((entry.layer for entry in entries if entry.layer is not None), default=0)
        done = (self._path / SCHEDULE).is_file()
        for layer in sorted({entry.layer for entry in entries}, key=lambda layer: layer or 0):
            own = [entry for entry in entries if entry.layer == layer]
            run = parent if layer is None else self._layer_run(layer, own[0].time - own[0].seconds)
            self._log_trials(run, own)
            if run != parent and (done or (layer or 0) < deepest):
                self._end(run, "FINISHED", own[-1].time)
        if done:
            self._log_curve(parent)
        done = done or (self._path / FRONT).is_file()  # a front of which no schedule met the limits
        self._log_finals(parent, entries)
        if final:
            for run in (*self._layers.values(), parent):
                self._end(run, status or ("FINISHED" if done else "KILLED"), time.time())
        # Last: files go to a store of their own, which may be away while the metrics' store is not.
        files = [SEARCH, LEDGER, SCHEDULE] if final else [SCHEDULE]
        self._log_files(parent, [*files, *read_results(self._path)["artifacts"]])
        return parent

    def _find_or_create_parent(self) -> str:
        content = read_search(self._path)
        run = self._linked() or self._tagged(content["id"])
        if run is None:
            run = self._client.create_run(
                self.experiment_id,
                start_time=int(content["created"] * 1000),
                run_name=self._name,
                tags={
                    _SEARCH_TAG: content["id"],
                    "vtr_ray.directory": str(self._path),
                    "vtr_ray.labels": str(content["parameters"].get("labels", "given")),
                    "mlflow.source.name": f"vtr-ray {content['command']}",
                },
            )
        parent = str(run.info.run_id)
        link = {"uri": self._uri, "experiment_id": self.experiment_id, "run_id": parent}
        write_json(self._path / LINK, link)
        self._log_params(parent, parameters(content), run.data.params)
        self._values = dict(run.data.metrics)
        curve = self._client.get_metric_history(parent, "keeping_rate")
        self._curve = [metric.value for metric in sorted(curve, key=lambda metric: metric.step)]
        self._steps[parent] = self._logged_steps(parent)
        for child in self._client.search_runs(
            [self.experiment_id], f"tags.`{_PARENT_TAG}` = '{parent}'", max_results=1000
        ):
            layer, layer_run = child.data.tags[_LAYER_TAG], child.info.run_id
            self._log_params(layer_run, {"layer": layer}, child.data.params)
            self._layers.setdefault(int(layer), layer_run)
            self._steps[layer_run] = self._logged_steps(layer_run)
        for run_id in (parent, *self._layers.values()):
            self._client.update_run(run_id, status="RUNNING")
        self.parent, self._known = parent, True
        return parent

    def _linked(self) -> Any:
        """The run that the directory names, where it still exists in this store."""
        from mlflow.exceptions import MlflowException

        file = self._path / LINK
        link = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        if link.get("uri") != self._uri:
            return None
        try:
            run = self._client.get_run(link["run_id"])
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None
        return run if run.info.lifecycle_stage == "active" else None

    def _tagged(self, search: str) -> Any:
        runs = self._client.search_runs([self.experiment_id], f"tags.`{_SEARCH_TAG}` = '{search}'")
        return next((run for run in runs if _PARENT_TAG not in run.data.tags), None)

    def _layer_run(self, layer: int, start: float) -> str:
        if layer not in self._layers:
            tags = {_PARENT_TAG: str(self.parent), _LAYER_TAG: str(layer)}
            run = self._client.create_run(
                self.experiment_id, start_time=int(start * 1000), run_name=f"layer {layer}", tags=tags
            )
            self._layers[layer] = run.info.run_id
            self._log_params(run.info.run_id, {"layer": str(layer)}, {})
        return self._layers[layer]

    def _logged_steps(self, run: str) -> set[int]:
        history = [
            *self._client.get_metric_history(run, "E"),
            *self._client.get_metric_history(run, "failed"),
            *self._client.get_metric_history(run, "stopped"),
        ]
        return {metric.step for metric in history}

    def _log_trials(self, run: str, entries: list[Entry]) -> None:
        steps = self._steps.setdefault(run, set())
        new = [entry for entry in entries if entry.trial not in steps]
        self._send(run, trial_facts(new))
        steps.update(entry.trial for entry in new)

    def _log_curve(self, parent: str) -> None:
        facts = curve_facts(self._path)
        rates = [fact.value for fact in facts]
        if self._curve != rates:
            self._send(parent, facts)
            self._curve = rates

    def _log_finals(self, parent: str, entries: list[Entry]) -> None:
        facts = final_facts(self._path, entries)
        self._send(parent, [fact for fact in facts if self._values.get(key_of(fact.name)) != fact.value])
        self._values.update({key_of(fact.name): fact.value for fact in facts})

    def _send(self, run: str, facts: list[Fact]) -> None:
        send_metrics(self._client, run, facts)

    def _log_params(self, run: str, params: Mapping[str, str], there: Mapping[str, str]) -> None:
        send_params(self._client, run, params, there)

    def _log_files(self, parent: str, names: list[str]) -> None:
        for file in (self._path / name for name in names):  # an absolute name stays what it is
            if not file.is_file():
                continue
            stat = file.stat()
            if self._files.get(file) != (stat.st_mtime_ns, stat.st_size):
                self._client.log_artifact(parent, str(file))
                self._files[file] = (stat.st_mtime_ns, stat.st_size)

    def _end(self, run: str, status: str, when: float) -> None:
        if run not in self._ended:
            self._client.set_terminated(run, status, int(when * 1000))
            self._ended.add(run)
