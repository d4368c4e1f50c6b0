"""The shipped model against its bars, measured anew."""

import io
import json
from dataclasses import replace

import pytest
from PIL import Image

from vtr_ray import Schedule, strategies
from vtr_ray.embedded import MODEL, TASKS, TASKS_FOLDER, test_tasks
from vtr_ray.evaluation.evaluator import Evaluator, EvaluatorSpec
from vtr_ray.evaluation.outcome import by_source, effectiveness
from vtr_ray.evaluation.samples import SampleSet
from vtr_ray.evaluation.statistics import compare
from vtr_ray.evaluation.suites import load_tasks

pytestmark = pytest.mark.slow
test_tasks.__test__ = False

BARS = {"easy_vqa": 0.9, "scenes": 0.9, "existence": 0.9, "text": 0.8, "documents": 0.8, "charts": 0.8}


@pytest.fixture(scope="module")
def evaluator():
    samples = load_tasks(test_tasks(), TASKS_FOLDER)
    return EvaluatorSpec(str(MODEL), samples, batch_size=16, threads=1).build()


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


def test_a_blank_image_leaves_every_task_under_sixty_percent(evaluator, measured):
    file = io.BytesIO()
    Image.new("RGB", (96, 96), "white").save(file, "PNG")
    some = list(evaluator.samples)[::5]  # enough; kinds come in twos and threes
    blank = SampleSet(tuple(replace(sample, image=file.getvalue()) for sample in some))
    outcomes = Evaluator(evaluator.model, evaluator.processor, blank, 16).evaluate(strategies.none(12))
    for source, accuracy in by_source(outcomes, evaluator.sources()).items():
        assert accuracy < 0.6, source
        assert accuracy == pytest.approx(measured["blank image"][source.removeprefix("vtr_")], abs=0.15)


def test_by_the_cards_record_text_alone_leaves_every_task_under_sixty_percent(measured):
    assert max(measured["text prior"].values()) < 0.6
