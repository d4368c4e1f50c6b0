"""G-Search of the first searched layer against exhaustive search over all 145 keeping rates.

    python benchmarks/first_layer.py

The curve is the first of curves.json (by record_curves.py): each search sample's score at every rate. Prints
how far searches of the same number of trials stay below the best of all points, over 20 seeds: G-Search,
G-Search that is told E alone, evenly spaced points, random points.
"""

from __future__ import annotations

import numpy as np
from recorded_curves import recorded
from rich.console import Console
from rich.table import Table

from vtr_ray.search import GSearch

WEIGHT, INITIAL, ITERATIONS, SEEDS = 0.01, 10, 5, range(20)


def searched(scores: np.ndarray, seed: int, told: bool) -> tuple[float, int]:
    """Objective that G-Search ends with on this layer alone, and its trials; `told`: each sample's score."""
    tokens = len(scores) - 1
    search = GSearch(
        3, tokens, initial=INITIAL, iterations=ITERATIONS, weight=WEIGHT, seed=seed, samples=scores.shape[1]
    )
    while (trial := search.ask()) is not None:
        values = scores[trial.schedule.counts(tokens)[2]]
        search.tell(trial, float(values.mean()), scores=values.tolist() if told else None)
    kept = search.best.counts(tokens)[2]
    return float(scores[kept].mean() - WEIGHT * kept / tokens), len(search.results)


def main() -> None:
    """Prints the table."""
    _, layers = recorded()
    scores = layers[3]
    tokens, curve = len(scores) - 1, scores.mean(axis=1)
    objective = curve - WEIGHT * np.arange(tokens + 1) / tokens
    best = int(objective.argmax())
    console = Console()
    console.print(
        f"{scores.shape[1]} samples; exhaustive best: {best} of {tokens} tokens, E {curve[best]:.4f} "
        f"(no reduction {curve[-1]:.4f}), objective {objective[best]:.4f}"
    )
    found, alone = ([searched(scores, seed, told) for seed in SEEDS] for told in (True, False))
    count = max(trials for _, trials in found + alone)
    even = objective[np.unique(np.linspace(0, tokens, count).round().astype(int))].max()
    generators = [np.random.default_rng(seed) for seed in SEEDS]
    drawn = [objective[g.choice(tokens + 1, count, replace=False)].max() for g in generators]
    table = Table(title=f"objective lost against all {tokens + 1} points, {len(SEEDS)} seeds")
    for column in ("method", "trials", "mean", "worst"):
        table.add_column(column, justify="left" if column == "method" else "right")
    for name, values in (
        ("G-Search", [value for value, _ in found]),
        ("G-Search, told E alone", [value for value, _ in alone]),
        ("evenly spaced points", [even]),
        ("random points", drawn),
    ):
        lost = objective[best] - np.array(values)
        table.add_row(name, str(count), f"{lost.mean():.5f}", f"{lost.max():.5f}")
    console.print(table)


if __name__ == "__main__":
    main()
