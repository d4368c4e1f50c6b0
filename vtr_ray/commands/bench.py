"""`vtr-ray bench`: prefill and decode times, throughput and peak memory with and without schedules."""

from __future__ import annotations

import importlib.util
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from vtr_ray import embedded, strategies
from vtr_ray.commands.costs import (
    SampleOptions,
    check_writable,
    read_schedules,
)
from vtr_ray.efficiency import count_flops, read_config
from vtr_ray.efficiency.bench import Measured, Protocol, measure, sampled_p_sigmoid
from vtr_ray.efficiency.configs import shapes
from vtr_ray.efficiency.memory import build_model
from vtr_ray.efficiency.times import Latency, untold, untold_words
from vtr_ray.efficiency.units import flops_unit
from vtr_ray.errors import InputError, first_line
from vtr_ray.models.loading import device_of, dtype_of, load_model
from vtr_ray.report.comparison import NO_REDUCTION
from vtr_ray.schedule import Schedule
from vtr_ray.tuning.directory import write_json

_LIBRARIES = ("vtr-ray", "torch", "transformers")
_FLASH = "sdpa-flash"  # SDPA with PyTorch's flash kernel alone


@dataclass(frozen=True)
class BenchOptions:
    """What is timed: see `Protocol`. random_weights: of a configuration, nothing is loaded."""

    random_weights: bool = False
    dtype: str = "auto"
    attn: str = "sdpa"
    device: str = "auto"
    batch: int = 1
    new_tokens: int = 5
    encoder: bool = True
    warmup: int = 2
    repeats: int = 32


def bench(
    model: str,
    schedules: list[Path],
    sample: SampleOptions,
    options: BenchOptions,
    json: Path | None,
    console: Console,
    force: bool = False,
) -> dict[str, Any]:
    """Prints the table; gives it as JSON content, and writes that to `json`.

    force: also times schedules that were found on another model.
    """
    check_writable(json)
    config = read_config(embedded.checkpoint(model))
    tokens, images = sample.of(config)
    named = read_schedules(schedules, config, model, force)
    if len(named) == 1:
        layers = named[NO_REDUCTION].num_layers
        named["FastV 50 %"] = strategies.fastv(layers)
        named["P-Sigmoid at 0.34"] = sampled_p_sigmoid(layers, 0.34)
    protocol = Protocol(
        vision_tokens=tokens,
        text_tokens=sample.text_tokens,
        new_tokens=options.new_tokens,
        batch=options.batch,
        images=images,
        encoder=options.encoder,
        flash=options.attn == _FLASH,
        warmup=options.warmup,
        repeats=options.repeats,
    )
    live = _model(model, config, options)
    timed: dict[str, Schedule | None] = {**named, NO_REDUCTION: None}  # the untouched model
    with console.status("timing"):
        measured = measure(live, timed, protocol)
    times = {name: one.prefill for name, one in measured.items()}
    content = {
        "model": model,
        "random_weights": options.random_weights,
        "parameters": sum(parameter.numel() for parameter in live.parameters()),
        "environment": environment(live, options.attn),
        "protocol": {
            "vision_tokens": tokens,
            "text_tokens": sample.text_tokens,
            "new_tokens": options.new_tokens,
            "batch": options.batch,
            "encoder_timed": options.encoder,
            "warmup": options.warmup,
            "turns": len(times[NO_REDUCTION].seconds),
            "repeats": options.repeats,
        },
        "prefill_not_told_apart": untold(times),
        "schedules": {
            name: figures(live.config, one, measured[NO_REDUCTION], protocol)
            for name, one in measured.items()
        },
    }
    for line in _head(content):
        console.print(line, highlight=False, soft_wrap=True)
    console.print(_table(content["schedules"], untold_words(times)))
    if json is not None:
        write_json(json.absolute(), content)
        console.print(f"Wrote {json}", soft_wrap=True, highlight=False)
    return content


def _model(model: str, config: Any, options: BenchOptions) -> Any:
    attn = "sdpa" if options.attn == _FLASH else options.attn
    if attn == "flash_attention_2" and importlib.util.find_spec("flash_attn") is None:
        raise InputError(f"flash_attn is not installed; use --attn sdpa or {_FLASH}.")
    if not options.random_weights and model in shapes():
        raise InputError(f"{model} is a shape without weights; add --random-weights.")
    if not options.random_weights:
        return load_model(embedded.checkpoint(model), options.dtype, attn, options.device)[0]
    place = device_of(options.device)
    try:
        with place:
            torch.manual_seed(0)
            live = build_model(config, dtype=dtype_of(options.dtype, config, place), attn_implementation=attn)
    except (ImportError, ValueError) as error:
        raise InputError(f"attention {options.attn!r} cannot be used: {first_line(error)}") from None
    return live.eval()


