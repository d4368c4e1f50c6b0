"""A small suite of lmms-eval tasks, written as a project would write its own."""

import os
import textwrap
from pathlib import Path

import pytest
from quiz_files import ANLS, CHARTS, EXACT, EXISTENCE, UTILS, write_task


@pytest.fixture(scope="session", autouse=True)
def _own_datasets_cache(tmp_path_factory):
    os.environ["LMMS_EVAL_DATASETS_CACHE"] = str(tmp_path_factory.mktemp("datasets"))


@pytest.fixture(scope="session")
def suite(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("suite")
    (folder / "utils.py").write_text(textwrap.dedent(UTILS))
    colours = ["red", "green", "blue", "dark red", "yellow"]
    write_task(folder, EXACT, "colours", [(f"What colour is shape {i}?", colours[i % 5]) for i in range(10)])
    write_task(
        folder, EXISTENCE, "existence", [(f"Is there a dog {i}?", "yes" if i % 2 else "no") for i in range(8)]
    )
    write_task(
        folder, ANLS, "documents", [(f"What is the total of line {i}?", f"{i}12.50") for i in range(8)]
    )
    write_task(folder, CHARTS, "charts", [(f"How tall is bar {i}?", f"{40 + i}") for i in range(6)])
    return folder
