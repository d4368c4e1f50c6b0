"""Documents without an image among others: a suite and lmms-eval answer them from the text alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from quiz_files import EXACT, picture, write_task
from shards import Shards

from vtr_ray import strategies
from vtr_ray.errors import InputError
from vtr_ray.evaluation.benchmarks.answering import collect_answers
from vtr_ray.evaluation.benchmarks.catalogue import Benchmark
from vtr_ray.evaluation.benchmarks.loading import choose, load_samples
from vtr_ray.evaluation.benchmarks.responses import Responses
from vtr_ray.evaluation.suites import load_task, load_tasks, visuals_of

SCHEDULE = strategies.fastv(12, drop=0.85)
QUESTIONS = [f"what color is the {what} ?" for what in ("circle", "square", "dog", "line", "star", "cat")]
BARE = (0, 3)  # the first document shows nothing, too


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mixed")
    images = [None if place in BARE else picture(place) for place in range(len(QUESTIONS))]
    write_task(folder, EXACT, "mixed", [(question, "red") for question in QUESTIONS], images, 4)
    return folder


def by_generate(network: tuple[Any, Any], question: str, image: Image.Image | None) -> str:
    model, processor = network
    content = [{"type": "image"}] * (image is not None) + [{"type": "text", "text": question}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    given = {} if image is None else {"images": [image]}
    inputs = processor(text=text, return_tensors="pt", **given)
    written = model.generate(**inputs, max_new_tokens=4, do_sample=False)
    return str(
        processor.tokenizer.decode(written[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    ).strip()


def test_a_suite_answers_every_document(network: tuple[Any, Any], folder: Path, tmp_path: Path) -> None:
    chosen, missing = choose([Benchmark("mixed")], folder)
    assert not missing
    pool = Shards(*network, load_samples(chosen), 2, batch=4)
    named = {"none": strategies.none(12), "FastV": SCHEDULE}
    with Responses(tmp_path / "known.sqlite") as responses:
        answers, lost = collect_answers(pool, chosen, named, responses, {})
    assert lost == {"none": [], "FastV": []}
    documents = load_task(str(folder), "mixed").eval_docs
    for place, question in enumerate(QUESTIONS):
        expected = by_generate(network, question, documents[place]["image"])
        assert answers["none"]["mixed", place] == expected
        if place in BARE:  # there is nothing to reduce
            assert answers["FastV"]["mixed", place] == expected
    shown = pool.call("alive", "mixed/0", [SCHEDULE])
    assert (shown["tokens"], shown["image"]) == (0, None)


def test_lmms_evals_own_command_answers_the_same(
    network: tuple[Any, Any], folder: Path, tmp_path: Path
) -> None:
    from lmms_eval.evaluator import simple_evaluate
    from lmms_eval.tasks import TaskManager

    from vtr_ray.evaluation.benchmarks.lmms_model import VtrRay

    manager = TaskManager(include_path=str(folder), include_defaults=False)
    model = VtrRay(schedule=SCHEDULE, batch_size=4, device="cpu")
    found = simple_evaluate(model, tasks=["mixed"], task_manager=manager, log_samples=True, bootstrap_iters=0)
    pool = Shards(*network, load_samples(choose([Benchmark("mixed")], folder)[0]), 1)
    outcomes = pool.evaluators[0].evaluate(SCHEDULE)
    ours = {one.sample_id.removeprefix("mixed/"): one.answer for one in outcomes}
    theirs = {str(one["doc_id"]): one["filtered_resps"][0] for one in found["samples"]["mixed"]}
    assert ours == theirs and len(ours) == len(QUESTIONS)


def test_a_search_names_them(folder: Path, tmp_path: Path) -> None:
    images = [None if place == 7 else picture(place % 5) for place in range(40)]
    write_task(tmp_path, EXACT, "one_bare", [(f"what is {i} ?", "red") for i in range(40)], images)
    (skipped,) = load_tasks(["one_bare"], tmp_path).skipped
    assert skipped.name == "one_bare/7" and "0 images or videos; exactly one is supported" in skipped.reason
    with pytest.raises(InputError, match=r"2 of 6 samples cannot be read.*mixed/0") as error:
        load_tasks(["mixed"], folder)
    assert "\n" not in str(error.value)


def test_what_tasks_give_for_no_image() -> None:
    for given in (None, [], [None], (None,)):
        assert visuals_of(lambda _, given=given: given, {}) == []
