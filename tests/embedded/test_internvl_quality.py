"""The shipped InternVL against its bars, measured anew."""

import json

import pytest

from vtr_ray import Schedule, strategies
from vtr_ray.embedded import INTERNVL, TASKS, TASKS_FOLDER, VIDEO_TASKS, model_folder, test_tasks
from vtr_ray.evaluation.evaluator import Evaluator, EvaluatorSpec
from vtr_ray.evaluation.outcome import by_source
from vtr_ray.evaluation.samples import SampleSet
from vtr_ray.evaluation.statistics import compare
from vtr_ray.evaluation.suites import load_tasks

pytestmark = pytest.mark.slow
test_tasks.__test__ = False

FOLDER = model_folder(INTERNVL)
KINDS = (*TASKS, *VIDEO_TASKS)
BARS = {
    "easy_vqa": 0.9,
    "scenes": 0.9,
    "existence": 0.9,
    "text": 0.75,
    "documents": 0.85,
    "charts": 0.9,
    "clips": 0.6,
}


@pytest.fixture(scope="module")
def evaluator():
    samples = load_tasks(test_tasks(KINDS), TASKS_FOLDER)
    return EvaluatorSpec(str(FOLDER), samples, batch_size=16, threads=1).build()


def test_it_is_as_accurate_as_its_card_says_and_needs_its_eyes(evaluator):
    measured = json.loads((FOLDER / "measured.json").read_text())
    card = (FOLDER / "README.md").read_text()
    whole = evaluator.evaluate(strategies.none(16))
    found = by_source(whole, evaluator.sources())
    for task in KINDS:
        recorded = measured["accuracy"]["no reduction"][task]
        assert found[f"vtr_{task}"] == pytest.approx(recorded, abs=0.011)  # two samples
        assert found[f"vtr_{task}"] >= BARS[task], task
        assert recorded > 0.15 + max(measured["accuracy"][way][task] for way in ("blank image", "text prior"))
        assert f"{recorded:.3f}" in card
    assert measured["last_frame"] < measured["accuracy"]["no reduction"]["clips"] - 0.15

    some = SampleSet(tuple(evaluator.samples)[::5])
    blind = Schedule.from_rates([1.0, 1.0] + [0.0] * 14)
    outcomes = Evaluator(evaluator.model, evaluator.processor, some, 16).evaluate(blind)
    ids = {one.sample_id for one in outcomes}
    lost = compare(outcomes, [one for one in whole if one.sample_id in ids])
    assert lost.difference <= -0.15 and lost.significant
