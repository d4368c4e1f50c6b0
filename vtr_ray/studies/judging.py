"""Judging a recorded study again, by today's inequality, from the numbers of its `study.json`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from vtr_ray.studies import attention, correlation, curves, efficiency, exchange, methods, tradeoff, training
from vtr_ray.studies.finding import Finding

_JUDGES: Mapping[str, Callable[[Mapping[str, Any], Mapping[str, Any]], Finding]] = {
    "correlation": correlation.judged,
    "attention": attention.judged,
    "curves": curves.judged,
    "tradeoff": tradeoff.judged,
    "budgets": tradeoff.budgets_judged,
    "exchange": exchange.judged,
    "ontop": exchange.on_top_judged,
    "training": training.judged,
    "benchmarks": methods.judged,
    "efficiency": efficiency.judged,
    "video": methods.videos_judged,
}


def judge(content: Mapping[str, Any]) -> Finding:
    """Judge a `study.json`, of any version, from its tables.

    What the inequality needs and an earlier version did not record makes the verdict "cannot be told".
    """
    facts = content["facts"] if "facts" in content else _facts_of(content)
    return _JUDGES[content["study"]](content["tables"], facts)


def _facts_of(content: Mapping[str, Any]) -> dict[str, Any]:
    """What version 1 recorded in its sentences alone."""
    study, sentences = content["study"], content["sentences"]
    if study in ("correlation", "attention"):
        return _numbers(r"Over (?P<samples>\d+) samples", sentences[0])
    if study == "training":
        return _numbers(
            r"Trained anew for (?P<steps>\d+) steps, fine-tuned for (?P<tuning_steps>\d+)", sentences[0]
        )
    if study == "efficiency":
        left_out = [one for one in sentences if re.search(" does not run here: | is not timed: ", one)]
        machine = sentences[0].partition(": no reduction takes")[0]
        return {"machine": machine, "left_out": left_out, **_numbers(r"median of (?P<turns>\d+)", machine)}
    if study == "ontop":
        counts = [re.match(r"(\S+) \((\d+) vision tokens\)", one) for one in sentences]
        return {"vision_tokens": {found[1]: int(found[2]) for found in counts if found}}
    return {}


def _numbers(pattern: str, sentence: str) -> dict[str, int]:
    found = re.search(pattern, sentence)
    return {} if found is None else {name: int(value) for name, value in found.groupdict().items()}
