"""E of the embedded model at every keeping rate of a layer, sample by sample, for replays.

    python benchmarks/record_curves.py      # half an hour on one core; goes on where it was ended

Layers 3, 6 and 9 as G-Search goes: the layers before have the best rate of their own curve (lambda = 0.01).
Then layers 5 and 7 as the first ones that reduce: nothing is removed before them.
Writes benchmarks/curves.json. `layers[].outcomes[n]` has one letter for each search sample where the layer
and all deeper ones keep `n` tokens: `0` wrong, `1` right, else a letter of `scores` (ANLS gives parts).
`right[n]` is their sum.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

from vtr_ray import Schedule, embedded
from vtr_ray.evaluation.evaluator import EvaluatorSpec
from vtr_ray.evaluation.suites import load_tasks
from vtr_ray.tuning.directory import write_json

FILE = Path(__file__).with_name("curves.json")
LAYERS, FIRST, WEIGHT = (3, 6, 9), (5, 7), 0.01
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


def letters(scores: list[float], table: dict[str, float]) -> str:
    """One letter for each score; new parts get a new letter in `table`."""
    known = {value: letter for letter, value in table.items()}
    for score in scores:
        if score not in known:
            letter = LETTERS[len(table) - 2]
            known[score], table[letter] = letter, score
    return "".join(known[score] for score in scores)


def best_tokens(right: list[float], samples: int, tokens: int) -> int:
    """The count of tokens with the largest `E - WEIGHT * n / N`, the smaller one on a tie."""
    values = [sum_ / samples - WEIGHT * n / tokens for n, sum_ in enumerate(right)]
    return min(n for n, value in enumerate(values) if value >= max(values) - 1e-12)


def record(content: dict[str, Any], evaluator: Any, file: Path) -> None:
    """Measure what `content` lacks; the file is written after every few points."""
    count, tokens, top = evaluator.num_layers, evaluator.vision_tokens, evaluator.vision_tokens
    rates = [1.0] * count
    for number, layer in enumerate((*LAYERS, *FIRST)):
        if number >= len(LAYERS):
            rates, top = [1.0] * count, tokens
        if number == len(content["layers"]):
            curve = {"layer": layer, "earlier": rates[: layer - 1], "right": [], "outcomes": []}
            content["layers"].append(curve)
        curve = content["layers"][number]
        began, first = time.perf_counter(), len(curve["right"])
        for kept in range(first, top + 1):
            held = [*curve["earlier"], *[kept / tokens] * (count - layer + 1)]
            outcomes = sorted(evaluator.evaluate(Schedule.from_rates(held)), key=lambda one: one.sample_id)
            scores = [outcome.score for outcome in outcomes]
            curve["right"].append(round(math.fsum(scores), 9))
            curve["outcomes"].append(letters(scores, content["scores"]))
            if kept % 5 == 0 or kept == top:
                write_json(file, content)
                seconds = (time.perf_counter() - began) / (kept + 1 - first)
                print(f"layer {layer}, {kept} of {top} tokens, {seconds:.1f} s each", flush=True)
        top = best_tokens(curve["right"], content["samples"], tokens)
        rates[layer - 1 :] = [top / tokens] * (count - layer + 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=FILE)
    file = parser.parse_args().out
    samples = load_tasks(embedded.search_tasks(), embedded.TASKS_FOLDER)
    evaluator = EvaluatorSpec(str(embedded.MODEL), samples, batch_size=16).build()
    content: dict[str, Any] = {
        "samples": len(samples),
        "vision_tokens": evaluator.vision_tokens,
        "num_layers": evaluator.num_layers,
        "fingerprint": samples.fingerprint,
        "scores": {"0": 0.0, "1": 1.0},
        "layers": [],
    }
    if file.is_file():
        kept = json.loads(file.read_text(encoding="utf-8"))
        if kept["fingerprint"] == content["fingerprint"]:
            content = kept
    record(content, evaluator, file)


if __name__ == "__main__":
    main()
