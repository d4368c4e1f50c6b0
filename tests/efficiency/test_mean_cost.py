"""Costs of samples of several sizes, against a loop over the samples and today's formula for one."""

from __future__ import annotations

import math
import pickle
import random
from statistics import fmean

import pytest
from tiny_families import LAYERS, Case, cases, tiny_config

from vtr_ray import Schedule, strategies
from vtr_ray.efficiency import MeanCost, count_flops
from vtr_ray.efficiency.units import flops_text, flops_unit, significant

SCHEDULES = {
    "none": strategies.none(LAYERS),
    "fastv": strategies.fastv(LAYERS, 0.7),
    "vtw": strategies.vtw(LAYERS),
    "pdrop": strategies.pyramid_drop(LAYERS, layers=(2, 3), keep=0.4),
    "curve": strategies.p_sigmoid(LAYERS, 0.3, 1.5),
    "random": strategies.random(strategies.fastv(LAYERS, 0.7), 3),
}
ONE_EACH = list({case.family: case for case in cases() if case.tokens >= 4}.values())


@pytest.mark.parametrize("convention", ["paper", "executed"])
@pytest.mark.parametrize("case", ONE_EACH, ids=lambda case: case.family)
def test_the_mean_is_that_of_a_loop_over_the_samples(case: Case, convention: str) -> None:
    config, chance = tiny_config(case.family, case.text), random.Random(0)
    # Texts on both sides of the sliding windows; none of the samples' sizes is their mean.
    prompts = [(case.tokens * chance.choice([0, 1, 2, 5]), chance.randint(1, 60)) for _ in range(40)]
    mean = MeanCost(config, prompts)
    assert mean.varies and mean.samples == 40
    for schedule in SCHEDULES.values():
        for keep in (0, 1):
            looped = fmean(
                count_flops(config, schedule, vision, text, convention, logits_to_keep=keep).total
                for vision, text in prompts
            )
            assert mean.flops(schedule, convention, keep) == pytest.approx(looped, rel=1e-12)
        kept, layers = [], 0
        for vision, _ in prompts:
            if vision:
                kept.append(sum(count / vision for count in schedule.counts(vision)))
                layers = schedule.num_layers
        assert mean.memory_cost(schedule) == pytest.approx(sum(kept) / len(kept) / layers, rel=1e-12)


def test_equal_samples_cost_exactly_what_one_costs() -> None:
    config = tiny_config("llava", "llama")
    rates = [1, 1, 11 / 16, 7 / 16, 3 / 16][:LAYERS] + [3 / 16] * max(0, LAYERS - 5)
    schedule = Schedule.from_rates(rates)
    mean = pickle.loads(pickle.dumps(MeanCost(config, [(16, 9)] * 7)))
    assert not mean.varies and mean.samples == 7
    assert mean.tflops(schedule) == count_flops(config, schedule, 16, 9).total / 1e12
    executed = count_flops(config, schedule, 16, 9, "executed", logits_to_keep=1)
    assert mean.tflops(schedule, "executed") == executed.total / 1e12
    assert mean.memory_cost(schedule) == schedule.memory_cost
    # Of 16 tokens 0.3 keeps 5: what is kept, not the rate.
    assert mean.memory_cost(Schedule.from_rates([1.0, 1.0] + [0.3] * (LAYERS - 2))) == pytest.approx(
        (2 + (LAYERS - 2) * 5 / 16) / LAYERS
    )


def test_samples_without_vision_tokens_have_no_memory_cost() -> None:
    config, half = tiny_config("llava", "llama"), strategies.fastv(LAYERS)
    with_text_alone = MeanCost(config, [(16, 9), (0, 30)])
    assert with_text_alone.memory_cost(half) == MeanCost(config, [(16, 9)]).memory_cost(half)
    assert with_text_alone.flops(half) < MeanCost(config, [(16, 9), (16, 30)]).flops(half)
    assert MeanCost(config, [(0, 30)]).memory_cost(half) == half.memory_cost


@pytest.mark.parametrize(
    ("tera", "said"),
    [(9.198, "9.198 TFLOPs"), (24.1, "24.10 TFLOPs"), (0.0004969, "496.9 MFLOPs"), (0.002, "2.000 GFLOPs"),
     (0.99999, "1000 GFLOPs"), (3e-9, "0.003000 MFLOPs"), (123456.0, "123456 TFLOPs"), (0.0, "0 MFLOPs")],
)  # fmt: skip
def test_flops_are_said_without_powers_of_ten(tera: float, said: str) -> None:
    assert flops_text(tera) == said


def test_a_column_has_the_unit_of_its_largest_value() -> None:
    unit = flops_unit([0.0019, 0.00012, None])
    assert (unit.name, unit.macs) == ("GFLOPs", "GMACs")
    assert [unit.show(one) for one in (0.0019, 0.00012)] == ["1.900", "0.1200"]
    assert flops_unit([]).name == "TFLOPs"
    chance = random.Random(1)
    for value in (10 ** chance.uniform(-9, 6) for _ in range(300)):
        shown = significant(value)
        assert "e" not in shown and math.isclose(float(shown), value, rel_tol=5.01e-4)
