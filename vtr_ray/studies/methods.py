"""Every method on every benchmark: of images (Tables 1 and 6), of videos (Table 11)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vtr_ray.efficiency.units import flops_text
from vtr_ray.studies.finding import Finding, Table, records
from vtr_ray.studies.verdict import (
    NO_DROP,
    SAME_FLOPS,
    PairedDifference,
    at_same_flops,
    credit,
    every,
    more,
    no_drop,
)

NONE, G_SEARCH, P_SIGMOID, RANDOM = "no reduction", "G-Search", "P-Sigmoid", "random tokens"
ONE_CUT = "one cut"  # of a found curve, or of G-Search's where several stand beside each other: `cut_of`
CONTROLS = (RANDOM, ONE_CUT)
DROP = 0.875  # of FastV in the second scenario: Tables 3, 5, 9, 11
_BENCHMARKS = (
    f"Holds where G-Search has, to no reduction, {NO_DROP}; and where to each of VTW, PDrop and FastV it has "
    "less TFLOPs or a difference significantly above 0. Does not hold where the drop is significant, or one "
    "of them, at no more TFLOPs, is significantly more accurate or within a point of it."
)
_VIDEO = (
    f"Holds where G-Search has, to no reduction, {NO_DROP}; and where P-Sigmoid minus FastV is significantly "
    f"above 0, at TFLOPs at most {100 * SAME_FLOPS:g} % higher. Does not hold where the drop is significant, "
    "or the difference significantly below 0 or shown to be less than a point."
)

_RIVALS = ("VTW", "PDrop", "FastV")  # each a method's name, or the beginning of one

Differences = Mapping[tuple[str, str], PairedDifference]  # by names: the first minus the second


def fastv_name(drop: float) -> str:
    """FastV with a drop, as the paper's tables name it."""
    return f"FastV {100 * drop:g} %"


def cut_of(search: str) -> str:
    """The name of a search's control: one cut with its ranking, at its memory cost."""
    return ONE_CUT if search == G_SEARCH else f"{search}, {ONE_CUT}"


def is_searched(method: str) -> bool:
    """Whether a method's schedule is a search's, and no control of one."""
    return method.startswith((G_SEARCH, P_SIGMOID)) and not method.endswith(f", {ONE_CUT}")


@dataclass(frozen=True)
class Method:
    """One model under one method's schedule.

    accuracy: average over benchmarks, in [0, 1]; low, high: its interval. benchmarks: each one's own figure,
    by title. tflops: the paper's convention, mean over the benchmarks' prompts. prefill_ms: None where
    nothing was timed.
    """

    name: str
    accuracy: float
    low: float | None
    high: float | None
    memory_cost: float
    tflops: float
    prefill_ms: float | None
    benchmarks: Mapping[str, float]


def every_benchmark(methods: Sequence[Method], differences: Differences) -> Finding:
    """methods: no reduction, the fixed strategies, G-Search, its controls and what else was named.

    differences: of averages, paired; of each method to no reduction, and of G-Search to each.

    The claim holds where `no_drop(G-Search - no reduction)`, and for each fixed strategy `X`
    `TFLOPs(G-Search) < TFLOPs(X)` or `more(G-Search - X)`.
    """
    by_name = {one.name: one for one in methods}
    none, ours = by_name[NONE], by_name[G_SEARCH]
    searched = [one.name for one in methods if is_searched(one.name)]
    controls = (*CONTROLS, *map(cut_of, searched))
    others = [one for one in methods if one.name not in (NONE, G_SEARCH, *controls)]
    drop = between(differences, G_SEARCH, NONE)
    beaten = {
        one.name: True if ours.tflops < one.tflops else more(between(differences, G_SEARCH, one.name))
        for one in others
        if one.name not in searched  # P-Sigmoid's are no rivals: the same paper's
    }
    missing = [name for name in _RIVALS if not any(one.startswith(name) for one in beaten)]
    sentences = [
        _described(none, ours, drop),
    ]
    if others:
        beside = (f"{one.name} {100 * one.accuracy:.1f} at {flops_text(one.tflops)}" for one in others)
        sentences.append(f"Beside it: {'; '.join(beside)}.")
    if missing:
        sentences.append(f"Not compared, so that the claim cannot hold: {', '.join(missing)}.")
    if RANDOM in by_name:
        sentences.append(
            f"As many tokens of each layer, chosen at random, leave {100 * by_name[RANDOM].accuracy:.1f}."
        )
    sentences += [_cut_line(search, by_name, differences) for search in searched]
    if no_drop(drop) is False:
        sentences.append(
            "The drop is significant: at lambda = 0.01 the search may give a point of E for the tokens "
            "that it saves."
        )
    for verdict, words in (
        (False, "No less accurate at no more TFLOPs than G-Search"),
        (None, "At no more TFLOPs than G-Search, and not told apart from it in accuracy"),
    ):
        if found := [name for name, one in beaten.items() if one is verdict]:
            sentences.append(f"{words}: {', '.join(found)}.")
    return Finding(
        study="benchmarks",
        title="Every method on every benchmark",
        paper="Tables 1, 6",
        claim="Without a drop, G-Search has less TFLOPs or is more accurate than VTW, PDrop and FastV.",
        inequality=_BENCHMARKS,
        holds=every([no_drop(drop), *beaten.values(), *(None for _ in missing)]),
        sentences=tuple(sentences),
        tables=_tables(methods, differences),
        metrics={f"accuracy/{one.name}": one.accuracy for one in methods},
    )


