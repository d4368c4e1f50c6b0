"""Commands called in this process, which has imported what they need; searches that they find."""

from __future__ import annotations

import io
import json
import os
from contextlib import chdir, redirect_stdout
from pathlib import Path
from unittest import mock

from vtr_ray import Schedule
from vtr_ray.cli import main
from vtr_ray.tuning.directory import SCHEDULE, SEARCH


def run_here(folder: Path, *arguments: str) -> str:
    """What a command prints that succeeds in a folder."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "MLFLOW_"))}
    out = io.StringIO()
    with chdir(folder), mock.patch.dict(os.environ, kept, clear=True), redirect_stdout(out):
        try:
            main(arguments)
        except SystemExit as ended:
            assert not ended.code, out.getvalue()[-3000:]
    return out.getvalue()


def finished_search(folder: Path, schedule: Schedule, command: str, model: str = "embedded") -> str:
    """The run directory of a search that found a schedule."""
    folder.mkdir(parents=True)
    parameters = {"model": model, "match": "fastv:0.875", "budget": None}
    content = {"command": command, "parameters": parameters, "seed": 0, "samples": "", "id": "", "state": {}}
    (folder / SEARCH).write_text(json.dumps(content))
    schedule.save(folder / SCHEDULE)
    return str(folder)
