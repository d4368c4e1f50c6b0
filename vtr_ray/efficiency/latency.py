"""Measured prefill and decode times: warm-up, synchronised clock, median and spread."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch

from vtr_ray.models import CACHE, cache_of
from vtr_ray.reduction import reduce_vision_tokens
from vtr_ray.schedule import Schedule


@dataclass(frozen=True)
class Latency:
    """Wall-clock times of one prefill or one decoded token, in seconds."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Median, in seconds."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """Distance between the quartiles, in seconds."""
        if len(self.seconds) < 2:
            return 0.0
        first, _, third = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return third - first


def prefill_times(
    model: Any,
    schedules: Sequence[Schedule],
    vision_tokens: int,
    text_tokens: int,
    batch: int = 1,
    warmup: int = 2,
    repeats: int = 9,
) -> list[Latency]:
    """Time of the language model's prefill under each schedule: decoder layers, ranking, head on one token.

    The vision encoder is not run. The schedules take turns, so that a machine that slows down slows all of
    them. What the tokens are does not matter for the time: embeddings of random ones, vision before text.

    Args:
        model: a supported model, on its device.
        schedules: what to time.
        vision_tokens: input vision tokens per sample.
        text_tokens: text tokens per sample.
        batch: samples per prefill.
        warmup: untimed rounds.
        repeats: timed rounds.

    Returns:
        One `Latency` per schedule, in their order.
    """
    found = language_times(model, schedules, vision_tokens, text_tokens, 1, batch, warmup, repeats)
    return [prefill for prefill, _ in found]


@torch.inference_mode()
def language_times(
    model: Any,
    schedules: Sequence[Schedule],
    vision_tokens: int,
    text_tokens: int,
    new_tokens: int = 5,
    batch: int = 1,
    warmup: int = 2,
    repeats: int = 9,
) -> list[tuple[Latency, Latency]]:
    """As `prefill_times`; and of one further token, over the `new_tokens - 1` that are decoded after it."""
    table = model.get_input_embeddings()
    generator = torch.Generator().manual_seed(0)
    shape = (batch, vision_tokens + text_tokens)
    tokens = torch.randint(0, table.num_embeddings, shape, generator=generator).to(model.device)
    embeddings = table(tokens)
    vision = (torch.arange(shape[1], device=model.device) < vision_tokens).expand(shape)
    times: list[tuple[list[float], list[float]]] = [([], []) for _ in schedules]
    for turn in range(warmup + repeats):
        for schedule, (prefills, decodes) in zip(schedules, times, strict=True):
            moments = []
            with reduce_vision_tokens(model, schedule, vision_mask=vision):
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
            if turn >= warmup:
                prefill, *rest = (after - before for before, after in pairwise(moments))
                prefills.append(prefill)
                decodes += rest
    return [(Latency(tuple(prefills)), Latency(tuple(decodes))) for prefills, decodes in times]


def synchronise(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
