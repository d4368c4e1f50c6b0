"""What dealing trials to actors costs. A simulation: the evaluators sleep instead of computing.

`python benchmarks/scaling.py` starts eight nodes on this machine (`ray.cluster_utils.Cluster`) and measures

- scaling: every actor has one second of work, in four batches; efficiency: that second by a trial's time;
- straggler: the same with eight batches an actor and one actor five times slower, by the ideal time;
- overhead: a G-Search through Ray Tune with trials of one second, on one actor.

`--actors 1,2,4,8` runs a part. Prints a table and writes `benchmarks/scaling.json`.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray._raylet import Config
from ray.cluster_utils import Cluster
from rich.console import Console
from rich.table import Table

from vtr_ray import strategies
from vtr_ray.evaluation.outcome import Outcome
from vtr_ray.evaluation.pool import EvaluatorPool
from vtr_ray.schedule import Schedule
from vtr_ray.tuning.cluster import connected
from vtr_ray.tuning.directory import write_json

LAYERS, TOKENS, SLOWER = 8, 64, 5.0


class Sleeper:
    """An evaluator whose batches take given seconds, one sample each."""

    num_layers, vision_tokens = LAYERS, TOKENS

    def __init__(self, batches: int, seconds: float) -> None:
        self.num_batches = self.num_samples = batches
        self.seconds = seconds

    def evaluate(self, schedule: Schedule, batches: list[int]) -> list[Outcome]:
        """Sleep, then one outcome a batch."""
        time.sleep(self.seconds * len(batches))
        return [Outcome(f"s{batch}", min(1.0, 0.2 + schedule.rates[-1])) for batch in batches]


@dataclass
class MakeSleeper:
    """Factory. straggler: a folder in which the first actor that comes becomes the slow one."""

    batches: int
    seconds: float
    straggler: str | None = None

    def __call__(self) -> Sleeper:
        """Called in the actor."""
        seconds = self.seconds
        if self.straggler is not None:
            try:
                os.close(os.open(f"{self.straggler}/slow", os.O_CREAT | os.O_EXCL))
                seconds *= SLOWER
            except FileExistsError:
                pass
        return Sleeper(self.batches, seconds)


@contextmanager
def cluster(nodes: int, cpus: int) -> Iterator[None]:
    """Simulated nodes on this machine; CPUs are a bookkeeping figure, sleeping needs none."""
    os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=os.urandom(32).hex(), RAY_USAGE_STATS_ENABLED="0")
    Config.initialize("")
    started = Cluster(initialize_head=True, head_node_args={"num_cpus": cpus, "include_dashboard": False})
    try:
        for _ in range(nodes - 1):
            started.add_node(num_cpus=cpus)
        os.environ["RAY_ADDRESS"] = started.address
        with connected():
            yield
    finally:
        started.shutdown()


def timed(pool: EvaluatorPool, trials: int) -> list[float]:
    """Seconds of each trial; schedules differ, as in a search."""
    times = []
    for trial in range(trials):
        schedule = strategies.p_sigmoid(LAYERS, budget=0.5, k=0.1 * trial)
        started = time.perf_counter()
        outcomes = pool.evaluate(schedule)
        times.append(time.perf_counter() - started)
        assert [outcome.sample_id for outcome in outcomes] == [f"s{b}" for b in range(pool.num_batches)]
    return times


def scaling(actors: int, trials: int) -> dict[str, Any]:
    with EvaluatorPool(MakeSleeper(4 * actors, 0.25), actors=actors, placement_timeout=900) as pool:
        times = timed(pool, trials + 1)
    seconds = statistics.median(times[1:])
    return {"actors": actors, "first": times[0], "seconds": seconds, "efficiency": 1 / seconds}


def straggler(actors: int, trials: int) -> dict[str, Any]:
    """Ideal: all work shared out by speed, as if batches could be cut."""
    ideal = 8 * actors * 0.125 / (actors - 1 + 1 / SLOWER)
    with tempfile.TemporaryDirectory() as folder:
        made = MakeSleeper(8 * actors, 0.125, folder)
        with EvaluatorPool(made, actors=actors, placement_timeout=900) as pool:
            times = timed(pool, trials + 1)
    seconds = statistics.median(times[1:])
    return {"actors": actors, "ideal": ideal, "first": times[0] / ideal, "ratio": seconds / ideal,
            "worst": max(times) / ideal}  # fmt: skip


def overhead(trials: int) -> dict[str, Any]:
    """Seconds from trial to trial of a search whose evaluations take one second; proposals are part of it."""
    from vtr_ray.search import GSearch
    from vtr_ray.tuning.directory import Settings
    from vtr_ray.tuning.run import run_search

    stride = LAYERS  # one searched layer
    search = GSearch(
        LAYERS, TOKENS, stride=stride, initial=trials // 2, iterations=trials - trials // 2, seed=0
    )
    _warm(search.state_dict())
    ends: list[float] = []
    with tempfile.TemporaryDirectory() as folder, EvaluatorPool(MakeSleeper(4, 0.25), actors=1) as pool:
        settings = Settings("scaling", {}, 0, "none")
        run_search(
            search, pool, Path(folder) / "run", settings, on_trial=lambda _: ends.append(time.perf_counter())
        )
    gaps = [after - before for before, after in itertools.pairwise(ends)]
    return {"trials": len(ends), "seconds": statistics.median(gaps), "mean": statistics.mean(gaps)}


def _warm(state: dict[str, Any]) -> None:
    """The same search in a loop, so that no import is timed."""
    from vtr_ray.search import GSearch

    search = GSearch.from_state_dict(state)
    while (trial := search.ask()) is not None:
        search.tell(trial, min(1.0, 0.2 + trial.schedule.rates[-1]))


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--actors", default="1,2,4,8,16,32,64", help="numbers of actors (1,2,4,8,16,32,64)")
    parser.add_argument("--nodes", type=int, default=8)
    parser.add_argument("--trials", type=int, default=7, help="timed ones of each row, after a first")
    parser.add_argument("--json", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args(arguments)
    counts = [int(count) for count in options.actors.split(",")]

    console = Console(width=100)
    with cluster(options.nodes, -(-max(counts) // options.nodes)):
        rows = [scaling(count, options.trials) for count in counts]
        slow = [straggler(count, options.trials) for count in counts if 2 <= count <= 8]
        tune = overhead(2 * options.trials)

    table = Table(
        title=f"Sleeping evaluators, one-second shards, {options.nodes} simulated nodes (a simulation)"
    )
    for column in ("actors", "first trial s", "trial s", "efficiency"):
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(
            str(row["actors"]), f"{row['first']:.3f}", f"{row['seconds']:.3f}", f"{row['efficiency']:.3f}"
        )
    console.print(table)
    table = Table(title="One actor five times slower: time by ideal time (at most 1.3)")
    for column in ("actors", "first trial", "median", "worst"):
        table.add_column(column, justify="right")
    for row in slow:
        table.add_row(str(row["actors"]), f"{row['first']:.2f}", f"{row['ratio']:.2f}", f"{row['worst']:.2f}")
    console.print(table)
    console.print(
        f"Ray Tune and actors at trials of one second: {100 * (tune['seconds'] - 1):.1f} % (median of "
        f"{tune['trials'] - 1}), {100 * (tune['mean'] - 1):.1f} % (mean); at most 10 %."
    )
    content = {
        "simulation": "evaluators sleep",
        "cpu_count": os.cpu_count(),
        "ray": ray.__version__,
        "nodes": options.nodes,
        "scaling": rows,
        "straggler": slow,
        "overhead": tune,
    }
    write_json(options.json, content)
    console.print(f"Wrote {options.json}", soft_wrap=True)


if __name__ == "__main__":
    main(sys.argv[1:])
