"""What searches without options run on, and what `vtr-ray plan` takes it to be."""

from collections import Counter
from statistics import median_low

from vtr_ray import embedded
from vtr_ray.commands.inputs import DataOptions, ModelOptions
from vtr_ray.evaluation import prompts
from vtr_ray.evaluation.evaluator import Evaluator
from vtr_ray.evaluation.suites import load_tasks
from vtr_ray.models import load_model


def test_the_planned_samples_are_the_search_splits() -> None:
    model, processor = load_model(embedded.MODEL)
    samples = load_tasks(embedded.search_tasks(), embedded.TASKS_FOLDER)
    answers = [
        len(prompts.target_ids(processor, sample.question, sample.answers[0], False)) for sample in samples
    ]
    assert len(samples) == embedded.SEARCH_SAMPLES
    assert Evaluator(model, processor, samples).text_tokens == embedded.TEXT_TOKENS
    assert median_low(answers) == embedded.ANSWER_TOKENS


def test_without_options_there_are_enough_questions_to_tell_schedules_apart() -> None:
    search, test = DataOptions().search_samples(ModelOptions()), DataOptions().test_samples(ModelOptions())
    assert test is not None and len(test.set) >= 1000 and len(search.set) >= 240
    counts = Counter(sample.source for sample in search.set)
    assert len(counts) == 6 and min(counts.values()) >= 40
    assert not {sample.id for sample in search.set} & {sample.id for sample in test.set}
