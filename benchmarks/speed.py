"""What reduction costs and gains on the clock: ratios of paired runs, beside what the FLOPs promise.

    python benchmarks/speed.py                  # CPU: width 1024, 16 layers, batch 1 and 8, SDPA
    python benchmarks/speed.py --device cuda    # LLaVA-1.5-7B's shape, bfloat16, batch 1, 8, 32, SDPA, flash

Random weights; 576 vision and 75 text tokens; a prefill with encoder, projector and one row of logits. The
schedule is P-Sigmoid (k = 0.3 at 32 layers) at every third layer, its budget solved for memory cost 0.34.
Four variants take turns, forth and back, and every figure is the median over turns of a ratio within a turn:

- identity: all rates 1, against the untouched model (bar: 1.02);
- scoring: the schedule against itself with the tokens' choice fixed beforehand, as a part of its own prefill
  (bar: 0.02); and, since two prefills differ by more than that on a shared machine, the part of one prefill
  that a clock inside it sees pass while rows are scored;
- achieved: the speed-up against the untouched model, over the ratio of executed FLOPs (bar: 0.9; on a GPU
  from batch 8 on).

Writes benchmarks/speed_DEVICE.json (or --json FILE) with every time taken.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from vtr_ray import Schedule, reduce_vision_tokens, strategies
from vtr_ray.commands.bench import environment
from vtr_ray.efficiency import read_config
from vtr_ray.efficiency.bench import Measured, Protocol, measure, sampled_p_sigmoid
from vtr_ray.efficiency.inputs import dummy_inputs
from vtr_ray.efficiency.latency import synchronise
from vtr_ray.efficiency.memory import build_model
from vtr_ray.errors import InputError
from vtr_ray.reduction import passes
from vtr_ray.tuning.directory import write_json

VISION_TOKENS, TEXT_TOKENS, MEMORY_COST = 576, 75, 0.34
CLOCKED = 3  # prefills with a clock inside
_SCORES: dict[tuple[int, int, torch.device], torch.Tensor] = {}
UNTOUCHED, IDENTITY, SCORED, FIXED = "untouched", "identity", "schedule", "fixed choice"


def cpu_config(width: int, layers: int, encoder_layers: int) -> Any:
    """A LLaVA of the width, heads of 64; its encoder is CLIP ViT-B's width at 336 pixels, patch 14."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

    vision = CLIPVisionConfig(
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=encoder_layers,
        num_attention_heads=12,
        image_size=336,
        patch_size=14,
    )
    text = LlamaConfig(
        hidden_size=width,
        intermediate_size=width * 11 // 4,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        num_key_value_heads=width // 64,
        vocab_size=32000,
    )
    return LlavaConfig(vision_config=vision, text_config=text, image_token_index=31999)


@contextmanager
def fixed_choice() -> Iterator[None]:
    """Instead of scoring: scores that are there already, so that the rest of a cut happens all the same."""

    def scores(query: Any, key: torch.Tensor, *rest: Any) -> torch.Tensor:
        shape = (key.shape[0], key.shape[2], key.device)
        if shape not in _SCORES:  # at the first warm-up
            _SCORES[shape] = torch.rand(shape[:2], device=key.device)
        return _SCORES[shape]

    with (
        mock.patch.object(passes, "attention_scores", scores),
        mock.patch.object(passes, "rows_of", lambda query, rows: query),
    ):
        yield


def clocked_scoring(model: Any, schedule: Schedule, protocol: Protocol) -> list[float]:
    """Parts of a prefill that pass in scoring, by a clock around every layer's; one per prefill."""
    inputs = dummy_inputs(
        model.config, VISION_TOKENS, TEXT_TOKENS, protocol.batch, device=model.device, dtype=model.dtype
    )
    read, taken, parts = passes.Prefill.read, [0.0], []

    def clocked(*args: Any) -> None:
        synchronise(model.device)
        start = time.perf_counter()
        read(*args)
        synchronise(model.device)
        taken[0] += time.perf_counter() - start

    with (
        torch.inference_mode(),
        mock.patch.object(passes.Prefill, "read", clocked),
        reduce_vision_tokens(model, schedule),
    ):
        for turn in range(1 + CLOCKED):
            taken[0] = 0.0
            start = time.perf_counter()
            model(**inputs, use_cache=True, logits_to_keep=1)
            synchronise(model.device)
            if turn:  # the first one warms up
                parts.append(taken[0] / (time.perf_counter() - start))
    return parts


def ratios(over: Measured, under: Measured) -> list[float]:
    return [a / b for a, b in zip(over.prefill.seconds, under.prefill.seconds, strict=True)]


def middle(values: Sequence[float]) -> dict[str, float]:
    """Median and quartiles."""
    if len(values) < 2:
        return {"median": values[0], "low": values[0], "high": values[0]}
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": median, "low": low, "high": high}


