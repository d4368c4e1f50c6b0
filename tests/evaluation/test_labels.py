"""Labels that the untouched model writes itself, held against transformers' own `generate`."""

import json
from functools import partial

import pytest
import torch
from quiz_files import picture

from vtr_ray import Schedule, strategies
from vtr_ray.errors import InputError
from vtr_ray.evaluation.evaluator import Evaluator
from vtr_ray.evaluation.images import read_image
from vtr_ray.evaluation.labels import (
    Label,
    LabelEvaluator,
    Labels,
    labelled,
    labels_key,
    labels_of,
    read_labels,
    unlabelled,
    write_labels,
)
from vtr_ray.evaluation.outcome import effectiveness
from vtr_ray.evaluation.samples import Sample, SampleSet
from vtr_ray.models import load_model
from vtr_ray.reduction import DecodeReduction, reduce_vision_tokens

COUNT = 24
LIMIT = 4  # so that some labels are cut and others end
ENDS = [2, *range(44, 64)]  # with random weights one end token alone is hardly ever the arg-max
SCHEDULES = [
    Schedule.from_rates([1, 1, 0.7, 0.4, 0.1]),
    Schedule.from_rates([1, 1, 0, 0, 0]),
    strategies.fastv(5),
]


@pytest.fixture(scope="module")
def loaded(tiny_llava_dir):
    model, processor = load_model(str(tiny_llava_dir), device="cpu")
    model.generation_config.eos_token_id = ENDS
    with torch.no_grad():
        model.lm_head.weight[[0, 1, 3]] = 0  # <image> as an answer is a test of its own
    return model, processor


def given():
    return SampleSet(
        tuple(
            Sample(f"s{i}", ".", picture(i, (16, 16)), f"what color is w{20 + i} ?", ("red",), digest=str(i))
            for i in range(COUNT)
        )
    )


def plain_tokens(loaded, sample, schedule=None):
    """By transformers alone, one sample at a time: what is written within the limit, end token included."""
    model, processor = loaded
    text = processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": sample.question}]}],
        add_generation_prompt=True,
    )
    inputs = processor(images=read_image(sample.image), text=text, return_tensors="pt")
    options = {"max_new_tokens": LIMIT, "do_sample": False, "pad_token_id": 0}
    with reduce_vision_tokens(model, schedule or strategies.none(5)):
        written = model.generate(**inputs, **options)
    return written[0, inputs["input_ids"].shape[1] :].tolist()


def any_end(tokens):
    """The tokens with one end token for all: which of them ends an answer does not matter."""
    return [2 if token in ENDS else token for token in tokens]


@pytest.fixture(scope="module")
def own(loaded):
    """The labels, and the samples with them."""
    asked = unlabelled(given, LIMIT)
    outcomes = LabelEvaluator(*loaded, asked, 5, cache=0).evaluate(strategies.none(5))
    labels = labels_of(outcomes, "key", LIMIT)
    return labels, labelled(partial(unlabelled, given, LIMIT), labels)


def test_labels_are_what_the_untouched_model_writes(loaded, own):
    labels, samples = own
    for sample in samples:
        label = labels.by_sample[sample.id]
        written = plain_tokens(loaded, sample)
        ends = written[-1] in ENDS
        assert (list(label.tokens), label.ends) == (written[:-1] if ends else written, ends)
        assert (sample.target, sample.target_ends, sample.exact) == (label.tokens, label.ends, True)
    kinds = {(label.ends, len(label.tokens)) for label in labels.by_sample.values()}
    assert {ends for ends, _ in kinds} == {True, False} and len(kinds) > 2


@pytest.mark.parametrize("options", [{}, {"teacher_forcing": False}, {"decode": DecodeReduction(2, 1.0)}])
def test_no_reduction_agrees_with_itself_exactly(loaded, own, options):
    outcomes = Evaluator(*loaded, own[1], 7, **options).evaluate(strategies.none(5))
    assert effectiveness(outcomes) == 1.0


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_sample_agrees_where_the_reduced_model_writes_the_same_tokens(loaded, own, schedule):
    samples = own[1]
    right = {
        one.id: float(any_end(plain_tokens(loaded, one, schedule)) == any_end(plain_tokens(loaded, one)))
        for one in samples
    }
    for teacher_forcing in (True, False):
        evaluator = Evaluator(*loaded, samples, 5, teacher_forcing=teacher_forcing)
        assert {one.sample_id: one.score for one in evaluator.evaluate(schedule)} == right
    assert 0 < sum(right.values()) < COUNT


