"""An evaluator over a tiny LLaVA whose right answers are what the plain model says."""

import json
import logging
import pickle
from functools import partial

import pytest
import torch
from quiz_files import ANLS, EXACT, picture, write_task

from vtr_ray import strategies
from vtr_ray.errors import InputError
from vtr_ray.evaluation import prompts
from vtr_ray.evaluation.evaluator import Evaluator, EvaluatorSpec
from vtr_ray.evaluation.images import read_image, whole_images_only
from vtr_ray.evaluation.outcome import NOT_A_NUMBER, effectiveness
from vtr_ray.evaluation.samples import Sample, SampleSet, Skipped
from vtr_ray.evaluation.suites import load_tasks
from vtr_ray.models import load_model
from vtr_ray.reduction import reduce_vision_tokens
from vtr_ray.schedule import Schedule

NEW_TOKENS = 6
ENDS = [2, *range(44, 64)]  # with random weights one end token alone is hardly ever the arg-max
QUESTIONS = [
    " ".join(["what color is the circle ?", *(f"w{20 + (7 * i + j) % 20}" for j in range(i % 4))])
    for i in range(24)
]
SCHEDULES = {
    "none": strategies.none(5),
    "searched": Schedule.from_rates([1, 1, 0.7, 0.4, 0.1]),
    "all gone": Schedule.from_rates([1, 1, 0, 0, 0]),
    "fastv": strategies.fastv(5),
    "random": strategies.random(Schedule.from_rates([1, 1, 0.5, 0.5, 0.25]), seed=1),
}


@pytest.fixture(scope="module")
def loaded(tiny_llava_dir):
    model, processor = load_model(str(tiny_llava_dir), device="cpu")
    model.generation_config.eos_token_id = ENDS
    with torch.no_grad():  # decoding drops special tokens: text would not tell two token sequences apart
        model.lm_head.weight[[0, 1, 3, 4]] = 0
    return model, processor


def plain_answer(loaded, question, image, schedule=None, tokens=NEW_TOKENS):
    """By transformers alone, one sample at a time: processor, `generate`, `decode`."""
    model, processor = loaded
    text = processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}],
        add_generation_prompt=True,
    )
    inputs = processor(images=read_image(image), text=text, return_tensors="pt")
    options = {"max_new_tokens": tokens, "do_sample": False, "pad_token_id": 0}
    if schedule is None:
        written = model.generate(**inputs, **options)
    else:
        with reduce_vision_tokens(model, schedule):
            written = model.generate(**inputs, **options)
    new = written[0, inputs["input_ids"].shape[1] :].tolist()
    ended = bool(new) and new[-1] in ENDS
    words = processor.tokenizer.decode(new[:-1] if ended else new, skip_special_tokens=True)
    return words, ended


@pytest.fixture(scope="module")
def truths(loaded):
    """(question, image, answer) where the plain model writes the answer and ends."""
    rows = []
    for index in range(72):
        question, image = QUESTIONS[index % 24], picture(index, (16, 16))
        answer, ended = plain_answer(loaded, question, image)
        if ended and answer:
            rows.append((question, image, answer))
    assert len(rows) >= 16
    assert len({len(answer.split()) for _, _, answer in rows}) > 1
    return rows


@pytest.fixture(scope="module")
def samples(truths):
    """Right and wrong targets decided in one pass, and samples that generate."""
    made = []
    for index, (question, image, answer) in enumerate(truths):
        exact = index % 3 != 2
        target = f"{answer} w21" if index % 6 == 1 else answer
        limit = NEW_TOKENS if index % 2 else 3
        limit = NEW_TOKENS if exact else limit
        made.append(Sample(f"s{index}", "quiz", image, question, (target,), exact, max_new_tokens=limit))
    return SampleSet(tuple(made), (Skipped("lost", "no image"),) if len(made) >= 19 else (), where="quiz")


def by_id(outcomes):
    return {outcome.sample_id: outcome for outcome in outcomes}


def test_without_reduction_the_model_answers_as_it_does_alone(loaded, samples):
    evaluator = Evaluator(*loaded, samples, batch_size=5)
    outcomes = by_id(evaluator.evaluate(SCHEDULES["none"]))
    assert outcomes.keys() == {sample.id for sample in samples}
    written = evaluator.answers([sample.id for sample in samples])
    for sample in samples:
        answer, ended = plain_answer(loaded, sample.question, sample.image, tokens=sample.max_new_tokens)
        assert written[sample.id] == answer  # also where one forward pass decided
        if sample.exact:
            assert outcomes[sample.id].score == float(answer == sample.answers[0] and ended)
            assert outcomes[sample.id].answer is None
        else:
            assert outcomes[sample.id].answer == answer
            assert outcomes[sample.id].score == float(answer == sample.answers[0])
    assert {outcomes[sample.id].score for sample in samples if sample.exact} == {0.0, 1.0}


