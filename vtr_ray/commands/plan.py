"""`vtr-ray plan`: what schedules and a search will cost, from a configuration alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from vtr_ray import embedded, strategies
from vtr_ray.commands.costs import (
    SampleOptions,
    check_writable,
    read_schedules,
)
from vtr_ray.efficiency import count_flops, count_parameters, kv_bytes, read_config
from vtr_ray.efficiency.bench import sampled_p_sigmoid
from vtr_ray.efficiency.estimate import (
    Estimate,
    Load,
    Speed,
    calibrate,
    estimate_search,
    expected_trials,
    speed_of,
)
from vtr_ray.efficiency.units import flops_text, flops_unit
from vtr_ray.errors import InputError
from vtr_ray.report.comparison import NO_REDUCTION
from vtr_ray.schedule import Schedule
from vtr_ray.search import GSearch
from vtr_ray.tuning.directory import write_json

_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class SearchOptions:
    """A G-Search as `vtr-ray gsearch` takes it, and what it evaluates."""

    stride: int = 3
    initial: int = 10
    iterations: int = 5
    samples: int = 1000
    batch: int = 16
    answer_tokens: int = 5


@dataclass(frozen=True)
class DeviceOptions:
    """Which devices. gpu: a name of the table; tflops: achieved by each; both None: measured here.

    expect: memory cost that the search is assumed to end with. overhead: seconds a trial.
    """

    gpus: int = 1
    gpu: str | None = None
    tflops: float | None = None
    expect: float = 0.6
    overhead: float = 0.1


def known(given: int | None, name: str, model: str) -> int:
    """A number of the search samples: as given, else of the embedded model's own, else a usual one."""
    own = {
        "samples": (embedded.SEARCH_SAMPLES, 1000),
        "text_tokens": (embedded.TEXT_TOKENS, 75),
        "answer_tokens": (embedded.ANSWER_TOKENS, 5),
    }[name]
    return own[not embedded.names(model)] if given is None else given


def plan(
    model: str,
    schedules: list[Path],
    sample: SampleOptions,
    search: SearchOptions,
    device: DeviceOptions,
    dtype: str,
    layers: bool,
    json: Path | None,
    console: Console,
    force: bool = False,
) -> dict[str, Any]:
    """Prints the plan; gives it as JSON content, and writes that to `json`.

    force: also of schedules that were found on another model.
    """
    if dtype not in _BYTES:
        raise InputError(f"dtype is {dtype!r}; use {', '.join(_BYTES)}.")
    check_writable(json)
    config = read_config(embedded.checkpoint(model))
    tokens, images = sample.of(config)
    named = read_schedules(schedules, config, model, force)
    count = named[NO_REDUCTION].num_layers
    # Its own check of every number.
    GSearch(count, max(1, tokens), search.stride, search.initial, search.iterations)
    if len(named) == 1:
        named["FastV 50 %"] = strategies.fastv(count)
        named[f"P-Sigmoid at {device.expect:g}"] = sampled_p_sigmoid(count, device.expect)
    trials = expected_trials(count, tokens, search.stride, search.initial, search.iterations, device.expect)
    load = Load(search.samples, tokens, sample.text_tokens, search.answer_tokens, search.batch, images)
    speed = _speed(device, config, load, trials)
    parameters = count_parameters(config)
    rows = {
        name: _costs(config, schedule, tokens, sample.text_tokens, images, _BYTES[dtype])
        for name, schedule in named.items()
    }
    estimate = estimate_search(config, trials, load, speed, device.gpus, device.overhead)
    weights = parameters * _BYTES[dtype]
    console.print(
        f"{model}: {parameters / 1e9:.3g} billion parameters, {_size(weights)} in {dtype}, {count} decoder "
        f"layers; a sample has {tokens} vision and {sample.text_tokens} text tokens",
        highlight=False,
    )
    console.print(_table(rows))
    if layers:
        console.print(_layers(rows, named, tokens))
    for line in _search_lines(search, device, estimate, speed, trials):
        console.print(line, highlight=False, soft_wrap=True)
    content = {
        "model": model,
        "parameters": parameters,
        "dtype": dtype,
        "weight_bytes": weights,
        "vision_tokens": tokens,
        "text_tokens": sample.text_tokens,
        "schedules": rows,
        "search": asdict(search) | asdict(device) | {"flops_per_second": speed.flops, "speed": speed.source},
        "estimate": asdict(estimate)
        | {
            "seconds": estimate.seconds,
            "device_hours": estimate.device_hours,
            "cache_ratio": estimate.cache_ratio,
        },
    }
    if json is not None:
        write_json(json.absolute(), content)
        console.print(f"Wrote {json}", soft_wrap=True, highlight=False)
    return content


