"""No layer of any family waits for a value of its tensors, in the prefill or in a decode step."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from host_reads import reads_of_layers
from test_matrix import GREEDY, gradual, samples, to_none
from toys import TOYS, inputs_of, model_of

from vtr_ray import reduce_vision_tokens
from vtr_ray.models import family_of


@pytest.mark.families
@pytest.mark.parametrize("name", TOYS)
def test_layers_read_nothing(name: str) -> None:
    """A ragged batch, with videos where the family takes them; both rankings, and PDrop's positions.

    Qwen3-VL's own deep-stacking reads masks, in layers before the first cut also here.
    """
    model = model_of(name, "sdpa")
    batch = samples(name, "one" if TOYS[name].video is None else "video", "ragged", False)
    inputs = inputs_of(list(batch), model)
    positions = "original" if family_of(model).grid_positions else "renumber"
    with torch.no_grad(), reads_of_layers(model) as own:
        model.generate(**inputs, **GREEDY)
    assert (own == []) == (name != "qwen3-vl")
    passes: list[int] = []
    counter = family_of(model).layers_of(model)[-1].register_forward_hook(lambda *_: passes.append(1))
    for schedule in (gradual(name), replace(to_none(name), ranking="next_layer", positions=positions)):
        with torch.no_grad(), reads_of_layers(model) as reads, reduce_vision_tokens(model, schedule):
            model.generate(**inputs, **GREEDY)
        assert len(reads) < len(own) if own else reads == []
    counter.remove()
    assert len(passes) == 2 * GREEDY["max_new_tokens"]
