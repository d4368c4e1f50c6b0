"""What every method costs on the clock, and what attention kernels do beside (Tables 8, 9 and 10)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vtr_ray.efficiency.units import flops_text
from vtr_ray.studies.finding import Finding, Table
from vtr_ray.studies.methods import NONE

FLASH = "flash"  # PyTorch's flash kernel through SDPA, as rows name it
FLASH_ATTENTION = "FlashAttention2"  # the package's


@dataclass(frozen=True)
class Timed:
    """One method under one kernel. prefill, decode: seconds, of every timed turn and every decoded token.

    memory_cost, tflops: of the timed sample; TFLOPs by the paper's convention, with the encoder.
    """

    method: str
    kernel: str
    memory_cost: float
    tflops: float
    prefill: Sequence[float]
    decode: Sequence[float]


@dataclass(frozen=True)
class Where:
    """What was timed. parameters: of the whole model. machine: device, type, kernel and sample, in words.

    left_out: of each method and kernel that is missing, a sentence.
    """

    model: str
    parameters: int
    machine: str
    left_out: Sequence[str] = ()


def clocked(methods: Sequence[Timed], kernels: Sequence[Timed], where: Where) -> Finding:
    """methods: all on one kernel. kernels: no reduction and the searched schedules, on each kernel.

    A time is less, or more, only where the quartiles do not overlap; without a flash kernel the claim stays
    undecided unless it fails already.
    """
    by_name = {one.method: one for one in methods}
    none = by_name[NONE]
    searched = [by_name[name] for name in dict.fromkeys(one.method for one in kernels) if name != NONE]
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
    flash = {name: plain[name] for name in (FLASH, FLASH_ATTENTION) if name in plain}
    verdicts = {
        f"{one.method} beside {name} in {phase}": _faster(getattr(one, phase), getattr(rival, phase))
        for one in searched
        for name, rival in {NONE: none, **flash}.items()
        for phase in ("prefill", "decode")
    }
    sentences += _why(verdicts, none)
    if searched and not flash:
        sentences.append("No flash kernel ran, so that the claim about it is not decided.")
    sentences += where.left_out
    return Finding(
        study="efficiency",
        title="Methods and kernels on the clock",
        paper="Tables 8, 9, 10",
        claim="Searched schedules cut prefill and decode time, more than FlashAttention alone does.",
        holds=_all([*verdicts.values(), *([] if searched and flash else [None])]),
        sentences=tuple(sentences),
        tables={
            "methods": _table(methods, where),
            "kernels": _table(kernels, where),
        },
        metrics={
            f"{phase}_ms/{one.method}": 1e3 * _median(getattr(one, phase))
            for one in methods
            for phase in ("prefill", "decode")
        },
    )


def _why(verdicts: Mapping[str, bool | None], none: Timed) -> Iterator[str]:
    """Where the claim does not hold, or cannot be told to."""
    for verdict, words in ((False, "Slower"), (None, "Not told apart, for the quartiles overlap")):
        if found := [what for what, one in verdicts.items() if one is verdict]:
            yield f"{words}: {', '.join(found)}."
    if not all(verdicts.values()):
        yield (
            "FLOPs fall, and times do not, or not clearly, everywhere: without reduction a prefill is "
            f"{flops_text(none.tflops)} here, and each cut has a price of its own "
            "(ranking, gathering, masks)."
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
    """None: the quartiles overlap."""
    if np.quantile(ours, 0.75) < np.quantile(theirs, 0.25):
        return True
    return False if np.quantile(ours, 0.25) > np.quantile(theirs, 0.75) else None


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
