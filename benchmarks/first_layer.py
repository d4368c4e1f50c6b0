"""Exhaustive search of the first searched layer: E at all 145 keeping rates, and what G-Search makes of it.

`python benchmarks/first_layer.py` measures (once; minutes) and writes benchmarks/first_layer.json; with
`--replay` it reads that file. Either way it prints how far G-Search, evenly spaced points and random points
of the same number stay below the best of all points.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from vtr_ray import Schedule, embedded
from vtr_ray.evaluation.evaluator import EvaluatorSpec
from vtr_ray.evaluation.outcome import effectiveness
from vtr_ray.evaluation.suites import load_tasks
from vtr_ray.search import GSearch

FILE = Path(__file__).with_suffix(".json")
WEIGHT, INITIAL, ITERATIONS, SEEDS = 0.01, 10, 5, range(20)


def measure(console: Console) -> dict[str, object]:
    """E of the embedded search split with layers 3..L keeping n of 144 tokens, for every n."""
    samples = load_tasks(embedded.search_tasks(), embedded.TASKS_FOLDER)
    evaluator = EvaluatorSpec(str(embedded.MODEL), samples, batch_size=16).build()
    layers, tokens = evaluator.num_layers, evaluator.vision_tokens
    began = time.perf_counter()
    curve = []
    for kept in range(tokens + 1):
        schedule = Schedule.from_rates([1.0, 1.0] + [kept / tokens] * (layers - 2))
        curve.append(effectiveness(evaluator.evaluate(schedule)))
        if kept % 12 == 0:
            console.print(f"{kept:4d} tokens: E {curve[-1]:.4f}  ({time.perf_counter() - began:.0f} s)")
    return {"layers": layers, "vision_tokens": tokens, "samples": len(samples), "effectiveness": curve}


def searched(curve: np.ndarray, seed: int, samples: int) -> tuple[float, int]:
    """Objective that G-Search ends with on the first layer alone, and its trials."""
    tokens = len(curve) - 1
    search = GSearch(
        3, tokens, initial=INITIAL, iterations=ITERATIONS, weight=WEIGHT, seed=seed, samples=samples
    )
    trials = 0
    while not search.finished:
        trial = search.ask()
        search.tell(trial, float(curve[round(trial.rate * tokens)]))
        trials += 1
    kept = search.best.counts(tokens)[2]
    return float(curve[kept] - WEIGHT * kept / tokens), trials


def main() -> None:
    """Measures or replays, then prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--replay", action="store_true", help=f"read {FILE.name} instead of measuring")
    console = Console()
    if parser.parse_args().replay:
        content = json.loads(FILE.read_text())
    else:
        content = measure(console)
        FILE.write_text(json.dumps(content) + "\n")
    curve = np.array(content["effectiveness"])
    tokens = len(curve) - 1
    objective = curve - WEIGHT * np.arange(tokens + 1) / tokens
    best = int(objective.argmax())
    console.print(
        f"{content['samples']} samples; exhaustive best: {best} of {tokens} tokens, E {curve[best]:.4f} "
        f"(no reduction {curve[-1]:.4f}), objective {objective[best]:.4f}"
    )
    runs = [searched(curve, seed, content["samples"]) for seed in SEEDS]
    count = max(trials for _, trials in runs)
    even = objective[np.unique(np.linspace(0, tokens, count).round().astype(int))].max()
    generators = [np.random.default_rng(seed) for seed in SEEDS]
    table = Table(title=f"objective lost against all {tokens + 1} points, {len(SEEDS)} seeds")
    for column in ("method", "trials", "mean", "worst"):
        table.add_column(column, justify="left" if column == "method" else "right")
    found = np.array([value for value, _ in runs])
    drawn = np.array([objective[g.choice(tokens + 1, count, replace=False)].max() for g in generators])
    for name, values in (
        ("G-Search", found),
        ("evenly spaced points", np.array([even])),
        ("random points", drawn),
    ):
        lost = objective[best] - values
        table.add_row(name, str(count), f"{lost.mean():.5f}", f"{lost.max():.5f}")
    console.print(table)


if __name__ == "__main__":
    main()
