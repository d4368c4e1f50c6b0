"""What `evaluate` compares and reports, with a pool that answers at once."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from vtr_ray import Schedule, strategies
from vtr_ray.cli import main
from vtr_ray.commands import evaluate as command
from vtr_ray.commands.evaluate import StrategyOptions, evaluate
from vtr_ray.commands.inputs import DataOptions, ModelOptions, PoolOptions, Samples
from vtr_ray.efficiency.schedule_cost import ScheduleCost
from vtr_ray.evaluation.outcome import Outcome
from vtr_ray.reduction import DecodeReduction

CUSTOM = strategies.p_sigmoid(12, 0.5, 0.4)
CONTROL = ", random tokens"


class Pool:
    """Right answers without reduction; under any other schedule everything is "yes"."""

    num_layers = 12

    def __init__(self, samples: Samples, decode: DecodeReduction | None) -> None:
        self.samples, self.all_generate = samples.load(), decode is not None

    def call(self, name: str, *args: Any) -> Any:
        if name == "sources":
            return {one.id: one.source for one in self.samples}
        return [ScheduleCost(0.5, 1.0, 1.0, len(self.samples))] * len(args[0])

    def evaluate(self, schedule: Schedule) -> list[Outcome]:
        said = {one: "yes" if schedule.reduces else one.answers[0] for one in self.samples}
        return [
            Outcome(one.id, one.score(text), text if self.all_generate or not one.exact else None)
            for one, text in said.items()
        ]


@pytest.fixture(autouse=True)
def _no_ray(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    @contextmanager
    def opened(
        self: PoolOptions, model: Any, samples: Samples, name: str,
        decode: DecodeReduction | None = None, **_: Any,
    ) -> Iterator[Pool]:  # fmt: skip
        yield Pool(samples, decode)

    monkeypatch.setattr(command, "connected", nullcontext)
    monkeypatch.setattr(PoolOptions, "open", opened)
    monkeypatch.chdir(tmp_path)


def run(files: list[str], *names: str, tasks: tuple[str, ...] = ("vtr_text:4",), **more: Any) -> Any:
    out = io.StringIO()
    decode = more.pop("decode", None)
    rows = evaluate(
        [Path(file) for file in files], ModelOptions(), DataOptions(test_tasks=tasks), PoolOptions(),
        Console(file=out, width=200), StrategyOptions(names, **more), decode,
    )  # fmt: skip
    return rows, out.getvalue()


def test_the_control_stands_beside_every_schedule_that_chooses() -> None:
    rows, out = run([], "fastv", "vtw")
    assert [row.name for row in rows] == ["no reduction", "fastv", f"fastv{CONTROL}", "vtw"]
    assert rows[2].schedule == strategies.random(strategies.fastv(12), 0)
    curve = "p_sigmoid:budget=0.3,k=0.5"
    cut = run([], curve)[0]
    assert [row.name for row in cut[2:]] == [f"{curve}{CONTROL}", f"{curve}, one cut"]
    assert cut[3].schedule == strategies.one_cut(cut[1].schedule)
    assert [row.name for row in run([], "fastv", "random")[0]] == [row.name for row in rows[:3]]
    assert [row.name for row in run([], "fastv", controls=False)[0]] == ["no reduction", "fastv"]
    for line in ("compared: no reduction: accuracy 100.0", f"compared: fastv{CONTROL}: accuracy 0.0"):
        assert line in out
    assert "Accuracy fell (significant; paired, 95 %): fastv -100.0 [" in out and "; vtw -100.0 [" in out
    assert "Against random tokens (the same rates, tokens drawn at random): fastv is not told apart (" in out


@pytest.mark.parametrize(
    ("file", "row"),
    [("fastv.json", "fastv.json"), ("no reduction.json", "no reduction.json"), ("mine.json", "mine")],
)
def test_a_file_never_takes_the_place_of_another_row(file: str, row: str) -> None:
    CUSTOM.save(file)
    rows, _ = run([file], "fastv", controls=False)
    assert {row.name: row.schedule for row in rows} == {
        "no reduction": strategies.none(12), row: CUSTOM, "fastv": strategies.fastv(12)
    }  # fmt: skip


def test_the_set_level_figures_are_those_of_all_answers() -> None:
    rows, out = run([], "fastv", tasks=("vtr_existence:15", "vtr_text:4"), controls=False)
    none, fastv = rows
    yes = sum(one.score for one in fastv.outcomes if one.sample_id.startswith("vtr_existence"))
    assert 0 < yes < 15 and none.accuracy == 1
    f1 = 2 * yes / (yes + 15)  # everything was "yes"
    (line,) = (line for line in out.splitlines() if line.startswith("│ fastv") and f"{f1:.4g}" in line)
    assert [cell.strip() for cell in line.strip("│").split("│")] == ["fastv", f"{yes / 15:.4g}", f"{f1:.4g}"]
    assert "pope_f1_score" in out
    assert all((one.answer is None) == one.sample_id.startswith("vtr_text") for one in fastv.outcomes)
    decoded = run(
        [], "fastv", tasks=("vtr_existence:15",), controls=False, decode=DecodeReduction(1, 0.5)
    )[1]  # fmt: skip
    assert decoded.count("pope_f1_score") == 2


def test_figures_that_a_set_is_too_small_for_do_not_cost_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "task_figures", lambda *_: 1 / 0)
    out = run([], "fastv", tasks=("vtr_existence:15",))[1]
    assert "No figures of vtr_existence: division by zero" in out and "TFLOPs" in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("fastv", "--strategy", "fastv"), "two rows would be called 'fastv'"),
        (("--strategy", "random", "--no-random"), "give one of them"),
        (("--strategy", "random", "--no-controls"), "give one of them"),
    ],
)
def test_contradictions_are_refused(capsys: Any, arguments: tuple[str, ...], said: str) -> None:
    CUSTOM.save("fastv")
    CUSTOM.save("other")
    files = ("other",) if arguments[0] == "fastv" else ()
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", *files, *arguments])
    assert stop.value.code == 2 and said in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ("evaluate", "--strategy", "fastv", "--samples", "one.json"),
        ("gsearch", "--samples", "one.json", "--test", "one.json"),
        ("psigmoid", "--budget", "0.5", "--samples", "one.json", "--test", "one.json"),
        ("pareto", "--task", "vtr_text:1"),
    ],
)
def test_one_sample_cannot_be_compared(capsys: Any, arguments: tuple[str, ...], tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (8, 8)).save("1.png")
    turns = [{"from": "human", "value": "<image>?"}, {"from": "gpt", "value": "a"}]
    Path("one.json").write_text(json.dumps([{"id": "1", "image": "1.png", "conversations": turns}]))
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert stop.value.code == 2 and "at least two samples" in line
    assert ("--no-compare" in line) == (arguments[0] != "evaluate")
    assert not (tmp_path / "runs").exists()
