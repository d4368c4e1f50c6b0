from __future__ import annotations

import statistics

import pytest
from tiny_families import LAYERS, tiny_config

from vtr_ray import strategies
from vtr_ray.efficiency import count_flops, read_config
from vtr_ray.efficiency.estimate import (
    Load,
    Speed,
    calibrate,
    estimate_search,
    expected_trials,
    speed_of,
)
from vtr_ray.errors import InputError
from vtr_ray.schedule import Schedule
from vtr_ray.search import GSearch


@pytest.mark.parametrize(
    ("layers", "tokens", "stride", "initial", "iterations"),
    [(12, 144, 3, 10, 5), (32, 576, 3, 10, 5), (24, 1280, 2, 4, 0), (28, 729, 6, 7, 3)],
)
def test_as_many_trials_as_the_search_announces(
    layers: int, tokens: int, stride: int, initial: int, iterations: int
) -> None:
    trials = expected_trials(layers, tokens, stride, initial, iterations)
    assert len(trials) == GSearch(layers, tokens, stride, initial, iterations).total_trials
    assert {trial.num_layers for trial in trials} == {layers}


def test_the_trials_are_those_of_a_search_that_finds_the_assumed_curve() -> None:
    """A real search on a function with its cliff at the curve: mean rates within a tenth."""
    target = expected_trials(12, 144, memory_cost=0.5)[-1]

    def effectiveness(schedule: Schedule) -> float:
        short = max(want - rate for want, rate in zip(target.rates, schedule.rates, strict=True))
        return 1.0 - max(0.0, short)

    search = GSearch(12, 144)
    costs = []
    while not search.finished:
        trial = search.ask()
        costs.append(trial.schedule.memory_cost)
        search.tell(trial, effectiveness(trial.schedule))
    expected = statistics.fmean(trial.memory_cost for trial in expected_trials(12, 144, memory_cost=0.5))
    assert statistics.fmean(costs) == pytest.approx(expected, rel=0.1)


def test_the_sum_by_hand() -> None:
    """Three batches of 4 on two devices: one has two of the three."""
    config = tiny_config("llava", "llama")
    trials = [strategies.none(LAYERS), strategies.vtw(LAYERS)]
    load = Load(samples=12, vision_tokens=16, text_tokens=7, answer_tokens=2, batch=4)
    found = estimate_search(config, trials, load, Speed(1e6, "given"), devices=2, overhead=0.5)
    counts = [count_flops(config, one, 16, 9, "executed", 7, logits_to_keep=3) for one in trials]
    share = 2 / 3
    # The second one goes on from the state that enters layer 3.
    cached = counts[0].decoder + sum(counts[1].per_layer[2:-1]) + counts[1].head
    # Of 9 tokens in its last layer 3 go through it, the others give keys (24 of width 48) and values.
    last = counts[1].layers[-1]
    cached += (last.linear + last.attention) / 3 + 6 * 2 * (2 * 48 * 24)
    assert found.seconds_trials == pytest.approx(12 * cached / 1e6 * share)
    assert found.cache_ratio == pytest.approx(cached / sum(one.decoder for one in counts))
    assert found.seconds_encoding == pytest.approx(
        12 * (counts[0].encoder + counts[0].projector) / 1e6 * share
    )
    assert found.seconds_overhead == 1.0
    assert found.device_hours == pytest.approx(2 * found.seconds / 3600)


@pytest.mark.parametrize("name", ["llava", "gemma3"])
def test_calibration_measures_something(name: str) -> None:
    text = {"llava": "llama", "gemma3": "gemma3_text"}[name]
    config = tiny_config(name, text)
    load = Load(8, 16, 11)
    speed = calibrate(config, load, expected_trials(LAYERS, 16, memory_cost=0.7), repeats=2)
    assert 1e5 < speed.flops < 1e15
    assert "4 layers, batch 8" in speed.source
    assert config.get_text_config().num_hidden_layers == LAYERS  # its own copy


def test_devices_and_mistakes() -> None:
    assert speed_of("RTX 4090").flops == pytest.approx(0.4 * 165e12)
    with pytest.raises(InputError, match=r"'abacus'.*--tflops-per-gpu"):
        speed_of("abacus")
    config, trials = read_config("llava-1.5-7b"), [strategies.none(32)]
    with pytest.raises(InputError, match="number of samples is 0"):
        estimate_search(config, trials, Load(0, 576, 75), Speed(1e12, ""))
