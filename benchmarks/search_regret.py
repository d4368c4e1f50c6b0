"""How far searches stay below greedy-exhaustive search on plateau-and-cliff functions, at equal trials.

    python benchmarks/search_regret.py                    # seeds 0-19, the reported ones
    python benchmarks/search_regret.py --first-seed 1000  # seeds to tune on

Per world (`vtr_ray.search.synthetic`) two regrets, in units of 1e-4 of E:
- schedule: `E - 0.01 mean(r_3..r_L)` of the greedy-exhaustive schedule minus that of the found one;
- layer: mean over searched layers of the best `f` on the layer's whole grid, given the same earlier rates,
  minus `f` of the chosen rate. Never negative.
Intervals: 95 %, bootstrap over seeds.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np

from vtr_ray.search import GSearch
from vtr_ray.search.optimiser import spread
from vtr_ray.search.synthetic import KINDS, World, draw, greedy, layer_regrets, objective

INITIAL, ITERATIONS = 10, 5
TRIALS = INITIAL + ITERATIONS
SIZES = ((12, 144), (32, 576))  # layers, vision tokens

Found = tuple[list[float], int]


def exhaustive(world: World, seed: int) -> Found:
    return greedy(world, lambda layer, top: range(top + 1))


def evenly(world: World, seed: int) -> Found:
    return greedy(world, lambda layer, top: spread(top + 1, TRIALS))


def randomly(world: World, seed: int) -> Found:
    rng = np.random.default_rng([seed, 1])
    return greedy(world, lambda layer, top: [top, *rng.permutation(top)[: TRIALS - 1].tolist()])


def g_search(world: World, seed: int, round_size: int = 1) -> Found:
    search = GSearch(
        world.num_layers,
        world.vision_tokens,
        initial=INITIAL,
        iterations=ITERATIONS,
        seed=seed,
        round_size=round_size,
    )
    while not search.finished:
        trials = [trial for trial in (search.ask() for _ in range(round_size)) if trial is not None]
        for trial in trials:
            rates = trial.schedule.rates
            search.tell(trial, world(rates), scores=world.scores(rates))
    return list(search.best.rates), max(len(layer.trials) for layer in search.layers)


METHODS: dict[str, Callable[[World, int], Found]] = {
    "G-Search": g_search,
    "G-Search, rounds of 4": lambda world, seed: g_search(world, seed, 4),
    "evenly spaced": evenly,
    "random": randomly,
    "greedy-exhaustive": exhaustive,
}


def interval(values: list[float]) -> str:
    """Mean and bootstrap interval of the mean, in units of 1e-4."""
    sample = np.asarray(values) * 1e4
    means = np.random.default_rng(0).choice(sample, (10_000, len(sample))).mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return f"{sample.mean():6.2f} [{low:6.2f}, {high:6.2f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=20)
    options = parser.parse_args()
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    print(f"seeds {seeds[0]}-{seeds[-1]}, regrets in 1e-4 of E, the bar is 5\n")
    print("| function | method | most trials a layer | schedule regret | layer regret | CPU s a search |")
    print("| --- | --- | --- | --- | --- | --- |")
    for layers, tokens in SIZES:
        for kind in KINDS:
            worlds = {seed: draw(kind, seed, layers, tokens) for seed in seeds}
            goals = {seed: objective(world, exhaustive(world, seed)[0]) for seed, world in worlds.items()}
            for method, find in METHODS.items():
                start = time.process_time()
                found = {seed: find(world, seed) for seed, world in worlds.items()}
                seconds = (time.process_time() - start) / len(worlds)
                regrets = [goals[seed] - objective(worlds[seed], found[seed][0]) for seed in seeds]
                by_layer = [float(np.mean(layer_regrets(worlds[seed], found[seed][0]))) for seed in seeds]
                most = max(trials for _, trials in found.values())
                print(
                    f"| {kind}, {tokens} tokens, {layers} layers | {method} | {most} "
                    f"| {interval(regrets)} | {interval(by_layer)} | {seconds:.1f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
