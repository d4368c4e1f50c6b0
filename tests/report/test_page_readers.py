"""Run directories as the page reads them: what is wrong with one is a line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import page_files
import pytest

from vtr_ray import strategies
from vtr_ray.errors import InputError
from vtr_ray.report.controls import MEANINGS, controls_of
from vtr_ray.report.page import read_runs, write_page
from vtr_ray.report.page.accuracy import draw_accuracy, pareto_front
from vtr_ray.report.page.drawing import looks
from vtr_ray.report.page.evaluations import read_evaluation, read_samples
from vtr_ray.report.page.marks import mark_of
from vtr_ray.report.page.searches import read_search_run, search_directories
from vtr_ray.report.page.sheets import verdict
from vtr_ray.schedule import Schedule

SCHEDULE = Schedule.from_rates([1, 1, *[0.25] * 10])


def broken(change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    content = page_files.evaluation(SCHEDULE)
    change(content)
    return content


def of(content: dict[str, Any], name: str = "FastV") -> dict[str, Any]:
    found: dict[str, Any] = content["strategies"][name]
    return found


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c.pop("model"), "model: Field required"),
        (lambda c: c.update(kind="search"), "kind: Input should be 'evaluation'"),
        (lambda c: c.update(version=2), "version: Input should be 1"),
        (lambda c: c.update(strategies={}), "strategies: "),
        (lambda c: of(c)["schedule"].update(rates=[0.5]), "strategies.FastV.schedule: The keeping rate of"),
        (lambda c: of(c)["schedule"].update(rates=[1, 0.5]), "FastV has 2 layers, the model 12"),
        (lambda c: of(c)["average"].update(value=float("nan")), "strategies.FastV.average.value: "),
        (lambda c: c["benchmarks"].pop("text"), "no reduction has a result of the unknown benchmark text"),
        (lambda c: c["pairs"][0].pop("p"), "pairs.0.p: Field required"),
    ],
)
def test_an_evaluation_that_is_none_is_refused_by_the_field(
    change: Callable[[dict[str, Any]], object], said: str, tmp_path: Path
) -> None:
    run = page_files.write_evaluation(tmp_path / "run", broken(change))
    with pytest.raises(InputError) as caught:
        read_evaluation(run)
    line = str(caught.value)
    assert line.startswith(f"{run / 'evaluation.json'}: ") and said in line and "\n" not in line


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: s.update(grid=[3, 4]), "a grid of 3 x 4 does not hold 144 tokens"),
        (lambda s: s.update(image="https://example.org/x.png"), "samples.0.image: "),
        (
            lambda s: s["strategies"]["VTW"]["kept"].append([0, 1]),
            "VTW: layer 13 keeps tokens that were gone",
        ),
        (lambda s: s["strategies"]["VTW"]["kept"][0].append(144), "VTW: layer 1 keeps tokens that were gone"),
        (lambda s: s.update(strategies={}), "samples.0.strategies: "),
    ],
)
def test_samples_that_are_none_are_refused_by_the_field(
    change: Callable[[dict[str, Any]], object], said: str, tmp_path: Path
) -> None:
    content = page_files.evaluation(SCHEDULE)
    chosen = page_files.samples(content, 1)
    change(chosen["samples"][0])
    run = page_files.write_evaluation(tmp_path / "run", content, chosen)
    with pytest.raises(InputError) as caught:
        read_samples(run)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_what_is_no_json_is_said_to_be(tmp_path: Path) -> None:
    (tmp_path / "evaluation.json").write_text("{")
    with pytest.raises(
        InputError, match=r"evaluation.json cannot be read as JSON .*; run the evaluation again$"
    ):
        read_runs([tmp_path])


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir(), lambda path: path.touch()])
def test_what_is_no_run_directory_is_said_to_be(make: Callable[[Path], object], tmp_path: Path) -> None:
    make(tmp_path / "x")
    with pytest.raises(InputError, match=r"/x is no run directory \(no evaluation.json, no search.json\)"):
        read_runs([tmp_path / "x"])


def test_an_evaluation_without_samples_has_none(tmp_path: Path) -> None:
    assert read_samples(page_files.write_evaluation(tmp_path / "run", page_files.evaluation(SCHEDULE))) == []


def test_a_folder_of_searches_is_all_of_them_and_each_run_is_read_once(tmp_path: Path) -> None:
    for name in ("budget-0.1", "budget-0.2"):
        page_files.write_search(tmp_path / "psigmoid-x" / name, trials=2)
    run = tmp_path / "psigmoid-x"
    assert [path.name for path in search_directories(run)] == ["budget-0.1", "budget-0.2"]
    inputs = read_runs([run, run / "budget-0.2", run])
    assert inputs.names == ["psigmoid-x/budget-0.1", "psigmoid-x/budget-0.2"]


def test_a_ledger_of_another_search_is_refused(tmp_path: Path) -> None:
    page_files.write_search(tmp_path / "run", trials=3)
    lines = (tmp_path / "run" / "ledger.jsonl").read_text().splitlines()
    entry = json.loads(lines[0])
    (tmp_path / "run" / "ledger.jsonl").write_text(json.dumps({**entry, "layer": 9}) + "\n")
    with pytest.raises(InputError, match=r"^/[^\n]*/run: trial 1 at layer 9, rate 0.0 is not of this search"):
        read_search_run(tmp_path / "run")


def test_the_verdict_names_what_is_significant_and_leaves_random_controls_out(tmp_path: Path) -> None:
    run = page_files.write_evaluation(tmp_path / "run", page_files.evaluation(SCHEDULE))
    assert verdict(read_evaluation(run)) == [
        "Significantly less accurate than no reduction on average (paired, 95 %, points): "
        "FastV (−6.3), P-Sigmoid (−1.7), VTW (−37.7)",
        "No significant difference to no reduction: G-Search (−1.2)",
    ]
    alone = broken(lambda content: content.update(pairs=[]))
    assert verdict(read_evaluation(page_files.write_evaluation(tmp_path / "alone", alone))) == []


def search_with_comparison(path: Path, accuracy_interval: bool = False) -> dict[str, Any]:
    """A search and the table it ends with, earlier versions' without intervals; gives the table."""
    found = page_files.write_search(path, iterations=0)

    def row(name: str, schedule: Schedule, accuracy: float, **pairs: Any) -> dict[str, Any]:
        interval = {
            key: {"mean": mean, "low": mean - 0.01, "high": mean + 0.01} for key, mean in pairs.items()
        }
        costs = {"memory_cost": schedule.memory_cost, "tflops": 0.001, "prefill_seconds": 0.02}
        base = {
            "name": name,
            "schedule": schedule.to_dict(),
            "accuracy": accuracy,
            "per_source": {"vtr_text": 0.5},
        }
        if accuracy_interval:
            base |= {"accuracy_low": accuracy - 0.03, "accuracy_high": accuracy + 0.01}
        return {**base, "difference": None, "to_found": None, **interval, **costs}

    table = {
        "samples": 40,
        "found": "G-Search",
        "rows": [
            row("no reduction", strategies.none(12), 0.98),
            row("G-Search", found, 0.975, difference=-0.005),
            row("FastV", strategies.fastv(12), 0.9, difference=-0.08, to_found=-0.075),
        ],
    }
    (path / "comparison.json").write_text(json.dumps(table))
    return table


