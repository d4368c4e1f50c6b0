from __future__ import annotations

from typing import Any

from vtr_ray import embedded, strategies
from vtr_ray.efficiency import Latency, prefill_times, read_config
from vtr_ray.efficiency.latency import language_times, measurable
from vtr_ray.efficiency.turns import Turns


def test_median_and_spread() -> None:
    latency = Latency((5.0, 1.0, 2.0, 3.0, 4.0))
    assert (latency.median, latency.spread) == (3.0, 2.0)
    assert Latency((1.5,)).spread == 0.0


def test_one_latency_per_schedule_in_order(tiny_llava: Any) -> None:
    calls: list[int] = []
    tiny_llava.lm_head.register_forward_pre_hook(lambda _, args: calls.append(args[0].shape[1]))
    schedules = [strategies.none(5), strategies.fastv(5)]
    schedules.append(strategies.random(strategies.none(5), 3))  # the first's work
    times = prefill_times(tiny_llava, schedules, vision_tokens=16, text_tokens=4, batch=2, turns=Turns(1, 3))
    assert [len(latency.seconds) for latency in times] == [3, 3, 3] and times[0] is times[2]
    assert len(calls) == 8 and set(calls) == {1}
    assert all(second > 0 for latency in times for second in latency.seconds)


def test_decoded_tokens_have_one_time_a_turn(tiny_llava: Any) -> None:
    schedules = [strategies.none(5), strategies.fastv(5)]
    found = language_times(tiny_llava, schedules, 16, 4, new_tokens=3, turns=Turns(0, 2))
    assert [(len(prefill.seconds), len(decode.seconds)) for prefill, decode in found] == [(2, 2)] * 2
    assert [decode for _, decode in language_times(tiny_llava, schedules, 16, 4, 1, turns=Turns(0, 1))] == [
        None
    ] * 2


def test_embedded_models_are_too_small_for_tables_to_time_and_real_ones_are_not() -> None:
    for name, tokens in (("embedded", 144), ("embedded:internvl", 80)):
        assert not measurable(read_config(embedded.checkpoint(name)), tokens, 20)
    for name, tokens in (("llava-1.5-7b", 576), ("internvl2-1b", 256)):
        assert measurable(read_config(name), tokens, 20)
