"""Prefill and decode times, throughput and peak memory of a model under schedules, timed in turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from vtr_ray import strategies
from vtr_ray.efficiency.flops import Flops, count_flops
from vtr_ray.efficiency.inputs import dummy_inputs
from vtr_ray.efficiency.latency import once_each, synchronise, work_of
from vtr_ray.efficiency.memory import kv_bytes
from vtr_ray.efficiency.times import Latency
from vtr_ray.efficiency.turns import Turns, all_told, take_turns
from vtr_ray.efficiency.workloads import Picture
from vtr_ray.errors import InputError
from vtr_ray.models import CACHE, cache_of, encode, family_of
from vtr_ray.reduction import reduce_vision_tokens
from vtr_ray.schedule import Schedule


@dataclass(frozen=True)
class Protocol:
    """What is timed. The paper's: 75 text tokens in, 5 out.

    vision_tokens, text_tokens, images: of one sample, as `count_flops` takes them. new_tokens: decoded after
    the prefill, its own token included. batch: equal samples. encoder: whether the prefill includes encoder
    and projector. flash: PyTorch's flash kernel or an error, for a model with SDPA attention. warmup:
    untimed turns. repeats: timed turns at most; fewer where all prefills are told apart before, or `seconds`
    have passed.
    """

    vision_tokens: int
    text_tokens: int = 75
    new_tokens: int = 5
    batch: int = 1
    images: Sequence[Picture] | None = None
    encoder: bool = True
    flash: bool = False
    warmup: int = 2
    repeats: int = 32
    seconds: float = 300.0

    def __post_init__(self) -> None:
        for name in ("text_tokens", "new_tokens", "batch", "repeats"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; use at least 1.")
        assert self.turns

    @property
    def turns(self) -> Turns:
        """The limits of the turns."""
        return Turns(self.warmup, self.repeats, self.seconds)


@dataclass(frozen=True)
class Measured:
    """One schedule's figures; times in seconds.

    prefill: one forward, the head on the last token. decode: one further token. throughput: new tokens per
    second of the whole batch, prefill included; 0 where only the prefill ran. peak: bytes at most, weights
    included; None where the system does not tell.
    """

    schedule: Schedule
    flops: Flops
    kv_bytes: int
    prefill: Latency
    decode: Latency | None
    throughput: float
    peak: int | None

    def executed(self, encoder: bool) -> float:
        """FLOPs of what the prefill's clock saw, per sample."""
        return self.flops.total if encoder else self.flops.decoder


