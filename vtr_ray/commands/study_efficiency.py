"""The study of what methods and attention kernels cost on the clock."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

from vtr_ray import strategies
from vtr_ray.commands.bench import environment
from vtr_ray.commands.named import schedule_of
from vtr_ray.commands.study_job import Job
from vtr_ray.commands.study_searches import fixed, g_search, matching, named, one_cut
from vtr_ray.efficiency import count_flops
from vtr_ray.efficiency.bench import Measured, Protocol, flash_only, measure
from vtr_ray.efficiency.vision import default_sample
from vtr_ray.errors import InputError, first_line
from vtr_ray.models import load_model
from vtr_ray.schedule import Schedule
from vtr_ray.studies.efficiency import FLASH, FLASH_ATTENTION, Timed, Times, Where, clocked
from vtr_ray.studies.finding import Finding
from vtr_ray.studies.methods import DROP, G_SEARCH, NONE, ONE_CUT, P_SIGMOID, fastv_name

_KERNELS = {"eager": "eager", "SDPA": "sdpa", FLASH: "sdpa", FLASH_ATTENTION: "flash_attention_2"}
_TEXT_TOKENS = 75  # the paper's protocol: so many in and five out


def efficiency(job: Job) -> Finding:
    """Times all methods on the model's kernel, and what was searched on every kernel, in turns."""
    layers = job.model.num_layers()
    searched, missing = _searched(job, layers)
    methods: dict[str, Schedule | None] = {NONE: None}
    methods |= {name: one.schedule for name, one in fixed(layers).items()}
    methods |= {fastv_name(DROP): strategies.fastv(layers, DROP), **searched}
    for name, found in searched.items():
        cut = one_cut(job, f"{name}, {ONE_CUT}", found)
        methods |= {title: one.schedule for title, one in cut.items() if title not in methods}
    with job.console.status("timing"):
        model, _ = load_model(job.model.path, job.model.dtype, job.model.attn, "auto")
        tokens, images = default_sample(model.config)
        protocol = Protocol(
            tokens,
            _TEXT_TOKENS,
            batch=job.options.timed_batch,
            images=images,
            repeats=job.options.repeats,
        )
        kernels, left_out = _usable(model, protocol)
        rows: dict[str, tuple[str, str]] = {name: (name, job.model.attn) for name in methods}
        schedules, around = dict(methods), {}
        for kernel in kernels:
            for name, schedule in {NONE: None, **searched}.items():
                row = f"{name}, {kernel}"
                rows[row], schedules[row] = (name, kernel), schedule
                around[row] = partial(_on, model, kernel)
        measured = measure(model, schedules, protocol, around)
    timed = {row: _timed(*rows[row], one, model.config, protocol) for row, one in measured.items()}
    facts = environment(model, job.model.attn)
    threads = f", {facts['threads']} thread{'s' * (facts['threads'] > 1)}" if facts["threads"] else ""
    versions = ", ".join(f"{name} {facts['versions'][name]}" for name in ("torch", "transformers"))
    where = Where(
        job.model.model,
        sum(parameter.numel() for parameter in model.parameters()),
        f"{facts['device']}{threads}, {versions}, {facts['dtype']}, {facts['attention']} attention, batch "
        f"{protocol.batch}, {tokens} vision and {_TEXT_TOKENS} text tokens in, {protocol.new_tokens} out, "
        f"encoder included, median of {protocol.repeats}",
        [*left_out, *missing],
    )
    return clocked([timed[name] for name in methods], [timed[row] for row in around], where)


def _searched(job: Job, layers: int) -> tuple[dict[str, Schedule], list[str]]:
    """Schedule files and what named runs of the model found, by name; a sentence for each search without.

    Where nothing is named, what G-Search finds.
    """
    files = [path for path in job.options.runs if path.is_file()]
    folders = tuple(path for path in job.options.runs if path not in files)
    job = replace(job, options=replace(job.options, runs=folders))
    found: dict[str, Schedule] = {}
    for command, name in (("gsearch", G_SEARCH), ("psigmoid", P_SIGMOID)):
        for run, settings in named(job, command, job.model.model):
            if command == "gsearch" or settings.parameters["match"] == matching(DROP):
                found.setdefault(name, job.given(run).schedule)
    for path in files:
        if path.stem in (*found, NONE, *fixed(layers), fastv_name(DROP)):
            raise InputError(f"{path} is the second schedule called {path.stem}; rename it")
        found[path.stem] = schedule_of(str(path), layers, job.model.model, job.options.force)
    if not found:
        found[G_SEARCH] = job.given(g_search(job)).schedule
    ways = {G_SEARCH: "vtr-ray gsearch", P_SIGMOID: f"vtr-ray psigmoid --match {matching(DROP)}"}
    missing = [
        f"{name} is not timed: name a run of `{way}` on {job.model.model}."
        for name, way in ways.items()
        if name not in found
    ]
    return found, missing


def _usable(model: Any, protocol: Protocol) -> tuple[list[str], list[str]]:
    """Kernels that run the model here, untouched and reduced; of the others a sentence each."""
    layers = model.config.get_text_config(decoder=True).num_hidden_layers
    once = replace(protocol, new_tokens=2, warmup=0, repeats=1)
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
    before, wanted = model.config._attn_implementation, _KERNELS[kernel]
    # Else transformers may fetch a build of its own from the hub.
    if kernel == FLASH_ATTENTION and importlib.util.find_spec("flash_attn") is None:
        raise ImportError("flash_attn is not installed")
    try:
        model.set_attn_implementation(wanted)
        if model.config._attn_implementation != wanted:  # of some families only a warning says so
            raise ValueError("the model's attention cannot be changed")
        with flash_only() if kernel == FLASH else nullcontext():
            yield
    finally:
        model.set_attn_implementation(before)


def _timed(method: str, kernel: str, one: Measured, config: Any, protocol: Protocol) -> Timed:
    tokens, text = protocol.vision_tokens, protocol.text_tokens
    flops = count_flops(config, one.schedule, tokens, text, "paper", images=protocol.images)
    assert one.decode is not None  # the protocol has new tokens
    return Timed(
        method,
        kernel,
        one.schedule.memory_cost,
        flops.total / 1e12,
        Times.of(one.prefill.seconds),
        Times.of(one.decode.seconds),
    )
