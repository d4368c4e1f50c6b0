"""No layer waits for a value of its tensors: on a GPU each would stall the host until the device is done."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from host_reads import HostReads, reads_of_layers
from torch import Tensor

from vtr_ray import Schedule, reduce_vision_tokens, strategies


def inputs(padded: bool) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 60, (2, 30), generator=draw)
    ids[:, 6:22] = 3
    mask = torch.ones_like(ids)
    if padded:
        mask[1, :4] = 0
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "pixel_values": torch.randn(2, 3, 16, 16, generator=draw),
    }


def test_a_read_is_seen() -> None:
    with HostReads() as mode:
        values = torch.tensor([1.0, 0.0])
        assert values[values > 0].tolist() == [1.0] and bool(values[0]) and values[0].item() == 1
    assert mode.names == ["__getitem__", "tolist", "__bool__", "item"]


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
@pytest.mark.parametrize("padded", [False, True], ids=["even", "ragged"])
@pytest.mark.parametrize(
    "schedule",
    [
        strategies.none(5),
        strategies.fastv(5),
        Schedule.from_rates([1, 1, 0.6, 0.3, 0.1]),
        strategies.pyramid_drop(5, (2, 3, 4)),
    ],
    ids=["identity", "fastv", "every layer", "pyramid_drop"],
)
def test_layers_read_nothing(
    llava_factory: Callable[..., Any], schedule: Schedule, padded: bool, attn: str
) -> None:
    model = llava_factory(attn=attn)
    with torch.no_grad(), reads_of_layers(model) as untouched:
        model(**inputs(padded))
    with torch.no_grad(), reads_of_layers(model) as reads, reduce_vision_tokens(model, schedule):
        model(**inputs(padded))
    assert reads == untouched == []
