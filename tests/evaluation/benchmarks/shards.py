"""A pool without Ray: batches dealt to evaluators of one process, as actors would answer them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from vtr_ray.evaluation.benchmarks.evaluator import BenchmarkEvaluator
from vtr_ray.evaluation.outcome import Outcome
from vtr_ray.evaluation.samples import SampleSet
from vtr_ray.schedule import Schedule


class Shards:
    """`count` evaluators; `asked` counts the batches that were evaluated."""

    def __init__(self, model: Any, processor: Any, samples: SampleSet, count: int, batch: int = 8) -> None:
        self.names = [f"shard-{number}" for number in range(count)]
        self.evaluators = [
            BenchmarkEvaluator(model, processor, samples, batch, cache=2**28) for _ in range(count)
        ]
        self.asked = 0

    def call(self, name: str, *args: Any) -> Any:
        return getattr(self.evaluators[0], name)(*args)

    def share(self, name: str) -> list[Any]:
        return [getattr(one, name)(part, len(self.names)) for part, one in enumerate(self.evaluators)]

    def evaluate(
        self,
        schedule: Schedule,
        batches: Sequence[int],
        on_outcomes: Callable[[list[Outcome]], None],
    ) -> None:
        for number in reversed(batches):
            self.asked += 1
            on_outcomes(self.evaluators[number % len(self.evaluators)].evaluate(schedule, [number]))
