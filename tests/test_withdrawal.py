"""VTW's search for K against the slow obvious way: whole models, masks, probabilities in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from vtr_ray import strategies
from vtr_ray.errors import InputError
from vtr_ray.withdrawal import find_withdrawal

LAYERS, IMAGE = 9, 3


@pytest.fixture
def model(llava_factory: Callable[..., Any]) -> Any:
    return llava_factory(seed=1, attn="eager", num_hidden_layers=LAYERS)


def prompts(count: int) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(7)
    made = []
    for number in range(count):
        text = torch.randint(5, 64, (3 + number % 4,), generator=generator)
        ids = torch.cat([torch.tensor([1, 9]), torch.full((16,), IMAGE), text])
        made.append({"input_ids": ids[None], "pixel_values": torch.randn(1, 3, 16, 16, generator=generator)})
    return made


def slow_last_logits(model: Any, inputs: dict[str, Tensor], withdraw_after: int) -> Tensor:
    """The full-length model, layer by layer; after K layers nobody sees a vision token any more."""
    ids = inputs["input_ids"]
    embeds = model.get_input_embeddings()(ids)
    embeds[0, ids[0] == IMAGE] = model.get_image_features(pixel_values=inputs["pixel_values"]).pooler_output[
        0
    ]
    decoder, length = model.model.language_model, ids.shape[1]
    tables = decoder.rotary_emb(embeds, position_ids=torch.arange(length)[None])
    hidden = embeds
    for number, layer in enumerate(decoder.layers, start=1):
        mask = torch.zeros(1, 1, length, length)
        for row in range(length):
            for column in range(length):
                gone = number > withdraw_after and ids[0, column] == IMAGE and row != column
                if column > row or gone:
                    mask[0, 0, row, column] = float("-inf")
        hidden = layer(hidden, attention_mask=mask, position_embeddings=tables)
        hidden = hidden[0] if isinstance(hidden, tuple) else hidden
    return model.lm_head(decoder.norm(hidden))[0, -1]


def slow_divergence(withdrawn: Tensor, full: Tensor) -> float:
    w, f = withdrawn.double().softmax(0).tolist(), full.double().softmax(0).tolist()
    return sum(a * (math.log(a) - math.log(b)) for a, b in zip(w, f, strict=True))


@torch.no_grad()
def slow_means(model: Any, batches: list[dict[str, Tensor]], first: int) -> dict[int, float]:
    return {
        layer: sum(
            slow_divergence(slow_last_logits(model, b, layer), model(**b).logits[0, -1]) for b in batches
        )
        / len(batches)
        for layer in range(first, LAYERS)
    }


def test_the_first_layer_under_the_threshold(model: Any) -> None:
    batches = prompts(4)
    means = slow_means(model, batches, first=2)
    assert len({round(value, 6) for value in means.values()}) == len(means)
    # A threshold just above each mean in turn: the first layer at or under it, which need not be that one.
    for value in means.values():
        found = find_withdrawal(model, batches, threshold=value * 1.01, first=2)
        expected = next(layer for layer, mean in means.items() if mean <= value * 1.01)
        assert found.layer == expected
        assert found.schedule == strategies.vtw(LAYERS, withdraw_after=expected)
        tried = {layer: mean for layer, mean in means.items() if layer <= expected}
        assert found.divergences == pytest.approx(tried, rel=1e-3, abs=1e-6)


def test_the_direction_is_withdrawn_against_full(model: Any) -> None:
    (inputs,) = prompts(1)
    found = find_withdrawal(model, [inputs], threshold=1e9, first=5)
    assert found.layer == 5  # VTW's own first layer
    with torch.no_grad():
        withdrawn, full = slow_last_logits(model, inputs, 5), model(**inputs).logits[0, -1]
    assert found.divergences[5] == pytest.approx(slow_divergence(withdrawn, full), rel=1e-3)
    assert found.divergences[5] != pytest.approx(slow_divergence(full, withdrawn), rel=1e-2)


def test_a_padded_batch_counts_each_sample_once(model: Any) -> None:
    singles = prompts(3)
    length = max(one["input_ids"].shape[1] for one in singles)
    rows = [
        torch.nn.functional.pad(one["input_ids"][0], (length - one["input_ids"].shape[1], 0))
        for one in singles
    ]
    masks = [torch.arange(length) >= length - one["input_ids"].shape[1] for one in singles]
    together = {
        "input_ids": torch.stack(rows),
        "attention_mask": torch.stack(masks).long(),
        "pixel_values": torch.cat([one["pixel_values"] for one in singles]),
    }
    options = {"threshold": 1e9, "first": 5}
    batched = find_withdrawal(model, [together], **options).divergences
    assert batched == pytest.approx(find_withdrawal(model, singles, **options).divergences, rel=1e-3)


def test_what_cannot_be_found_is_one_line(model: Any, llava_factory: Callable[..., Any]) -> None:
    with pytest.raises(InputError, match=r"no K from 5 to 8 .* at most 0: the lowest is .* at K = \d"):
        find_withdrawal(model, prompts(1), threshold=0.0)
    with pytest.raises(InputError, match="needs samples"):
        find_withdrawal(model, [])
    with pytest.raises(InputError, match="begins at 5; the model has 5 layers"):
        find_withdrawal(llava_factory(), prompts(1))
