"""E on videos: the evaluator against generate(), one video at a time, and a whole search over it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from clips import decoded, write_clip
from processors import processor_of
from test_matrix import gradual, layers_of
from toys import model_of

from vtr_ray.errors import InputError
from vtr_ray.evaluation.evaluator import Evaluator
from vtr_ray.evaluation.outcome import effectiveness
from vtr_ray.evaluation.samples import Sample, SampleSet, Video
from vtr_ray.reduction import reduce_vision_tokens
from vtr_ray.schedule import Schedule
from vtr_ray.search import GSearch

pytestmark = pytest.mark.families
ENDS = [2, *range(40, 64)]  # with random weights one end token alone is hardly ever the arg-max
SIZES = [(32, 32), (48, 32), (32, 64)]
FRAMES = 4
VIDEOS = ["onevision", "internvl-qwen2", "qwen2-vl", "qwen2.5-vl", "qwen3-vl"]


def ready(name: str) -> tuple[Any, Any]:
    model, processor = copy.deepcopy(model_of(name, "sdpa")), processor_of(name)
    model.generation_config.eos_token_id = ENDS
    with torch.no_grad():  # decoding drops special tokens: text would not tell two token sequences apart
        model.get_output_embeddings().weight[[0, 1, 3, 4, 5, 6, 7]] = 0
    return model, processor


def question(seed: int) -> str:
    return " ".join(f"w{10 + (7 * seed + i) % 25}" for i in range(2 + seed % 3))


def alone(model: Any, processor: Any, path: Path, asked: str, what: Schedule) -> tuple[list[int], int, bool]:
    """Answer tokens, vision tokens and whether it ended, by transformers alone."""
    frames = decoded(path)
    picked = [0, 3, 7, 10] if len(frames) == 11 else [0, 2, 3, 5]  # of 11 and of 6
    turn = {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": asked}]}
    text = processor.apply_chat_template([turn], add_generation_prompt=True)
    metadata = {"total_num_frames": len(frames), "fps": 8.0, "duration": len(frames) / 8}
    inputs = processor(
        videos=[frames[picked]],
        text=[text],
        video_metadata=[{**metadata, "frames_indices": picked}],
        do_sample_frames=False,
        return_tensors="pt",
    )
    with reduce_vision_tokens(model, what) as reduction:
        out = model.generate(**inputs, max_new_tokens=8, do_sample=False, pad_token_id=0)
    new = out[0, inputs["input_ids"].shape[1] :].tolist()
    stop = next((i for i, token in enumerate(new) if token in ENDS), len(new))
    return new[:stop], reduction.kept[0].shape[1], 0 < stop < len(new)


def clip(folder: Path, seed: int) -> Path:
    return write_clip(folder / f"{seed}.mp4", seed, 11 if seed % 2 else 6, SIZES[seed % 3])


@pytest.mark.parametrize("name", VIDEOS)
def test_outcomes(name: str, tmp_path: Path) -> None:
    model, processor = ready(name)
    what = gradual(name)
    samples, written, right, counts = [], [], [], []
    for seed in range(12):
        path = clip(tmp_path, seed)
        tokens, vision, ended = alone(model, processor, path, question(seed), what)
        answer = processor.tokenizer.decode(tokens, skip_special_tokens=True)
        wrong = seed % 4 == 3
        written.append(answer)
        right.append(float(ended and not wrong))
        counts.append(vision)
        target = "w10 w11" if wrong else answer or "w10"
        samples.append(
            Sample(f"{seed:02}", "toy", Video(path, FRAMES), question(seed), (target,), max_new_tokens=8)
        )
    assert 0 < sum(right) < len(right)
    whole = SampleSet(tuple(samples))
    for size in (1, 5):
        exact = Evaluator(model, processor, whole, batch_size=size)
        scores = [outcome.score for outcome in sorted(exact.evaluate(what), key=lambda o: o.sample_id)]
        assert scores == right
        assert [vision for vision, _ in exact._counts] == counts
        free = Evaluator(model, processor, whole, batch_size=size, teacher_forcing=False).evaluate(what)
        assert [outcome.answer for outcome in sorted(free, key=lambda o: o.sample_id)] == written


@pytest.mark.parametrize("name", ["internvl-qwen2", "qwen2.5-vl"])
def test_images_and_videos_in_one_set(name: str, tmp_path: Path) -> None:
    """A set of both answers as each kind alone does, whatever the batches."""
    import io

    from PIL import Image

    model, processor = ready(name)
    videos = [
        Sample(
            f"v{i}", "toy", Video(clip(tmp_path, i), FRAMES), question(i), ("w10",), False, max_new_tokens=4
        )
        for i in range(3)
    ]
    stills = []
    for i in range(3):
        file = io.BytesIO()
        Image.fromarray(decoded(tmp_path / f"{i}.mp4")[0]).save(file, "PNG")
        stills.append(Sample(f"i{i}", "toy", file.getvalue(), question(i), ("w10",), False, max_new_tokens=4))
    mixed = SampleSet((videos[0], stills[0], stills[1], videos[1], videos[2], stills[2]))
    both = Evaluator(model, processor, mixed, batch_size=4).evaluate(gradual(name))
    apart = [
        outcome
        for part in (videos, stills)
        for outcome in Evaluator(model, processor, SampleSet(tuple(part)), batch_size=1).evaluate(
            gradual(name)
        )
    ]
    assert sorted(both, key=lambda o: o.sample_id) == sorted(apart, key=lambda o: o.sample_id)


@pytest.mark.parametrize("name", ["onevision", "qwen2.5-vl"])
def test_a_whole_search_over_videos(name: str, tmp_path: Path) -> None:
    """Targets that the model writes with the first third of its schedule's tokens: the search finds room."""
    model, processor = ready(name)
    none = Schedule.from_rates([1.0] * layers_of(name))
    samples = []
    for seed in range(12):
        path = clip(tmp_path, seed)
        tokens, _, ended = alone(model, processor, path, question(seed), none)
        if ended:
            answer = processor.tokenizer.decode(tokens, skip_special_tokens=True)
            samples.append(Sample(f"{seed:02}", "toy", Video(path, FRAMES), question(seed), (answer,)))
    evaluator = Evaluator(model, processor, SampleSet(tuple(samples)), batch_size=6)
    assert effectiveness(evaluator.evaluate(none)) == 1.0
    found = []
    for size in (6, 2):
        evaluator = Evaluator(model, processor, SampleSet(tuple(samples)), batch_size=size)
        search = GSearch(
            num_layers=evaluator.num_layers,
            vision_tokens=evaluator.vision_tokens,
            stride=1,
            initial=4,
            iterations=2,
            seed=0,
        )
        scores = {}
        while not search.finished:
            trial = search.ask()
            assert trial is not None
            scores[trial.schedule] = effectiveness(evaluator.evaluate(trial.schedule))
            search.tell(trial, scores[trial.schedule])
        assert len(set(scores.values())) > 1
        found.append((search.best, scores))
    assert found[0] == found[1]
    assert effectiveness(evaluator.evaluate(found[0][0])) == found[0][1][found[0][0]]


def test_a_model_that_takes_no_videos_is_one_clear_line(tmp_path: Path) -> None:
    model, processor = ready("gemma3-early")
    samples = SampleSet((Sample("v", "toy", Video(clip(tmp_path, 0)), "w10", ("w11",)),))
    with pytest.raises(InputError, match="Gemma3 takes no videos"):
        Evaluator(model, processor, samples)
    model, processor = ready("qwen2.5-vl")
    processor.chat_template = processor.chat_template.replace("<|video_pad|>", "")
    with pytest.raises(InputError, match=r"writes no <\|video_pad\|> for a video"):
        Evaluator(model, processor, samples)
