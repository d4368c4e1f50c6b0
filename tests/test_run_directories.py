"""Where runs go, and which one is resumed, when nobody names a directory."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from vtr_ray.commands.searching import RunOptions, claimed, home, run_directory
from vtr_ray.errors import InputError


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("VTR_RAY_HOME", "RAY_JOB_CONFIG_JSON_ENV_VAR"):
        monkeypatch.delenv(name, raising=False)


def test_searches_that_begin_in_the_same_second_get_directories_of_their_own(tmp_path: Path) -> None:
    same = tmp_path / "runs" / "gsearch-20261123-093000"
    with ThreadPoolExecutor(12) as threads:
        found = list(threads.map(claimed, [same] * 12))
    assert {path.name for path in found} == {same.name} | {f"{same.name}-{n}" for n in range(2, 13)}
    assert all(path.is_dir() for path in found)


def test_the_newest_run_that_began_is_resumed(tmp_path: Path) -> None:
    root, resume = tmp_path / "runs", RunOptions(resume=True)
    with pytest.raises(InputError, match="no run to resume"):
        run_directory(resume, "gsearch")
    names = ["20261122-235959", "20261123-093000", "20261123-093000-2", "20261123-093000-10"]
    for name in names:
        (root / f"gsearch-{name}").mkdir(parents=True)
        (root / f"gsearch-{name}" / "search.json").touch()
        assert run_directory(resume, "gsearch") == root / f"gsearch-{name}"
    (root / "gsearch-20261124-000000").mkdir()  # failed before its search began
    assert run_directory(resume, "gsearch").name == "gsearch-20261123-093000-10"
    for name in ("20261123-093000", "20261124-093000"):  # one search for each budget
        (root / f"psigmoid-{name}" / "budget-0.3").mkdir(parents=True)
        (root / f"psigmoid-{name}" / "budget-0.3" / "search.json").touch()
    assert run_directory(resume, "psigmoid") == root / "psigmoid-20261124-093000"


def test_a_home_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "runs").touch()
    with pytest.raises(InputError, match=r"^cannot make the run directory .*name one with --out$"):
        claimed(tmp_path / "runs" / "gsearch-20261123-093000")


def test_where_home_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert home() == tmp_path
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")  # a job's current directory is deleted
    assert home() == Path.home() / "vtr_ray"
    monkeypatch.setenv("VTR_RAY_HOME", "/shared")
    assert home() == Path("/shared")
    assert run_directory(RunOptions(), "gsearch").parent == Path("/shared/runs")
