"""The run directory: what survives a kill, and what is refused."""

from __future__ import annotations

import errno
import json
from dataclasses import replace
from pathlib import Path

import pytest

from vtr_ray.errors import InputError
from vtr_ray.schedule import Schedule
from vtr_ray.tuning.directory import (
    LEDGER,
    SEARCH,
    Entry,
    RunDirectory,
    Settings,
    check_run_directory,
    read_ledger,
    read_results,
    read_settings,
    record_results,
)

SETTINGS = Settings(command="gsearch", parameters={"weight": 0.01, "model": "tiny"}, seed=3, samples="ab12")
STATE = {"settings": {"num_layers": 4}, "trials": []}
SCHEDULE = Schedule.from_rates([1, 1, 1 / 3, 0.1])


def entry(trial: int, score: float | None = 0.1 + 0.2) -> Entry:
    return Entry(trial, 3, 1 / 3, SCHEDULE, score, 1.5, objective=0.29, time=1e9 + trial / 7)


def filled(path: Path, count: int = 3) -> Path:
    with RunDirectory(path, SETTINGS, STATE) as run:
        for trial in range(1, count + 1):
            run.append(entry(trial))
    return path


def test_ledger_and_settings_come_back_exactly(tmp_path: Path) -> None:
    path = filled(tmp_path / "a" / "run")
    assert read_ledger(path) == [entry(1), entry(2), entry(3)]
    assert read_settings(path) == SETTINGS
    line = json.loads((path / LEDGER).read_text().splitlines()[0])
    assert {"trial", "layer", "rate", "schedule", "score", "seconds"} <= line.keys()
    failed = replace(entry(4, None), error="no")
    scored = replace(entry(5), scores=(1.0, 0.0, 2 / 3))
    with RunDirectory(path, SETTINGS, STATE, resume=True) as run:
        run.append(failed)
        run.append(scored)
    assert read_ledger(path)[-2:] == [failed, scored]
    assert [b'"scores"' in text for text in (path / LEDGER).read_bytes().splitlines()] == [False] * 4 + [True]
    assert b'"scores": [1, 0, 0.6666666666666666]' in (path / LEDGER).read_bytes()


@pytest.mark.parametrize("cut", [1, 7, 40])
def test_a_torn_last_line_is_dropped_and_written_over(tmp_path: Path, cut: int) -> None:
    path = filled(tmp_path / "run")
    ledger = path / LEDGER
    ledger.write_bytes(ledger.read_bytes()[:-cut])
    assert [e.trial for e in read_ledger(path)] == [1, 2]
    with RunDirectory(path, SETTINGS, STATE, resume=True) as run:
        assert [e.trial for e in run.entries] == [1, 2]
        run.append(entry(3))
    assert read_ledger(path) == [entry(1), entry(2), entry(3)]


def test_a_trial_written_twice_counts_once(tmp_path: Path) -> None:
    path = filled(tmp_path / "run")
    with (path / LEDGER).open("a") as file:
        file.write(json.dumps(replace(entry(2), score=0.9).to_dict()) + "\n")
    with RunDirectory(path, SETTINGS, STATE, resume=True) as run:
        assert run.entries == [entry(1), entry(2), entry(3)]


def test_a_broken_line_in_the_middle_is_refused_by_its_number(tmp_path: Path) -> None:
    path = filled(tmp_path / "run")
    lines = (path / LEDGER).read_text().splitlines(keepends=True)
    (path / LEDGER).write_text(lines[0] + "{broken\n" + lines[2])
    with pytest.raises(InputError, match=r"broken at line 2"):
        RunDirectory(path, SETTINGS, STATE, resume=True)


