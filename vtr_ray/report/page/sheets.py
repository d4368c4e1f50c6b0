"""The page's tables, as data: what a CSV holds and what the HTML shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vtr_ray.report.comparison import NO_REDUCTION
from vtr_ray.report.page.drawing import to_csv
from vtr_ray.report.page.evaluations import AVERAGE, Difference, Evaluation
from vtr_ray.search.fit import Fit


@dataclass(frozen=True)
class Sheet:
    """A table of plain numbers for a CSV."""

    name: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[Any, ...]]

    def csv(self) -> str:
        """With a header."""
        return to_csv(self.columns, self.rows)


def benchmark_sheet(evaluation: Evaluation, name: str) -> Sheet:
    """A line for each strategy and benchmark, the average among them, with its difference to no reduction."""
    rows: list[tuple[Any, ...]] = []
    for label, strategy in evaluation.strategies.items():
        measured = {AVERAGE: strategy.average, **strategy.benchmarks}
        costs = (strategy.memory_cost, strategy.tflops, strategy.prefill_ms, strategy.decode_ms)
        for benchmark, value in measured.items():
            pair = evaluation.difference(label, benchmark)
            against = (
                (None,) * 6
                if pair is None
                else (pair.difference, pair.low, pair.high, pair.p, pair.test, int(pair.significant))
            )
            rows.append((label, benchmark, value.value, value.low, value.high, *against, *costs))
    return Sheet(
        name,
        (
            *("strategy", "benchmark", "value", "low", "high"),
            *("difference_to_no_reduction", "difference_low", "difference_high", "p", "test", "significant"),
            *("memory_cost", "tflops", "prefill_ms", "decode_ms"),
        ),
        rows,
    )


def pairs_sheet(evaluation: Evaluation, name: str) -> Sheet:
    """All paired differences."""
    columns = tuple(Difference.model_fields)
    return Sheet(name, columns, [tuple(getattr(one, key) for key in columns) for one in evaluation.pairs])


def fits_sheet(fits: Mapping[str, Fit]) -> Sheet:
    """P-Sigmoid's parameters by strategy."""
    rows = [(name, fit.b, fit.k, fit.alpha, fit.r2) for name, fit in fits.items()]
    return Sheet("p-sigmoid-fits", ("strategy", "b", "k", "alpha", "r2"), rows)


def points(difference: float) -> str:
    """A difference in points, with its sign."""
    return f"{100 * difference:+.1f}".replace("-", "−")


def verdict(evaluation: Evaluation) -> list[str]:
    """What is significant, a line for each side: averages against no reduction, without controls."""
    sides: dict[str, list[str]] = {"less": [], "more": [], "no": []}
    for name in evaluation.strategies:
        pair = evaluation.difference(name)
        if pair is not None and evaluation.control(name) is None:
            side = "no" if not pair.significant else "less" if pair.difference < 0 else "more"
            sides[side].append(f"{name} ({points(pair.difference)})")
    lines = [
        f"Significantly {side} accurate than {NO_REDUCTION} on average (paired, 95 %, points): "
        + (", ".join(sides[side]) or "none")
        for side in ("less", "more")
        if sides[side] or side == "less"
    ]
    if sides["no"]:
        lines.append(f"No significant difference to {NO_REDUCTION}: {', '.join(sides['no'])}")
    return lines if any(sides.values()) else []
