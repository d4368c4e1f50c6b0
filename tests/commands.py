"""The command line, called in this process: what it would import again is there already."""

from __future__ import annotations

import io
import os
from contextlib import chdir, redirect_stdout
from pathlib import Path
from unittest import mock

from vtr_ray.cli import main


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
