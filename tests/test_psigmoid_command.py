"""`vtr-ray psigmoid` and what belongs to it: goals, mistakes, show --fit; slow: real Ray and MLflow."""

import json
import re
from dataclasses import replace

import pytest
from commands import run_here

from vtr_ray import Schedule, strategies
from vtr_ray.cli import main
from vtr_ray.commands.named import named_schedule, schedule_of
from vtr_ray.commands.psigmoid import PSigmoidOptions, goals_of
from vtr_ray.errors import InputError
from vtr_ray.report.budgets import Found, write_budgets


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def refused(capsys, *arguments):
    """The one line that a mistake gets."""
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("vtr-ray: ")
    return line


@pytest.mark.parametrize(
    ("text", "schedule"),
    [
        ("fastv:0.875", strategies.fastv(24, 0.875)),
        ("fastv:0.875,after_layer=3", strategies.fastv(24, 0.875, 3)),
        ("pyramid_drop:0.3", strategies.pyramid_drop(24, keep=0.3)),
        ("vtw:7", strategies.vtw(24, 7)),
    ],
)
def test_a_bare_value_is_the_strategys_own_parameter(text, schedule):
    assert named_schedule(text, 24) == schedule == schedule_of(text, 24)


def test_goals(tmp_path):
    Schedule.from_rates([1, 1, 0.5, 0.25]).save(tmp_path / "s.json")
    goals = goals_of(PSigmoidOptions((0.116, 0.5), ("fastv:0.875", "s.json")), 4)
    assert [goal.name for goal in goals] == [
        "budget-0.116",
        "budget-0.5",
        "match-fastv-0.875",
        "match-s.json",
    ]
    assert goals[3].match == Schedule.load("s.json") and goals[2].match == strategies.fastv(4, 0.875)
    with pytest.raises(InputError, match="given twice"):
        goals_of(PSigmoidOptions((0.2, 0.2)), 4)
    with pytest.raises(InputError, match="4 layers, the model 12"):
        goals_of(PSigmoidOptions(matches=("s.json",)), 12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "nothing to search for; give --budget 0.116"),
        (("--budget", "1.5"), "budget is 1.5"),
        (("--budget", "0.2", "--k-max", "0"), "k_max is 0"),
        (("--budget", "0.2", "--initial", "1"), "initial is 1"),
        (("--match", "gsearch"), "no strategy"),
        (("--match", "random"), "no strategy"),
        (("--match", "fastv:two"), "write fastv:OPTION=VALUE"),
        (("--budget", "0.2", "--resume"), "no run to resume"),
        (("--budget", "0.2", "--task", "vtr_nonsense", "--include-path", "gone"), "task folder"),
        (("--budget", "0.2", "--task", "vtr_text_search:none"), "no number of documents"),
        (("--budget", "0.2", "--score", "anls"), "name one with --task"),
        (("--budget", "0.2", "--task", "vtr_text_search", "--samples", "x.json"), "both name samples"),
    ],
)
def test_mistakes_are_one_line(capsys, tmp_path, arguments, message):
    assert message in refused(capsys, "psigmoid", *arguments)
    assert not (tmp_path / "runs").exists()


def test_another_runs_directory_is_refused(capsys, tmp_path):
    (tmp_path / "run" / "budget-0.2").mkdir(parents=True)
    (tmp_path / "run" / "budget-0.2" / "search.json").write_text("{}")
    assert "already holds" in refused(capsys, "psigmoid", "--budget", "0.3", "--out", "run")
    (tmp_path / "run" / "search.json").write_text("{}")
    assert "another command" in refused(capsys, "psigmoid", "--budget", "0.2", "--out", "run", "--resume")


def test_budgets_added_later_stand_beside_the_first(tmp_path):
    def found(budget, k):
        schedule = strategies.p_sigmoid(12, budget, k)
        return Found(f"budget-{budget}", f"b = {budget}", budget, k, 0.9, budget, None, schedule, 0.5)

    write_budgets([found(0.1, 0.2), found(0.3, 0.4)], tmp_path)
    files = write_budgets([found(0.3, 0.5), found(0.2, 0.3)], tmp_path)
    lines = json.loads((tmp_path / "psigmoid.json").read_text())["searches"]
    assert [(line["budget"], line["k"]) for line in lines] == [(0.1, 0.2), (0.3, 0.5), (0.2, 0.3)]
    assert all(file.is_file() for file in files)


