"""`vtr-ray study` over evaluations and trainings that its folder has already, as after a killed study."""

from __future__ import annotations

import csv
import importlib.util
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from commands import finished_search, run_here
from rich.console import Console

from vtr_ray import strategies
from vtr_ray.cli import main
from vtr_ray.commands import gsearch, psigmoid
from vtr_ray.commands.inputs import DataOptions, ModelOptions, PoolOptions
from vtr_ray.commands.named import Given
from vtr_ray.commands.searching import RunOptions
from vtr_ray.commands.study_accuracy import evaluated
from vtr_ray.commands.study_efficiency import _on
from vtr_ray.commands.study_job import Job, StudyOptions
from vtr_ray.commands.study_searches import g_search, p_sigmoid
from vtr_ray.commands.study_training import _trained
from vtr_ray.embedded.recipe import Recipe
from vtr_ray.errors import InputError
from vtr_ray.studies.training import START
from vtr_ray.tuning.directory import Entry

CURVE = strategies.p_sigmoid(12, 0.4, 1.0)
WIDTH = 0.004  # of the intervals of differences, each way


def searched(folder: Path, command: str) -> str:
    return finished_search(folder, CURVE, command)


def evaluation(folder: Path, averages: Mapping[str, float], clear: Sequence[str] = ()) -> None:
    """An evaluation with these averages; differences from those in `clear` are significant.

    Of ten documents as many are right as the average says.
    """
    rows = {
        name: {
            "average": {"value": value, "low": value - 0.01, "high": value + 0.01},
            "memory_cost": 0.5, "tflops": 1.7 if name == "FastV 87.5 %" else 1.0 + value, "prefill_ms": 2.0,
            "benchmarks": {"vtr_text": {"value": value}},
        }
        for name, value in averages.items()
    }  # fmt: skip
    pairs = [
        {"first": first, "second": second, "benchmark": "average", "difference": difference,
         "low": difference - WIDTH, "high": difference + WIDTH,
         "significant": bool({first, second} & set(clear))}
        for second, first in combinations(averages, 2)
        for difference in [averages[first] - averages[second]]
    ]  # fmt: skip
    content: dict[str, Any] = {
        "strategies": rows,
        "pairs": pairs,
        "benchmarks": {"vtr_text": {"title": "text", "documents": 1000}},
    }
    (folder / "documents").mkdir(parents=True)
    (folder / "evaluation.json").write_text(json.dumps(content))
    for name, value in averages.items():
        with (folder / "documents" / f"{name.lower()}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["benchmark", "document", "score"])
            writer.writerows(["vtr_text", number, float(number < 10 * value)] for number in range(10))


def found(home: Path, *arguments: str) -> dict[str, Any]:
    out = run_here(home, "study", *arguments, "--out", "study")
    content: dict[str, Any] = json.loads((home / "study" / "study.json").read_text())
    assert all(sentence in out for sentence in content["sentences"])
    assert list((home / "study").glob("*.png"))
    return content


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VTR_RAY_HOME", str(tmp_path))
    return tmp_path


def test_every_method_stands_on_every_benchmark(home: Path) -> None:
    averages = {"no reduction": 0.9, "VTW": 0.5, "PDrop": 0.7, "FastV 50 %": 0.95, "G-Search": 0.895}
    averages |= {"random tokens": 0.5, "one cut": 0.893}
    evaluation(home / "study" / "evaluation", averages, clear=["VTW", "PDrop"])
    content = found(home, "benchmarks", searched(home / "g", "gsearch"))
    assert content["holds"] is True
    rows = {row[0]: row[1:] for row in content["tables"]["methods"]["rows"]}
    assert {name: row[0] for name, row in rows.items()} == averages
    assert content["tables"]["benchmarks"] == {
        "columns": ["method", "text"], "rows": [[name, value] for name, value in averages.items()],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "said"),
    [({"frames": 16}, "frames 16"), ({"revision": "other"}, "revision other"), ({"limit": 3}, "limit 3")],
)
def test_another_evaluation_in_the_folder_is_refused(home: Path, change: dict[str, Any], said: str) -> None:
    evaluation(home / "study" / "evaluation", {"no reduction": 0.9, "G-Search": 0.8})
    file = home / "study" / "evaluation" / "evaluation.json"
    job = Job(ModelOptions(), DataOptions(), StudyOptions(), PoolOptions(), home / "study", Console())
    given = {"G-Search": Given(CURVE)}
    assert evaluated(job, given, "evaluation", job.model)["strategies"]
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, **change}))
    with pytest.raises(InputError, match=f"another evaluation .* with {said}"):
        evaluated(job, given, "evaluation", job.model)
    content["strategies"]["G-Search"]["schedule"] = strategies.vtw(12).to_dict()
    file.write_text(json.dumps(content))
    with pytest.raises(InputError, match="another schedule as 'G-Search'"):
        evaluated(job, given, "evaluation", job.model)