def test_a_searchs_own_comparison_has_intervals_and_controls(tmp_path: Path) -> None:
    path = tmp_path / "gsearch-x"
    table = search_with_comparison(path, accuracy_interval=True)
    found = Schedule.from_dict(table["rows"][1]["schedule"])
    for name, schedule in controls_of(found, 0).schedules.items():
        table["rows"].append(
            {**table["rows"][2], "name": name, "schedule": schedule.to_dict(), "accuracy": 0.99}
        )
    (path / "comparison.json").write_text(json.dumps(table))
    inputs = read_runs([path])
    (run,) = inputs.evaluations
    ours = run.results.strategies["G-Search"].average
    assert (ours.low, ours.high) == pytest.approx((0.945, 0.985))
    assert list(inputs.schedules) == ["no reduction", "G-Search", "FastV"]
    assert not {*MEANINGS} & {*pareto_front(run.results)}
    found_looks = inputs.looks_of(run)
    own = [found_looks[name] for name in ("G-Search", *MEANINGS)]
    assert own[0] == own[1] == own[2] != found_looks["FastV"]
    assert (
        len({mark_of(found_looks[name], run.results.control(name)) for name in ("G-Search", *MEANINGS)}) == 3
    )
    rows = draw_accuracy(run.results, found_looks).rows
    assert [row[-1] for row in rows] == ["", "", "", "random tokens", "one cut"]
    assert all(row[3] < row[2] < row[4] for row in rows[:3])


def test_a_searchs_own_comparison_stands_in_for_an_evaluation(tmp_path: Path) -> None:
    search_with_comparison(tmp_path / "gsearch-x")
    inputs = read_runs([tmp_path / "gsearch-x"])
    (run,) = inputs.evaluations
    assert (run.name, inputs.names, list(inputs.schedules)) == (
        *("gsearch-x", ["gsearch-x"], ["no reduction", "G-Search", "FastV"]),
    )
    assert verdict(run.results) == [
        "Significantly less accurate than no reduction on average (paired, 95 %, points): FastV (−8.0)",
        "No significant difference to no reduction: G-Search (−0.5)",
    ]
    beside = run.results.difference("FastV", to="G-Search")
    assert beside is not None and beside.difference == -0.075
    text = write_page(inputs, empty(tmp_path / "page")).read_text()
    assert "prefill ms" in text and "decode ms" not in text
    (tmp_path / "gsearch-x" / "comparison.json").write_text('{"rows": []}')
    with pytest.raises(InputError, match=r"comparison.json is broken \([^\n]*; --resume of the search"):
        read_runs([tmp_path / "gsearch-x"])


def test_an_evaluation_that_names_a_search_replaces_its_comparison(tmp_path: Path) -> None:
    search_with_comparison(tmp_path / "gsearch-x")
    content = page_files.evaluation(SCHEDULE, str(tmp_path / "gsearch-x"))
    run = page_files.write_evaluation(tmp_path / "evaluate-x", content)
    inputs = read_runs([tmp_path / "gsearch-x", run])
    assert [one.name for one in inputs.evaluations] == ["evaluate-x"]
    assert inputs.names == ["evaluate-x", "gsearch-x"]


def test_more_strategies_than_colours_are_still_told_apart() -> None:
    names = [str(number) for number in range(16)]
    found = looks(names)
    assert len({(look.colour, look.marker) for look in found.values()}) == len(names)


def empty(folder: Path) -> Path:
    folder.mkdir()
    return folder