@pytest.mark.parametrize(
    ("settings", "state", "said"),
    [
        (replace(SETTINGS, seed=4), STATE, r"seed is 3 there and 4 here"),
        (replace(SETTINGS, samples="ff"), STATE, r'samples is "ab12" there and "ff" here'),
        (replace(SETTINGS, command="psigmoid"), STATE, r"command"),
        (
            replace(SETTINGS, parameters={"weight": 0.02, "model": "tiny"}),
            STATE,
            r"parameters\.weight is 0\.01 there",
        ),
        (replace(SETTINGS, parameters={"weight": 0.01}), STATE, r"parameters\.model"),
        (SETTINGS, {"settings": {"num_layers": 5}, "trials": []}, r"state\.settings\.num_layers is 4 there"),
    ],
)
def test_resuming_another_search_is_refused(
    tmp_path: Path, settings: Settings, state: dict[str, object], said: str
) -> None:
    path = filled(tmp_path / "run")
    before = (path / LEDGER).read_bytes()
    with pytest.raises(InputError, match=said):
        RunDirectory(path, settings, state, resume=True)
    assert (path / LEDGER).read_bytes() == before


@pytest.mark.parametrize(("name", "there", "here"), [("frames", 8, 16), ("revision", "a1", "b2")])
def test_other_frames_or_weights_are_another_search(
    tmp_path: Path, name: str, there: object, here: object
) -> None:
    ours = replace(SETTINGS, parameters={**SETTINGS.parameters, name: here})
    RunDirectory(filled(tmp_path / "old"), ours, STATE, resume=True).close()  # it did not record them
    theirs = replace(SETTINGS, parameters={**SETTINGS.parameters, name: there})
    RunDirectory(tmp_path / "new", theirs, STATE).close()
    with pytest.raises(InputError, match=rf"parameters\.{name} is .* there"):
        RunDirectory(tmp_path / "new", ours, STATE, resume=True)


def test_a_directory_without_a_run_cannot_be_resumed(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(InputError, match=r"not a run directory"):
            check_run_directory(path, resume=True)
        with pytest.raises(InputError, match=r"not a run directory"):
            RunDirectory(path, SETTINGS, STATE, resume=True)


def test_a_fresh_run_never_writes_over_another(tmp_path: Path) -> None:
    path = filled(tmp_path / "run")
    with pytest.raises(InputError, match=r"pass --resume .* or another directory"):
        RunDirectory(path, SETTINGS, STATE)
    assert len(read_ledger(path)) == 3
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"is a file"):
        RunDirectory(tmp_path / "file", SETTINGS, STATE)


@pytest.mark.parametrize("path", ["/proc/x/run", "x" * 300, "file/run"])
def test_where_no_directory_can_be_there_is_no_run(tmp_path: Path, path: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="run"):
        RunDirectory(tmp_path / path, SETTINGS, STATE)


def test_a_folder_that_may_not_be_entered_holds_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "stat", refuse)
    for resume in (False, True):
        with pytest.raises(InputError, match=r"run directory: Permission denied"):
            check_run_directory(tmp_path / "run", resume)


def test_a_run_directory_that_cannot_be_written_is_refused_early(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(InputError, match="cannot be written"):
        check_run_directory(tmp_path / "new" / "run", resume=False)


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with RunDirectory(tmp_path / "run", SETTINGS, STATE) as run:
        with pytest.raises(InputError, match=r"another process"):
            RunDirectory(tmp_path / "run", SETTINGS, STATE, resume=True)
        run.append(entry(1))
    with RunDirectory(tmp_path / "run", SETTINGS, STATE, resume=True) as again:
        assert len(again.entries) == 1


def test_damaged_settings_are_refused_by_name(tmp_path: Path) -> None:
    path = filled(tmp_path / "run")
    for content in ("", "[]", '{"seed": 1}'):
        (path / SEARCH).write_text(content)
        with pytest.raises(InputError, match=SEARCH.replace(".", r"\.")):
            RunDirectory(path, SETTINGS, STATE, resume=True)


def test_results_add_up(tmp_path: Path) -> None:
    path = filled(tmp_path / "run")
    table = path / "table.csv"
    record_results(path, {"TFLOPs": 2.0, "accuracy": 0.5}, [table])
    record_results(path, {"accuracy": 0.6}, [table])
    assert read_results(path) == {"metrics": {"TFLOPs": 2.0, "accuracy": 0.6}, "artifacts": [str(table)]}
