"""What `vtr-ray plan` takes the embedded model's search split to be."""

from statistics import median_low

from vtr_ray import embedded
from vtr_ray.evaluation import prompts
from vtr_ray.evaluation.suites import load_tasks
from vtr_ray.models import load_model


def test_the_planned_samples_are_the_search_splits() -> None:
    processor = load_model(embedded.MODEL)[1]
    samples = load_tasks(embedded.search_tasks(), embedded.TASKS_FOLDER)
    texts = [prompts.prompt_text(processor, sample.question, False) for sample in samples]
    answers = [
        len(prompts.target_ids(processor, sample.question, sample.answers[0], False)) for sample in samples
    ]
    assert len(samples) == embedded.SEARCH_SAMPLES
    assert median_low(prompts.prompt_length(processor, text) for text in texts) == embedded.TEXT_TOKENS
    assert median_low(answers) == embedded.ANSWER_TOKENS
