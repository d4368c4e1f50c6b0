"""Whatever torch.compile was given, before the context or inside: refused, before a graph could be wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from test_equations import GRADUAL, LAYERS, RAGGED, batch

from vtr_ray import strategies
from vtr_ray.reduction import Unsupported, reduce_vision_tokens
from vtr_ray.reduction.decoding import DecodeReduction

EAGER = {"backend": "eager"}  # a graph that is run as it is: nothing here needs another one


def compile_layer(model: Any) -> Any:
    layers = model.model.language_model.layers
    layers[3] = torch.compile(layers[3], **EAGER)
    return model


def compile_decoder(model: Any) -> Any:
    model.model.language_model = torch.compile(model.model.language_model, **EAGER)
    return model


def compile_core(model: Any) -> Any:
    model.model.compile(**EAGER)
    return model


def compile_forward(model: Any) -> Any:
    model.forward = torch.compile(model.forward, **EAGER)
    return model


def compile_attention(model: Any) -> Any:
    attention = model.model.language_model.layers[1].self_attn
    attention.forward = torch.compile(attention.forward, **EAGER)
    return model


WAYS = [
    lambda model: torch.compile(model, **EAGER),
    compile_layer,
    compile_decoder,
    compile_core,
    compile_forward,
    compile_attention,
    lambda model: torch.compile(lambda **inputs: model(**inputs), **EAGER),
]
IDS = ["model", "layer", "decoder", "core", "forward", "attention", "caller"]


@pytest.mark.parametrize("way", WAYS[:-1], ids=IDS[:-1])
def test_before_the_context(tiny_llava: Any, way: Callable[[Any], Any]) -> None:
    model = way(tiny_llava)
    with pytest.raises(Unsupported, match="compiled model"), reduce_vision_tokens(model, GRADUAL):
        pass
    settings, none = DecodeReduction(every=1, keep=0.5), strategies.none(LAYERS)
    with (
        pytest.raises(Unsupported, match="compiled model"),
        reduce_vision_tokens(model, none, decode=settings),
    ):
        pass


@pytest.mark.parametrize("way", WAYS, ids=IDS)
def test_inside_the_context(tiny_llava: Any, way: Callable[[Any], Any]) -> None:
    inputs, _ = batch(RAGGED, "left")
    with torch.no_grad(), reduce_vision_tokens(tiny_llava, GRADUAL):
        tiny_llava(**inputs)
        called = way(tiny_llava)
        with pytest.raises(Unsupported, match="compiled model"):
            called(**inputs)


def test_what_is_not_compiled_is_not_refused(tiny_llava: Any) -> None:
    """`torch.compiler.disable` wraps alike; a schedule of ones leaves compiled layers alone."""
    inputs, _ = batch(RAGGED, "left")
    layer = tiny_llava.model.language_model.layers[2]
    with torch.no_grad():
        with reduce_vision_tokens(tiny_llava, GRADUAL):
            expected = tiny_llava(**inputs).logits
        layer.forward = torch.compiler.disable(layer.forward)
        with reduce_vision_tokens(tiny_llava, GRADUAL):
            assert torch.equal(tiny_llava(**inputs).logits, expected)
        with reduce_vision_tokens(compile_layer(tiny_llava), strategies.none(LAYERS)):
            pass
