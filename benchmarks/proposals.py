"""What it costs to propose a trial: fit and acquisition, in CPU seconds of one core.

    python benchmarks/proposals.py

Medians over repetitions, on curves with 12 and with 40 tried points; rounds of one trial and of four. Bar: at
most 0.1 s a trial at 40 points, rounds of one. Writes benchmarks/proposals.json (or --json FILE).
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import numpy as np

from vtr_ray.search.optimiser import Kind, Known, Surrogate, propose
from vtr_ray.search.synthetic import draw
from vtr_ray.tuning.directory import write_json

WEIGHT, SAMPLES, BAR = 0.01, 240, 0.1


def seconds(kind: Kind, tokens: int, tried: int, count: int, repetitions: int) -> float:
    """Of one proposed trial; the first call, which imports, is not counted."""
    points = [n / tokens for n in range(tokens + 1)]
    surrogate, taken = Surrogate(kind, WEIGHT, SAMPLES), []
    for seed in range(repetitions + 1):
        world = draw("sampled", seed, 12, tokens, SAMPLES)
        chosen = np.random.default_rng(seed).choice(tokens + 1, tried, replace=False).tolist()
        scores = {n: world.scores([1.0, 1.0, *[points[n]] * 10]).tolist() for n in chosen}
        values = {n: float(np.mean(scores[n])) - WEIGHT * points[n] for n in chosen}
        began = time.process_time()
        propose(points, Known(values, scores=scores), surrogate, count, seed)
        taken.append((time.process_time() - began) / count)
    return statistics.median(taken[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--json", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    kinds: tuple[Kind, ...] = ("shape", "paper")
    found = [
        {"surrogate": kind, "grid": tokens + 1, "tried": tried, "round": count}
        | {"cpu_s_per_trial": round(seconds(kind, tokens, tried, count, options.repetitions), 4)}
        for kind in kinds
        for tokens in (144, 576)
        for tried in (12, 40)
        for count in (1, 4)
    ]
    write_json(options.json.absolute(), found)
    print("| surrogate | grid | tried | round | CPU s a trial |\n| --- | ---: | ---: | ---: | ---: |")
    for row in found:
        print("| " + " | ".join(str(value) for value in row.values()) + " |")
    worst = max(row["cpu_s_per_trial"] for row in found if (row["tried"], row["round"]) == (40, 1))
    print(f"\n40 points, rounds of one: {worst:.3f} s at most (bar {BAR} s)")


if __name__ == "__main__":
    main()