def _speed(device: DeviceOptions, config: Any, load: Load, trials: list[Schedule]) -> Speed:
    if device.tflops is not None:
        if device.tflops <= 0:
            raise InputError(f"--tflops-per-gpu is {device.tflops}; use a number above 0.")
        return Speed(device.tflops * 1e12, "given")
    return speed_of(device.gpu) if device.gpu else calibrate(config, load, trials)


def _costs(config: Any, schedule: Schedule, tokens: int, text: int, images: Any, size: int) -> dict[str, Any]:
    paper = count_flops(config, schedule, tokens, text, "paper", images=images)
    executed = count_flops(config, schedule, tokens, text, "executed", images=images, logits_to_keep=1)
    kv = kv_bytes(config, schedule, tokens, text, size)
    return {
        "memory_cost": schedule.memory_cost,
        "tflops": paper.total / 1e12,
        "tmacs": paper.macs / 1e12,
        "tflops_executed": executed.total / 1e12,
        "encoder_tflops_executed": (executed.encoder + executed.projector) / 1e12,
        "kv_bytes": sum(kv),
        "layer_tflops": [flops / 1e12 for flops in paper.per_layer],
        "layer_kv_bytes": kv,
    }


def _table(rows: Mapping[str, Mapping[str, Any]]) -> Table:
    table = Table(caption_justify="left")
    unit = flops_unit(row[name] for row in rows.values() for name in ("tflops", "tflops_executed"))
    table.caption = (
        f"{unit.name}, {unit.macs}: the paper's convention; executed: all that runs in a prefill with one "
        "logit row; KV cache: of one sample"
    )
    table.add_column("schedule")
    for column in ("memory cost", unit.name, unit.macs, f"executed {unit.name}", "of it encoder", "KV cache"):
        table.add_column(column, justify="right")
    for name, row in rows.items():
        table.add_row(
            name,
            f"{row['memory_cost']:.3f}",
            *(
                unit.show(row[name])
                for name in ("tflops", "tmacs", "tflops_executed", "encoder_tflops_executed")
            ),
            _size(row["kv_bytes"]),
        )
    return table


def _layers(rows: Mapping[str, Mapping[str, Any]], named: Mapping[str, Schedule], tokens: int) -> Table:
    unit = flops_unit(flops for row in rows.values() for flops in row["layer_tflops"])
    table = Table(title=f"by layer: vision tokens, {unit.name} of the paper's convention, KV cache")
    table.add_column("layer", justify="right")
    for name in rows:
        table.add_column(name, justify="right")
    counts = {name: schedule.counts(tokens) for name, schedule in named.items()}
    for layer in range(len(next(iter(counts.values())))):
        cells = [
            f"{counts[name][layer]}  {unit.show(row['layer_tflops'][layer])}  "
            f"{_size(row['layer_kv_bytes'][layer])}"
            for name, row in rows.items()
        ]
        table.add_row(str(layer + 1), *cells)
    return table


def _search_lines(
    search: SearchOptions,
    device: DeviceOptions,
    estimate: Estimate,
    speed: Speed,
    trials: list[Schedule],
) -> list[str]:
    what = speed.device if device.gpus == 1 else f"{speed.device}s"
    pace = flops_text(speed.flops / 1e12).replace("FLOPs", "FLOP/s")
    trial_flops = flops_text(estimate.trial_flops / 1e12)
    mean = sum(trial.memory_cost for trial in trials) / len(trials)
    return [
        f"G-Search, {search.samples} samples, {estimate.trials} trials on {device.gpus} {what}: "
        f"{duration(estimate.seconds)}, {estimate.device_hours:.3g} {speed.device}-hours",
        f"  {duration(estimate.seconds_trials)} for {estimate.trials} x {trial_flops}, "
        f"{duration(estimate.seconds_encoding)} to encode the images once, "
        f"{duration(estimate.seconds_overhead)} between trials",
        f"  prefix cache: {estimate.cache_ratio:.3f} of the FLOPs of trials that run from layer 1 on "
        f"({flops_text(estimate.whole_flops / 1e12)} each); it needs up to "
        f"{_size(estimate.cache_bytes)}, shared by all actors",
        "Assumed:",
        f"  {pace} achieved per {speed.device} ({speed.source})",
        f"  the search ends at memory cost {device.expect:g} on a P-Sigmoid curve; its trials' mean is "
        f"{mean:.3f}",
        f"  a sample is decided in one forward pass of prompt and {search.answer_tokens} answer tokens; "
        "metrics that generate cost more",
        f"  {device.overhead:g} s between trials; batches of {search.batch}, whole ones dealt out",
        "  not in it: loading the model, the table of strategies at the end",
    ]


def duration(seconds: float) -> str:
    """Seconds in the largest unit that fits: 0.4 s, 12 s, 3.2 min, 1.5 h."""
    if seconds < 90:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.4g} {unit}"
        count /= 1024
    return f"{count:.4g} GiB"
