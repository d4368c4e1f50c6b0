"""What every method costs on the clock, and what attention kernels do beside (Tables 8, 9 and 10)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vtr_ray.efficiency.units import flops_text
from vtr_ray.studies.finding import Finding, Table, records
from vtr_ray.studies.methods import NONE, ONE_CUT
from vtr_ray.studies.verdict import every

FLASH = "flash"  # PyTorch's flash kernel through SDPA, as rows name it
FLASH_ATTENTION = "FlashAttention2"  # the package's


_TURNS = 5  # that a quartile needs to say anything
_PHASES = ("prefill", "decode")
_INEQUALITY = (
    "Holds where for every searched schedule, in prefill and in decode, the upper quartile of its times is "
    "below the lower quartile of no reduction's, on the same kernel and on a flash kernel. Does not hold "
    "where its lower quartile is above the other's upper one. Without a flash kernel, or with fewer than "
    f"{_TURNS} timed turns, it cannot be told."
)


@dataclass(frozen=True)
class Times:
    """Seconds of one phase: quartiles and median over so many turns."""

    low: float
    median: float
    high: float
    turns: int

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Times:
        """Those of timed turns."""
        low, median, high = (float(value) for value in np.quantile(seconds, [0.25, 0.5, 0.75]))
        return cls(low, median, high, len(seconds))

    def below(self, other: Times) -> bool | None:
        """Whether these are shorter; None where the quartiles overlap, or of too few turns."""
        if min(self.turns, other.turns) < _TURNS:
            return None
        if self.high < other.low:
            return True
        return False if self.low > other.high else None


@dataclass(frozen=True)
class Timed:
    """One method under one kernel. prefill, decode: of every timed turn and every decoded token.

    memory_cost, tflops: of the timed sample; TFLOPs by the paper's convention, with the encoder.
    """

    method: str
    kernel: str
    memory_cost: float
    tflops: float
    prefill: Times
    decode: Times


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

    The claim holds where `q75(searched) < q25(no reduction)` for both phases, on the methods' kernel and for
    each flash kernel; it does not where `q25(searched) > q75(no reduction)` somewhere.
    """
    by_name = {one.method: one for one in methods}
    none = by_name[NONE]
    searched = [by_name[name] for name in dict.fromkeys(one.method for one in kernels) if name != NONE]
    plain = {one.kernel: one for one in kernels if one.method == NONE}
    sentences = [f"{where.machine}: {_none_line(none)}"]
    sentences += [
        f"{one.method}, at {one.tflops / none.tflops:.0%} of the TFLOPs: prefill "
        f"{one.prefill.median / none.prefill.median:.0%}, decode "
        f"{one.decode.median / none.decode.median:.0%} of the time."
        for one in methods
        if one.method != NONE
    ]
    if plain:
        described = ", ".join(f"{kernel} {1e3 * one.prefill.median:.3g}" for kernel, one in plain.items())
        sentences.append(f"Prefill without reduction by kernel, ms: {described}.")
    sentences += _cut_lines(by_name)
    flash = {name: plain[name] for name in (FLASH, FLASH_ATTENTION) if name in plain}
    verdicts = {
        f"{one.method} beside {name} in {phase}": _times(one, phase).below(_times(rival, phase))
        for one in searched
        for name, rival in {NONE: none, **flash}.items()
        for phase in _PHASES
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
        inequality=_INEQUALITY,
        holds=every([*verdicts.values(), *([] if searched and flash else [None])]),
        sentences=tuple(sentences),
        tables={
            "methods": _table(methods, where),
            "kernels": _table(kernels, where),
        },
        metrics={
            f"{phase}_ms/{one.method}": 1e3 * _times(one, phase).median
            for one in methods
            for phase in _PHASES
        },
        facts={"machine": where.machine, "left_out": list(where.left_out)},
    )


def _times(one: Timed, phase: str) -> Times:
    return one.prefill if phase == "prefill" else one.decode


def _cut_lines(methods: Mapping[str, Timed]) -> Iterator[str]:
    """Beside each search's one cut, in words: whether its curve costs time of its own."""
    for name, cut in methods.items():
        search, _, kind = name.rpartition(", ")
        if kind == ONE_CUT and search in methods:
            ours = methods[search].prefill
            order = {True: "less than", False: "more than", None: "not told apart from"}
            yield (
                f"{search}'s prefill takes {1e3 * ours.median:.3g} ms, {order[ours.below(cut.prefill)]} one "
                f"cut's with the same memory cost ({1e3 * cut.prefill.median:.3g} ms)."
            )


def _why(verdicts: Mapping[str, bool | None], none: Timed) -> Iterator[str]:
    """Where the claim does not hold, or cannot be told to."""
    words = "Not told apart, for the quartiles overlap"
    if any(times.turns < _TURNS for times in (none.prefill, none.decode)):
        words = f"Not told apart, for there are fewer than {_TURNS} turns"
    for verdict, said in ((False, "Slower"), (None, words)):
        if found := [what for what, one in verdicts.items() if one is verdict]:
            yield f"{said}: {', '.join(found)}."
    if not all(verdicts.values()):
        yield (
            "FLOPs fall, and times do not, or not clearly, everywhere: without reduction a prefill is "
            f"{flops_text(none.tflops)} here, and each cut has a price of its own "
            "(ranking, gathering, masks)."
        )


def _none_line(none: Timed) -> str:
    return (
        f"no reduction takes {1e3 * none.prefill.median:.3g} ms for the prefill, "
        f"{1e3 * none.decode.median:.3g} ms for a decoded token."
    )


def _table(rows: Sequence[Timed], where: Where) -> Table:
    return Table(
        (
            "method", "kernel", "memory cost", "TFLOPs", "TMACs", "parameters, B", "prefill s",
            "prefill spread", "decode s", "decode spread", "prefill low", "decode low", "turns", "tokens",
        ),
        [
            (
                one.method, one.kernel, one.memory_cost, one.tflops, one.tflops / 2, where.parameters / 1e9,
                one.prefill.median, one.prefill.high - one.prefill.low,
                one.decode.median, one.decode.high - one.decode.low,
                one.prefill.low, one.decode.low, one.prefill.turns, one.decode.turns,
            )
            for one in rows
        ],
    )  # fmt: skip


def judged(tables: Mapping[str, Any], facts: Mapping[str, Any]) -> Finding:
    """Judge from the tables. facts: `machine`, `left_out`; `turns` where the tables have no column of them.

    Where only the quartiles' distance is known, each lies at most that far from the median.
    """
    rows = {name: [_read(row, facts) for row in records(tables[name])] for name in ("methods", "kernels")}
    first = records(tables["methods"])[0]
    parameters = round(1e9 * first["parameters, B"])
    where = Where("", parameters, str(facts["machine"]), list(facts.get("left_out", ())))
    return clocked(rows["methods"], rows["kernels"], where)


def _read(row: Mapping[str, Any], facts: Mapping[str, Any]) -> Timed:
    def times(phase: str, turns: str) -> Times:
        median, spread = row[f"{phase} s"], row[f"{phase} spread"]
        if f"{phase} low" in row:
            low = row[f"{phase} low"]
            return Times(low, median, low + spread, row[turns])
        return Times(median - spread, median, median + spread, int(facts.get("turns", 0)))

    return Timed(
        row["method"], row["kernel"], row["memory cost"], row["TFLOPs"],
        times("prefill", "turns"), times("decode", "tokens"),
    )  # fmt: skip
