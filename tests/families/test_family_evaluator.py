"""The evaluator on families with grids, deep-stacked features and blocks against generate(), one by one."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from PIL import Image
from processors import processor_of
from test_matrix import gradual
from toys import model_of

from vtr_ray.evaluation.evaluator import Evaluator
from vtr_ray.evaluation.samples import Sample, SampleSet
from vtr_ray.reduction import reduce_vision_tokens

pytestmark = pytest.mark.families
ENDS = [2, *range(40, 64)]  # with random weights one end token alone is hardly ever the arg-max
SIZES = [(16, 16), (24, 16), (16, 32)]


def picture(seed: int) -> bytes:
    draw = torch.Generator().manual_seed(seed)
    width, height = SIZES[seed % 3]
    pixels = torch.randint(0, 256, (height, width, 3), generator=draw, dtype=torch.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels.numpy()).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("name", ["qwen2.5-vl", "qwen3-vl", "gemma3"])
def test_outcomes(name: str) -> None:
    model, processor = copy.deepcopy(model_of(name, "sdpa")), processor_of(name)
    model.generation_config.eos_token_id = ENDS
    with torch.no_grad():  # decoding drops special tokens: text would not tell two token sequences apart
        model.get_output_embeddings().weight[[0, 1, 3, 4, 5, 6, 7]] = 0
    what = gradual(name)
    samples, written, right = [], [], []
    for seed in range(12):
        question = " ".join(f"w{10 + (7 * seed + i) % 25}" for i in range(2 + seed % 3))
        turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}
        text = processor.apply_chat_template([turn], add_generation_prompt=True)
        image = picture(seed)
        inputs = processor(images=[[Image.open(io.BytesIO(image))]], text=[text], return_tensors="pt")
        with reduce_vision_tokens(model, what):
            out = model.generate(**inputs, max_new_tokens=8, do_sample=False, pad_token_id=0)
        new = out[0, inputs["input_ids"].shape[1] :].tolist()
        stop = next((i for i, token in enumerate(new) if token in ENDS), len(new))
        answer = processor.tokenizer.decode(new[:stop], skip_special_tokens=True)
        written.append(answer)
        ended, wrong = stop < len(new) and stop > 0, seed % 2 == 1
        right.append(float(ended and not wrong))
        samples.append(
            Sample(
                f"{seed:02}",
                "toy",
                image,
                question,
                ("w10 w11" if wrong else answer or "w10",),
                max_new_tokens=8,
            )
        )
    assert 0 < sum(right) < len(right)
    whole = SampleSet(tuple(samples))
    exact = Evaluator(model, processor, whole, batch_size=4).evaluate(what)
    assert [outcome.score for outcome in sorted(exact, key=lambda o: o.sample_id)] == right
    free = Evaluator(model, processor, whole, batch_size=4, teacher_forcing=False).evaluate(what)
    assert [outcome.answer for outcome in sorted(free, key=lambda o: o.sample_id)] == written
