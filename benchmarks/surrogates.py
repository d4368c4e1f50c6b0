"""How much of the objective a layer's search loses, by surrogate and against what a user could do instead.

    python benchmarks/surrogates.py                     # seeds 0-19, the reported ones: JSON and markdown
    python benchmarks/surrogates.py --first-seed 1000   # seeds to tune on: prints only
    python benchmarks/surrogates.py --only fickle       # some of the rows: prints only

Each row is a set of curves E(r), each over the whole grid of one layer: of synthetic worlds
(`vtr_ray.search.synthetic`; layers 3, 6, 9, 12, the layers before at their best rates), and of the embedded
model (`curves.json`, by record_curves.py). A seed of these is a random half of the samples (E moves in steps
of 1/255) and a random upper end between 0.7 and 1 of the recorded one, as the layer before would leave it:
else a fixed grid would meet or miss the same bump of the same curve in every seed. Rows `k` are of the
P-Sigmoid search, whose default is the paper's: E over the steepness, at a budget drawn between 0.1 and 0.5.
Every method gets the same number of trials on the same curve; what it loses is the best `E - lambda r` on the
grid minus the best that it saw, in 1e-4 of E. `evenly spaced` is exhaustive search at the same cost.
Intervals: 95 %, BCa bootstrap over seeds (scipy.stats.bootstrap), of paired differences where two methods are
compared. Optuna comes with `pip install -e ".[bench]"`.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from recorded_curves import recorded
from scipy import stats

from vtr_ray import strategies
from vtr_ray.search import GSearch
from vtr_ray.search.line import Line
from vtr_ray.search.optimiser import Surrogate, spread
from vtr_ray.search.psigmoid import steepnesses
from vtr_ray.search.synthetic import KINDS, Kind, draw
from vtr_ray.tuning.directory import write_json

FOLDER = Path(__file__).parent
LAYERS = (3, 6, 9, 12)


@dataclass(frozen=True)
class Curve:
    """E at 0..top tokens; weight: what all of this line's tokens cost.

    scores: each sample's, [top + 1, N]; None: endless samples. steep: the places are not tokens but
    steepnesses of P-Sigmoid.
    """

    effectiveness: np.ndarray
    weight: float
    scores: np.ndarray | None
    steep: bool = False

    @property
    def samples(self) -> int | None:
        """How many are behind E; None: endless."""
        return None if self.scores is None else self.scores.shape[1]

    @property
    def top(self) -> int:
        """Tokens of the upper end."""
        return len(self.effectiveness) - 1

    @property
    def objective(self) -> np.ndarray:
        """`E - lambda r` at 0..top tokens."""
        return self.effectiveness - self.weight * np.arange(self.top + 1) / self.top


@dataclass(frozen=True)
class Row:
    """Curves of each seed, and the trials that a search of one curve may take."""

    name: str
    initial: int
    iterations: int
    curves: Callable[[int], list[Curve]]


def synthetic(kind: Kind, tokens: int, weight: float) -> Callable[[int], list[Curve]]:
    def curves(seed: int) -> list[Curve]:
        world = draw(kind, seed, 12, tokens)
        rates, top, found = [1.0] * 12, tokens, []
        for layer in LAYERS:
            held = 12 - layer + 1
            places = [[*rates[: layer - 1], *[n / tokens] * held] for n in range(top + 1)]
            scores = None if kind == "smooth" else np.array([world.scores(place) for place in places])
            values = np.array([world(place) for place in places])
            curve = Curve(values, weight * top / tokens, scores)
            found.append(curve)
            top = int(curve.objective.argmax())
            rates[layer - 1 :] = [top / tokens] * held
            if top < 20:  # every method tries all of it
                break
        return found

    return curves


def steep(kind: Kind) -> Callable[[int], list[Curve]]:
    def curves(seed: int) -> list[Curve]:
        world, budget = draw(kind, seed, 12, 144), float(np.random.default_rng([seed, 12]).uniform(0.1, 0.5))
        values = [world(strategies.p_sigmoid(12, budget, k).rates) for k in steepnesses(2.0)]
        return [Curve(np.array(values), 0.0, None, steep=True)]

    return curves


def of_the_model(weight: float) -> Callable[[int], list[Curve]]:
    vision_tokens, layers = recorded()

    def curves(seed: int) -> list[Curve]:
        found = []
        for number, scores in enumerate(layers.values()):
            rng = np.random.default_rng([seed, number])
            half = rng.permutation(scores.shape[1])[: scores.shape[1] // 2]
            top = round((len(scores) - 1) * rng.uniform(0.7, 1.0))
            kept = scores[: top + 1, half]
            found.append(Curve(kept.mean(axis=1), weight * top / vision_tokens, kept))
        return found

    return curves


def rows() -> Iterator[Row]:
    for tokens, weight, initial, iterations in ((144, 0.01, 10, 5), (576, 0.1, 5, 7)):
        for kind in KINDS:
            name = f"{kind}, {tokens} tokens, lambda {weight:g}, {initial} + {iterations}"
            yield Row(name, initial, iterations, synthetic(kind, tokens, weight))
    for initial, iterations in ((10, 5), (5, 7)):
        yield Row(f"recorded, lambda 0.01, {initial} + {iterations}", initial, iterations, of_the_model(0.01))
    for kind in KINDS:
        yield Row(f"k, {kind}, 10 + 5", 10, 5, steep(kind))


Method = Callable[[Curve, Row, int], set[int]]


def searched(surrogate: str, told: bool = True) -> Method:
    """`told`: each sample's score, where there are any."""

    def tried(curve: Curve, row: Row, seed: int) -> set[int]:
        if curve.steep:
            return _of_line(curve, row)
        search = GSearch(
            3,
            curve.top,
            initial=row.initial,
            iterations=row.iterations,
            weight=curve.weight,
            seed=seed,
            surrogate=surrogate,
            samples=curve.samples,
        )
        points = set()
        while (trial := search.ask()) is not None:
            assert trial.rate is not None
            place = round(trial.rate * curve.top)
            points.add(place)
            scores = curve.scores[place].tolist() if told and curve.scores is not None else None
            search.tell(trial, float(curve.effectiveness[place]), scores=scores)
        return points

    return tried


