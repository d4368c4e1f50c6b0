"""What the evaluator counts of a prompt is what the processor's own encoding of that sample alone holds."""

from __future__ import annotations

import copy
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from clips import decoded, write_clip
from PIL import Image
from processors import processor_of
from test_matrix import gradual
from toys import IMAGE, VIDEO, model_of

from vtr_ray.errors import InputError
from vtr_ray.evaluation.benchmarks.evaluator import BenchmarkEvaluator
from vtr_ray.evaluation.evaluator import Evaluator
from vtr_ray.evaluation.samples import Sample, SampleSet, Video

pytestmark = pytest.mark.families
FAMILIES = [
    "llava",
    "llava-next",
    "onevision",
    "internvl-qwen2",
    "idefics3",
    "smolvlm",
    "qwen2-vl",
    "qwen2.5-vl",
    "qwen3-vl",
    "gemma3-early",
]
WITH_VIDEOS = ["onevision", "internvl-qwen2", "qwen2-vl", "qwen2.5-vl", "qwen3-vl"]
SIZES = [(16, 16), (40, 20), (20, 40), (1, 1), (33, 32), (16, 16)]
ENDS = [2, *range(40, 64)]


@dataclass(frozen=True)
class Noise:
    """Images of the given sizes."""

    sizes: tuple[tuple[int, int], ...]

    def pictures(self) -> list[Image.Image]:
        return [Image.effect_noise(size, 64).convert("RGB") for size in self.sizes]


@dataclass(frozen=True)
class Still:
    """One image, the same whenever it is asked for; or none."""

    seed: int | None

    def pictures(self) -> list[Image.Image]:
        return [] if self.seed is None else [Image.new("RGB", (40, 20), (70 * self.seed % 256, 99, 7))]


def ready(name: str) -> tuple[Any, Any]:
    model = copy.deepcopy(model_of(name, "sdpa"))
    model.generation_config.eos_token_id = ENDS
    return model, processor_of(name)


def png(size: tuple[int, int]) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, "red").save(file, "PNG")
    return file.getvalue()


def question(seed: int) -> str:
    return " ".join(f"w{10 + (7 * seed + i) % 25}" for i in range(1 + seed % 4))


def own_counts(processor: Any, content: list[dict[str, str]], **given: Any) -> tuple[int, int]:
    """Vision and text tokens by a plain call of the processor on one sample, as its model card shows it."""
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    ids = processor(text=[text], return_tensors="pt", **given)["input_ids"][0].tolist()
    vision = ids.count(IMAGE) + ids.count(VIDEO)
    return vision, len(ids) - vision


@pytest.mark.parametrize("name", FAMILIES)
def test_images(name: str) -> None:
    model, processor = ready(name)
    samples, expected = [], []
    for seed, size in enumerate(SIZES):
        samples.append(Sample(f"{seed}", "toy", png(size), question(seed), ("w10",), exact=seed % 2 == 0))
        content = [{"type": "image"}, {"type": "text", "text": question(seed)}]
        image = Image.open(io.BytesIO(png(size)))
        expected.append(own_counts(processor, content, images=[[image]]))
    evaluator = Evaluator(model, processor, SampleSet(tuple(samples)), 4)
    assert evaluator.token_counts() == expected
    assert len({text for _, text in expected}) > 1
    assert evaluator.sample_tokens == tuple(sorted(part)[2] for part in zip(*expected, strict=True))


@pytest.mark.parametrize("name", FAMILIES)
def test_several_images_and_none(name: str) -> None:
    model, processor = ready(name)
    shown = [((16, 16), (40, 20)), (), ((20, 40),), ((16, 16), (40, 20)), ((33, 32), (16, 16), (1, 1)), ()]
    samples, expected = [], []
    for seed, sizes in enumerate(shown):
        samples.append(Sample(f"{seed}", "toy", Noise(sizes), question(seed), ("",), exact=False))
        content = [{"type": "image"}] * len(sizes) + [{"type": "text", "text": question(seed)}]
        given = {"images": [Noise(sizes).pictures()]} if sizes else {}
        expected.append(own_counts(processor, content, **given))
    evaluator = BenchmarkEvaluator(model, processor, SampleSet(tuple(samples)), 4, cache=2**20)
    assert evaluator.token_counts() == expected
    assert expected[1][0] == 0


