"""What every search command does before its search: is no reduction right often enough? No Ray here."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import RayTaskError
from rich.console import Console

sys.path.append(str(Path(__file__).parent / "report"))
import page_files

from vtr_ray import Schedule
from vtr_ray.commands.inputs import DataOptions, ModelOptions, PoolOptions
from vtr_ray.commands.searching import RunOptions, SearchJob
from vtr_ray.errors import InputError
from vtr_ray.evaluation.outcome import NOT_A_NUMBER, Outcome
from vtr_ray.evaluation.untouched import Needed


class Pool:
    """Two samples a batch, asked after each batch whether it is enough."""

    num_layers, num_samples = 12, 40

    def __init__(self, samples: Sequence[Any], outcome: Callable[[int, str], Outcome]) -> None:
        self._outcomes = [outcome(number, sample.id) for number, sample in enumerate(samples)]
        self.evaluated, self.asked = 0, list[Any]()

    def evaluate(self, schedule: Schedule, enough: Callable[[list[Outcome], int], bool]) -> list[Outcome]:
        assert not schedule.reduces
        while self.evaluated < 40:
            self.evaluated += 2
            if enough(self._outcomes[: self.evaluated], 40 - self.evaluated):
                break
        return self._outcomes[: self.evaluated]

    def call(self, name: str, ids: Sequence[str]) -> dict[str, str]:
        assert name == "answers"
        self.asked += ids
        return dict.fromkeys(ids, "nonsense")


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., SearchJob]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("VTR_RAY_HOME", raising=False)
    data = DataOptions(tasks=("vtr_scenes_search:40",))

    def make(**run: Any) -> SearchJob:
        console = Console(file=io.StringIO())
        options = RunOptions(compare=False, **run)
        return SearchJob("gsearch", "G-Search", ModelOptions(), data, PoolOptions(), options, console)

    return make


def test_nothing_right_is_refused_before_the_search_and_leaves_nothing(
    made: Callable[..., SearchJob], tmp_path: Path
) -> None:
    job = made()
    samples = job.samples.set.samples
    pool: Any = Pool(samples, lambda number, name: Outcome(name, float(number < 5)))
    assert job.out.is_dir()
    with pytest.raises(InputError) as refused:
        job.check_right(pool, Needed(0.01, "--weight 0.01"))
    assert pool.evaluated == 40 and pool.asked == [sample.id for sample in samples[5:8]]
    line = str(refused.value)
    assert line.startswith("without reduction the model is right on 5 of 40 samples, fewer than 6")
    assert f"sample {samples[6].id}: answered 'nonsense', expected {samples[6].answers[0]!r}" in line
    assert not job.out.exists()


def test_no_more_batches_are_evaluated_than_it_takes(made: Callable[..., SearchJob]) -> None:
    job = made()
    pool: Any = Pool(job.samples.set.samples, lambda number, name: Outcome(name, float(number % 2)))
    job.check_right(pool, Needed(0.01, "--weight 0.01"))
    assert pool.evaluated == 12 and job.out.is_dir()


def test_logits_that_are_no_numbers_are_what_is_said(made: Callable[..., SearchJob]) -> None:
    job = made()
    pool: Any = Pool(job.samples.set.samples, lambda _, name: Outcome(name, 0.0, "", NOT_A_NUMBER))
    with pytest.raises(InputError, match=r"40 of 40 samples have no answer.*use --dtype bfloat16"):
        job.check_right(pool, Needed())


def test_what_fails_is_left_to_the_searchs_own_trial(made: Callable[..., SearchJob]) -> None:
    class Broken:
        num_layers = 12

        def evaluate(self, *_: Any, **__: Any) -> None:
            raise RayTaskError("evaluate", "traceback", ValueError("out of memory"))

    broken: Any = Broken()
    made().check_right(broken, Needed())


@pytest.mark.parametrize("folder", [".", "budget-0.3"])
def test_a_resumed_search_was_checked_when_it_began(
    made: Callable[..., SearchJob], tmp_path: Path, folder: str
) -> None:
    page_files.write_search(tmp_path / "run" / folder, trials=2)
    job = made(out=tmp_path / "run", resume=True)
    job.check_right(None, Needed())  # type: ignore[arg-type]
    ledger = tmp_path / "run" / folder / "ledger.jsonl"
    assert len([json.loads(line) for line in ledger.read_text().splitlines()]) == 2
    ledger.write_text("")
    nothing: Any = Pool(job.samples.set.samples, lambda _, name: Outcome(name, 0.0))
    with pytest.raises(InputError, match="right on 0 of 40"):
        job.check_right(nothing, Needed())
    assert ledger.exists()
