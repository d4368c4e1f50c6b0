"""What a user does to a cache between calls; how long a context keeps one."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from test_decoding import GREEDY
from test_equations import GRADUAL, RAGGED, batch

from vtr_ray.models import CACHE, cache_of
from vtr_ray.reduction import Unsupported, reduce_vision_tokens
from vtr_ray.reduction.decoding import DecodeReduction

ORDER = torch.tensor([1, 0, 3, 2])
CHANGES: dict[str, Callable[[Any], None]] = {
    "reorder_cache": lambda cache: cache.reorder_cache(ORDER),
    "twice": lambda cache: [cache.reorder_cache(order) for order in (ORDER, torch.tensor([2, 3, 0, 1]))],
    "batch_select_indices": lambda cache: cache.batch_select_indices(ORDER),
    "select and repeat": lambda cache: (
        cache.batch_select_indices(torch.tensor([0, 1])),
        cache.batch_repeat_interleave(2),
    ),
    "by hand": lambda cache: [
        (setattr(layer, "keys", layer.keys[ORDER]), setattr(layer, "values", layer.values[ORDER]))
        for layer in cache.layers
    ],
}


def step(mask: torch.Tensor) -> dict[str, torch.Tensor]:
    mask = torch.cat([mask, torch.ones(4, 1, dtype=torch.long)], dim=1)
    ids = torch.full((4, 1), 7)
    return {"input_ids": ids, "attention_mask": mask, "position_ids": mask.sum(1, keepdim=True) - 1}


@pytest.mark.parametrize("decode", [None, DecodeReduction(every=1, keep=0.5)], ids=["plain", "evicting"])
@pytest.mark.parametrize("change", CHANGES)
def test_rows_that_changed_places_are_refused(
    tiny_llava: Any, change: str, decode: DecodeReduction | None
) -> None:
    """After the prefill, and after a step; taking tokens back is not meant."""
    inputs, _ = batch(RAGGED, "left")
    first = step(inputs["attention_mask"])
    second = step(first["attention_mask"])
    with torch.no_grad(), reduce_vision_tokens(tiny_llava, GRADUAL, decode=decode):
        for steps in ([], [first]):
            cache = cache_of(tiny_llava(**inputs, use_cache=True))
            for call in steps:
                tiny_llava(**call, **{CACHE: cache})
            CHANGES[change](cache)
            for _ in range(2):  # refused again and again
                with pytest.raises(Unsupported, match="keys were replaced"):
                    tiny_llava(**(second if steps else first), **{CACHE: cache})
        if decode is None:
            cache = cache_of(tiny_llava(**inputs, use_cache=True))
            once = tiny_llava(**first, **{CACHE: cache}).logits
            cache.crop(-1)
            assert torch.equal(tiny_llava(**first, **{CACHE: cache}).logits, once)


def test_a_beam_searchs_cache_is_not_reordered_after_it(tiny_llava: Any) -> None:
    """Inside, beams change places; the cache it returns goes on, and a user's reordering is seen."""
    inputs, _ = batch(RAGGED, "left")
    options = {"num_beams": 3, "return_dict_in_generate": True, **GREEDY}
    with torch.no_grad(), reduce_vision_tokens(tiny_llava, GRADUAL):
        cache = cache_of(tiny_llava.generate(**inputs, **options))
        tiny_llava(input_ids=torch.full((12, 1), 7), **{CACHE: cache})
        cache.reorder_cache(torch.arange(12).flip(0))
        with pytest.raises(Unsupported, match="keys were replaced"):
            tiny_llava(input_ids=torch.full((12, 1), 7), **{CACHE: cache})
        ids = torch.full((4, 60), 7)
        with pytest.raises(Unsupported, match="keys were replaced"):
            tiny_llava.generate(input_ids=ids, **{CACHE: cache}, **options)


@pytest.mark.parametrize("generating", [True, False])
def test_a_context_keeps_no_cache_that_its_user_has_let_go(tiny_llava: Any, generating: bool) -> None:
    inputs, _ = batch(RAGGED, "left")
    caches = []
    with torch.no_grad(), reduce_vision_tokens(tiny_llava, GRADUAL) as reduction:
        for _ in range(3):
            if generating:
                out = tiny_llava.generate(**inputs, **GREEDY, return_dict_in_generate=True)
            else:
                out = tiny_llava(**inputs, use_cache=True)
            caches.append(weakref.ref(cache_of(out).layers[0].keys))
            del out
            gc.collect()
        assert [cache() for cache in caches] == [None] * 3
        assert reduction.kept[-1].shape == (4, GRADUAL.counts(32)[-1])
