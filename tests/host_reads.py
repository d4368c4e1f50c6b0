"""The calls that need a tensor's values on the host: on a GPU each would wait for the device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

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