def _of_line(curve: Curve, row: Row) -> set[int]:
    """As `PSigmoidSearch` goes about it."""
    line = Line(
        points=[place / curve.top for place in range(curve.top + 1)],
        initial=[spread(curve.top + 1, row.initial)],
        budget=row.initial + row.iterations,
        seeds=(0,),
        surrogate=Surrogate("paper"),
    )
    while points := line.next_points(1):
        line.values |= {point: float(curve.effectiveness[point]) for point in points}
    return line.tried


def evenly(curve: Curve, row: Row, seed: int) -> set[int]:
    return set(spread(curve.top + 1, row.initial + row.iterations))


def randomly(curve: Curve, row: Row, seed: int) -> set[int]:
    rest = np.random.default_rng([seed, curve.top]).permutation(curve.top)
    return {curve.top, *rest[: row.initial + row.iterations - 1].tolist()}


def optuna_gp(curve: Curve, row: Row, seed: int) -> set[int]:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sampler = optuna.samplers.GPSampler(
            seed=seed, n_startup_trials=row.initial, deterministic_objective=True
        )
        study = optuna.create_study(direction="maximize", sampler=sampler)
        for tokens in spread(curve.top + 1, row.initial):
            study.enqueue_trial({"tokens": tokens})
        study.optimize(
            lambda trial: float(curve.objective[trial.suggest_int("tokens", 0, curve.top)]),
            n_trials=row.initial + row.iterations,
        )
    return {trial.params["tokens"] for trial in study.trials}


METHODS: dict[str, Method] = {
    "shape": searched("shape"),
    "shape, told E alone": searched("shape", told=False),
    "paper's EI": searched("paper"),
    "evenly spaced": evenly,
    "random": randomly,
    "Optuna GP": optuna_gp,
}


