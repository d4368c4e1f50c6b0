"""Hypervolume of the Pareto search after n trials, beside random and Sobol points at as many trials.

    python benchmarks/pareto.py                    # seeds 0-11, the reported ones
    python benchmarks/pareto.py --first-seed 1000  # seeds to tune on

E is a drawn function (`vtr_ray.search.synthetic`) of a 32-layer model with 576 vision tokens; the cost is
LLaVA-1.5-7B's executed FLOPs. The hypervolume is the best E to be had within a FLOPs limit, averaged over all
limits from no vision token after layer 2 to no reduction; both ends belong to every method's points. The
reference, 100 %, is the front of a dense grid with all methods' points; 0 is that of the two ends.
Intervals: 95 %, bootstrap over seeds. Everything is also written to `--json`.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from vtr_ray import Schedule, strategies
from vtr_ray.efficiency import count_flops, read_config
from vtr_ray.search import ParetoSearch
from vtr_ray.search.front import hypervolume
from vtr_ray.search.sigmoids import Lattice
from vtr_ray.search.synthetic import KINDS, World, draw

LAYERS, TOKENS, TEXT = 32, 576, 75
AFTER = (12, 20, 30, 40)  # trials
METHODS = ("ParetoSearch", "ParetoSearch, rounds of 4", "Sobol points", "random points")

Points = list[tuple[float, float]]  # E, relative cost


def flops() -> Callable[[Schedule], float]:
    config = read_config("llava-1.5-7b")
    return lambda s: count_flops(config, s, TOKENS, TEXT, "executed", logits_to_keep=1).total


def searched(world: World, lattice: Lattice, seed: int, round_size: int) -> tuple[Points, float]:
    """The search's own points in the order of their ids, and CPU seconds per trial that took a model."""
    search = ParetoSearch(
        LAYERS, TOKENS, COST, trials=max(AFTER), initial=12, reference=0, seed=seed, round_size=round_size
    )
    spent = 0.0
    while not search.finished:
        start = time.process_time()
        trials = [trial for trial in (search.ask() for _ in range(round_size)) if trial is not None]
        spent += time.process_time() - start
        for trial in trials:
            search.tell(trial, world(trial.schedule.rates))
    own = [result for result in search.trials if result.strategy is None]
    points = [(result.score or 0.0, lattice.relative(result.schedule)) for result in own]
    return points, spent / (max(AFTER) - 12)


def drawn(world: World, lattice: Lattice, seed: int, sobol: bool) -> Points:
    count = max(AFTER)
    if sobol:
        from torch.quasirandom import SobolEngine

        places = SobolEngine(3, scramble=True, seed=seed).draw(count).tolist()
    else:
        places = np.random.default_rng([seed, 7]).uniform(size=(count, 3)).tolist()
    chosen = [lattice[lattice.at(place)] for place in places]
    return [(world(one.schedule.rates), one.cost) for one in chosen]


def fixed(world: World, lattice: Lattice) -> dict[str, Points]:
    """FastV, PDrop and VTW at 40 settings each (VTW: at all its layers)."""
    rates = [step / 41 for step in range(1, 41)]
    made = {
        "FastV": [strategies.fastv(LAYERS, drop=rate) for rate in rates],
        "PDrop": [strategies.pyramid_drop(LAYERS, keep=rate) for rate in rates],
        "VTW": [strategies.vtw(LAYERS, withdraw_after=layer) for layer in range(2, LAYERS)],
    }
    return {name: [(world(s.rates), lattice.relative(s)) for s in all_] for name, all_ in made.items()}


def grid(world: World, lattice: Lattice) -> Points:
    """A dense grid: 51 budgets, 13 steepnesses, 13 middles."""
    if not GRID:
        steps = (np.linspace(0, 1, 51), np.linspace(0, 1, 13), np.linspace(0, 1, 13))
        points = {lattice.at((b, k, a)) for b in steps[0] for k in steps[1] for a in steps[2]}
        GRID.extend((lattice[point].schedule.rates, lattice[point].cost) for point in sorted(points))
    return [(world(rates), cost) for rates, cost in GRID]


def interval(values: list[float]) -> tuple[float, float, float]:
    """Mean and bootstrap interval of the mean."""
    sample = np.asarray(values)
    means = np.random.default_rng(0).choice(sample, (10_000, len(sample))).mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(sample.mean()), float(low), float(high)


GRID: list[tuple[tuple[float, ...], float]] = []
COST = flops()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=12)
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS)
    parser.add_argument("--json", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    lattice = Lattice(LAYERS, TOKENS, 2.0, COST)
    rows, seconds = [], []
    print("| E | method | " + " | ".join(f"{n} trials" for n in AFTER) + " |")
    print("| --- | --- |" + " ---: |" * len(AFTER))
    for kind in options.kinds:
        shares: dict[str, list[list[float]]] = {}
        for seed in seeds:
            world = draw(kind, seed, LAYERS, TOKENS)
            ends = [(world([1.0] * LAYERS), 1.0), (world([1.0, 1.0] + [0.0] * (LAYERS - 2)), 0.0)]
            points: dict[str, Points] = {}
            for method, size in zip(METHODS[:2], (1, 4), strict=True):
                points[method], spent = searched(world, lattice, seed, size)
                seconds.append(spent)
            points[METHODS[2]] = drawn(world, lattice, seed, sobol=True)
            points[METHODS[3]] = drawn(world, lattice, seed, sobol=False)
            points |= fixed(world, lattice)
            base = hypervolume(ends, 0.0, 1.0)
            everything = [*ends, *grid(world, lattice), *(p for listed in points.values() for p in listed)]
            top = hypervolume(everything, 0.0, 1.0)
            for method, listed in points.items():
                volumes = [hypervolume([*ends, *listed[:n]], 0.0, 1.0) for n in AFTER]
                if method not in METHODS:  # their settings are an even spread: all at once
                    volumes = [hypervolume([*ends, *listed], 0.0, 1.0) if n == max(AFTER) else math.nan
                               for n in AFTER]  # fmt: skip
                shares.setdefault(method, []).append([(v - base) / (top - base) for v in volumes])
        for method, values in shares.items():
            by_count = dict(zip(AFTER, zip(*values, strict=True), strict=True))
            found = {n: interval(list(by_count[n])) for n in AFTER if not math.isnan(by_count[n][0])}
            rows.append({"kind": kind, "method": method, "share": {str(n): f for n, f in found.items()}})
            cells = [
                f"{100 * found[n][0]:.1f} [{100 * found[n][1]:.1f}, {100 * found[n][2]:.1f}]"
                if n in found
                else ""
                for n in AFTER
            ]
            print(f"| {kind} | {method} | " + " | ".join(cells) + " |", flush=True)
    cost = statistics.median(seconds)
    print(f"\nShare of the dense grid's hypervolume, %. A proposal takes {cost:.2f} CPU seconds (median).")
    content = {"seeds": list(seeds), "rows": rows, "cpu_seconds_per_proposal": cost}
    temporary = options.json.with_name(f".{options.json.name}")
    temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    temporary.replace(options.json)


if __name__ == "__main__":
    main()