def sampled_p_sigmoid(num_layers: int, memory_cost: float, k: float = 0.3, stride: int = 3) -> Schedule:
    """P-Sigmoid at layers 3, 3 + stride, ...; those between hold the earlier rate, as G-Search's do.

    The budget is solved so that the sampled schedule has the memory cost. Steepness is that of `k` at 32
    layers.

    Raises:
        InputError: a memory cost that it cannot reach.
    """
    from scipy.optimize import brentq

    def sampled(budget: float) -> Schedule:
        curve = strategies.p_sigmoid(num_layers, budget, k * 32 / num_layers).rates
        held = [max(2, 2 + (layer - 2) // stride * stride) for layer in range(num_layers)]
        return Schedule.from_rates([1.0 if layer < 2 else curve[held[layer]] for layer in range(num_layers)])

    if not sampled(0.0).memory_cost <= memory_cost <= 1.0:
        raise InputError(
            f"A memory cost of {memory_cost} is out of reach; use {sampled(0.0).memory_cost:.3f} to 1."
        )
    return sampled(float(brentq(lambda b: sampled(b).memory_cost - memory_cost, 0.0, 1.0, xtol=1e-12)))


@torch.inference_mode()
def measure(
    model: Any,
    schedules: Mapping[str, Schedule | None],
    protocol: Protocol,
    around: Mapping[str, Callable[[], AbstractContextManager[Any]]] | None = None,
) -> dict[str, Measured]:
    """Times a model under schedules; None is the untouched model. They take turns, see `take_turns`.

    around: for a schedule's name, a context that its runs happen in.

    Schedules whose work is the same, outside such contexts, are timed once and share their times. Inputs are
    random (`dummy_inputs`): speed does not depend on the values. Entering the reduction's context
    is not timed.

    Raises:
        InputError: a family or attention that is not supported, images that give other tokens.
    """
    config = model.config
    inputs = dummy_inputs(
        config,
        protocol.vision_tokens,
        protocol.text_tokens,
        protocol.batch,
        protocol.images,
        model.device,
        model.dtype,
    )
    if not protocol.encoder:
        inputs = _encoded(model, inputs)
    around, turns = around or {}, protocol.turns

    def key(name: str) -> object:
        schedule = schedules[name]
        return name if schedule is None or name in around else work_of(schedule, protocol.vision_tokens)

    def row(name: str) -> Callable[[], _Run]:
        def run() -> _Run:
            with around.get(name, nullcontext)():
                return _run(model, schedules[name], inputs, protocol)

        return run

    def told(rows: Sequence[Sequence[_Run]]) -> bool:
        return all_told([[run.prefill for run in runs] for runs in rows], len(turns.looks))

    def timed(names: list[str]) -> list[list[_Run]]:
        return take_turns([row(name) for name in names], told, turns)

    names = list(schedules)
    runs = dict(zip(names, once_each([key(name) for name in names], names, timed), strict=True))
    looks = len(turns.looks)
    none = strategies.none(config.get_text_config(decoder=True).num_hidden_layers)
    return {
        name: _measured(config, schedule or none, protocol, runs[name], model.dtype, looks)
        for name, schedule in schedules.items()
    }


@dataclass(frozen=True)
class _Run:
    prefill: float
    steps: tuple[float, ...]
    peak: int | None


def _run(model: Any, schedule: Schedule | None, inputs: dict[str, Any], protocol: Protocol) -> _Run:
    reduction: AbstractContextManager[Any] = nullcontext()
    if schedule is not None:
        reduction = reduce_vision_tokens(model, schedule)
    clear_peak(model.device)
    with reduction, flash_only() if protocol.flash else nullcontext():
        synchronise(model.device)
        start = time.perf_counter()
        output = model(**inputs, use_cache=True, logits_to_keep=1)
        token = output.logits[:, -1:].argmax(-1)
        synchronise(model.device)
        moments = [start, time.perf_counter()]
        for _ in range(protocol.new_tokens - 1):
            # No padding, so no mask: Qwen-VL would take a whole one's positions for the new token's.
            held = {CACHE: cache_of(output)}
            output = model(input_ids=token, use_cache=True, logits_to_keep=1, **held)
            token = output.logits[:, -1:].argmax(-1)
            synchronise(model.device)
            moments.append(time.perf_counter())
    taken = [after - before for before, after in pairwise(moments)]
    return _Run(taken[0], tuple(taken[1:]), peak_bytes(model.device))


def _measured(
    config: Any, schedule: Schedule, protocol: Protocol, runs: list[_Run], dtype: torch.dtype, looks: int
) -> Measured:
    steps = tuple(step for run in runs for step in run.steps)
    whole = Latency(tuple(run.prefill + sum(run.steps) for run in runs)).median
    peaks = [run.peak for run in runs if run.peak is not None]
    text = protocol.text_tokens
    return Measured(
        schedule=schedule,
        flops=count_flops(
            config,
            schedule,
            protocol.vision_tokens,
            text,
            "executed",
            images=protocol.images,
            logits_to_keep=1,
        ),
        kv_bytes=protocol.batch
        * sum(
            kv_bytes(config, schedule, protocol.vision_tokens, text + protocol.new_tokens - 1, dtype.itemsize)
        ),
        prefill=Latency(tuple(run.prefill for run in runs), looks),
        decode=Latency(steps) if steps else None,
        throughput=protocol.batch * protocol.new_tokens / whole,
        peak=max(peaks) if peaks else None,
    )


def _encoded(model: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    """The inputs with what encoder and projector make of the pixels, once."""
    family, features = family_of(model), encode(model, inputs)
    if not features.outputs:
        return inputs
    pixels = {*family.image_inputs, *family.video_inputs}
    kept = {name: value for name, value in inputs.items() if name not in pixels}
    return {**kept, **features.grids, "mm_encoder_outputs": dict(features.outputs)}


@contextmanager
def flash_only() -> Iterator[None]:
    """Within it, SDPA is PyTorch's flash kernel or an error."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        yield


def clear_peak(device: torch.device) -> None:
    """Forget the highest memory use so far."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # Linux: resets VmHWM


def peak_bytes(device: torch.device) -> int | None:
    """Highest memory use since `clear_peak`: of the device, on a CPU of the process. None: unknown."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    found = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")]
    return 1024 * int(found[0]) if found else None
