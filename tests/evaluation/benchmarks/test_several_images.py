"""Documents of several images are asked as the model's own processor would."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from vtr_ray import strategies
from vtr_ray.efficiency import MeanCost
from vtr_ray.evaluation import prompts
from vtr_ray.evaluation.benchmarks.evaluator import BenchmarkEvaluator
from vtr_ray.evaluation.samples import Sample, SampleSet


@dataclass(frozen=True)
class Noise:
    """`count` images, made when they are asked for."""

    count: int
    seed: int

    def pictures(self) -> list[Image.Image]:
        rng = np.random.default_rng(self.seed)
        return [Image.fromarray(rng.integers(0, 256, (96, 96, 3), np.uint8)) for _ in range(self.count)]


def sample(number: int, count: int, question: str = "what color is the circle ?") -> Sample:
    return Sample(str(number), "t", Noise(count, number), question, ("red",), exact=False, max_new_tokens=6)


def test_several_images_are_answered_as_generate_does(network) -> None:
    model, processor = network
    samples = [sample(0, 2), sample(1, 1), sample(2, 3), sample(3, 2, "<image> or <image> is it red ?")]
    evaluator = BenchmarkEvaluator(model, processor, SampleSet(tuple(samples)), 4, cache=2**20)
    outcomes = {one.sample_id: one.answer for one in evaluator.evaluate(strategies.none(12))}
    for one in samples:
        content = [{"type": "image"}] * one.image.count + [
            {"type": "text", "text": one.question.replace("<image>", "")}
        ]
        text = processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True
        )
        if "<image>" in one.question:
            text = prompts.prompt_text(processor, one.question, images=2)
        inputs = processor(images=one.image.pictures(), text=text, return_tensors="pt")
        assert int((inputs["input_ids"] == model.config.image_token_id).sum()) == 144 * one.image.count
        with torch.inference_mode():
            written = model.generate(**inputs, max_new_tokens=6, do_sample=False)
        expected = processor.tokenizer.decode(
            written[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True
        )
        assert outcomes[one.id] == expected.strip()
    reduced = {one.sample_id: one.answer for one in evaluator.evaluate(strategies.fastv(12, 0.9))}
    alone = [
        BenchmarkEvaluator(model, processor, SampleSet((one,)), 1, cache=0).evaluate(
            strategies.fastv(12, 0.9)
        )[0]
        for one in samples
    ]
    assert [one.answer for one in alone] == [reduced[one.id] for one in samples]


def test_a_sample_says_which_tokens_live_and_where_they_are(network) -> None:
    model, processor = network
    schedule = strategies.fastv(12, 0.75)
    evaluator = BenchmarkEvaluator(model, processor, SampleSet((sample(0, 1), sample(1, 2))), 2, cache=2**20)
    one, two = evaluator.alive("0", [schedule]), evaluator.alive("1", [schedule])
    assert (one["tokens"], one["grid"]) == (144, [12, 12])
    assert (two["tokens"], two["grid"]) == (288, None)
    (kept,) = one["kept"]
    assert [len(layer) for layer in kept] == schedule.counts(144)
    assert kept[0] == list(range(144)) and set(kept[5]) < set(range(144))
    assert one["image"].startswith("data:image/png;base64,")
    none, less = evaluator.costs([strategies.none(12), schedule], new_tokens=5)
    assert none.tflops > less.tflops > 0 and none.tflops_executed > less.tflops_executed > 0
    assert (none.memory_cost, none.samples) == (1.0, 2) and less.memory_cost == schedule.memory_cost
    assert none.prefill is None and less.to_dict()["decode_ms"] is None  # too small to be timed
    mean = MeanCost(model.config, [(144, text) for _, text in evaluator.token_counts()])
    assert none.tflops > mean.tflops(strategies.none(12))  # of 144 and 288 tokens, not the fewer


def test_only_as_many_encoded_images_are_kept_as_there_is_room_for(network) -> None:
    samples = SampleSet(tuple(sample(number, 1) for number in range(6)))
    for room, kept in ((2**30, 6), (0, 1)):
        evaluator = BenchmarkEvaluator(*network, samples, 1, cache=room)
        answers = [one.answer for one in evaluator.evaluate(strategies.none(12))]
        assert len(evaluator._tensors) == kept
        assert [one.answer for one in evaluator.evaluate(strategies.none(12))] == answers
