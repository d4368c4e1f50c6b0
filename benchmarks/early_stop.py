"""How many sample evaluations --stop-early saves, and what it costs: replays of the embedded model's curves.

    python benchmarks/early_stop.py     # reads curves.json, prints the table and writes early_stop.json

Each layer of `curves.json` is searched with the defaults (10 + 5 trials, lambda 0.01), with and without
--stop-early, the 510 samples in batches of 16, in 20 random orders. Counted are whole batches, one actor.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from recorded_curves import recorded

from vtr_ray.evaluation.early import EarlyStop
from vtr_ray.evaluation.outcome import Outcome
from vtr_ray.search import GSearch

FOLDER = Path(__file__).parent
BATCH, WEIGHT, SEEDS = 16, 0.01, range(20)


def replay(scores: np.ndarray, weight: float, seed: int, stop: bool) -> tuple[float, float, float]:
    """Share of sample evaluations, share of trials stopped, and the objective found.

    scores: [tokens, samples], in the order of evaluation.
    """
    tokens, samples = scores.shape[0] - 1, scores.shape[1]
    search = GSearch(3, tokens, weight=weight, seed=seed, samples=samples, stop_early=stop)
    evaluated = stopped = trials = 0
    while (trial := search.ask()) is not None:
        assert trial.rate is not None
        row, threshold = scores[round(trial.rate * tokens)], search.threshold(trial)
        outcomes = [Outcome(str(number), float(score)) for number, score in enumerate(row)]
        trials += 1
        early = EarlyStop(threshold if threshold is not None else -1.0)
        ends = [*range(BATCH, samples, BATCH), samples]
        seen = next((end for end in ends if early(outcomes[:end], samples - end)), samples)
        evaluated += seen
        if early.ceiling is not None:
            search.stop(trial, early.ceiling)
            stopped += 1
        else:
            search.tell(trial, float(row.mean()), scores=row.tolist())
    kept = search.best.counts(tokens)[2]
    objective = float(scores[kept].mean() - weight * kept / tokens)
    return evaluated / (trials * samples), stopped / trials, objective


def main() -> None:
    vision_tokens, layers = recorded()
    results = []
    print("| layer | evaluations with --stop-early | trials stopped | objective, 1e-4, minus without |")
    print("| --- | --- | --- | --- |")
    for layer, scores in layers.items():
        weight = WEIGHT * (len(scores) - 1) / vision_tokens
        found = []
        for seed in SEEDS:
            order = np.random.default_rng(seed).permutation(scores.shape[1])
            with_stop = replay(scores[:, order], weight, seed, True)
            without = replay(scores[:, order], weight, seed, False)
            found.append((*with_stop[:2], 1e4 * (with_stop[2] - without[2])))
        share, stopped, difference = np.mean(found, axis=0)
        results.append({"layer": layer, "evaluated": share, "stopped": stopped, "objective_1e-4": difference})
        print(f"| {layer} | {share:.0%} | {stopped:.0%} | {difference:+.2f} |", flush=True)
    (FOLDER / "early_stop.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
