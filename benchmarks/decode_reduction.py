"""Accuracy and cache with and without decode-time reduction, on the embedded model's tasks.

`python benchmarks/decode_reduction.py` measures on the test questions whose answers have the most tokens
(minutes), writes benchmarks/decode_reduction.json and prints the table; `--replay` prints the table of that
file. Every sample generates. Cache: bytes of all layers' keys and values per sample, mean over the decode
steps, as the output's cache holds them (batch 1: no padding); and the vision tokens left in it when
the answer ends, as the mean share over layers. "random": the tokens that leave are drawn, not ranked.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from vtr_ray import embedded, load_model, strategies
from vtr_ray.evaluation.batches import build
from vtr_ray.evaluation.evaluator import Evaluator
from vtr_ray.evaluation.outcome import effectiveness
from vtr_ray.evaluation.samples import SampleSet
from vtr_ray.evaluation.statistics import compare
from vtr_ray.evaluation.suites import load_tasks
from vtr_ray.models import CACHE, cache_of
from vtr_ray.reduction import DecodeReduction, reduce_vision_tokens
from vtr_ray.schedule import Schedule

FILE = Path(__file__).with_suffix(".json")
TASKS = ["vtr_documents", "vtr_text"]
SETTINGS: list[DecodeReduction | None] = [
    None,
    DecodeReduction(1, 0.9),
    DecodeReduction(1, 0.5),
    DecodeReduction(2, 0.7),
    DecodeReduction(2, 0.5),
    DecodeReduction(2, 0.5, first_layer=7),
]
CONTROLS = [DecodeReduction(1, 0.9), DecodeReduction(1, 0.5), DecodeReduction(2, 0.5)]
MEASURED = 40  # samples of which the cache is measured


def schedules(layers: int) -> dict[str, Schedule]:
    """No reduction in the prefill, and a schedule of memory cost 0.4."""
    return {
        "none": strategies.none(layers),
        "P-Sigmoid 0.4": strategies.at_memory_cost("p_sigmoid", layers, 0.4, k=0.3 * 32 / layers),
    }


def label(decode: DecodeReduction, drawn: bool) -> str:
    """A row's name."""
    deep = "" if decode.first_layer == 3 else f", layers {decode.first_layer}.."
    return f"keep {decode.keep:g} every {decode.every}{deep}{', random' if drawn else ''}"


@contextmanager
def by_chance() -> Iterator[None]:
    """Inside, scores are drawn: what attention is worth as a ranking."""
    draw = torch.Generator().manual_seed(0)

    def scores(query: Tensor, key: Tensor, scaling: float, valid: Tensor) -> Tensor:
        return torch.rand(valid.shape, generator=draw)

    with patch("vtr_ray.reduction.decoding.new_token_scores", scores):
        yield


def measured_cache(
    evaluator: Evaluator, schedule: Schedule, decode: DecodeReduction | None
) -> dict[str, float]:
    """Mean bytes per decode step and sample, mean share of vision tokens left at the end, mean steps."""
    model, chosen = evaluator.model, evaluator.samples.samples
    chosen = chosen[:: max(1, len(chosen) // MEASURED)]
    ends = set(evaluator._ends.tolist())
    bytes_, left, steps = [], [], []
    for sample in chosen:
        batch = build(model, evaluator.processor, [sample], [[]], min(ends))
        with reduce_vision_tokens(model, schedule, batch.prompt, batch.vision, decode=decode) as reduction:
            out = model(**batch.inputs, use_cache=True, logits_to_keep=1)
            cache, token, position = (
                cache_of(out),
                out.logits[:, -1:].argmax(-1),
                batch.positions[..., -1:],
            )
            held = []
            while int(token) not in ends and len(held) < sample.max_new_tokens:
                position = position + 1
                mask = torch.ones(1, cache.get_seq_length() + 1, dtype=torch.int64)
                out = model(
                    input_ids=token,
                    attention_mask=mask,
                    position_ids=position,
                    **{CACHE: cache},
                    use_cache=True,
                )
                token = out.logits[:, -1:].argmax(-1)
                held.append(sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers))
            if held:
                kept = [layer.shape[1] for layer in reduction.kept]
                bytes_.append(sum(held) / len(held))
                left.append(sum(kept) / len(kept) / int(batch.vision.sum()))
                steps.append(len(held))
    return {name: sum(x) / len(x) for name, x in (("bytes", bytes_), ("left", left), ("steps", steps))}


def measure(console: Console, limit: int | None) -> dict[str, Any]:
    """Every schedule under every setting."""
    samples = SampleSet.joined([load_tasks([task], embedded.TASKS_FOLDER, limit=limit) for task in TASKS])
    model, processor = load_model(str(embedded.MODEL), device="cpu")
    rows: list[dict[str, Any]] = []
    baseline = None
    for decode, drawn in [(one, False) for one in SETTINGS] + [(one, True) for one in CONTROLS]:
        evaluator = Evaluator(
            model, processor, samples, batch_size=16, teacher_forcing=False, cache=0, decode=decode
        )
        for name, schedule in schedules(evaluator.num_layers).items():
            with torch.inference_mode(), by_chance() if drawn else nullcontext():
                cache = measured_cache(evaluator, schedule, decode)
                outcomes = evaluator.evaluate(schedule)
            baseline = baseline or outcomes
            row: dict[str, Any] = {
                "schedule": name,
                "decode": None if decode is None else label(decode, drawn),
                "accuracy": effectiveness(outcomes),
            }
            if outcomes is not baseline:
                found = compare(outcomes, baseline)
                row["difference"] = [found.difference, found.low, found.high]
            rows.append(row | cache)
            console.print(f"{row['schedule']}, {row['decode']}: {row['accuracy']:.4f}", highlight=False)
    return {"tasks": TASKS, "samples": len(samples), "rows": rows}


def table(content: dict[str, Any]) -> Table:
    """For the terminal."""
    made = Table(title=f"{content['samples']} samples of {', '.join(content['tasks'])}")
    for column in ("schedule", "decode-time", "accuracy", "difference", "cache KiB", "left at end", "steps"):
        made.add_column(column, justify="left" if column in ("schedule", "decode-time") else "right")
    for row in content["rows"]:
        low = (
            ""
            if "difference" not in row
            else "{:+.1f} [{:+.1f}, {:+.1f}]".format(*(100 * x for x in row["difference"]))
        )
        made.add_row(
            row["schedule"],
            row["decode"] or "-",
            f"{100 * row['accuracy']:.1f}",
            low,
            f"{row['bytes'] / 1024:.0f}",
            f"{row['left']:.3f}",
            f"{row['steps']:.1f}",
        )
    return made


def main() -> None:
    """Measures or replays, then prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--replay", action="store_true", help=f"read {FILE.name} instead of measuring")
    parser.add_argument("--limit", type=int, help="documents of each task; writes nothing")
    options, console = parser.parse_args(), Console(width=120)
    if options.replay:
        content = json.loads(FILE.read_text())
    else:
        content = measure(console, options.limit)
        if options.limit is None:
            temporary = FILE.with_suffix(".tmp")
            temporary.write_text(json.dumps(content, indent=1) + "\n")
            temporary.replace(FILE)
    console.print(table(content))


if __name__ == "__main__":
    main()
