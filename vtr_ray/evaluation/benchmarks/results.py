"""From answers to figures: lmms-eval's filters and metrics per document, its aggregation once over all."""

from __future__ import annotations

import contextlib
import copy
import inspect
import io
import math
import zlib
from argparse import Namespace
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vtr_ray.errors import first_line
from vtr_ray.evaluation.benchmarks.loading import Chosen
from vtr_ray.evaluation.suites import filtered, process_results, task_metadata

Key = tuple[str, str]  # metric, filter
Results = Mapping[str, Mapping[int, Mapping[Key, Any]]]  # by task and document

_SAME = 5e-4  # of a fraction; figures are rounded to four digits at best
_WORK, _FEW = 1_000_000, 200  # documents that are aggregated again for the bootstrap; resamples at least


@dataclass(frozen=True)
class Figures:
    """A benchmark under one schedule.

    value: the figure as a fraction of what it can be; None: it cannot be told, and `problem` says why.
    figures: all that lmms-eval aggregates, by metric (with its filter where there are several).
    scores: by document, what its answer is worth, in [0, 1], where the task says.
    replicates: float [R], the value over bootstrap resamples of the question groups, the same resamples under
        every schedule; empty where there is no value.
    """

    value: float | None
    figures: Mapping[str, float]
    scores: Mapping[tuple[str, int], float]
    replicates: NDArray[np.float64] = field(default_factory=lambda: np.empty(0), repr=False)
    problem: str = ""


def judge(task: Any, document: int, answer: str) -> dict[Key, Any]:
    """What the task's filters and `process_results` say of one answer, by metric and filter."""
    from lmms_eval.api.reasoning import parse_reasoning_tags_config, strip_reasoning_tags
    from lmms_eval.filters.transformation import StripThinkingFilter

    doc = task.eval_docs_no_media[document]
    tags = parse_reasoning_tags_config(None, getattr(task.config, "reasoning_tags", None))
    thinks = bool(getattr(task.config, "auto_strip_thinking", False)) and tags is None
    found: dict[Key, Any] = {}
    for ensemble in task._filters:
        filters = [StripThinkingFilter(), *ensemble.filters] if thinks else ensemble.filters
        response = filtered(filters, doc, answer)
        if tags is not None and isinstance(response, str):
            response = strip_reasoning_tags(response, tags)
        results = process_results(task, doc, response)
        found |= {(metric, ensemble.name): value for metric, value in results.items()}
    return found


def aggregate(tree: Mapping[Any, Any], results: Results, folder: Path) -> dict[str, dict[str, Any]]:
    """lmms-eval's own figures of tasks and groups, as `simple_evaluate` reports them: "metric,filter".

    folder: where aggregations that write files write them.
    """
    from lmms_eval.evaluator_utils import consolidate_group_results, consolidate_results, get_task_list

    outputs = get_task_list(tree)
    with contextlib.redirect_stdout(io.StringIO()):
        for output in outputs:
            documents = results[output.task_name]
            for document in sorted(documents):
                for key, value in documents[document].items():
                    output.sample_metrics[key].append(copy.deepcopy(value))  # some aggregations change it
            output.task.args = Namespace(output_path=str(folder))
            output.calculate_aggregate_metric(bootstrap_iters=0)
            for name in [name for name in output.agg_metrics if "_stderr," in name]:
                output.agg_metrics[name] = "N/A"
        found, _, _, versions, *_ = consolidate_results(outputs)
        found, *_ = consolidate_group_results(found, versions, tree)
    return {name: dict(values) for name, values in found.items()}


