"""Every method on every benchmark: of images (Tables 1 and 6), of videos (Table 11)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vtr_ray.efficiency.units import flops_text
from vtr_ray.studies.finding import Finding, Table

NONE, G_SEARCH, P_SIGMOID, RANDOM = "no reduction", "G-Search", "P-Sigmoid", "random tokens"
DROP = 0.875  # of FastV in the second scenario: Tables 3, 5, 9, 11


def fastv_name(drop: float) -> str:
    """FastV with a drop, as the paper's tables name it."""
    return f"FastV {100 * drop:g} %"


@dataclass(frozen=True)
class Method:
    """One model under one method's schedule.

    accuracy: average over benchmarks, in [0, 1]; low, high: its interval. benchmarks: each one's own figure,
    by title. difference: of the average to no reduction; significant: whether it is. tflops: the
    paper's convention, mean over the benchmarks' prompts. prefill_ms: None where nothing was timed.
    """

    name: str
    accuracy: float
    low: float
    high: float
    memory_cost: float
    tflops: float
    prefill_ms: float | None
    benchmarks: Mapping[str, float]
    difference: float = 0.0
    significant: bool = False


def every_benchmark(methods: Sequence[Method]) -> Finding:
    """methods: no reduction, the fixed strategies, G-Search, the control and what else was named."""
    by_name = {one.name: one for one in methods}
    none, ours = by_name[NONE], by_name[G_SEARCH]
    others = [one for one in methods if one.name not in (NONE, G_SEARCH, RANDOM)]
    beaten = [one for one in others if ours.tflops < one.tflops or ours.accuracy > one.accuracy]
    ahead = [one for one in others if one not in beaten]
    lost = ours.significant and ours.difference < 0
    sentences = [
        _described(none, ours),
        "Beside it: "
        + "; ".join(f"{one.name} {100 * one.accuracy:.1f} at {flops_text(one.tflops)}" for one in others)
        + ".",
    ]
    if RANDOM in by_name:
        sentences.append(
            f"As many tokens of each layer, chosen at random, leave {100 * by_name[RANDOM].accuracy:.1f}."
        )
    if lost:
        sentences.append(
            "The drop is significant: at lambda = 0.01 the search may give a point of E for the tokens "
            "that it saves."
        )
    if ahead:
        sentences.append(
            f"No less accurate at no more TFLOPs than G-Search: {', '.join(one.name for one in ahead)}."
        )
    return Finding(
        study="benchmarks",
        title="Every method on every benchmark",
        paper="Tables 1, 6",
        claim="Without a drop, G-Search has less TFLOPs or is more accurate than VTW, PDrop and FastV.",
        holds=not lost and not ahead,
        sentences=tuple(sentences),
        tables=_tables(methods),
        metrics={f"accuracy/{one.name}": one.accuracy for one in methods},
    )


def on_videos(methods: Sequence[Method], handcrafted: str, lead: tuple[float, bool]) -> Finding:
    """methods: with schedules searched on images. handcrafted: the one whose FLOPs P-Sigmoid was given.

    lead: of P-Sigmoid over it, in [-1, 1], and whether that is significant.
    """
    by_name = {one.name: one for one in methods}
    none, ours = by_name[NONE], by_name[G_SEARCH]
    theirs, curve = by_name[handcrafted], by_name[P_SIGMOID]
    lost = ours.significant and ours.difference < 0
    difference, clear = lead
    return Finding(
        study="video",
        title="Schedules searched on images, on videos",
        paper="Table 11",
        claim="They keep the accuracy on videos, and P-Sigmoid's is more accurate than FastV at its FLOPs.",
        holds=False if lost or difference < 0 else True if clear else None,
        sentences=(
            _described(none, ours),
            f"{handcrafted} has {100 * theirs.accuracy:.1f} at {flops_text(theirs.tflops)}, P-Sigmoid "
            f"{100 * curve.accuracy:.1f} at {flops_text(curve.tflops)}: {100 * difference:+.1f} points "
            f"({'' if clear else 'not '}significant).",
        ),
        tables=_tables(methods),
        metrics={f"accuracy/{one.name}": one.accuracy for one in methods},
    )


def _described(none: Method, ours: Method) -> str:
    return (
        f"G-Search: {100 * ours.accuracy:.1f} instead of {100 * none.accuracy:.1f} "
        f"({'' if ours.significant else 'not '}significant) at {flops_text(ours.tflops)} instead of "
        f"{flops_text(none.tflops)}, memory cost {ours.memory_cost:.3f}."
    )


def _tables(methods: Sequence[Method]) -> dict[str, Table]:
    titles = list(dict.fromkeys(title for one in methods for title in one.benchmarks))
    timed = any(one.prefill_ms is not None for one in methods)
    return {
        "methods": Table(
            (
                "method",
                "average",
                "low",
                "high",
                "memory cost",
                "TFLOPs",
                *(["prefill ms"] if timed else []),
            ),
            [
                (
                    one.name,
                    one.accuracy,
                    one.low,
                    one.high,
                    one.memory_cost,
                    one.tflops,
                    *([one.prefill_ms] if timed else []),
                )
                for one in methods
            ],
        ),
        "benchmarks": Table(
            ("method", *titles),
            [(one.name, *(one.benchmarks.get(title) for title in titles)) for one in methods],
        ),
    }