def test_what_was_searched_on_images_is_judged_on_videos(home: Path) -> None:
    averages = {
        "no reduction": 0.9,
        "FastV 50 %": 0.8,
        "G-Search": 0.895,
        "FastV 87.5 %": 0.5,
        "P-Sigmoid": 0.7,
        "P-Sigmoid, one cut": 0.69,
    }
    evaluation(home / "study" / "evaluation", averages, clear=["FastV 87.5 %"])
    runs = [searched(home / "g", "gsearch"), searched(home / "p", "psigmoid")]
    content = found(home, "video", *runs)
    assert content["holds"] is True
    assert "P-Sigmoid 70.0 at 1.700 TFLOPs: +20.0 points [+19.6, +20.4]." in content["sentences"][1]
    assert content["facts"] == {"handcrafted": "FastV 87.5 %"}
    pairs = {tuple(row[:2]): row[2] for row in content["tables"]["differences"]["rows"]}
    assert pairs["P-Sigmoid", "P-Sigmoid, one cut"] == pytest.approx(0.01)
    assert pairs["G-Search", "FastV 50 %"] == pytest.approx(0.095)


def test_trainings_are_compared_under_the_rates_that_they_had(home: Path) -> None:
    study = home / "study"
    ways = ["trained plainly", "trained with G-Search", "trained with P-Sigmoid"]
    ways += [way.replace("trained", "fine-tuned") for way in ways]
    for way in ways:
        model = study / "trainings" / way.lower().replace(" ", "-") / "model"
        model.mkdir(parents=True)
        (model / "config.json").write_text("{}")
    both = {"no reduction": 0.9, "G-Search": 0.8, "P-Sigmoid": 0.6}
    evaluation(study / "evaluation-pretrained", both)
    evaluation(study / "evaluation-trained-plainly", {name: value - 0.4 for name, value in both.items()})
    evaluation(study / "evaluation-trained-with-g-search", {"G-Search": 0.4})
    evaluation(study / "evaluation-trained-with-p-sigmoid", {"P-Sigmoid": 0.1})
    evaluation(study / "evaluation-fine-tuned-plainly", both)
    evaluation(study / "evaluation-fine-tuned-with-g-search", {"G-Search": 0.8})
    evaluation(study / "evaluation-fine-tuned-with-p-sigmoid", {"P-Sigmoid": 1.0})
    runs = [searched(home / "g", "gsearch"), searched(home / "p", "psigmoid")]
    content = found(home, "training", *runs)
    rows = {tuple(row[:3]): row[3:] for row in content["tables"]["accuracies"]["rows"]}
    assert rows["P-Sigmoid", "pretrained", ""][0] == 0.6
    assert rows["no reduction", "trained", "without"][0] == pytest.approx(0.5)
    accuracy, gain, low, high, significant, documents = rows["G-Search", "trained", "with reduction"]
    assert (accuracy, gain, significant, documents) == (0.4, 0.0, False, 10) and low < 0 < high
    accuracy, gain, low, _, significant, _ = rows["P-Sigmoid", "fine-tuned", "with reduction"]
    assert (accuracy, gain, significant) == (1.0, pytest.approx(0.4), True) and 0 < low < gain
    assert content["holds"] is None  # ten documents do not show that there is no boost


def test_a_training_by_another_recipe_is_refused(home: Path) -> None:
    job = Job(ModelOptions(), DataOptions(), StudyOptions(), PoolOptions(), home / "study", Console())
    folder = home / "study" / "trainings" / "trained-plainly"
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "config.json").write_text("{}")
    recipe = Recipe(eyes_steps=0, mind_steps=0, habit_steps=0, start="eyes", reduced_steps=400)
    recorded = json.loads(json.dumps(asdict(recipe)))
    (folder / "recipe.json").write_text(json.dumps(recorded))
    assert _trained(job, START, None, "trained plainly") == folder / "model"
    with pytest.raises(InputError, match="another recipe"):
        _trained(job, START, CURVE, "trained plainly")