def figures_of(
    chosen: Chosen, answers: Mapping[tuple[str, int], str], folder: Path, resamples: int = 1000, seed: int = 0
) -> Figures:
    """Judges a benchmark's answers.

    answers: of all chosen documents, by task and document. resamples: of the bootstrap.
    """
    results = {
        name: {
            number: judge(task, number, answers[name, number]) for number in chosen.documents[name].numbers
        }
        for name, task in chosen.tasks.items()
    }
    scores = {
        (name, number): score
        for name, documents in results.items()
        for number, values in documents.items()
        if (score := _score(_main(chosen, name, values))) is not None
    }
    try:
        found = aggregate(chosen.tree, results, folder)
    except Exception as error:  # a task's own aggregation raises whatever it meets, as in half a set
        return Figures(None, {}, scores, problem=f"its aggregation fails: {first_line(error)}")
    figures = _plain(found.get(chosen.benchmark.task, {}))
    value = _value(chosen, found)
    if value is None or math.isnan(value) or not -1e-9 <= value <= 1 + 1e-9:
        return Figures(None, figures, scores, problem=_unclear(chosen, value))
    return Figures(value, figures, scores, _replicates(chosen, results, value, folder, resamples, seed))


def _unclear(chosen: Chosen, value: float | None) -> str:
    metrics = " + ".join(chosen.benchmark.metrics) or "its first metric"
    if value is None:
        return f"lmms-eval reports no {metrics}"
    return f"{metrics} is {value:g}, no fraction, so it cannot enter an average"


def metrics_of(chosen: Chosen, task: str) -> tuple[str, ...]:
    """The metrics whose sum is the figure of a task."""
    if chosen.benchmark.metrics:
        return chosen.benchmark.metrics
    if (said := task_metadata(chosen.tasks[task]).get("score")) is not None:
        return (said,)
    return tuple([metric for metric in chosen.tasks[task].aggregation() if metric != "submission"][:1])


def _main(chosen: Chosen, task: str, values: Mapping[Key, Any]) -> Any:
    """What one document contributes to the figure; None: nothing."""
    for metric in metrics_of(chosen, task):
        for (name, _), value in values.items():  # of several filters the first
            if name == metric:
                return value
    return None


def _score(value: Any) -> float | None:
    if isinstance(value, Mapping):
        value = next((value[name] for name in ("score", "true_false") if name in value), None)
    if not isinstance(value, int | float | bool | np.number):
        return None
    score = float(value)
    return score if 0 <= score <= 1 else None


def _plain(values: Mapping[str, Any]) -> dict[str, float]:
    """Numbers among lmms-eval's figures; the filter is named where there is one."""
    return {
        name.removesuffix(",none"): float(value)
        for name, value in values.items()
        if "," in name and "_stderr," not in name and isinstance(value, int | float | np.number)
    }


def _value(chosen: Chosen, found: Mapping[str, Mapping[str, Any]]) -> float | None:
    """The benchmark's figure as a fraction: the group's own, or the mean over its tasks."""
    benchmark = chosen.benchmark
    own = _sum(found.get(benchmark.task, {}), metrics_of(chosen, next(iter(chosen.tasks))))
    if own is None:
        parts = [_sum(found.get(name, {}), metrics_of(chosen, name)) for name in chosen.tasks]
        if not parts or any(part is None for part in parts):
            return None
        own = sum(part for part in parts if part is not None) / len(parts)
    return own / benchmark.full


def _sum(values: Mapping[str, Any], metrics: Sequence[str]) -> float | None:
    found = []
    for metric in metrics:
        named = [value for name, value in values.items() if name.partition(",")[0] == metric]
        if named and isinstance(named[0], int | float | np.number):
            found.append(float(named[0]))
    return sum(found) if found else None


