"""Samples for pictures: which vision tokens live at each layer under each schedule, and what is answered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice, zip_longest
from typing import Any

from vtr_ray.evaluation.benchmarks.answering import Answers
from vtr_ray.evaluation.benchmarks.loading import Chosen
from vtr_ray.evaluation.benchmarks.results import Figures
from vtr_ray.evaluation.samples import Sample
from vtr_ray.schedule import Schedule


def shown_samples(
    pool: Any,
    chosen: Sequence[Chosen],
    schedules: Mapping[str, Schedule],
    answers: Mapping[str, Answers],
    figures: Mapping[str, Mapping[str, Figures]],
    count: int,
) -> list[dict[str, Any]]:
    """JSON of at most `count` samples that show something: of the benchmarks in turn, those first on which
    schedules differ."""
    ranked = [(one, _ranked(one, figures)) for one in chosen]
    turns = zip_longest(*([(one, sample) for sample in samples] for one, samples in ranked))
    pairs = (pair for turn in turns for pair in turn if pair is not None)
    shown = (_shown(pool, one, sample, schedules, answers, figures) for one, sample in pairs)
    return list(islice((one for one in shown if one["image"] is not None), count))


def _ranked(chosen: Chosen, figures: Mapping[str, Mapping[str, Figures]]) -> list[Sample]:
    """A benchmark's samples: those that are wrong under half of the schedules come first."""
    scores = [own[chosen.benchmark.task].scores for own in figures.values()]

    def mixed(sample: Sample) -> float:
        place = sample.source, sample.document
        right = [own[place] for own in scores if place in own]
        return abs(sum(right) / len(right) - 0.5) if right else 1.0

    return sorted(chosen.samples, key=mixed)


def _shown(
    pool: Any,
    chosen: Chosen,
    sample: Sample,
    schedules: Mapping[str, Schedule],
    answers: Mapping[str, Answers],
    figures: Mapping[str, Mapping[str, Figures]],
) -> dict[str, Any]:
    place = sample.source, sample.document
    alive = pool.call("alive", sample.id, list(schedules.values()))
    kept = alive.pop("kept")
    return {
        "task": sample.source,
        "document": sample.document,
        "question": sample.question,
        "target": sample.answers[0],
        **alive,
        "strategies": {
            strategy: {
                "answer": answers[strategy][place],
                "score": figures[strategy][chosen.benchmark.task].scores.get(place),
                "kept": own,
            }
            for strategy, own in zip(schedules, kept, strict=True)
        },
    }