def test_show_fits(capsys, tmp_path):
    strategies.p_sigmoid(32, 0.3, 0.4).save(tmp_path / "s.json")
    with pytest.raises(SystemExit) as stop:
        main(["show", "s.json", "--fit", "--figure", "s.svg"])
    assert stop.value.code == 0
    said = capsys.readouterr().out
    assert "b 0.3000, k 0.4000, alpha 17.500, R² 1.0000" in said
    assert (tmp_path / "s.svg").is_file()


def run(folder, *arguments):
    return run_here(
        folder, "psigmoid", "--initial", "3", "--iterations", "1", "--cpus-per-actor", "1",
        "--task", "vtr_text_search:6", "--task", "vtr_documents_search:4", "--test-task", "vtr_text:4",
        "--out", "run", *arguments,
    )  # fmt: skip


@pytest.mark.slow
def test_two_searches_in_one_job_then_resumed(tmp_path, ray_here):
    from mlflow import MlflowClient

    goals = ["--budget", "0.3", "--match", "fastv:0.7"]
    output = run(tmp_path, *goals)
    lines = json.loads((tmp_path / "run" / "psigmoid.json").read_text())["searches"]
    assert [line["name"] for line in lines] == ["budget-0.3", "match-fastv-0.7"]
    assert lines[0]["budget"] == 0.3 and lines[1]["tflops"] == pytest.approx(
        lines[1]["target_tflops"], rel=0.01
    )
    ledgers = {}
    for line in lines:
        folder = tmp_path / "run" / line["name"]
        saved = Schedule.load(folder / "schedule.json")
        assert saved.found is not None and saved.found["E"] == line["E"]
        assert replace(saved, found=None).to_dict() == line["schedule"]
        ledgers[folder] = (folder / "ledger.jsonl").read_bytes()
        trials = [json.loads(text) for text in ledgers[folder].splitlines()]
        assert [trial["fields"]["k"] for trial in trials[:3]] == pytest.approx([0, 1, 2], abs=0.05)
        assert len(trials) == 4
        assert line["E"] == max(trial["score"] for trial in trials)
        rows = [row["name"] for row in json.loads((folder / "comparison.json").read_text())["rows"]]
        assert rows[:2] == ["no reduction", "P-Sigmoid"]
        assert "random tokens" in rows and ("one cut" in rows) == (line["k"] > 0)
        assert ("fastv:0.7" if line["target_tflops"] else "FastV") in rows
    for words in ("k by budget", "b = 0.3", "to match", "fastv:0.7", "over 4 samples", "mlflow ui"):
        assert words in re.sub(r"\s+", " ", output)

    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")

    def parents():
        runs = client.search_runs([client.get_experiment_by_name("vtr-ray").experiment_id])
        return {found.info.run_name: found for found in runs}

    assert parents().keys() == {"run/budget-0.3", "run/match-fastv-0.7"}
    for line in lines:
        found = parents()[f"run/{line['name']}"]
        assert found.info.status == "FINISHED" and found.data.metrics["best_k"] == line["k"]
        curve = client.get_metric_history(found.info.run_id, "keeping_rate")
        rates = [metric.value for metric in sorted(curve, key=lambda metric: metric.step)]
        assert rates == line["schedule"]["rates"]
        files = {file.path for file in client.list_artifacts(found.info.run_id)}
        assert {"schedule.json", "comparison.json", "k_by_budget.png", "psigmoid.json"} <= files

    # Cut in the second search, after one trial; a third budget joins on the way.
    second = tmp_path / "run" / "match-fastv-0.7"
    (second / "schedule.json").unlink()
    (second / "ledger.jsonl").write_bytes(ledgers[second].splitlines(keepends=True)[0])
    run(tmp_path, *goals, "--budget", "0.5", "--resume", "--no-compare")
    assert (second.parent / "budget-0.3" / "ledger.jsonl").read_bytes() == ledgers[
        second.parent / "budget-0.3"
    ]
    before, after = (
        [(trial["trial"], trial["score"], trial["schedule"]) for trial in map(json.loads, text.splitlines())]
        for text in (ledgers[second], (second / "ledger.jsonl").read_bytes())
    )
    assert before == after
    assert len(json.loads((tmp_path / "run" / "psigmoid.json").read_text())["searches"]) == 3
    assert len(parents()) == 3