def environment(model: Any, attn: str) -> dict[str, Any]:
    """Where and with what the times were taken."""
    device = model.device
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "threads": torch.get_num_threads() if device.type == "cpu" else None,
        "dtype": str(model.dtype).removeprefix("torch."),
        "attention": attn,
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in _LIBRARIES},
    }


def _processor() -> str:
    """The CPU's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def figures(config: Any, one: Measured, none: Measured, protocol: Protocol) -> dict[str, Any]:
    """One schedule's figures as JSON content; times in seconds.

    speedup: of the prefill. flops_ratio: executed FLOPs of the untouched call over this one's. achieved:
    their quotient.
    """
    tokens, text = protocol.vision_tokens, protocol.text_tokens
    paper = count_flops(config, one.schedule, tokens, text, "paper", images=protocol.images)
    speedup = none.prefill.median / one.prefill.median
    ratio = none.executed(protocol.encoder) / one.executed(protocol.encoder)
    return {
        "schedule": one.schedule.to_dict(),
        "memory_cost": one.schedule.memory_cost,
        "tflops": paper.total / 1e12,
        "tflops_executed": one.executed(protocol.encoder) / 1e12,
        "kv_bytes": one.kv_bytes,
        "peak_bytes": one.peak,
        "prefill": _times(one.prefill),
        "decode": None if one.decode is None else _times(one.decode),
        "tokens_per_second": one.throughput,
        "speedup": speedup,
        "flops_ratio": ratio,
        "achieved": speedup / ratio,
    }


def _times(latency: Latency) -> dict[str, Any]:
    return {**latency.to_dict(), "spread": latency.spread, "seconds": list(latency.seconds)}


def _head(content: Mapping[str, Any]) -> list[str]:
    where, protocol = content["environment"], content["protocol"]
    versions = ", ".join(f"{name} {version}" for name, version in where["versions"].items())
    threads = f", {where['threads']} threads" if where["threads"] else ""
    weights = ", random weights" if content["random_weights"] else ""
    encoder = "included" if protocol["encoder_timed"] else "not timed"
    return [
        f"{content['model']}{weights}: {content['parameters'] / 1e9:.3g} billion parameters, "
        f"{where['dtype']}, {where['attention']} attention",
        f"{where['device']}{threads}; Python {where['python']}, {versions}",
        f"batch {protocol['batch']}; {protocol['vision_tokens']} vision and {protocol['text_tokens']} text "
        f"tokens in, {protocol['new_tokens']} out; encoder {encoder}; median of {protocol['turns']} turns "
        f"after {protocol['warmup']} to warm up; at most {protocol['repeats']}, until all are told apart",
    ]


def _table(rows: Mapping[str, Mapping[str, Any]], untold: str) -> Table:
    table = Table(caption_justify="left")
    unit = flops_unit(row["tflops"] for row in rows.values())
    table.caption = (
        f"{unit.name}: the paper's convention, per sample; FLOPs ratio: executed FLOPs of the untouched "
        "prefill over this one's; achieved: speed-up / FLOPs ratio; ±: distance between the quartiles"
        f"{untold}"
    )
    table.add_column("schedule")
    for column in ("memory cost", unit.name, "prefill ms", "decode ms", "tokens/s", "peak GiB"):
        table.add_column(column, justify="right")
    for column in ("speed-up", "FLOPs ratio", "achieved"):
        table.add_column(column, justify="right")
    for name, row in rows.items():
        table.add_row(
            name,
            f"{row['memory_cost']:.3f}",
            unit.show(row["tflops"]),
            _cell(row["prefill"]),
            _cell(row["decode"]),
            f"{row['tokens_per_second']:.4g}",
            "" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 2**30:.2f}",
            f"{row['speedup']:.2f}x",
            f"{row['flops_ratio']:.2f}x",
            f"{row['achieved']:.2f}",
        )
    return table


def _cell(times: Mapping[str, Any] | None) -> str:
    return "" if times is None else f"{1e3 * times['median']:.3g} ±{1e3 * times['spread']:.2g}"