def compare(model: Any, schedule: Schedule, protocol: Protocol) -> dict[str, Any]:
    """The three figures of one batch size and kernel."""
    variants = {
        UNTOUCHED: None,
        IDENTITY: strategies.none(schedule.num_layers),
        SCORED: schedule,
        FIXED: schedule,
    }
    taken = measure(model, variants, protocol, around={FIXED: fixed_choice})
    flops = taken[UNTOUCHED].flops.total / taken[SCORED].flops.total
    speedups = ratios(taken[UNTOUCHED], taken[SCORED])
    return {
        "batch": protocol.batch,
        "flops_ratio": flops,
        "speedup": middle(speedups),
        "achieved": middle([one / flops for one in speedups]),
        "identity": middle(ratios(taken[IDENTITY], taken[UNTOUCHED])),
        "scoring": middle([1 - one for one in ratios(taken[FIXED], taken[SCORED])]),
        "scoring_clocked": middle(clocked_scoring(model, schedule, protocol)),
        "peak_bytes": {name: one.peak for name, one in taken.items()},
        "seconds": {name: list(one.prefill.seconds) for name, one in taken.items()},
    }


def synchronisations(model: Any, schedule: Schedule | None, batch: int) -> int:
    """Host-device synchronisations of one prefill, as `torch.cuda.set_sync_debug_mode` reports them."""
    inputs = dummy_inputs(
        model.config, VISION_TOKENS, TEXT_TOKENS, batch, device=model.device, dtype=model.dtype
    )
    with torch.inference_mode(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            if schedule is None:
                model(**inputs, use_cache=True, logits_to_keep=1)
            else:
                with reduce_vision_tokens(model, schedule):
                    model(**inputs, use_cache=True, logits_to_keep=1)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(one.message) for one in caught)


def kernels(device: str, asked: str | None) -> list[str]:
    if asked:
        return asked.split(",")
    if device == "cpu":
        return ["sdpa"]
    flash = "flash_attention_2" if importlib.util.find_spec("flash_attn") else "sdpa-flash"
    return ["sdpa", flash]


def row(kernel: str, one: dict[str, Any]) -> str:
    def cell(name: str, digits: int = 3) -> str:
        values = one[name]
        return f"{values['median']:.{digits}f} [{values['low']:.{digits}f}, {values['high']:.{digits}f}]"

    return (
        f"| {kernel} | {one['batch']} | {1e3 * statistics.median(one['seconds'][UNTOUCHED]):.4g} "
        f"| {1e3 * statistics.median(one['seconds'][SCORED]):.4g} | {cell('speedup', 2)} "
        f"| {one['flops_ratio']:.2f} | {cell('achieved')} | {cell('identity')} | {cell('scoring')} "
        f"| {one['scoring_clocked']['median']:.4f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--batch", default=None, help="default: 1,8 on a CPU, 1,8,32 on a GPU")
    parser.add_argument(
        "--attn", default=None, help="sdpa, sdpa-flash, flash_attention_2, eager; several by comma"
    )
    parser.add_argument("--repeats", type=int, default=15, help="at batch 1; at others a third of them")
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--shape", default="llava-1.5-7b", help="on a GPU: a shape or a configuration")
    parser.add_argument("--width", type=int, default=1024, help="on a CPU")
    parser.add_argument("--layers", type=int, default=16, help="on a CPU")
    parser.add_argument("--encoder-layers", type=int, default=12, help="on a CPU")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="on a CPU")
    parser.add_argument("--json", type=Path, default=None)
    options = parser.parse_args()
    device = torch.device(options.device)
    cpu = device.type == "cpu"
    if cpu:
        torch.set_num_threads(options.threads)
        config = cpu_config(options.width, options.layers, options.encoder_layers)
    else:
        config = read_config(options.shape)
    layers = config.get_text_config(decoder=True).num_hidden_layers
    schedule = sampled_p_sigmoid(layers, MEMORY_COST)
    dtype = torch.float32 if cpu else torch.bfloat16
    content: dict[str, Any] = {
        "schedule": schedule.to_dict(),
        "memory_cost": schedule.memory_cost,
        "results": {},
    }
    for kernel in kernels(device.type, options.attn):
        attn = "sdpa" if kernel == "sdpa-flash" else kernel
        torch.manual_seed(0)
        with device:
            model = build_model(config, dtype=dtype, attn_implementation=attn).eval()
        if "environment" not in content:
            content["environment"] = environment(model, "as below")
            print(content["environment"], f"memory cost {schedule.memory_cost:.3f}", flush=True)
            columns = ("attention", "batch", "untouched ms", "schedule ms", "speed-up", "FLOPs ratio")
            columns += ("achieved", "identity", "scoring", "scoring, clocked")
            print(f"| {' | '.join(columns)} |\n| --- |{' ---: |' * 9}", flush=True)
        found = content["results"].setdefault(kernel, [])
        for batch in [int(one) for one in (options.batch or ("1,8" if cpu else "1,8,32")).split(",")]:
            protocol = Protocol(
                VISION_TOKENS,
                TEXT_TOKENS,
                new_tokens=1,
                batch=batch,
                flash=kernel == "sdpa-flash",
                warmup=options.warmup,
                repeats=options.repeats if batch == 1 else max(1, options.repeats // 3),
            )
            try:
                one = compare(model, schedule, protocol)
            except InputError as error:
                print(f"| {kernel} | {batch} | refused: {error} |", flush=True)
                continue
            if not cpu:
                one["synchronisations"] = {
                    UNTOUCHED: synchronisations(model, None, batch),
                    SCORED: synchronisations(model, schedule, batch),
                }
                print(f"synchronisations of a prefill: {one['synchronisations']}")
            found.append(one)
            print(row(kernel, one), flush=True)
        del model
    target = options.json or Path(__file__).with_name(f"speed_{device.type}.json")
    write_json(target.absolute(), content)
    print(f"Wrote {target}")


if __name__ == "__main__":
    main()
