"""`vtr-ray pareto`: mistakes get one line; a run leaves its front, its choice and its MLflow run."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from vtr_ray import Schedule
from vtr_ray.cli import main
from vtr_ray.commands.pareto import Limits
from vtr_ray.efficiency import Latency
from vtr_ray.efficiency.schedule_cost import ScheduleCost
from vtr_ray.report.front import FrontPoint, front_table

SMALL = ("--trials", "4", "--initial", "3", "--reference", "1", "--batch", "8", "--parallel", "2")


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stop:
        main(["pareto", *arguments])
    return int(stop.value.code or 0)


def refused(capsys, *arguments: str) -> str:
    assert run(*arguments) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


@pytest.mark.parametrize(
    "option",
    [("--trials", "1"), ("--initial", "0"), ("--reference", "-1"), ("--k-max", "0"), ("--parallel", "0"),
     ("--max-drop", "-1"), ("--max-tflops", "x"), ("--seed", "-1")],
)  # fmt: skip
def test_numbers_out_of_range_are_refused_before_anything_is_written(capsys, tmp_path, option) -> None:
    name = option[0].removeprefix("--").replace("-", "_")
    line = refused(capsys, *option)
    assert name in line.replace("-", "_") or name == "parallel"
    assert list(tmp_path.iterdir()) == []


def point(
    tflops: float,
    drop: float,
    prefill: Sequence[float] | None,
    rates: Sequence[float] = (0.5,),
    trial: int = 1,
) -> FrontPoint:
    schedule = Schedule.from_rates([1, 1, *rates, *rates[-1:] * (3 - len(rates))])
    time = None if prefill is None else Latency(tuple(prefill))
    cost = ScheduleCost(0.5, 2 * tflops, tflops, 8, time)
    return FrontPoint("front/01.json", trial, schedule, 0.9, drop, cost, 0.5, 0.0, 3.0)


def test_unmet_limits_say_what_the_front_has() -> None:
    front = [point(2.0, 0.4, [0.05] * 9), point(3.0, 0.01, [0.07] * 9)]
    said = str(Limits(1.5, 40.0, 0.5).unmet(front, Path("/runs/one")))
    for words in ("--max-tflops 1.5 (the least is 2)",
                  "--max-prefill-ms 40 (50.0 is the least that the clock told)",
                  "--max-drop 0.5 (the least is 1.0)", "/runs/one/front.json"):  # fmt: skip
        assert words in said
    assert "max-prefill" not in str(Limits(max_drop=0.5).unmet(front, Path("/runs/one")))
    hurried = [point(2.0, 0.4, [0.05] * 3)]
    assert "(no time was told)" in str(Limits(None, 60.0).unmet(hurried, Path("/runs/one")))


@dataclass(frozen=True)
class Trial:
    id: int


class Search:
    """Picks as `ParetoSearch` does where no drop is given: of what fits the one with the largest E."""

    def choose(self, drop: float | None, fits: Callable[[Trial], bool]) -> Trial | None:
        assert drop is None
        fitting = [one for one in map(Trial, (1, 2, 3)) if fits(one)]
        return max(fitting, key=lambda one: one.id, default=None)


def test_a_time_that_is_not_told_apart_from_the_limit_is_not_picked_by() -> None:
    steady, noisy = [0.050, 0.052] * 8, [0.030] * 8 + [0.080] * 8  # medians of 51 and 55 ms
    few, more = point(1.0, 0.1, noisy, (0.2,), 1), point(2.0, 0.1, steady, (0.5,), 2)

    def picked(*front: FrontPoint) -> int | None:
        trial = Limits(max_prefill_ms=60.0).choose(Search(), front)
        return trial and trial.id

    assert few.slowest([few]) == 0.08 and more.slowest([few, more]) == 0.052
    assert (picked(few), picked(more), picked(few, more)) == (None, 2, 2)
    # What has fewer tokens at every layer fits where more of them do, whatever the clock said of it.
    assert few.slowest([few, more]) == 0.052
    assert few.slowest([few, point(3.0, 0.1, [0.09] * 16, (0.9,), 3)]) == 0.08
    # Further cuts have a price: their longer time may be real.
    cuts = point(1.5, 0.1, noisy, (0.5, 0.4, 0.3), 3)
    assert cuts.slowest([cuts, more]) == 0.08
    # A median below the limit is not enough.
    assert picked(point(1.0, 0.1, [0.055] * 9 + [0.065] * 7, (0.2,), 1)) is None


def test_a_front_that_was_not_timed_has_no_column_of_times() -> None:
    front = [point(0.002, 0.1, None), point(0.0005, 0.2, [0.05] * 9)]
    assert front[0].slowest(front[:1]) == math.inf
    columns = [column.header for column in front_table(front[:1], None).columns]
    assert columns[-2:] == ["GFLOPs", "memory cost"] and "prefill ms" not in columns
    timed = front_table(front, None)
    assert [list(column.cells) for column in timed.columns[-3:]] == [
        ["2.000", "0.5000"], ["0.500", "0.500"], ["", "50.0 ±0"]
    ]  # fmt: skip
    assert "GFLOPs (executed in a prefill): means over the samples' prompts" in str(timed.caption)
    assert front[0].to_dict()["prefill_seconds"] is None and front[0].to_dict()["tflops_paper"] == 0.004


@pytest.fixture(scope="module")
def few(tmp_path_factory) -> Path:
    """Eight of the embedded search questions as a LLaVA-format file."""
    from vtr_ray import embedded
    from vtr_ray.evaluation.suites import load_tasks

    folder = tmp_path_factory.mktemp("few")
    entries = []
    samples = load_tasks(["vtr_scenes_search"], embedded.TASKS_FOLDER).samples
    for number, sample in enumerate(samples[:8]):
        name = f"{number}.png"
        from vtr_ray.evaluation.images import read_image

        read_image(sample.image).save(folder / name)
        turns = [{"from": "human", "value": f"<image>\n{sample.question}"},
                 {"from": "gpt", "value": sample.answers[0]}]  # fmt: skip
        entries.append({"id": str(number), "image": name, "conversations": turns})
    (folder / "few.json").write_text(json.dumps(entries))
    return folder / "few.json"


@pytest.mark.slow
def test_limits_that_nothing_meets_leave_the_front_from_which_a_resumed_run_picks(
    capsys, few, tmp_path, ray_here
) -> None:
    from mlflow import MlflowClient

    out = tmp_path / "run"
    common = (*SMALL, "--samples", str(few), "--no-compare", "--out", str(out))
    line = refused(capsys, *common, "--max-tflops", "1e-9", "--max-prefill-ms", "1e9")
    assert "--max-tflops 1e-09 (the least is" in line and "front.json" in line
    content = json.loads((out / "front.json").read_text())
    assert content["chosen"] is None and not (out / "schedule.json").exists()
    ledger = [json.loads(line) for line in (out / "ledger.jsonl").read_text().splitlines()]
    assert sorted(one["trial"] for one in ledger) == list(range(1, len(ledger) + 1))
    assert len(ledger) == 2 + 4 + 3 and content["trials"] == 4
    assert {"budget", "k", "alpha", "tflops", "tflops_executed"} <= ledger[2]["fields"].keys()
    files = sorted(path.name for path in (out / "front").iterdir())
    assert [Path(point["file"]).name for point in content["front"]] == files
    for point in content["front"]:
        saved = Schedule.load(out / point["file"])
        trial = next(one for one in ledger if one["trial"] == point["trial"])
        assert saved.found is not None and saved.found["E"] == trial["score"] == point["E"]
        assert replace(saved, found=None).to_dict() == point["schedule"] == trial["schedule"]
        assert point["tflops_executed"] == pytest.approx(trial["fields"]["tflops_executed"], rel=1e-12)
        assert point["prefill_seconds"] > 0  # asked for by the limit, though the model is small
    costs = [point["tflops_executed"] for point in content["front"]]
    assert costs == sorted(costs)
    assert {one["name"] for one in content["reference"]} == {"FastV", "PDrop", "VTW", "random points"}
    assert (out / "front.png").read_bytes().startswith(b"\x89PNG")
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    parent = client.search_runs([client.get_experiment_by_name("vtr-ray").experiment_id])[0]
    assert parent.info.status == "FINISHED"

    # Other limits pick from the finished search; nothing is evaluated for it.
    assert run(*common, "--resume", "--max-tflops", str(costs[0] * 1.000001)) == 0
    said = capsys.readouterr().out
    for words in ("Front", "Hypervolume", "FastV", "schedule.json", "mlflow ui"):
        assert words in said
    again = json.loads((out / "front.json").read_text())
    assert again["chosen"] == "front/01.json"
    assert [point["schedule"] for point in again["front"]] == [p["schedule"] for p in content["front"]]
    assert len((out / "ledger.jsonl").read_text().splitlines()) == len(ledger)
    chosen = Schedule.load(out / "schedule.json")
    assert chosen == Schedule.load(out / "front/01.json")
    run_id = parent.info.run_id
    parent = client.get_run(run_id)
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics["hypervolume"] == pytest.approx(content["hypervolume"])
    assert len(client.get_metric_history(run_id, "E")) == len(ledger)
    curve = client.get_metric_history(run_id, "keeping_rate")
    assert [(metric.step, metric.value) for metric in curve] == list(enumerate(chosen.rates, start=1))
    artifacts = {file.path for file in client.list_artifacts(run_id)}
    assert {"schedule.json", "front.json", "front.png", "ledger.jsonl"} <= artifacts
