"""`vtr-ray compare`: any runs on one HTML page, on disk and in MLflow."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console

from vtr_ray.commands.searching import home, numbered
from vtr_ray.errors import InputError
from vtr_ray.files import replacing_folder
from vtr_ray.report.page import INDEX, read_runs, write_page
from vtr_ray.report.page.sheets import verdict
from vtr_ray.store import RUN, default_uri, ui_command
from vtr_ray.tracking import fetch_run, log_page


def compare(runs: Sequence[str], out: Path | None, console: Console) -> Path:
    """Writes and logs the page of `runs`, directories or `runs:/RUN_ID`; gives its folder.

    MLflow being away costs a warning, not the page.
    """
    uri = default_uri(home())
    with TemporaryDirectory(prefix="vtr-ray-") as fetched:
        paths = [fetch_run(run, Path(fetched), uri) if run.startswith(RUN) else Path(run) for run in runs]
        inputs = read_runs(paths)
        folder = _folder(out)
        with replacing_folder(folder) as temporary:
            write_page(inputs, temporary)
        names = ", ".join(inputs.names)
        try:
            run_id = log_page(folder, f"compare {names}"[:200], paths, uri)
            logged = [f"MLflow run: {run_id}, artifact {INDEX}; open the UI with", f"  {ui_command(uri)}"]
        except InputError as error:
            logged = [f"Not in MLflow: {error}"]
    several = len(inputs.evaluations) > 1
    significant = [
        f"{run.name}: {line}" if several else line
        for run in inputs.evaluations
        for line in verdict(run.results)
    ]
    for line in (
        *significant,
        f"Page:       {folder / INDEX}",
        f"Figures:    {folder / 'figures'}",
        f"Data:       {folder / 'data'}",
        *logged,
    ):
        console.print(line, soft_wrap=True, highlight=False, markup=False)
    return folder


def _folder(out: Path | None) -> Path:
    if out is not None:
        return out.absolute()
    wanted = home() / "runs" / time.strftime("compare-%Y%m%d-%H%M%S")
    return next(path for path in numbered(wanted) if not path.exists())
