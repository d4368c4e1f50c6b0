from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from tiny_families import LAYERS, Case, cases, tiny_config, tiny_model

from vtr_ray import strategies
from vtr_ray.efficiency.bench import Protocol, clear_peak, measure, peak_bytes, sampled_p_sigmoid
from vtr_ray.efficiency.inputs import dummy_inputs
from vtr_ray.errors import InputError

ONE_EACH = list({case.family: case for case in cases() if case.tokens >= 4}.values())


@pytest.mark.parametrize("encoder", [True, False], ids=["encoder", "no_encoder"])
@pytest.mark.parametrize("case", ONE_EACH, ids=lambda case: case.name)
def test_every_family_runs_and_the_encoder_only_where_asked(case: Case, encoder: bool) -> None:
    model = tiny_model(tiny_config(case.family, case.text, "sdpa"))
    lengths: list[int] = []
    model.lm_head.register_forward_pre_hook(lambda _, args: lengths.append(args[0].shape[1]))
    encoded: list[int] = []
    tower = next(
        m for n, m in model.named_modules() if n.split(".")[-1] in ("vision_tower", "visual", "vision_model")
    )
    tower.register_forward_hook(lambda *_: encoded.append(1))
    protocol = Protocol(
        case.tokens, 11, new_tokens=3, batch=2, images=case.pictures, encoder=encoder, warmup=1, repeats=2
    )
    found = measure(model, {"untouched": None}, protocol)["untouched"]
    assert lengths == [1] * 9  # three turns: a prefill and two steps, the head on one token
    assert len(encoded) == (3 if encoder else 1)
    assert len(found.prefill.seconds) == 2 and len(found.decode.seconds) == 4
    assert found.throughput > 0
    whole = found.executed(encoder=True)
    assert (found.executed(encoder) == whole) is encoder


def test_schedules_take_turns_each_in_its_context() -> None:
    model = tiny_model(tiny_config("llava", "llama", "sdpa"))
    order: list[str] = []

    def noting(name: str) -> Any:
        @contextmanager
        def context() -> Iterator[None]:
            order.append(name)
            yield

        return context

    schedules = {"none": None, "half": strategies.fastv(LAYERS), "third": strategies.vtw(LAYERS)}
    protocol = Protocol(16, 11, new_tokens=1, warmup=1, repeats=2)
    found = measure(model, schedules, protocol, around={name: noting(name) for name in schedules})
    assert [sorted(order[at : at + 3]) for at in (0, 3, 6)] == [["half", "none", "third"]] * 3
    assert len(order) == 9 and len({order[at] for at in (0, 3, 6)}) > 1
    assert list(found) == list(schedules)
    assert found["half"].decode is None
    assert found["half"].kv_bytes < found["none"].kv_bytes
    assert found["half"].flops.total < found["none"].flops.total


def test_one_more_picture_is_one_more_in_the_inputs() -> None:
    """Vision tokens stand where the model's own placeholder check wants them; text separates pictures."""
    for case in cases():
        if case.pictures is None or len(case.pictures) < 2:
            continue
        ids = dummy_inputs(tiny_config(case.family, case.text), case.tokens, 11, 1, case.pictures)[
            "input_ids"
        ]
        vision = ids[0] >= 90
        starts = (vision & ~torch.cat([torch.tensor([False]), vision[:-1]])).sum()
        assert (int(vision.sum()), int(starts)) == (case.tokens, len(case.pictures))


@pytest.mark.parametrize("layers", [12, 16, 24, 32, 40])
@pytest.mark.parametrize("cost", [0.34, 0.6])
def test_a_sampled_curve_has_the_memory_cost_and_holds_between(layers: int, cost: float) -> None:
    schedule = sampled_p_sigmoid(layers, cost)
    assert schedule.memory_cost == pytest.approx(cost, abs=1e-9)
    rates = schedule.rates
    changes = {layer + 1 for layer in range(1, layers) if rates[layer] != rates[layer - 1]}
    assert changes <= set(range(3, layers + 1, 3))
    assert len(changes) >= layers // 6  # flat only where the curve is at 1


def test_mistakes_are_one_line() -> None:
    with pytest.raises(InputError, match="batch is 0"):
        Protocol(16, batch=0)
    with pytest.raises(InputError, match=r"use 0\.125 to 1"):
        sampled_p_sigmoid(16, 0.1)
    with pytest.raises(InputError, match="give the images"):
        dummy_inputs(tiny_config("llava_next", "mistral"), 70, 11)
    with pytest.raises(InputError, match="do not separate 1 images"):
        dummy_inputs(tiny_config("llava", "llama"), 16, 0)


def test_peak_memory_sees_what_was_freed() -> None:
    device = torch.device("cpu")
    clear_peak(device)
    before = peak_bytes(device)
    if before is None:
        pytest.skip("no /proc here")
    block = torch.ones(64 * 2**20 // 4)
    del block
    assert peak_bytes(device) - before > 32 * 2**20
