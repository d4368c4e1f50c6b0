"""The shipped model against its bars, measured anew."""

import json

import pytest

from vtr_ray import Schedule, strategies
from vtr_ray.embedded import MODEL, TASKS, TASKS_FOLDER, test_tasks
from vtr_ray.evaluation.evaluator import EvaluatorSpec
from vtr_ray.evaluation.outcome import effectiveness
from vtr_ray.evaluation.statistics import compare
from vtr_ray.evaluation.suites import load_tasks

pytestmark = pytest.mark.slow
test_tasks.__test__ = False

BARS = {"easy_vqa": 0.9, "scenes": 0.9, "existence": 0.9, "text": 0.8, "documents": 0.8, "charts": 0.8}


@pytest.fixture(scope="module")
def evaluator():
    samples = load_tasks(test_tasks(), TASKS_FOLDER)
    return EvaluatorSpec(str(MODEL), samples, batch_size=16, threads=2).build()


@pytest.fixture(scope="module")
def whole(evaluator):
    return evaluator.evaluate(strategies.none(12))


@pytest.fixture(scope="module")
def measured():
    return json.loads((MODEL / "measured.json").read_text())["accuracy"]


def test_accuracy_without_reduction(evaluator, whole, measured):
    source = evaluator.sources()
    for task in TASKS:
        accuracy = effectiveness([one for one in whole if source[one.sample_id] == f"vtr_{task}"])
        assert accuracy >= BARS[task], task
        assert accuracy == pytest.approx(measured["no reduction"][task], abs=0.011)  # two samples


def test_the_model_needs_its_eyes(evaluator, whole):
    blind = evaluator.evaluate(Schedule.from_rates([1.0, 1.0] + [0.0] * 10))
    drop = compare(blind, whole)
    assert drop.difference <= -0.15 and drop.significant


def test_without_the_image_every_task_stays_under_sixty_percent(measured):
    for kind in ("blank image", "text prior"):
        assert max(measured[kind].values()) < 0.6