def test_an_answer_may_be_empty(loaded):
    """Whatever the model writes first, let it be an end token: then only the end is judged."""
    model, _ = loaded
    before = model.generation_config.eos_token_id
    try:
        model.generation_config.eos_token_id = list(range(64))
        asked = unlabelled(given, LIMIT)
        outcomes = LabelEvaluator(*loaded, asked, 5, cache=0).evaluate(strategies.none(5))
        labels = labels_of(outcomes, "key", LIMIT)
        assert {(one.tokens, one.ends) for one in labels.by_sample.values()} == {((), True)}
        samples = labelled(lambda: asked, labels)
        for teacher_forcing in (True, False):
            evaluator = Evaluator(*loaded, samples, 5, teacher_forcing=teacher_forcing)
            assert effectiveness(evaluator.evaluate(strategies.fastv(5))) == 1.0
    finally:
        model.generation_config.eos_token_id = before


def test_what_cannot_be_a_label_is_skipped_and_named(loaded):
    model, _ = loaded
    kept = model.lm_head.weight[3].clone()
    sample = given().samples[0]
    first = plain_tokens(loaded, sample)[0]
    try:
        with torch.no_grad():
            model.lm_head.weight[3] = 2 * model.lm_head.weight[first]  # <image> wins where that token did
        asked = unlabelled(given, LIMIT)
        outcomes = LabelEvaluator(*loaded, asked, 5, cache=0).evaluate(strategies.none(5))
    finally:
        with torch.no_grad():
            model.lm_head.weight[3] = kept
    errors = {name: one.error for name, one in labels_of(outcomes, "", LIMIT).by_sample.items() if one.error}
    assert "placeholder" in errors[sample.id]
    whole = {f"s{i}": Label((7,), True, "what") for i in range(COUNT)}
    one_lost = Labels("", LIMIT, {**whole, "s3": Label((), False, "", "its logits are not numbers (NaN)")})
    samples = labelled(partial(unlabelled, given, LIMIT), one_lost)
    assert len(samples) == COUNT - 1 and samples.describe()["skipped"].keys() == {"s3"}
    with pytest.raises(InputError, match="s23 has no label"):
        labelled(given, Labels("", LIMIT, {name: one for name, one in whole.items() if name != "s23"}))


def test_a_set_says_whose_answers_it_is_judged_by(own):
    samples = own[1]
    assert (given().labels, samples.labels, samples.describe()["labels"]) == ("given", "self", "self")
    prints = {given().fingerprint, unlabelled(given).fingerprint, samples.fingerprint}
    first = samples.samples[0]
    for change in ({"target": (9, 9)}, {"target_ends": not first.target_ends}):
        changed = (Sample(**{**vars(first), **change}), *samples.samples[1:])
        prints.add(SampleSet(changed).fingerprint)
    assert len(prints) == 5


def test_labels_are_kept_for_the_same_samples_and_model_alone(tmp_path, own):
    labels = own[0]
    asked = unlabelled(given, LIMIT)
    identity = {"revision": "a", "dtype": "auto"}
    key = labels_key(asked, LIMIT, identity)
    moved = SampleSet(tuple(Sample(**{**vars(one), "digest": "x"}) for one in asked))
    others = {
        labels_key(asked, LIMIT + 1, identity),
        labels_key(asked, LIMIT, identity | {"revision": "b"}),
        labels_key(moved, LIMIT, identity),
    }
    assert len(others | {key}) == 4 and key == labels_key(unlabelled(given, LIMIT), LIMIT, dict(identity))
    assert read_labels(tmp_path / "run", key) is None
    first = Labels(key, LIMIT, labels.by_sample)
    write_labels(tmp_path / "run", first, "search")
    write_labels(tmp_path / "run", Labels("test", LIMIT, {}), "test")
    assert read_labels(tmp_path / "run", key) == first
    assert [read_labels(tmp_path / "run", other) for other in others] == [None] * 3
    for text in ("{", '{"version": 2, "sets": {}}', json.dumps({"version": 1, "sets": {key: {}}})):
        (tmp_path / "run" / "labels.json").write_text(text)
        with pytest.raises(InputError, match=r"labels\.json cannot be read .*; delete it"):
            read_labels(tmp_path / "run", key)
