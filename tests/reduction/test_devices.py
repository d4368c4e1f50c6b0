"""Layers on several devices. The second one is `meta`: no values, but an operation across the two fails."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from accelerate.hooks import AlignDevicesHook, SequentialHook, add_hook_to_module
from test_equations import RAGGED, SCHEDULES, batch
from torch import Tensor

from vtr_ray.models import CACHE, cache_of
from vtr_ray.reduction import passes, reduce_vision_tokens
from vtr_ray.reduction.decoding import DecodeReduction


def split(model: Any, first: int) -> Any:
    """Layers from `first` (from 0) on, and the head, on `meta`: accelerate moves their inputs, as on GPUs."""
    decoder = model.model.language_model
    for number, module in enumerate([*decoder.layers[first:], decoder.norm, model.lm_head]):
        hook = AlignDevicesHook(execution_device="meta", place_submodules=True)
        add_hook_to_module(module, SequentialHook(hook) if number % 2 else hook)
    return model


@pytest.mark.parametrize("first", [2, 3])
@pytest.mark.parametrize("name", SCHEDULES)
def test_layout_and_states_go_where_the_layer_runs(tiny_llava: Any, name: str, first: int) -> None:
    """Prefill and a decode step; that layers agree on their devices is all that `meta` can show."""
    schedule, model = SCHEDULES[name], split(tiny_llava, first)
    inputs, _ = batch(RAGGED, "left")
    mask = torch.cat([inputs["attention_mask"], torch.ones(4, 1, dtype=torch.long)], dim=1)
    with torch.no_grad(), reduce_vision_tokens(model, schedule) as reduction:
        out = model(**inputs, use_cache=True)
        held = [layer.keys for layer in cache_of(out).layers]
        new = {"input_ids": torch.full((4, 1), 7), "position_ids": mask.sum(1, keepdim=True) - 1}
        step = model(**new, attention_mask=mask, **{CACHE: cache_of(out)})
        assert [kept.shape[1] for kept in reduction.kept] == schedule.counts(32)
    assert [keys.device.type for keys in held] == ["cpu"] * first + ["meta"] * (5 - first)
    assert out.logits.shape[:2] == reduction.positions.shape and out.logits.is_meta
    assert step.logits.shape == (4, 1, 64)


def test_decode_time_reduction_over_devices(tiny_llava: Any) -> None:
    model, (inputs, _) = split(tiny_llava, 3), batch(RAGGED, "left")
    mask, settings = inputs["attention_mask"], DecodeReduction(every=1, keep=0.5, first_layer=2)
    with torch.no_grad(), reduce_vision_tokens(model, SCHEDULES["gradual"], decode=settings) as reduction:
        cache = cache_of(model(**inputs, use_cache=True))
        for _ in range(3):
            mask = torch.cat([mask, torch.ones(4, 1, dtype=torch.long)], dim=1)
            new = {"input_ids": torch.full((4, 1), 7), "position_ids": mask.sum(1, keepdim=True) - 1}
            model(**new, attention_mask=mask, **{CACHE: cache})
        assert [kept.shape[1] for kept in reduction.kept] == [32, 8, 6, 4, 1]


def test_where_a_layer_runs() -> None:
    """Accelerate's hook says it; else the weights do, unless they are still to be fetched."""
    states, layer = torch.zeros(1), torch.nn.Linear(2, 2)
    elsewhere = torch.nn.Linear(2, 2, device="meta")
    assert passes.device_of(layer, states) == torch.device("cpu")
    assert passes.device_of(elsewhere, states) == torch.device("cpu")
    assert passes.device_of(layer, states.to("meta")) == torch.device("cpu")
    for given, device in ((1, torch.device(1)), ("meta", torch.device("meta"))):
        hook = AlignDevicesHook.__new__(AlignDevicesHook)
        hook.execution_device = given
        layer._hf_hook = hook
        assert passes.device_of(layer, states) == device


def test_deepstack_places_come_from_the_first_device() -> None:
    from vtr_ray.reduction.prompt import read_prompt

    places = torch.tensor([[False, True, True, False]])
    prefill = passes.Prefill.__new__(passes.Prefill)
    prefill.layout = passes.whole(read_prompt(places, None, None), False).to(torch.device("meta"))
    states: Tensor = torch.zeros(1, 4, 8, device="meta")
    assert prefill.deepen(states, places, torch.ones(2, 8)).is_meta