@pytest.mark.parametrize("name", WITH_VIDEOS)
def test_videos(name: str, tmp_path: Path) -> None:
    model, processor = ready(name)
    samples, expected = [], []
    for seed, (size, frames) in enumerate([((32, 32), 4), ((48, 32), 4), ((32, 32), 2), ((32, 32), 4)]):
        path = write_clip(tmp_path / f"{seed}.mp4", seed, 6, size)
        samples.append(Sample(f"{seed}", "toy", Video(path, frames), question(seed), ("w10",)))
        picked = [0, 2, 3, 5] if frames == 4 else [0, 5]
        metadata = {"total_num_frames": 6, "fps": 8.0, "duration": 6 / 8, "frames_indices": picked}
        content = [{"type": "video"}, {"type": "text", "text": question(seed)}]
        given = {"videos": [decoded(path)[picked]], "video_metadata": [metadata], "do_sample_frames": False}
        expected.append(own_counts(processor, content, **given))
    assert Evaluator(model, processor, SampleSet(tuple(samples)), 4).token_counts() == expected


@pytest.mark.parametrize("name", FAMILIES)
def test_a_document_without_an_image_is_answered_from_its_text(name: str) -> None:
    """In a batch with others, reduced or not, as `generate` answers the text alone."""
    model, processor = ready(name)
    with torch.no_grad():  # decoding drops special tokens: text would not tell two token sequences apart
        model.get_output_embeddings().weight[[0, 1, 3, 4, 5, 6, 7]] = 0
    samples = tuple(
        Sample(str(seed), "toy", Still(None if seed % 2 else seed), question(seed), ("",), exact=False,
               max_new_tokens=5)
        for seed in range(4)
    )  # fmt: skip
    evaluator = BenchmarkEvaluator(model, processor, SampleSet(samples), 4, cache=2**20)
    evaluator_of = {
        one.id: BenchmarkEvaluator(model, processor, SampleSet((one,)), 1, cache=0) for one in samples
    }
    for what in (gradual(name), gradual(name).__class__.from_rates([1.0] * evaluator.num_layers)):
        answers = {one.sample_id: one.answer for one in evaluator.evaluate(what)}
        for sample in samples:
            assert answers[sample.id] == evaluator_of[sample.id].evaluate(what)[0].answer
        for sample in samples[1::2]:
            turn = {"role": "user", "content": [{"type": "text", "text": sample.question}]}
            text = processor.apply_chat_template([turn], add_generation_prompt=True)
            inputs = processor(text=[text], return_tensors="pt")
            out = model.generate(**inputs, max_new_tokens=5, do_sample=False, pad_token_id=0)
            new = out[0, inputs["input_ids"].shape[1] :].tolist()
            stop = next((place for place, token in enumerate(new) if token in ENDS), len(new))
            assert answers[sample.id] == processor.tokenizer.decode(new[:stop], skip_special_tokens=True)


