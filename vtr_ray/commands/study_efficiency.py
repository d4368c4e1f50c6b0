"""The study of what methods and attention kernels cost on the clock."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

from vtr_ray import strategies
from vtr_ray.commands.bench import environment
from vtr_ray.commands.named import given_schedule
from vtr_ray.commands.study_job import Job
from vtr_ray.commands.study_searches import DROP, fastv_name, fixed, g_search, named
from vtr_ray.efficiency import count_flops
from vtr_ray.efficiency.bench import Measured, Protocol, flash_only, measure
from vtr_ray.efficiency.vision import default_sample
from vtr_ray.errors import first_line
from vtr_ray.models import load_model
from vtr_ray.schedule import Schedule
from vtr_ray.studies.efficiency import FLASH, Timed, Where, clocked
from vtr_ray.studies.finding import Finding
from vtr_ray.studies.methods import G_SEARCH, NONE, P_SIGMOID

_KERNELS = {"eager": "eager", "SDPA": "sdpa", FLASH: "sdpa", "FlashAttention2": "flash_attention_2"}
_TEXT_TOKENS = 75  # the paper's protocol: one sample, so many in and five out


def efficiency(job: Job) -> Finding:
    """Times all methods on the model's kernel, and what was searched on every kernel, in turns."""
    searched = _searched(job)
    layers = job.model.num_layers()
    methods: dict[str, Schedule | None] = {NONE: None}
    methods |= {name: one.schedule for name, one in fixed(layers).items()}
    methods |= {fastv_name(DROP): strategies.fastv(layers, DROP), **searched}
    with job.console.status("timing"):
        model, _ = load_model(job.model.path, job.model.dtype, job.model.attn, "auto")
        tokens, images = default_sample(model.config)
        protocol = Protocol(tokens, _TEXT_TOKENS, images=images, repeats=job.options.repeats)
        kernels, left_out = _usable(model, protocol)
        rows: dict[str, tuple[str, str]] = {name: (name, job.model.attn) for name in methods}
        schedules, around = dict(methods), {}
        for kernel in kernels:
            for name, schedule in {NONE: None, **searched}.items():
                row = f"{name}, {kernel}"
                rows[row], schedules[row] = (name, kernel), schedule
                around[row] = partial(_on, model, kernel)
        measured = measure(model, schedules, protocol, around)
    timed = {
        row: _timed(*rows[row], one, partial(_tflops, model.config, protocol))
        for row, one in measured.items()
    }
    facts = environment(model, job.model.attn)
    threads = f", {facts['threads']} threads" if facts["threads"] else ""
    where = Where(
        job.model.model,
        sum(parameter.numel() for parameter in model.parameters()),
        f"{facts['device']}{threads}, {facts['dtype']}, {facts['attention']} attention, one sample of "
        f"{tokens} vision and {_TEXT_TOKENS} text tokens, {protocol.new_tokens} out, encoder included, "
        f"median of {protocol.repeats}",
        left_out,
    )
    return clocked([timed[name] for name in methods], [timed[row] for row in around], where)


def _searched(job: Job) -> dict[str, Schedule]:
    """What named runs of the model found; without any, what G-Search finds."""
    found: dict[str, Schedule] = {}
    for command, name in (("gsearch", G_SEARCH), ("psigmoid", P_SIGMOID)):
        for run, settings in named(job, command, job.model.model):
            if command == "gsearch" or settings.parameters["match"] == f"fastv:{DROP:g}":
                found.setdefault(name, given_schedule(run).schedule)
    return found or {G_SEARCH: given_schedule(g_search(job)).schedule}


def _usable(model: Any, protocol: Protocol) -> tuple[list[str], list[str]]:
    """Kernels that run the model here, untouched and reduced; of the others a sentence each."""
    layers = model.config.get_text_config(decoder=True).num_hidden_layers
    once = Protocol(
        protocol.vision_tokens, _TEXT_TOKENS, new_tokens=2, images=protocol.images, warmup=0, repeats=1
    )
    usable, left_out = [], []
    for kernel in _KERNELS:
        try:
            measure(model, {NONE: None, "": strategies.fastv(layers)}, once, _everywhere(model, kernel))
        except (ImportError, ValueError, RuntimeError) as error:
            left_out.append(f"{kernel} does not run here: {first_line(error).rstrip('.')}.")
        else:
            usable.append(kernel)
    return usable, left_out


def _everywhere(model: Any, kernel: str) -> Mapping[str, Callable[[], AbstractContextManager[Any]]]:
    return dict.fromkeys((NONE, ""), partial(_on, model, kernel))


@contextmanager
def _on(model: Any, kernel: str) -> Iterator[None]:
    """The model on a kernel; afterwards on its own again."""
    before = model.config._attn_implementation
    model.set_attn_implementation(_KERNELS[kernel])
    try:
        with flash_only() if kernel == FLASH else nullcontext():
            yield
    finally:
        model.set_attn_implementation(before)


def _timed(method: str, kernel: str, one: Measured, tflops: Callable[[Schedule], float]) -> Timed:
    decode = one.decode.seconds if one.decode is not None else ()
    return Timed(method, kernel, one.schedule.memory_cost, tflops(one.schedule), one.prefill.seconds, decode)


def _tflops(config: Any, protocol: Protocol, schedule: Schedule) -> float:
    flops = count_flops(
        config, schedule, protocol.vision_tokens, protocol.text_tokens, "paper", images=protocol.images
    )
    return flops.total / 1e12
