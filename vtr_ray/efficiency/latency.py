"""Measured prefill and decode times: warm-up, synchronised clock, turns until the order is told apart."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Hashable, Sequence
from itertools import pairwise
from typing import Any, TypeVar

import torch

from vtr_ray import strategies
from vtr_ray.efficiency.flops import count_flops
from vtr_ray.efficiency.times import Latency
from vtr_ray.efficiency.turns import Turns, all_told, take_turns
from vtr_ray.models import CACHE, cache_of
from vtr_ray.reduction import reduce_vision_tokens
from vtr_ray.schedule import Schedule

MEASURABLE = 20e9  # executed FLOPs of a prefill without reduction, from which on tables have times
TURNS = Turns()
_Key = TypeVar("_Key", bound=Hashable)
_Item = TypeVar("_Item")


def measurable(config: Any, vision_tokens: int, text_tokens: int) -> bool:
    """Return whether a model is large enough for tables to have its prefill times.

    Where the language model's prefill without reduction executes fewer than `MEASURABLE` FLOPs, what the
    host does for each layer and cut takes as long as the layers, and times tell nothing of a schedule: such
    models are timed only by `vtr-ray bench`, or where a limit in milliseconds asks for it.
    """
    none = strategies.none(config.get_text_config(decoder=True).num_hidden_layers)
    flops = count_flops(config, none, vision_tokens, text_tokens, "executed", logits_to_keep=1)
    return flops.decoder >= MEASURABLE


def work_of(schedule: Schedule, vision_tokens: int) -> Hashable:
    """Return what a schedule's time depends on: counts, ranking and positions, as far as they do anything.

    Schedules with equal works take equally long, whatever a clock says.
    """
    counts = tuple(schedule.counts(vision_tokens))
    chooses = any(0 < after < before for before, after in pairwise(counts))
    cuts = counts[-1] < vision_tokens
    return counts, schedule.ranking if chooses else None, schedule.positions if cuts else None


def once_each(
    keys: Sequence[_Key], items: Sequence[_Item], run: Callable[[list[_Item]], Sequence[Any]]
) -> list[Any]:
    """Return what `run` gives for the items, of equal keys run once and shared."""
    first: dict[_Key, int] = {}
    for place, key in enumerate(keys):
        first.setdefault(key, place)
    found = dict(zip(first, run([items[place] for place in first.values()]), strict=True))
    return [found[key] for key in keys]


def prefill_times(
    model: Any,
    schedules: Sequence[Schedule],
    vision_tokens: int,
    text_tokens: int,
    batch: int = 1,
    turns: Turns = TURNS,
    target: float | None = None,
) -> list[Latency]:
    """Return times of the language model's prefill by schedule: layers, ranking, head on one token.

    The vision encoder is not run. The schedules take turns (`take_turns`), so that a machine that slows down
    slows all of them, until every two are told apart or a limit is reached; those whose work is the same are
    timed once and share their `Latency`. What the tokens are does not matter for the time: embeddings of
    random ones, vision before text.

    Args:
        model: a supported model, on its device.
        schedules: what to time.
        vision_tokens: input vision tokens per sample.
        text_tokens: text tokens per sample.
        batch: samples per prefill.
        turns: the limits.
        target: seconds that each is to be told apart from, too.

    Returns:
        One `Latency` per schedule, in their order.
    """
    found = language_times(model, schedules, vision_tokens, text_tokens, 1, batch, turns, target)
    return [prefill for prefill, _ in found]


def language_times(
    model: Any,
    schedules: Sequence[Schedule],
    vision_tokens: int,
    text_tokens: int,
    new_tokens: int = 5,
    batch: int = 1,
    turns: Turns = TURNS,
    target: float | None = None,
) -> list[tuple[Latency, Latency | None]]:
    """Return times as `prefill_times` does, and each turn's median over the `new_tokens - 1` tokens after it.

    None instead of the latter where there are none.
    """
    table = model.get_input_embeddings()
    generator = torch.Generator().manual_seed(0)
    shape = (batch, vision_tokens + text_tokens)
    tokens = torch.randint(0, table.num_embeddings, shape, generator=generator).to(model.device)
    vision = (torch.arange(shape[1], device=model.device) < vision_tokens).expand(shape)
    with torch.inference_mode():
        embeddings = table(tokens)

    def timed(schedule: Schedule) -> tuple[float, ...]:
        moments = []
        with torch.inference_mode(), reduce_vision_tokens(model, schedule, vision_mask=vision):
            synchronise(model.device)
            moments.append(time.perf_counter())
            output = model(inputs_embeds=embeddings, use_cache=True, logits_to_keep=1)
            synchronise(model.device)
            moments.append(time.perf_counter())
            for _ in range(new_tokens - 1):
                held = {CACHE: cache_of(output)}
                output = model(inputs_embeds=embeddings[:, -1:], use_cache=True, logits_to_keep=1, **held)
                synchronise(model.device)
                moments.append(time.perf_counter())
        return tuple(after - before for before, after in pairwise(moments))

    def run(different: list[Schedule]) -> list[tuple[Latency, Latency | None]]:
        rows = [lambda schedule=schedule: timed(schedule) for schedule in different]
        return [in_latencies(runs, turns) for runs in take_turns(rows, told_by_prefill(turns, target), turns)]

    return once_each([work_of(schedule, vision_tokens) for schedule in schedules], schedules, run)


def told_by_prefill(
    turns: Turns, target: float | None = None
) -> Callable[[Sequence[Sequence[Sequence[float]]]], bool]:
    """Return the test that ends turns: whether the prefills, each run's first time, are told apart."""
    return lambda rows: all_told([[run[0] for run in runs] for runs in rows], len(turns.looks), target)


def in_latencies(runs: Sequence[Sequence[float]], turns: Turns) -> tuple[Latency, Latency | None]:
    """Return the prefills of the runs, and each turn's median of the later tokens; None: there are none."""
    looks = len(turns.looks)
    steps = tuple(statistics.median(run[1:]) for run in runs if len(run) > 1)
    return Latency(tuple(run[0] for run in runs), looks), Latency(steps, looks) if steps else None


def synchronise(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