def _replicates(
    chosen: Chosen, results: Results, value: float, folder: Path, resamples: int, seed: int
) -> NDArray[np.float64]:
    """The value over resamples of question groups, within each task and stratum.

    Where the value is the mean (or, over strata, the sum) of what each group is worth alone, those are
    resampled; else the task's own aggregation runs on each resample: of many documents on fewer of them.
    Empty where the aggregation takes neither a single group nor one twice.
    """
    groups = _groups(chosen)
    total = sum(len(documents.numbers) for documents in chosen.documents.values())
    equal = {name: 1 / len(groups) for name in groups}
    by_size = {name: len(documents.numbers) / total for name, documents in chosen.documents.items()}
    worth = {name: _worth(chosen, name, results[name], folder) for name in groups}
    # Of its own for each benchmark: with one seed, benchmarks of equal size would vary together.
    generator = np.random.default_rng([seed, zlib.crc32(chosen.benchmark.task.encode())])
    for weights in (equal, by_size):  # as groups of tasks average, or may
        parts = _additive(groups, worth, weights, summed=chosen.benchmark.stratum is not None)
        if parts and abs(math.fsum(weight * float(each.mean()) for weight, each in parts) - value) < _SAME:
            drawn = np.zeros(resamples)
            for weight, each in parts:
                for start in range(0, resamples, 100):  # 100 times a benchmark's groups at once
                    rows = min(100, resamples - start)
                    picks = generator.integers(0, len(each), (rows, len(each)))
                    drawn[start : start + rows] += weight * each[picks].mean(1)
            return drawn
    found = []
    for _ in range(min(resamples, max(_FEW, _WORK // total))):
        drawn_value = 0.0
        for name, strata in groups.items():
            picked = [
                number
                for units in strata.values()
                for place in generator.integers(0, len(units), len(units))
                for number in units[place]
            ]
            try:
                drawn_value += equal[name] * worth[name](picked)
            except Exception:  # an aggregation that wants each group once
                return np.empty(0)
        found.append(drawn_value)
    return np.array(found)


def _groups(chosen: Chosen) -> dict[str, dict[Hashable, list[list[int]]]]:
    """By task and stratum the question groups: their documents."""
    found: dict[str, dict[Hashable, list[list[int]]]] = {}
    for name, documents in chosen.documents.items():
        strata: dict[Hashable, dict[Hashable, list[int]]] = defaultdict(lambda: defaultdict(list))
        for number in documents.numbers:
            strata[documents.strata.get(number)][documents.units.get(number, number)].append(number)
        found[name] = {stratum: list(units.values()) for stratum, units in strata.items()}
    return found


def _additive(
    groups: Mapping[str, Mapping[Hashable, Sequence[Sequence[int]]]],
    worth: Mapping[str, Callable[[Sequence[int]], float]],
    weights: Mapping[str, float],
    summed: bool,
) -> list[tuple[float, NDArray[np.float64]]]:
    """What each question group is worth alone, by stratum with its weight; []: one alone has no worth.

    summed: the figure is the sum over strata.
    """
    parts: list[tuple[float, NDArray[np.float64]]] = []
    for name, strata in groups.items():
        for units in strata.values():
            try:
                each = np.array([worth[name](unit) for unit in units])
            except Exception:  # an aggregation that wants more than one group
                return []
            parts.append((1.0 if summed else weights[name] / len(strata), each))
    return parts


def _worth(
    chosen: Chosen, name: str, results: Mapping[int, Mapping[Key, Any]], folder: Path
) -> Callable[[Sequence[int]], float]:
    """What documents of a task are worth by its own aggregation, as a fraction of the benchmark's best."""
    from lmms_eval.api.metrics import mean

    task, full = chosen.tasks[name], chosen.benchmark.full
    first = task._filters[0].name
    columns = [
        (
            function,
            "args" in inspect.signature(function).parameters,
            {number: each[metric, first] for number, each in results.items() if (metric, first) in each},
        )
        for metric in metrics_of(chosen, name)
        if (function := task.aggregation().get(metric)) is not None
    ]

    def worth(numbers: Sequence[int]) -> float:
        total = 0.0
        for function, writes, column in columns:
            values = [column[number] for number in numbers if number in column]
            if not values:
                continue
            if function is mean:
                total += math.fsum(map(float, values)) / len(values)
                continue
            with contextlib.redirect_stdout(io.StringIO()):
                if writes:  # some change what they get
                    total += float(function(copy.deepcopy(values), args=Namespace(output_path=str(folder))))
                else:
                    total += float(function([dict(one) if isinstance(one, dict) else one for one in values]))
        return total / full

    return worth