@pytest.mark.parametrize("name", SCHEDULES)
def test_one_forward_pass_decides_as_generating_does(loaded, samples, name):
    schedule = SCHEDULES[name]
    decided = by_id(Evaluator(*loaded, samples, batch_size=7).evaluate(schedule))
    generated = by_id(Evaluator(*loaded, samples, batch_size=7, teacher_forcing=False).evaluate(schedule))
    assert {key: outcome.score for key, outcome in decided.items()} == {
        key: outcome.score for key, outcome in generated.items()
    }
    for sample in samples:
        answer, _ = plain_answer(loaded, sample.question, sample.image, schedule, sample.max_new_tokens)
        assert generated[sample.id].answer == answer


def test_the_schedules_of_these_tests_change_answers(loaded, samples):
    evaluator = Evaluator(*loaded, samples, batch_size=7)
    scores = {name: effectiveness(evaluator.evaluate(schedule)) for name, schedule in SCHEDULES.items()}
    assert len(set(scores.values())) >= 4
    assert scores["none"] == max(scores.values())


@pytest.mark.parametrize("name", SCHEDULES)
def test_batches_answer_as_single_samples_do(loaded, samples, name):
    schedule = SCHEDULES[name]
    single = by_id(Evaluator(*loaded, samples, batch_size=1).evaluate(schedule))
    for size in (4, 100):
        assert by_id(Evaluator(*loaded, samples, batch_size=size).evaluate(schedule)) == single


def test_shards_merge_to_the_whole_exactly(loaded, samples):
    schedule = SCHEDULES["searched"]
    whole = Evaluator(*loaded, samples, batch_size=3)
    expected = whole.evaluate(schedule)
    for shards in (2, 3, whole.num_batches):
        parts = []
        for shard in range(shards):
            alone = Evaluator(*loaded, samples, batch_size=3)  # as another actor would
            parts.append(alone.evaluate(schedule, range(shard, alone.num_batches, shards)))
        merged = [outcome for part in parts for outcome in part]
        assert by_id(merged) == by_id(expected)
        assert effectiveness(merged) == effectiveness(expected)


def test_images_are_encoded_once(loaded, samples):
    model, processor = loaded
    evaluator = Evaluator(model, processor, samples, batch_size=6)
    seen = []
    tower = model.model.vision_tower
    hook = tower.register_forward_pre_hook(lambda _, args, kwargs: seen.append(1), with_kwargs=True)
    try:
        evaluator.evaluate(SCHEDULES["searched"], [0])
        assert len(seen) == 1
        for schedule in SCHEDULES.values():
            evaluator.evaluate(schedule)
    finally:
        hook.remove()
    assert len(seen) == evaluator.num_batches


def test_a_batch_that_memory_refuses_is_halved_and_logged(loaded, samples, caplog):
    model, processor = loaded
    expected = by_id(Evaluator(model, processor, samples, batch_size=8).evaluate(SCHEDULES["searched"]))
    evaluator = Evaluator(model, processor, samples, batch_size=8)
    refused = []

    def refuse(_, args, kwargs):
        embeds = kwargs.get("inputs_embeds")
        if embeds is not None and len(embeds) > 2:
            refused.append(len(embeds))
            raise torch.OutOfMemoryError("CUDA out of memory.")

    hook = model.register_forward_pre_hook(refuse, with_kwargs=True)
    try:
        with caplog.at_level(logging.WARNING):
            assert by_id(evaluator.evaluate(SCHEDULES["searched"])) == expected
            times = len(refused)
            assert times > 0
            assert by_id(evaluator.evaluate(SCHEDULES["searched"])) == expected
    finally:
        hook.remove()
    assert len(refused) == times  # halved for good
    said = [record.message for record in caplog.records]
    assert sum("halved" in message or "given up" in message for message in said) == times