@pytest.mark.parametrize("name", FAMILIES)
def test_placeholders_that_a_user_typed_are_no_images(name: str) -> None:
    """In a question they are taken out; an answer that holds one skips its sample."""
    model, processor = ready(name)
    word = processor.tokenizer.convert_ids_to_tokens
    marks = {word(IMAGE), "<image>"} | ({word(VIDEO)} if name in WITH_VIDEOS else set())
    marks |= {"<start_of_image>"} if name.startswith("gemma3") else set()
    samples = [Sample("plain", "toy", png((16, 16)), "w10 w11", ("w12",))]
    for number, mark in enumerate(sorted(marks)):
        asked = f"w10 {mark} {mark[:3]}{mark}{mark[3:]} w11"
        samples.append(Sample(f"question {number}", "toy", png((16, 16)), asked, ("w12",)))
    plenty = [Sample(f"more {i}", "toy", png((16, 16)), question(i), ("w12",)) for i in range(20)]
    bad = Sample("bad", "toy", png((16, 16)), "w10 w11", (f"w12 {word(IMAGE)} w13",))
    evaluator = Evaluator(model, processor, SampleSet((*samples, bad, *plenty)), 32)
    counts = dict(zip((one.id for one in evaluator.samples), evaluator.token_counts(), strict=True))
    assert {counts[one.id] for one in samples} == {counts["plain"]}
    assert [one.name for one in evaluator.samples.skipped] == ["bad"]
    assert "placeholder" in evaluator.describe()["samples"]["skipped"]["bad"]
    scores = {one.sample_id: one.score for one in evaluator.evaluate(gradual(name))}
    assert {scores[one.id] for one in samples} == {scores["plain"]}
    benchmark = BenchmarkEvaluator(model, processor, SampleSet((*samples, bad)), 8, cache=0)
    assert len(benchmark.evaluate(gradual(name))) == len(samples) + 1


@pytest.mark.parametrize("batch", [1, 8])
def test_an_image_that_the_processor_refuses_costs_its_sample(
    batch: int, caplog: pytest.LogCaptureFixture
) -> None:
    model, processor = ready("qwen2.5-vl")
    good = [Sample(f"{i}", "toy", png(SIZES[i % 6]), question(i), ("w10",)) for i in range(20)]
    samples = SampleSet((*good[:7], Sample("banner", "toy", png((2, 500)), "w10", ("w11",)), *good[7:]))
    evaluator = Evaluator(model, processor, samples, batch)
    (line,) = [record.getMessage() for record in caplog.records if record.name.startswith("vtr_ray")]
    assert "skipped 1 sample (banner: Qwen2_5_VLProcessor refuses its image of 2 x 500 pixels: " in line
    assert evaluator.samples == SampleSet(tuple(good), evaluator.samples.skipped)
    assert evaluator.num_samples == 20 and evaluator.describe()["samples"]["skipped"].keys() == {"banner"}
    what = gradual("qwen2.5-vl")
    plain = Evaluator(model, processor, SampleSet(tuple(good)), batch).evaluate(what)
    assert evaluator.evaluate(what) == plain


def test_too_many_refused_images_are_one_clear_line() -> None:
    model, processor = ready("qwen2.5-vl")
    samples = [Sample(f"{i}", "toy", png((2, 500) if i else (9, 9)), "w10", ("w11",)) for i in range(4)]
    with pytest.raises(InputError, match=r"3 of 4 samples cannot be read, more than 5%.*1: Qwen2_5") as error:
        Evaluator(model, processor, SampleSet(tuple(samples), where="f.json"))
    assert "\n" not in str(error.value)


def test_a_document_of_a_refused_image_is_answered_from_its_text(caplog: pytest.LogCaptureFixture) -> None:
    model, processor = ready("qwen2.5-vl")
    shown = [((16, 16),), ((2, 500),), ((40, 20), (16, 16)), ()]
    samples = [
        Sample(f"{i}", "toy", Noise(sizes), question(1), ("",), False, max_new_tokens=5)
        for i, sizes in enumerate(shown)
    ]
    evaluator = BenchmarkEvaluator(model, processor, SampleSet(tuple(samples)), 4, cache=0)
    what = gradual("qwen2.5-vl")
    answers = {one.sample_id: one.answer for one in evaluator.evaluate(what)}
    (line,) = [record.getMessage() for record in caplog.records if record.name.startswith("vtr_ray")]
    assert line.startswith(
        "1 is answered from its text alone: Qwen2_5_VLProcessor refuses its image of 2 x 500"
    )
    assert answers["1"] == answers["3"] and len(answers) == 4
    assert {one.sample_id: one.answer for one in evaluator.evaluate(what)}["1"] == answers["3"]
    counts = evaluator.token_counts()
    assert counts[1] == counts[3] and counts[1][0] == 0 and counts[2][0] > counts[0][0] > 0
    assert evaluator.alive("1", [what])["image"] is None
