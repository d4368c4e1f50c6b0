"""Running only layers i..L from the state that enters layer i, against the whole model, every family.

The whole model under the same schedule is the oracle here: the matrix holds it to the masked full-length one.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_matrix import layers_of, samples
from toys import TOYS, inputs_of, model_of, prompts_of

from vtr_ray.errors import InputError
from vtr_ray.models import CACHE, cache_of
from vtr_ray.reduction import reduce_vision_tokens
from vtr_ray.reduction.prefix import Prefix
from vtr_ray.schedule import Schedule

pytestmark = pytest.mark.families
STEPS = 3


def searched(name: str, layer: int, rate: float, **options: Any) -> Schedule:
    """As G-Search asks: what is fixed before `layer`, then one rate."""
    fixed = [1.0 if i < TOYS[name].first else 0.8 for i in range(1, layer)]
    return Schedule.from_rates([*fixed, *[min([rate, *fixed])] * (layers_of(name) - layer + 1)], **options)


def steps(model: Any, reduction: Any, inputs: dict[str, Any], prefix: Prefix | None) -> list[torch.Tensor]:
    """Logits of a prefill and of greedy steps after it."""
    if prefix is None:
        output = model(**inputs, use_cache=True, logits_to_keep=2)
    else:
        output = reduction.resume(prefix, logits_to_keep=2, use_cache=True)
    found, mask = [output.logits], inputs.get("attention_mask", torch.ones_like(inputs["input_ids"]))
    place = inputs.get("position_ids")
    for _ in range(STEPS):
        token = found[-1][:, -1:].argmax(-1)
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        call = {"input_ids": token, "attention_mask": mask, CACHE: cache_of(output)}
        if place is not None:
            place = place[:, -1:] + 1
            call["position_ids"] = place
        elif model.config.model_type.startswith("qwen"):  # generate() hands them over
            counted = (mask.sum(1, keepdim=True) - 1).expand(3, -1, -1)
            call["position_ids"] = counted + model.model.rope_deltas
        found.append(model(**call, logits_to_keep=1).logits)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("attn", ["sdpa", "eager"])
@pytest.mark.parametrize("name", TOYS)
@torch.inference_mode()
def test_every_layer(name: str, attn: str) -> None:
    """Cache and decode steps too; the tokens that any rate keeps at any layer."""
    model = model_of(name, attn)
    inputs = inputs_of(list(samples(name, "one", "ragged", False)), model)
    for layer in range(TOYS[name].first, layers_of(name) + 1):
        with reduce_vision_tokens(model, searched(name, layer, 0.4), capture=layer) as reduction:
            whole = model(**inputs, use_cache=True)
            prefix, kept = reduction.prefix, [k.tolist() for k in reduction.kept]
        assert prefix is not None
        before = [tensor.clone() for tensor in prefix.tensors()]
        tried = [searched(name, layer, rate) for rate in (0.4, 1.0, 0.6, 0.0)]
        late = searched(name, layer, 1.0).rates[:-1]
        tried.append(Schedule.from_rates([*late, 0.3 * late[-1]]))  # nothing is cut for a while
        for what in tried:
            with reduce_vision_tokens(model, what) as reduction:
                expected = steps(model, reduction, inputs, None)
                wanted = [k.tolist() for k in reduction.kept], reduction.positions.tolist()
            with reduce_vision_tokens(model, what) as reduction:
                found = steps(model, reduction, inputs, prefix)
                held = [k.tolist() for k in reduction.kept], reduction.positions.tolist()
            assert held == wanted
            for one, other in zip(found, expected, strict=True):
                torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
            if what is tried[0]:  # with every row's logits wanted, the same bits
                with reduce_vision_tokens(model, what) as reduction:
                    again = reduction.resume(prefix, use_cache=True)
                assert torch.equal(whole.logits, again.logits) and kept == held[0]
        after = list(prefix.tensors())
        assert len(before) == len(after) and all(map(torch.equal, before, after))


@pytest.mark.parametrize("name", ["llava", "llava-window", "qwen2.5-vl", "qwen3-vl", "gemma3-early"])
@torch.inference_mode()
def test_the_state_moves_on(name: str) -> None:
    """Captured on the way from an earlier one, teacher forcing, through a copy of every tensor."""
    model = model_of(name, "sdpa")
    batch = list(samples(name, "one", "ragged", True))
    inputs, prompt = inputs_of(batch, model), prompts_of(batch)
    first, layers = TOYS[name].first, layers_of(name)
    rates = [1.0] * (first - 1) + [0.8] * (layers - first + 1)
    with reduce_vision_tokens(model, Schedule.from_rates(rates), prompt, capture=first) as reduction:
        model(**inputs, use_cache=False)
        prefix = reduction.prefix
    for layer in range(first + 1, layers + 1):
        what = Schedule.from_rates([*rates[: layer - 1], *[0.5 * rates[-1]] * (layers - layer + 1)])
        assert prefix is not None
        copied = prefix.map(torch.Tensor.clone)
        with reduce_vision_tokens(model, what, prompt, capture=layer) as reduction:
            found = reduction.resume(copied).logits
            prefix = reduction.prefix
        with reduce_vision_tokens(model, what, prompt) as reduction:
            expected = model(**inputs, use_cache=False).logits
            real = reduction.positions >= 0
        torch.testing.assert_close(found[real], expected[real], atol=1e-5, rtol=1e-5)
        assert prefix is not None and prefix.layer == layer and not prefix.held


@pytest.mark.parametrize(
    "options",
    [{"ranking": "last_token"}, {"ranking": "next_layer", "positions": "renumber"}, {"ranking": "random"}],
    ids=lambda options: options["ranking"],
)
@torch.inference_mode()
def test_every_ranking(options: dict[str, Any]) -> None:
    model = model_of("llava", "sdpa")
    inputs = inputs_of(list(samples("llava", "two", "ragged", False)), model)
    rates = [[1, 0.7, 0.5, 0.5, 0.2], [1, 0.7, 0.7, 0.3, 0.0], [1, 0.7, 0.6, 0.4, 0.4]]
    one, *others = [Schedule.from_rates(each, **options) for each in rates]
    with reduce_vision_tokens(model, one, capture=3) as reduction:
        model(**inputs, use_cache=True)
        prefix = reduction.prefix
    for other in others:
        with reduce_vision_tokens(model, other) as reduction:
            expected = steps(model, reduction, inputs, None)
        with reduce_vision_tokens(model, other) as reduction:
            found = steps(model, reduction, inputs, prefix)
        for left, right in zip(found, expected, strict=True):
            torch.testing.assert_close(left, right, atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_what_a_prefix_does_not_serve() -> None:
    model = model_of("llava", "sdpa")
    inputs = inputs_of(list(samples("llava", "one", "one", False)), model)
    one = Schedule.from_rates([1, 1, 0.5, 0.5, 0.5])
    with pytest.raises(InputError, match="from 2 to 5"), reduce_vision_tokens(model, one, capture=6):
        pass
    with reduce_vision_tokens(model, one, capture=4) as reduction:
        model(**inputs, use_cache=False)
        prefix = reduction.prefix
        assert prefix is not None
        with pytest.raises(InputError, match="no keys and values"):
            reduction.resume(prefix, use_cache=True)
    for other in (Schedule.from_rates([1, 1, 0.4, 0.4, 0.4]), Schedule.from_rates(one.rates, "last_token")):
        with (
            reduce_vision_tokens(model, other) as reduction,
            pytest.raises(InputError, match="differs before layer 4"),
        ):
            reduction.resume(prefix)
