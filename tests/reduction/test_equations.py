"""DESIGN section 5: the reduced model against the masked full-length oracle."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import masked_oracle as oracle
import pytest
import torch
from torch import Tensor

from vtr_ray import strategies
from vtr_ray.reduction import reduce_vision_tokens
from vtr_ray.schedule import Schedule

IMAGE, VISION, LAYERS = 3, 16, 5

GRADUAL = Schedule.from_rates([1, 1, 0.7, 0.4, 0.13])
SCHEDULES = {
    "gradual": GRADUAL,
    "held": Schedule.from_rates([1, 1, 0.5, 0.5, 0.25]),
    "second layer": Schedule.from_rates([1, 0.6, 0.6, 0.3, 0.3]),
    "to none": Schedule.from_rates([1, 1, 0.5, 0.1, 0]),
    "fastv": strategies.fastv(LAYERS, drop=0.6),
    "vtw": strategies.vtw(LAYERS),
    "pdrop": strategies.pyramid_drop(LAYERS, layers=(1, 3, 4), keep=0.6),
    "pdrop's positions, our ranking": Schedule.from_rates([1, 1, 0.6, 0.3, 0.3], positions="renumber"),
    "random": strategies.random(GRADUAL, seed=5),
}
# What seed 5 draws, best first, by the number of vision tokens. A constant, as a schedule in a file keeps the
# same tokens for ever.
RANDOM = {
    16: [13, 14, 4, 15, 10, 0, 12, 2, 8, 7, 5, 3, 6, 9, 1, 11],
    32: [
        *[25, 17, 5, 19, 12, 2, 7, 4, 28, 3, 22, 0, 23, 10, 18, 14],
        *[6, 1, 15, 13, 31, 9, 30, 21, 24, 11, 26, 29, 20, 27, 8, 16],
    ],
}


class Sample:
    """Text, image, text: token ids, pixels of its images, and where its prompt ends."""

    def __init__(self, seed: int, before: int, images: int, after: int, answer: int = 0) -> None:
        draw = torch.Generator().manual_seed(seed)

        def text(n: int) -> list[int]:
            return torch.randint(5, 64, (n,), generator=draw).tolist()

        ids = text(before)
        for _ in range(images):
            ids += [IMAGE] * VISION
        self.ids = torch.tensor(ids + text(after) + text(answer))
        self.pixels = torch.randn(images, 3, 16, 16, generator=draw) if images else None
        self.prompt = torch.arange(len(self.ids)) < len(self.ids) - answer

    def oracle(self, model: Any, schedule: Schedule) -> oracle.Result:
        vision = self.ids == IMAGE
        draw = RANDOM.get(int(vision.sum())) if schedule.ranking == "random" else None
        with torch.no_grad():
            return oracle.run(
                model,
                oracle.full_embeddings(model, self.ids, self.pixels),
                vision,
                schedule,
                self.prompt,
                draw,
            )


RAGGED = [Sample(1, 4, 1, 5, 2), Sample(2, 2, 2, 7, 3), Sample(3, 9, 0, 3, 1), Sample(4, 1, 1, 1, 1)]


def batch(samples: list[Sample], side: str) -> tuple[dict[str, Tensor], Tensor]:
    """Model inputs and prompt mask of padded samples."""
    width = max(len(sample.ids) for sample in samples)
    ids = torch.zeros(len(samples), width, dtype=torch.long)
    mask, prompt = torch.zeros_like(ids), torch.zeros_like(ids, dtype=torch.bool)
    for row, sample in enumerate(samples):
        n = len(sample.ids)
        place = slice(width - n, width) if side == "left" else slice(0, n)
        ids[row, place], mask[row, place], prompt[row, place] = sample.ids, 1, sample.prompt
    inputs = {"input_ids": ids, "attention_mask": mask}
    pixels = [sample.pixels for sample in samples if sample.pixels is not None]
    if pixels:
        inputs["pixel_values"] = torch.cat(pixels)
    if side == "left":
        inputs["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
    return inputs, prompt


def check_row(logits: Tensor, positions: Tensor, offset: int, expected: oracle.Result) -> None:
    """One row's logits at its input positions (shifted by left padding) against the oracle's survivors."""
    real = positions >= 0
    survivors = expected.alive[-1].nonzero().squeeze(1)
    own = positions[real] - offset
    wanted = (own >= 0) & (own < len(expected.alive[-1]))  # an uncut batch still shows its padding
    assert own[wanted].tolist() == survivors.tolist()
    torch.testing.assert_close(logits[real][wanted], expected.logits[survivors], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", SCHEDULES)
def test_reduced_batch_equals_the_masked_oracle(
    llava_factory: Callable[..., Any], name: str, side: str, attn: str
) -> None:
    """Ragged lengths, two images, one, none, padding: each row is its sample at full length, masked."""
    schedule, model = SCHEDULES[name], llava_factory(attn=attn)
    inputs, prompt = batch(RAGGED, side)
    with torch.no_grad(), reduce_vision_tokens(model, schedule, prompt_mask=prompt) as reduction:
        logits = model(**inputs).logits
    width = inputs["input_ids"].shape[1]
    assert logits.shape[:2] == reduction.positions.shape
    for row, sample in enumerate(RAGGED):
        expected = sample.oracle(model, schedule)
        for layer in range(LAYERS):
            kept = reduction.kept[layer][row]
            assert kept[kept >= 0].tolist() == expected.kept[layer]
            assert kept.shape[0] == max(schedule.counts(n)[layer] for n in (16, 32, 0))
        offset = width - len(sample.ids) if side == "left" else 0
        check_row(logits[row], reduction.positions[row], offset, expected)
    longest = max(s.ids.ne(IMAGE).sum() + schedule.counts(int(s.ids.eq(IMAGE).sum()))[-1] for s in RAGGED)
    assert logits.shape[1] == longest


@pytest.mark.parametrize("text", ["llama", "mistral", "qwen2"])
def test_every_known_language_model(llava_factory: Callable[..., Any], text: str) -> None:
    model = llava_factory(text=text)
    inputs, prompt = batch(RAGGED[:2], "left")
    with torch.no_grad(), reduce_vision_tokens(model, GRADUAL, prompt_mask=prompt) as reduction:
        logits = model(**inputs).logits
    for row, sample in enumerate(RAGGED[:2]):
        offset = inputs["input_ids"].shape[1] - len(sample.ids)
        check_row(logits[row], reduction.positions[row], offset, sample.oracle(model, GRADUAL))


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
def test_rates_of_one_are_the_untouched_model_bit_for_bit(
    llava_factory: Callable[..., Any], attn: str
) -> None:
    model = llava_factory(attn=attn)
    inputs, prompt = batch(RAGGED, "left")
    with torch.no_grad():
        untouched = model(**inputs).logits
        with reduce_vision_tokens(model, strategies.none(LAYERS), prompt_mask=prompt) as reduction:
            inside = model(**inputs).logits
    assert torch.equal(untouched, inside)
    assert reduction.positions.tolist() == [list(range(inputs["input_ids"].shape[1]))] * 4
    assert [kept[kept >= 0].tolist() for kept in reduction.kept[-1]] == [
        list(range(n)) for n in (16, 32, 0, 16)
    ]


def test_a_batch_without_padding_equals_its_samples(tiny_llava: Any) -> None:
    samples = [Sample(seed, 3, 1, 6) for seed in range(4)]
    inputs, _ = batch(samples, "right")
    with torch.no_grad(), reduce_vision_tokens(tiny_llava, GRADUAL) as reduction:
        together = tiny_llava(input_ids=inputs["input_ids"], pixel_values=inputs["pixel_values"]).logits
        kept = reduction.kept
        for row, sample in enumerate(samples):
            alone = tiny_llava(input_ids=sample.ids[None], pixel_values=sample.pixels).logits
            assert reduction.kept[-1][0].tolist() == kept[-1][row].tolist()
            torch.testing.assert_close(alone[0], together[row], atol=1e-4, rtol=1e-4)


def test_kept_features_instead_of_pixels(tiny_llava: Any) -> None:
    from vtr_ray.models import embed, encode_images

    inputs, prompt = batch(RAGGED, "left")
    ids = inputs["input_ids"]
    with torch.no_grad():
        embeddings = embed(tiny_llava, ids, encode_images(tiny_llava, inputs))
        with reduce_vision_tokens(tiny_llava, GRADUAL, prompt_mask=prompt) as reduction:
            expected = tiny_llava(**inputs).logits
        with reduce_vision_tokens(tiny_llava, GRADUAL, prompt, vision_mask=ids == IMAGE) as again:
            logits = tiny_llava(
                inputs_embeds=embeddings,
                attention_mask=inputs["attention_mask"],
                position_ids=inputs["position_ids"],
            ).logits
    assert torch.equal(reduction.positions, again.positions)
    assert torch.equal(logits, expected)
