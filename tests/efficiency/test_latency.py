from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from vtr_ray import strategies
from vtr_ray.efficiency import Latency, prefill_times
from vtr_ray.schedule import Schedule


def test_median_and_spread() -> None:
    latency = Latency((5.0, 1.0, 2.0, 3.0, 4.0))
    assert (latency.median, latency.spread) == (3.0, 2.0)
    assert Latency((1.5,)).spread == 0.0


def test_one_latency_per_schedule_in_order(tiny_llava: Any) -> None:
    calls: list[int] = []
    tiny_llava.lm_head.register_forward_pre_hook(lambda _, args: calls.append(args[0].shape[1]))
    schedules = [strategies.none(5), strategies.fastv(5)]
    times = prefill_times(
        tiny_llava, schedules, vision_tokens=16, text_tokens=4, batch=2, warmup=1, repeats=3
    )
    assert [len(latency.seconds) for latency in times] == [3, 3]
    assert len(calls) == 8 and set(calls) == {1}
    assert all(second > 0 for latency in times for second in latency.seconds)


@pytest.mark.slow
def test_keeping_half_is_clearly_faster(llava_factory: Callable[..., Any]) -> None:
    """The gain exists on the clock, ranking included: half the tokens from layer 3 on, or a cut a layer."""
    model = llava_factory(
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=12,
        num_key_value_heads=4,
        initializer_range=0.1,
    )
    half = Schedule.from_rates([1, 1] + [0.5] * 10)
    gradual = Schedule.from_rates([1, 1] + [0.95 - 0.1 * i for i in range(10)])  # mean 0.5
    full, fast, slope = prefill_times(
        model, [strategies.none(12), half, gradual], vision_tokens=144, text_tokens=20, batch=16, repeats=7
    )
    assert fast.median < 0.8 * full.median
    assert slope.median < 0.8 * full.median
