from __future__ import annotations

from typing import Any

from vtr_ray import strategies
from vtr_ray.efficiency import Latency, prefill_times


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
