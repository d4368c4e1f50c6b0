"""Benchmark results in the terminal: what every schedule reaches, and which differences are real."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from rich.table import Table

from vtr_ray.efficiency.times import TIMES, untold_words
from vtr_ray.efficiency.units import flops_unit
from vtr_ray.evaluation.benchmarks.differences import AVERAGE, Difference, average
from vtr_ray.evaluation.benchmarks.loading import Chosen
from vtr_ray.evaluation.benchmarks.record import Evaluated
from vtr_ray.evaluation.statistics import Comparison
from vtr_ray.report.claims import accuracy_lines, control_lines
from vtr_ray.report.comparison import NO_REDUCTION
from vtr_ray.report.controls import control_in, controlled, explained

_ACROSS = 6  # benchmarks side by side in a terminal


def cost_table(
    rows: Mapping[str, Evaluated], pairs: Sequence[Difference], missing: Collection[str] = ()
) -> Table:
    """A line for each schedule: the average over benchmarks, and what it costs. missing: in no average."""
    differs = _differing(pairs)
    controls = f"; {said}" if (said := explained(rows)) else ""
    lacks = f"; NOT in the average: {', '.join(sorted(missing))}" if missing else ""
    times = {name: row.cost.prefill for name, row in rows.items()}
    timed = any(one is not None for one in times.values())
    unit = flops_unit(row.cost.tflops for row in rows.values())
    counted = max(row.cost.samples for row in rows.values())
    table = Table(
        caption=f"average: percent of what each benchmark can be, with the 95 % interval{lacks}; *: differs "
        f"from no reduction (paired, p < 0.05); memory cost (share of vision tokens kept) and {unit.name} "
        f"(the paper's convention): means over {counted} documents' prompts"
        + (f"; times: {TIMES}{untold_words(times)}" if timed else "")
        + controls,
        caption_justify="left",
    )
    table.add_column("schedule", no_wrap=True)
    for column in ("average", "memory\ncost", unit.name, *(("prefill\nms", "decode\nms") if timed else ())):
        table.add_column(column, justify="right", no_wrap=True)
    for name, row in rows.items():
        mean = average(row.figures)
        both = (row.cost.prefill, row.cost.decode) if timed else ()
        table.add_row(
            name,
            _percent(mean.value, (name, AVERAGE) in differs)
            + f" [{100 * mean.low:.1f}, {100 * mean.high:.1f}]",
            f"{row.cost.memory_cost:.3f}",
            unit.show(row.cost.tflops),
            *("" if one is None else one.shown() for one in both),
        )
    return table


def benchmark_tables(
    rows: Mapping[str, Evaluated], chosen: Sequence[Chosen], pairs: Sequence[Difference]
) -> Iterator[Table]:
    """A line for each schedule, a column for each benchmark, as many tables as that takes."""
    differs = _differing(pairs)
    for start in range(0, len(chosen), _ACROSS):
        part = chosen[start : start + _ACROSS]
        table = Table()
        table.add_column("accuracy", no_wrap=True)
        for one in part:
            table.add_column(one.benchmark.name.removeprefix("vtr_"), justify="right", no_wrap=True)
        for name, row in rows.items():
            tasks = [one.benchmark.task for one in part]
            table.add_row(
                name, *(_percent(row.figures[task].value, (name, task) in differs) for task in tasks)
            )
        yield table


def _differing(pairs: Sequence[Difference]) -> set[tuple[str, str]]:
    """Schedule and benchmark where it is not what it is without reduction."""
    return {
        (pair.first, pair.benchmark) for pair in pairs if pair.second == NO_REDUCTION and pair.significant
    }


def difference_table(pairs: Sequence[Difference]) -> Table:
    """Differences between every two schedules in the average, and on how many benchmarks they are real.

    A control stands beside no other schedule than its own.
    """
    table = Table(
        caption="difference in the average, in points, with the paired 95 % interval; real: benchmarks on "
        "which the first is better or worse (McNemar where answers are right or wrong, else bootstrap; "
        "p < 0.05, each test by itself)",
        caption_justify="left",
    )
    for column in ("first", "second"):
        table.add_column(column, no_wrap=True)
    for column in ("difference", "p", "real"):
        table.add_column(column, justify="right", no_wrap=True)
    shown = [_to_control(pair) for pair in pairs]
    for pair in (one for one in shown if one is not None and one.benchmark == AVERAGE):
        own = [
            one
            for one in shown
            if one is not None
            and (one.first, one.second) == (pair.first, pair.second)
            and one.benchmark != AVERAGE
        ]
        better = sum(one.significant and one.difference > 0 for one in own)
        worse = sum(one.significant and one.difference < 0 for one in own)
        table.add_row(
            pair.first,
            pair.second,
            f"{100 * pair.difference:+.1f} [{100 * pair.low:+.1f}, {100 * pair.high:+.1f}]",
            f"{pair.p:.3f}",
            f"{better} better, {worse} worse",
        )
    return table


def claim_lines(pairs: Sequence[Difference], documents: int) -> list[str]:
    """Whether schedules kept the average, and what they gain over their controls, in words.

    documents: see `documents_of_average`.
    """
    averages = [one for pair in pairs if (one := _to_control(pair)) is not None and one.benchmark == AVERAGE]
    kept: dict[str, Comparison] = {}
    gains: dict[str, dict[str, Comparison]] = {}
    for pair in averages:
        difference = Comparison(pair.difference, pair.low, pair.high, pair.p, documents)
        control = control_in(pair.second)
        if control is not None and controlled(pair.second) == pair.first:
            gains.setdefault(control, {})[pair.first] = difference
        elif pair.second == NO_REDUCTION and control_in(pair.first) is None:
            kept[pair.first] = difference
    return [*accuracy_lines(kept), *control_lines(gains)]


def _to_control(pair: Difference) -> Difference | None:
    """A pair as it is shown: of a schedule and its control that way round; None: not at all.

    Controls whose names do not say what they stand beside are shown as any schedule is.
    """
    if own := controlled(pair.first):
        return pair.turned() if own == pair.second else None
    own = controlled(pair.second)
    return pair if own in ("", pair.first) else None


def _percent(value: float | None, differs: bool) -> str:
    return "" if value is None else f"{100 * value:.1f}{'*' if differs else ' '}"