def on_videos(methods: Sequence[Method], handcrafted: str, differences: Differences) -> Finding:
    """methods: with schedules searched on images. handcrafted: the one whose FLOPs P-Sigmoid was given.

    differences: of averages, paired; of each method to no reduction, and of the searched ones to each.

    The claim holds where `no_drop(G-Search - no reduction)` and `more(P-Sigmoid - handcrafted)`, at the same
    TFLOPs.
    """
    by_name = {one.name: one for one in methods}
    none, ours = by_name[NONE], by_name[G_SEARCH]
    theirs, curve = by_name[handcrafted], by_name[P_SIGMOID]
    drop, lead = between(differences, G_SEARCH, NONE), between(differences, P_SIGMOID, handcrafted)
    return Finding(
        study="video",
        title="Schedules searched on images, on videos",
        paper="Table 11",
        claim="They keep the accuracy on videos, and P-Sigmoid's is more accurate than FastV at its FLOPs.",
        inequality=_VIDEO,
        holds=every([no_drop(drop), at_same_flops(more(lead), curve.tflops, theirs.tflops)]),
        sentences=(
            _described(none, ours, drop),
            f"{handcrafted} has {100 * theirs.accuracy:.1f} at {flops_text(theirs.tflops)}, P-Sigmoid "
            f"{100 * curve.accuracy:.1f} at {flops_text(curve.tflops)}: {_shown(lead)}.",
            *(_cut_line(search, by_name, differences) for search in (G_SEARCH, P_SIGMOID)),
        ),
        tables=_tables(methods, differences),
        metrics={f"accuracy/{one.name}": one.accuracy for one in methods},
        facts={"handcrafted": handcrafted},
    )


def between(differences: Differences, first: str, second: str) -> PairedDifference | None:
    """`first` minus `second`, whichever way it stands; None where it was not recorded."""
    if (first, second) in differences:
        return differences[first, second]
    other = differences.get((second, first))
    return None if other is None else -other


def _described(none: Method, ours: Method, drop: PairedDifference | None) -> str:
    return (
        f"G-Search: {100 * ours.accuracy:.1f} instead of {100 * none.accuracy:.1f} ({_shown(drop)}) at "
        f"{flops_text(ours.tflops)} instead of {flops_text(none.tflops)}, memory cost {ours.memory_cost:.3f}."
    )


def _shown(difference: PairedDifference | None) -> str:
    return "the paired difference was not recorded" if difference is None else str(difference)


def _cut_line(search: str, methods: Mapping[str, Method], differences: Differences) -> str:
    name = cut_of(search)
    gain = between(differences, search, name) if name in methods else None
    line = credit(search, gain)
    if name in methods:
        line = f"{line.removesuffix('.')} ({100 * methods[name].accuracy:.1f} with the one cut)."
    return line


def _tables(methods: Sequence[Method], differences: Differences) -> dict[str, Table]:
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
        "differences": Table(
            ("method", "minus", *PairedDifference.COLUMNS),
            [(*names, *one.cells) for names, one in differences.items()],
        ),
    }


def _read(tables: Mapping[str, Any]) -> tuple[list[Method], dict[tuple[str, str], PairedDifference]]:
    benchmarks = {row.pop("method"): row for row in records(tables["benchmarks"])}
    methods = []
    for row in records(tables["methods"]):
        known = {title: value for title, value in benchmarks[row["method"]].items() if value is not None}
        methods.append(
            Method(
                row["method"], row["average"], row["low"], row["high"], row["memory cost"], row["TFLOPs"],
                row.get("prefill ms"), known,
            )
        )  # fmt: skip
    rows = records(tables["differences"]) if "differences" in tables else []
    found = {(row["method"], row["minus"]): PairedDifference.of(row) for row in rows}
    return methods, {names: one for names, one in found.items() if one is not None}


def judged(tables: Mapping[str, Any], facts: Mapping[str, Any]) -> Finding:
    """Judge `every_benchmark` from its tables."""
    return every_benchmark(*_read(tables))


def videos_judged(tables: Mapping[str, Any], facts: Mapping[str, Any]) -> Finding:
    """Judge `on_videos` from its tables."""
    methods, differences = _read(tables)
    return on_videos(methods, str(facts.get("handcrafted", fastv_name(DROP))), differences)
