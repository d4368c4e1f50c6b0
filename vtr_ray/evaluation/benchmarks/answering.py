"""Answers of a pool of actors to chosen documents under several schedules; none is asked for twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from vtr_ray.evaluation.benchmarks.loading import Chosen
from vtr_ray.evaluation.benchmarks.responses import Responses, digest
from vtr_ray.evaluation.outcome import Outcome
from vtr_ray.schedule import Schedule

_CHUNK = 16  # batches of each actor, whose encoded images the schedules share before the next ones come

Answers = dict[tuple[str, int], str]  # by task and document


def collect_answers(
    pool: Any,
    chosen: Sequence[Chosen],
    schedules: Mapping[str, Schedule],
    responses: Responses,
    identity: Mapping[str, Any],
    on_answers: Callable[[str, int], None] | None = None,
) -> tuple[dict[str, Answers], dict[str, list[str]]]:
    """Answers by schedule's name, and the ids of samples whose logits were not numbers, which answer "".

    pool: of `BenchmarkEvaluator`s with the chosen documents. identity: what else decides an answer: model,
    revision, dtype and so on, JSON values. on_answers: takes a schedule's name and how many of its answers
    have come, the known ones first.

    An answer is known by all that decides it: `identity`, the schedule, the question and the content of what
    it is about, which the actors digest between them.
    Every answer is in `responses` before the next batch is asked for.
    """
    places = {sample.id: (sample.source, sample.document) for one in chosen for sample in one.samples}
    contents: dict[str, str] = {}
    for part in pool.share("contents"):
        contents |= part
    asked = {sample: {**own, "content": contents[sample]} for sample, own in _asked(chosen)}
    keys = {
        name: {
            sample: digest(schedule=replace(schedule, found=None).to_dict(), **identity, **question)
            for sample, question in asked.items()
        }
        for name, schedule in schedules.items()
    }
    found = {name: responses.get(own) for name, own in keys.items()}
    lost: dict[str, list[str]] = {name: [] for name in schedules}
    for name in schedules:
        if on_answers is not None:
            on_answers(name, len(found[name]))

    def taker(name: str) -> Callable[[list[Outcome]], None]:
        def take(outcomes: list[Outcome]) -> None:
            known = found[name]
            new = [one for one in outcomes if one.sample_id not in known]
            known |= {one.sample_id: one.answer or "" for one in new}
            lost[name] += [one.sample_id for one in new if one.error is not None]
            responses.put((keys[name][one.sample_id], one.answer or "") for one in new if one.error is None)
            if on_answers is not None:
                on_answers(name, len(new))

        return take

    for batches in _chunks(pool.call("batches"), _CHUNK * len(pool.names)):
        for name, schedule in schedules.items():
            missing = [number for number, ids in batches if not found[name].keys() >= set(ids)]
            if missing:
                pool.evaluate(schedule, missing, on_outcomes=taker(name))
    answers = {
        name: {places[sample]: answer for sample, answer in own.items()} for name, own in found.items()
    }
    return answers, lost


def _asked(chosen: Sequence[Chosen]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Of each sample what is asked of the model, and how it writes its answer."""
    for one in chosen:
        settings: dict[str, dict[str, Any]] = {}
        for name, task in one.tasks.items():
            generation = {str(key): value for key, value in (task.config.generation_kwargs or {}).items()}
            settings[name] = {"generation": generation, "frames": one.frames}
        for sample in one.samples:
            yield (
                sample.id,
                {
                    "task": sample.source,
                    "document": sample.document,
                    "context": sample.question,
                    "target": sample.answers[0],
                    "limits": [sample.max_new_tokens, *sample.until],
                    **settings[sample.source],
                },
            )


def _chunks(batches: Sequence[Sequence[str]], size: int) -> Iterator[list[tuple[int, Sequence[str]]]]:
    numbered = list(enumerate(batches))
    for start in range(0, len(numbered), size):
        yield numbered[start : start + size]