def test_a_finished_search_of_the_folder_is_resumed_and_so_checked(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[RunOptions] = []
    monkeypatch.setattr(gsearch, "gsearch", lambda *arguments: runs.append(arguments[-2]))
    monkeypatch.setattr(psigmoid, "psigmoid", lambda *arguments: runs.append(arguments[-2]))
    job = Job(ModelOptions(), DataOptions(), StudyOptions(), PoolOptions(), home / "study", Console())
    searches = home / "study" / "searches"
    for number in range(2):
        assert g_search(job) == searches / "gsearch-embedded"
        assert p_sigmoid(job, [0.5]) == {0.5: searches / "psigmoid" / "match-fastv-0.5"}
        assert [run.resume for run in runs[-2:]] == [number == 1] * 2
        if number == 0:
            searched(searches / "gsearch-embedded", "gsearch")
            searched(searches / "psigmoid" / "match-fastv-0.5", "psigmoid")


def test_a_search_of_k_leaves_those_that_no_paired_test_could_tell_apart(home: Path) -> None:
    tried = {0.0: 0.90, 0.5: 0.95, 1.0: 0.99, 1.5: 0.945, 2.0: 0.94}
    for budget, best in ((0.2, 1.0), (0.4, 2.0)):
        run = Path(searched(home / f"p{budget}", "psigmoid"))
        entries = [Entry(0, None, None, CURVE, score, 0.0, fields={"k": k}) for k, score in tried.items()]
        (run / "ledger.jsonl").write_text("".join(json.dumps(one.to_dict()) + "\n" for one in entries))
        metrics = {"tflops": budget, "budget": budget, "best_k": best}
        if best == 1.0:
            metrics["search_samples"] = 100
        (run / "results.json").write_text(json.dumps({"metrics": metrics}))
    content = found(home, "budgets", str(home / "p0.2"), str(home / "p0.4"))
    # Of a hundred samples five are 0.05: what scores 0.94 and more could be as good as the best one.
    assert content["tables"]["k"]["rows"] == [
        ["embedded", 0.2, 0.2, 1.0, 0.5, 2.0],
        ["embedded", 0.4, 0.4, 2.0, None, None],
    ]
    assert content["holds"] is None


def test_methods_and_kernels_are_timed_and_what_is_missing_is_named(home: Path) -> None:
    CURVE.save(home / "mine.json")
    run = searched(home / "g", "gsearch")
    content = found(home, "efficiency", run, "mine.json", "--repeats", "1", "--batch", "2")
    columns = content["tables"]["methods"]["columns"]
    methods, kernels = (
        [dict(zip(columns, row, strict=True)) for row in content["tables"][name]["rows"]]
        for name in ("methods", "kernels")
    )
    fixed = ["no reduction", "VTW", "PDrop", "FastV 50 %", "FastV 87.5 %"]
    cuts = ["G-Search, one cut", "mine, one cut"]
    assert [row["method"] for row in methods] == [*fixed, "G-Search", "mine", *cuts]
    assert content["holds"] is None  # one turn tells nothing
    assert {row["kernel"] for row in kernels} >= {"eager", "SDPA", "flash"}
    for kernel in {row["kernel"] for row in kernels}:
        named = [row["method"] for row in kernels if row["kernel"] == kernel]
        assert named == ["no reduction", "G-Search", "mine"]
    assert all(row["prefill s"] > 0 and row["decode s"] > 0 for row in (*methods, *kernels))
    for row in methods[-4:]:
        assert row["memory cost"] == pytest.approx(CURVE.memory_cost)
    assert methods[-1]["TFLOPs"] < methods[0]["TFLOPs"]
    sentences = content["sentences"]
    assert ", batch 2, 144 vision and 75 text tokens in, 5 out, " in sentences[0]
    assert (
        "P-Sigmoid is not timed: name a run of `vtr-ray psigmoid --match fastv:0.875` on embedded."
        in sentences
    )
    assert not any(sentence.startswith("G-Search is not timed") for sentence in sentences)


@pytest.mark.parametrize(
    ("kernel", "changes", "error", "said"),
    [
        ("FlashAttention2", True, ImportError, "flash_attn is not installed"),
        ("eager", False, ValueError, "attention cannot be changed"),
    ],
)
def test_a_kernel_that_a_model_does_not_take_leaves_it_as_it_was(
    monkeypatch: pytest.MonkeyPatch, kernel: str, changes: bool, error: type[Exception], said: str
) -> None:
    config = SimpleNamespace(_attn_implementation="sdpa")

    def change(name: str) -> None:
        if changes:
            config._attn_implementation = name

    model = SimpleNamespace(config=config, set_attn_implementation=change)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(error, match=said), _on(model, kernel):
        pass
    assert config._attn_implementation == "sdpa"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["training", "--model", "embedded:internvl"],
            "leave --model embedded:internvl out, or name a variant",
        ),
        (["speed"], "no study 'speed'; use one of: correlation, attention"),
        (["curves"], "this study compares G-Search runs; name their run directories"),
        (["benchmarks", "nowhere"], "nowhere is no run of a search; name run directories"),
        (["efficiency", "nowhere"], "nowhere is no run of a search; name run directories"),
        (["efficiency", "short.json"], "short.json has 8 layers, the model 12; search one for it"),
        (["efficiency", "VTW.json"], "VTW.json is the second schedule called VTW; rename it"),
    ],
)
def test_a_mistake_is_one_line(
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    said: str,
) -> None:
    monkeypatch.chdir(home)
    strategies.none(8).save(home / "short.json")
    CURVE.save(home / "VTW.json")
    with pytest.raises(SystemExit) as ended:
        main(["study", *arguments, "--out", str(home / "study")])
    error = capsys.readouterr().err.strip()
    assert ended.value.code == 2 and said in error and "\n" not in error
    assert not (home / "study").exists()