def test_one_sample_too_large_for_memory_is_an_error(loaded, samples):
    model, processor = loaded

    def refuse(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    hook = model.register_forward_pre_hook(refuse)
    try:
        with pytest.raises(torch.OutOfMemoryError, match=r"one sample at a time \(batch 0\); give each"):
            Evaluator(model, processor, samples, batch_size=4).evaluate(SCHEDULES["none"])
    finally:
        hook.remove()


@pytest.fixture
def overflowing(tiny_llava_dir):
    """A model in which the word w43 is not a number."""
    model, processor = load_model(str(tiny_llava_dir), device="cpu")
    model.generation_config.eos_token_id = ENDS
    words = processor.tokenizer("w43")["input_ids"]
    with torch.no_grad():
        model.lm_head.weight[[0, 1, 3, 4]] = 0
        model.get_input_embeddings().weight[words[0]] = float("nan")
    return model, processor


@pytest.mark.slow
@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("teacher_forcing", [True, False])
def test_not_a_number_is_a_wrong_answer_of_that_sample_alone(
    overflowing, loaded, truths, name, teacher_forcing
):
    """Under every schedule, in any batch, with the prefix cache and without."""
    rows = [(f"{question} w43" if i == 2 else question, *rest) for i, (question, *rest) in enumerate(truths)]
    made = [Sample(f"s{i}", "quiz", row[1], row[0], (row[2],)) for i, row in enumerate(rows)]
    whole = SampleSet(tuple(made))
    others = SampleSet(tuple(sample for sample in made if sample.id != "s2"))
    expected = by_id(
        Evaluator(*loaded, others, batch_size=6, teacher_forcing=teacher_forcing).evaluate(SCHEDULES[name])
    )
    for size, cache in ((6, 2**30), (6, 0), (1, 0), (100, 0)):
        evaluator = Evaluator(
            *overflowing, whole, batch_size=size, teacher_forcing=teacher_forcing, cache=cache
        )
        for _ in range(2):  # again from what was kept
            found = by_id(evaluator.evaluate(SCHEDULES[name]))
            lost = found.pop("s2")
            assert (lost.score, lost.error) == (0.0, NOT_A_NUMBER)
            assert lost.answer == (None if teacher_forcing else "")
            assert found == expected and not any(outcome.error for outcome in found.values())


def test_not_a_number_in_an_answer_counts_only_where_it_is_written(overflowing, loaded, truths, samples):
    """A draft that is refused leaves nothing behind: neither its own NaN nor one that would follow it."""
    made = [
        Sample(f"s{i}", "quiz", image, question, (f"{answer} w43 w21",), False, max_new_tokens=NEW_TOKENS)
        for i, (question, image, answer) in enumerate(truths)
    ]
    expected = Evaluator(*loaded, SampleSet(tuple(made)), batch_size=6).evaluate(SCHEDULES["searched"])
    assert not any("w43" in outcome.answer for outcome in expected)
    evaluator = Evaluator(*overflowing, SampleSet(tuple(made)), batch_size=6)
    assert evaluator.evaluate(SCHEDULES["searched"]) == expected
    first = made[0].answers[0].split()[0]
    (word,) = overflowing[1].tokenizer(first, add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        overflowing[0].get_input_embeddings().weight[word] = float("nan")
    plain = {i for i, outcome in enumerate(expected) if first in outcome.answer.split()[:-1]}
    found = Evaluator(*overflowing, SampleSet(tuple(made)), batch_size=6).evaluate(SCHEDULES["searched"])
    lost = {i for i, outcome in enumerate(found) if outcome.error is not None}
    assert plain and plain <= lost
    assert [one for i, one in enumerate(found) if i not in lost] == [
        one for i, one in enumerate(expected) if i not in lost
    ]


def test_mistakes_are_clear(loaded, samples):
    model, processor = loaded
    evaluator = Evaluator(model, processor, samples)
    with pytest.raises(InputError, match="7 layers, the model 5"):
        evaluator.evaluate(strategies.none(7))
    with pytest.raises(InputError, match="batch size is 0"):
        Evaluator(model, processor, samples, batch_size=0)
    model.generation_config.eos_token_id = None
    before, processor.tokenizer.eos_token = processor.tokenizer.eos_token, None
    try:
        with pytest.raises(InputError, match="no end token"):
            Evaluator(model, processor, samples)
    finally:
        model.generation_config.eos_token_id, processor.tokenizer.eos_token = ENDS, before


def test_what_an_evaluator_tells(loaded, samples):
    evaluator = Evaluator(*loaded, samples, batch_size=5)
    exact = sum(sample.exact for sample in samples)
    assert evaluator.num_samples == len(samples)
    assert evaluator.num_layers == 5
    assert evaluator.vision_tokens == 16
    assert evaluator.num_batches == -(-exact // 5) + -(-(len(samples) - exact) // 5)
    described = json.loads(json.dumps(evaluator.describe()))
    assert described["samples"]["fingerprint"] == samples.fingerprint
    assert described["samples"]["per_source"] == {"quiz": len(samples)}
    assert described["samples"]["skipped"] == {skipped.name: skipped.reason for skipped in samples.skipped}
    assert (described["layers"], described["vision_tokens"], described["dtype"]) == (5, 16, "float32")
    assert described["decided_in_one_pass"] == exact
    assert described["parameters"] == sum(p.numel() for p in loaded[0].parameters())


def test_a_spec_pickles_and_builds_the_same_evaluator(tiny_llava_dir, samples, suite):
    spec = pickle.loads(pickle.dumps(EvaluatorSpec(str(tiny_llava_dir), samples, batch_size=4, threads=1)))
    first, second = spec.build(), EvaluatorSpec(str(tiny_llava_dir), samples, batch_size=4).build()
    assert first.evaluate(SCHEDULES["searched"]) == second.evaluate(SCHEDULES["searched"])
    assert first.describe() == second.describe()
    assert first.describe()["model"] == str(tiny_llava_dir)
    lazy = EvaluatorSpec(str(tiny_llava_dir), partial(load_tasks, ["colours"], suite))
    assert pickle.loads(pickle.dumps(lazy)).build().num_samples == 10


def test_tasks_are_judged_as_lmms_eval_judges_plain_generation(loaded, truths, tmp_path):
    rows = [
        (question, f"{answer} w21" if i % 2 else answer) for i, (question, _, answer) in enumerate(truths)
    ]
    images = [image for _, image, _ in truths]
    write_task(tmp_path, EXACT, "exact", rows, images, tokens=NEW_TOKENS)
    write_task(tmp_path, ANLS, "near", rows, images, tokens=NEW_TOKENS)
    samples = load_tasks(["exact", "near"], tmp_path)
    outcomes = by_id(Evaluator(*loaded, samples, batch_size=6).evaluate(SCHEDULES["searched"]))
    with whole_images_only():  # lmms-eval lets truncated images through, for the whole process
        from lmms_eval.tasks import TaskManager
    tasks = TaskManager(include_path=str(tmp_path), include_defaults=False).load_task_or_group(
        ["exact", "near"]
    )
    scores = []
    for name, metric in (("exact", "exact_match"), ("near", "anls")):
        for index, (question, image, _) in enumerate(truths):
            answer, _ = plain_answer(loaded, question, image, SCHEDULES["searched"])
            judged = tasks[name].process_results(tasks[name].eval_docs_no_media[index], [answer])
            assert outcomes[f"{name}/{index}"].score == judged[metric]
            scores.append(judged[metric])
    assert {0, 1} < set(scores)


def test_stop_strings_end_an_answer(loaded, truths):
    question, image, answer = next(row for row in truths if len(row[2].split()) > 1)
    first, second = answer.split()[:2]
    sample = Sample("s", "quiz", image, question, (first,), exact=False, until=(second, ""))
    (outcome,) = Evaluator(*loaded, SampleSet((sample,))).evaluate(SCHEDULES["none"])
    assert (outcome.answer, outcome.score) == (first, 1.0)


def test_prompts_and_targets_are_the_templates_own(loaded):
    processor = loaded[1]
    text = prompts.prompt_text(processor, "what color ?")
    assert text == "USER: <image> what color ? ASSISTANT:"
    red = processor.tokenizer("red blue", add_special_tokens=False)["input_ids"]
    assert prompts.target_ids(processor, "what color ?", "red blue") == red
    # A template that writes the begin token itself, and glues answer and end token.
    glued = (
        "{{ '<s>' }}{% for m in messages %}{% for p in m['content'] %}"
        "{{ '<image> ' if p['type'] == 'image' else p['text'] }}{% endfor %}"
        "{{ ' </s>' if m['role'] == 'assistant' else ' ASSISTANT: ' }}{% endfor %}"
    )
    template, processor.chat_template = processor.chat_template, glued
    try:
        text = prompts.prompt_text(processor, "what color ?")
        assert text == "<s><image> what color ? ASSISTANT: "
        assert prompts.target_ids(processor, "what color ?", "red blue") == red
        ids = prompts.encode(processor, [[read_image(picture(0))]], [text])["input_ids"][0].tolist()
        assert (ids.count(1), ids.count(3)) == (1, 16)
        assert len(ids) == prompts.prompt_length(processor, text) - 1 + 16
    finally:
        processor.chat_template = template


def test_a_target_never_shares_a_token_with_its_prompt(loaded, monkeypatch):
    processor = loaded[1]
    glued = processor.chat_template.replace("'ASSISTANT: '", "'ASSISTANT:'")
    monkeypatch.setattr(processor, "chat_template", glued)
    together = processor.tokenizer("ASSISTANT:red", add_special_tokens=False)["input_ids"]
    red = processor.tokenizer("red", add_special_tokens=False)["input_ids"]
    assert together != [*processor.tokenizer("ASSISTANT:", add_special_tokens=False)["input_ids"], *red]
    assert prompts.target_ids(processor, "what color ?", "red") == red


def test_without_a_template_the_prompt_is_llavas(loaded, monkeypatch):
    processor = loaded[1]
    monkeypatch.setattr(processor, "chat_template", None)
    monkeypatch.setattr(processor.tokenizer, "chat_template", None)
    assert prompts.prompt_text(processor, "what color ?") == "USER: <image>\nwhat color ? ASSISTANT:"
    red = processor.tokenizer("red blue", add_special_tokens=False)["input_ids"]
    assert prompts.target_ids(processor, "what color ?", "red blue") == red
