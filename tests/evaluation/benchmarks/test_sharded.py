"""Merged shards give what `lmms_eval.simple_evaluate` gives unsharded, digit for digit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from shards import Shards

from vtr_ray import Schedule, embedded, strategies
from vtr_ray.evaluation.benchmarks.answering import collect_answers
from vtr_ray.evaluation.benchmarks.catalogue import EMBEDDED, Benchmark
from vtr_ray.evaluation.benchmarks.loading import Chosen, Documents, choose, load_samples
from vtr_ray.evaluation.benchmarks.responses import Responses
from vtr_ray.evaluation.benchmarks.results import aggregate, judge
from vtr_ray.evaluation.images import whole_images_only

with whole_images_only():  # lmms-eval lets truncated images through, for the whole process
    from lmms_eval.evaluator import simple_evaluate
    from lmms_eval.tasks import TaskManager

    from vtr_ray.evaluation.benchmarks.lmms_model import VtrRay

SCHEDULE = strategies.fastv(12, drop=0.85)
FIRST = 25  # documents of each task, from the first on, as simple_evaluate limits


def sharded(
    network: tuple[Any, Any], chosen: Sequence[Chosen], count: int, folder: Path
) -> dict[str, dict[str, Any]]:
    pool = Shards(*network, load_samples(chosen), count)
    with Responses(folder / f"{count}.sqlite") as responses:
        answers, lost = collect_answers(pool, chosen, {"FastV": SCHEDULE}, responses, {})
    assert lost == {"FastV": []}
    found: dict[str, dict[str, Any]] = {}
    for one in chosen:
        results = {
            name: {number: judge(task, number, answers["FastV"][name, number]) for number in own.numbers}
            for (name, task), own in zip(one.tasks.items(), one.documents.values(), strict=True)
        }
        found |= aggregate(one.tree, results, folder)
    return found


def unsharded(names: list[str], include: str, schedule: Schedule, limit: int | None) -> dict[str, Any]:
    model = VtrRay(schedule=schedule, batch_size=8, device="cpu")
    manager = TaskManager(include_path=include, include_defaults=False)
    found = simple_evaluate(model, tasks=names, task_manager=manager, limit=limit, bootstrap_iters=0)
    return dict(found["results"])


def figures(results: dict[str, Any]) -> dict[str, Any]:
    return {
        name: {key: value for key, value in own.items() if "," in key and "_stderr" not in key}
        for name, own in results.items()
    }


@pytest.fixture(scope="module")
def first_documents() -> list[Chosen]:
    chosen, missing = choose(EMBEDDED)
    assert not missing and len(chosen) == 6
    for one in chosen:
        one.__dict__["documents"] = {name: Documents(name, tuple(range(FIRST))) for name in one.tasks}
    return chosen


@pytest.fixture(scope="module")
def expected() -> dict[str, Any]:
    found = unsharded([one.task for one in EMBEDDED], str(embedded.TASKS_FOLDER), SCHEDULE, FIRST)
    return figures(found)


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_every_embedded_task_is_what_lmms_eval_says(
    network: Any, first_documents: list[Chosen], expected: dict[str, Any], count: int, tmp_path: Path
) -> None:
    found = figures(sharded(network, first_documents, count, tmp_path))
    assert found == expected
    values = [value for own in found.values() for value in own.values()]
    assert any(0 < value < 1 for value in values)  # not all right, not all wrong


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_a_group_aggregate_is_what_lmms_eval_says(
    network: Any, own: Path, count: int, tmp_path: Path
) -> None:
    chosen, missing = choose([Benchmark("quiz")], own)
    assert not missing
    assert [len(one.numbers) for one in chosen[0].documents.values()] == [12, 5]
    found = figures(sharded(network, chosen, count, tmp_path))
    expected = figures(unsharded(["quiz"], str(own), SCHEDULE, None))
    assert found == expected
    assert found["quiz"]["exact_match,none"] == pytest.approx(
        (12 * found["colours"]["exact_match,none"] + 5 * found["shapes"]["exact_match,none"]) / 17
    )
