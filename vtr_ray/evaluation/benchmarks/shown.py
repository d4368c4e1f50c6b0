"""Samples for pictures: which vision tokens live at each layer under each schedule, and what is answered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vtr_ray.evaluation.benchmarks.answering import Answers
from vtr_ray.evaluation.benchmarks.loading import Chosen, context_of, target_of
from vtr_ray.evaluation.benchmarks.results import Figures
from vtr_ray.schedule import Schedule


def shown_samples(
    pool: Any,
    chosen: Sequence[Chosen],
    schedules: Mapping[str, Schedule],
    answers: Mapping[str, Answers],
    figures: Mapping[str, Mapping[str, Figures]],
    count: int,
) -> list[dict[str, Any]]:
    """JSON of at most `count` samples: of the benchmarks in turn, those on which schedules differ first."""
    ranked = [(one, _ranked(one, answers, figures)) for one in chosen]
    turns = [
        (one, place) for turn in range(count) for one, places in ranked for place in places[turn : turn + 1]
    ]
    return [_shown(pool, one, place, schedules, answers, figures) for one, place in turns[:count]]


def _ranked(
    chosen: Chosen, answers: Mapping[str, Answers], figures: Mapping[str, Mapping[str, Figures]]
) -> list[tuple[str, int]]:
    """A benchmark's documents: those that are wrong under half of the schedules come first."""
    scores = [own[chosen.benchmark.task].scores for own in figures.values()]
    places = [(name, number) for name, own in chosen.documents.items() for number in own.numbers]

    def mixed(place: tuple[str, int]) -> float:
        right = [own[place] for own in scores if place in own]
        return abs(sum(right) / len(right) - 0.5) if right else 1.0

    return sorted(places, key=mixed)


def _shown(
    pool: Any,
    chosen: Chosen,
    place: tuple[str, int],
    schedules: Mapping[str, Schedule],
    answers: Mapping[str, Answers],
    figures: Mapping[str, Mapping[str, Figures]],
) -> dict[str, Any]:
    name, number = place
    task = chosen.tasks[name]
    alive = {
        strategy: pool.call("alive", f"{name}/{number}", schedule) for strategy, schedule in schedules.items()
    }
    first = next(iter(alive.values()))
    return {
        "task": name,
        "document": number,
        "question": context_of(task, number),
        "target": target_of(task, number),
        **{key: first[key] for key in ("image", "tokens", "grid")},
        "strategies": {
            strategy: {
                "answer": answers[strategy][place],
                "score": figures[strategy][chosen.benchmark.task].scores.get(place),
                "kept": one["kept"],
            }
            for strategy, one in alive.items()
        },
    }
