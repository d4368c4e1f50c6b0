"""No layer waits for a value of its tensors: on a GPU each would stall the host until the device is done."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from vtr_ray import Schedule, reduce_vision_tokens, strategies
from vtr_ray.models import family_of

READS = {
    Tensor.item,
    Tensor.tolist,
    Tensor.numpy,
    Tensor.cpu,
    Tensor.__bool__,
    Tensor.__int__,
    Tensor.__float__,
    Tensor.__index__,
    Tensor.nonzero,
    torch.nonzero,
    Tensor.masked_select,
    torch.masked_select,
    Tensor.unique,
    torch.unique,
    torch.equal,
    Tensor.equal,
}


class HostReads(TorchFunctionMode):
    """Names of the calls that need a tensor's values on the host, boolean masks as indices among them."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        index = args[1] if function in (Tensor.__getitem__, Tensor.__setitem__) else ()
        parts = index if isinstance(index, tuple) else (index,)
        masks = any(isinstance(part, Tensor) and part.dtype == torch.bool for part in parts)
        if function in READS or masks:
            self.names.append(function.__name__)
        return function(*args, **(kwargs or {}))


@contextmanager
def reads_of_layers(model: Any) -> Iterator[list[str]]:
    """Host reads from the entry of the first decoder layer to the exit of the last one, hooks included."""
    mode, layers = HostReads(), family_of(model).layers_of(model)
    handles = [
        layers[0].register_forward_pre_hook(lambda *_: mode.__enter__() and None, prepend=True),
        layers[-1].register_forward_hook(lambda *_: mode.__exit__(None, None, None)),
    ]
    try:
        yield mode.names
    finally:
        for handle in handles:
            handle.remove()


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