def lost(curve: Curve, tried: set[int]) -> float:
    """In 1e-4 of E."""
    values = curve.objective
    return 1e4 * float(values.max() - values[sorted(tried)].max())


def interval(values: np.ndarray) -> tuple[float, float]:
    """95 % interval of the mean; the point itself where all values are equal."""
    if np.ptp(values) == 0:
        return float(values[0]), float(values[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = stats.bootstrap((values,), np.mean, rng=np.random.default_rng(0)).confidence_interval
        if not np.isfinite([found.low, found.high]).all():  # BCa needs more different values
            found = stats.bootstrap(
                (values,), np.mean, rng=np.random.default_rng(0), method="percentile"
            ).confidence_interval
    return float(found.low), float(found.high)


def measure(row: Row, seeds: range, methods: dict[str, Method]) -> dict[str, Any]:
    """Losses by method and seed (mean over the seed's curves), and how ours compares with the others."""
    curves = {seed: row.curves(seed) for seed in seeds}
    losses, seconds = {}, {}
    for name, method in methods.items():
        began = time.process_time()
        losses[name] = np.array(
            [np.mean([lost(c, method(c, row, seed)) for c in curves[seed]]) for seed in seeds]
        )
        seconds[name] = (time.process_time() - began) / sum(map(len, curves.values()))
    ours = losses["shape"]
    result: dict[str, Any] = {"row": row.name, "methods": {}}
    for name, values in losses.items():
        entry = {"mean": float(values.mean()), "interval": interval(values), "cpu_s": seconds[name]}
        if name != "shape":
            entry["ours_minus_this"] = interval(ours - values)
        result["methods"][name] = entry | {"by_seed": values.round(4).tolist()}
    result["half_of_evenly"] = bool(ours.mean() <= 0.5 * losses["evenly spaced"].mean())
    result["significantly_worse_than"] = [
        name for name, entry in result["methods"].items() if entry.get("ours_minus_this", (0, 0))[0] > 0
    ]
    return result


def table(results: list[dict[str, Any]], seeds: range, missing: list[str]) -> str:
    """Markdown."""
    names = list(results[0]["methods"])
    lines = [
        f"Loss of one layer's search against its whole grid, 1e-4 of E, seeds {seeds[0]}-{seeds[-1]}; "
        "mean [95 % bootstrap interval]. `shape` is the default.",
        "",
        "| curves, trials | " + " | ".join(names) + " | at most half of evenly | worse than |",
        "| --- |" + " --- |" * (len(names) + 2),
    ]
    for result in results:
        cells = []
        for name in names:
            entry = result["methods"][name]
            low, high = entry["interval"]
            cells.append(f"{entry['mean']:.2f} [{low:.2f}, {high:.2f}]")
        worse = ", ".join(result["significantly_worse_than"]) or "none"
        half = "yes" if result["half_of_evenly"] else "no"
        lines.append(f"| {result['row']} | " + " | ".join(cells) + f" | {half} | {worse} |")
    lines += [f"\n{line}." for line in missing]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--only", help="rows whose name contains this")
    parser.add_argument("--without", action="append", default=[], help="leave a method out; repeat")
    options = parser.parse_args()
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    methods = {name: method for name, method in METHODS.items() if name not in options.without}
    missing = [f"{name}: left out" for name in options.without]
    try:
        import optuna  # noqa: F401
    except ImportError:
        if methods.pop("Optuna GP", None):
            missing.append("Optuna GP: not installed")
    chosen = [row for row in rows() if not options.only or options.only in row.name]
    results = []
    for row in chosen:
        results.append(measure(row, seeds, methods))
        brief = {name: round(entry["mean"], 2) for name, entry in results[-1]["methods"].items()}
        if not options.only and seeds == range(20):  # after each row: it takes minutes
            write_json(FOLDER / "surrogates.json", results)
            (FOLDER / "surrogates.md").write_text(table(results, seeds, missing), encoding="utf-8")
        print(row.name, brief, f"{results[-1]['methods']['shape']['cpu_s']:.2f} s", flush=True)
    print("\n" + table(results, seeds, missing))


if __name__ == "__main__":
    main()
