"""What every method costs on the clock, and what attention kernels do beside (Tables 8, 9 and 10)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vtr_ray.studies.finding import Finding, Table
from vtr_ray.studies.methods import G_SEARCH, NONE, P_SIGMOID

FLASH = "flash"  # PyTorch's flash kernel through SDPA, as rows name it


@dataclass(frozen=True)
class Timed:
    """One method under one kernel. prefill, decode: seconds, of every timed turn and every decoded token."""

    method: str
    kernel: str
    memory_cost: float
    tflops: float
    prefill: Sequence[float]
    decode: Sequence[float]


@dataclass(frozen=True)
class Where:
    """What was timed. parameters: of the whole model. machine: device, type and kernel, in words."""

    model: str
    parameters: int
    machine: str
    left_out: Sequence[str] = ()


def clocked(methods: Sequence[Timed], kernels: Sequence[Timed], where: Where) -> Finding:
    """methods: all on one kernel. kernels: no reduction and the searched schedules, on each kernel."""
    by_name = {one.method: one for one in methods}
    none = by_name[NONE]
    searched = [one for one in methods if one.method in (G_SEARCH, P_SIGMOID)]
    plain = {one.kernel: one for one in kernels if one.method == NONE}
    sentences = [f"{where.machine}: {_none_line(none)}"]
    sentences += [
        f"{one.method}, at {one.tflops / none.tflops:.0%} of the TFLOPs: prefill "
        f"{_median(one.prefill) / _median(none.prefill):.0%}, decode "
        f"{_median(one.decode) / _median(none.decode):.0%} of the time."
        for one in methods
        if one.method != NONE
    ]
    if plain:
        described = ", ".join(f"{kernel} {1e3 * _median(one.prefill):.3g}" for kernel, one in plain.items())
        sentences.append(f"Prefill without reduction by kernel, ms: {described}.")
    rivals = [none, *(one for kernel, one in plain.items() if kernel == FLASH)]
    verdicts = [_faster(one.prefill, rival.prefill) for one in searched for rival in rivals]
    verdicts += [_faster(one.decode, none.decode) for one in searched]
    if False in verdicts:
        sentences.append(
            "FLOPs fall, and times do not everywhere: without reduction a prefill is "
            f"{1e3 * none.tflops:.3g} GFLOPs here, and each cut has a price of its own: ranking, gathering, "
            "masks."
        )
    sentences += where.left_out
    return Finding(
        study="efficiency",
        title="Methods and kernels on the clock",
        paper="Tables 8, 9, 10",
        claim="Searched schedules cut prefill and decode time, more than FlashAttention alone does.",
        holds=None if not searched else _all(verdicts),
        sentences=tuple(sentences),
        tables={
            "methods": _table(methods, where),
            "kernels": _table(kernels, where),
        },
        metrics={f"prefill_ms/{one.method}": 1e3 * _median(one.prefill) for one in methods},
    )


def _none_line(none: Timed) -> str:
    return (
        f"no reduction takes {1e3 * _median(none.prefill):.3g} ms for the prefill, "
        f"{1e3 * _median(none.decode):.3g} ms for a decoded token."
    )


def _all(verdicts: Sequence[bool | None]) -> bool | None:
    if any(one is False for one in verdicts):
        return False
    return None if any(one is None for one in verdicts) else True


def _faster(ours: Sequence[float], theirs: Sequence[float]) -> bool | None:
    """None: the medians say so, but the quartiles overlap."""
    if _median(ours) >= _median(theirs):
        return False
    return True if np.quantile(ours, 0.75) < np.quantile(theirs, 0.25) else None


def _median(seconds: Sequence[float]) -> float:
    return float(np.median(seconds))


def _table(rows: Sequence[Timed], where: Where) -> Table:
    def times(seconds: Sequence[float]) -> tuple[float, float]:
        low, high = np.quantile(seconds, [0.25, 0.75])
        return _median(seconds), float(high - low)

    return Table(
        (
            "method", "kernel", "memory cost", "TFLOPs", "TMACs", "parameters, B", "prefill s",
            "prefill spread", "decode s", "decode spread",
        ),
        [
            (
                one.method, one.kernel, one.memory_cost, one.tflops, one.tflops / 2, where.parameters / 1e9,
                *times(one.prefill), *times(one.decode),
            )
            for one in rows
        ],
    )  # fmt: skip
