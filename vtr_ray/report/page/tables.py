"""The page's tables as HTML. Everything that a model, a data set or a user named is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape

from vtr_ray.report.controls import explained
from vtr_ray.report.page.accuracy import pareto_front, sample_of, unit_of
from vtr_ray.report.page.evaluations import AVERAGE, Benchmark, Difference, Evaluation, Measured
from vtr_ray.report.page.sheets import points
from vtr_ray.search.fit import Fit

Cell = tuple[str, str | float | None]
"""What a cell shows, HTML, and the value that it is sorted by; None sorts last."""
Row = Sequence[Cell]
_COSTS = (  # fields of a strategy, titles, formats; FLOPs have the unit of the largest
    ("memory_cost", "memory cost", ".3f"),
    ("tflops", "", ""),
    ("prefill_ms", "prefill ms", ".1f"),
    ("decode_ms", "decode ms", ".1f"),
)


def table(caption: str, columns: Sequence[str], rows: Iterable[Row], notes: str = "") -> str:
    """A table that can be sorted by each column. columns: plain text, the first names the rows."""
    heads = "".join(
        f'<th scope="col" aria-sort="none"><button type="button">{escape(name)}'
        '<span class="arrow" aria-hidden="true"></span></button></th>'
        for name in columns
    )
    lines = []
    for first, *others in rows:
        cells = "".join(f'<td data-value="{_sorted_by(value)}">{text}</td>' for text, value in others)
        lines.append(f'<tr><th scope="row" data-value="{_sorted_by(first[1])}">{first[0]}</th>{cells}</tr>')
    note = f'<p class="note">{notes}</p>' if notes else ""
    return (
        '<div class="scroll" role="region" tabindex="0" aria-label="' + escape(caption) + '">'
        f'<table class="sortable"><caption>{escape(caption)}</caption><thead><tr>{heads}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>{note}"
    )


def benchmark_table(evaluation: Evaluation, marks: Mapping[str, str]) -> str:
    """Strategies by benchmarks and costs. marks: HTML that shows a strategy's look."""
    tasks = evaluation.benchmarks
    known = evaluation.strategies.values()
    shown = [one for one in _COSTS if any(getattr(strategy, one[0]) is not None for strategy in known)]
    unit = unit_of(evaluation)
    rows: list[Row] = []
    for name, strategy in evaluation.strategies.items():
        values = [(AVERAGE, strategy.average), *((task, strategy.benchmarks.get(task)) for task in tasks)]
        costs = [(getattr(strategy, field), form) for field, _, form in shown]
        kind = ' class="control"' if evaluation.control(name) else ""
        rows.append(
            [
                (f"<span{kind}>{marks[name]}{escape(name)}</span>", name),
                *(_measured(value, evaluation.difference(name, task)) for task, value in values),
                *(
                    ("–" if value is None else f"{value:{form}}" if form else unit.show(value), value)
                    for value, form in costs
                ),
            ]
        )
    heads = [benchmark.title for benchmark in tasks.values()]
    notes = (
        "Accuracies in percent; below each the difference to no reduction in points, paired by document: "
        '<b class="worse">▼</b> significantly less, <b class="better">▲</b> significantly more (95 %), '
        '<span class="same">≈</span> no significant difference. '
        f"Memory cost (share of vision tokens kept) and {unit.name} (the paper's convention): "
        f"{sample_of(evaluation)}.{_time_notes(evaluation)}"
    )
    if said := explained(evaluation.strategies):
        notes += f" Controls: {escape(said)}."
    missing = "; ".join(f"{escape(task)}: {escape(why)}" for task, why in evaluation.missing.items())
    columns = ["strategy", AVERAGE, *heads, *(title or unit.name for _, title, _ in shown)]
    return table("Benchmarks", columns, rows, notes + (f" Not measured: {missing}." if missing else ""))


def fits_table(fits: Mapping[str, Fit], marks: Mapping[str, str]) -> str:
    """b, k, alpha and R² by strategy."""
    rows: list[Row] = [
        [
            (marks[name] + escape(name), name),
            *((f"{value:.3f}", value) for value in (fit.b, fit.k, fit.alpha, fit.r2)),
        ]
        for name, fit in fits.items()
    ]
    notes = (
        "Nearest curve r(i) = min(1, 2b / (1 + exp(k (i - alpha)))) over the layers from 3 on. R²: the share "
        "of the rates' variance that it explains."
    )
    return table("P-Sigmoid fits", ("strategy", "b", "k", "alpha", "R²"), rows, notes)


def front_table(evaluation: Evaluation, marks: Mapping[str, str]) -> str:
    """The strategies of the Pareto front, by rising TFLOPs."""
    unit = unit_of(evaluation)
    rows: list[Row] = []
    for name in pareto_front(evaluation):
        one = evaluation.strategies[name]
        average = f"{100 * one.average.value:.1f}"
        rows.append(
            [
                (marks[name] + escape(name), name),
                (unit.show(one.tflops), one.tflops),
                (average, one.average.value),
            ]
        )
    notes = (
        "Each has a larger average than every strategy of no more FLOPs. Controls do not compete. "
        f"{unit.name}: the paper's convention, {sample_of(evaluation)}."
    )
    return table("Pareto front", ("strategy", unit.name, "average, %"), rows, notes)


def _time_notes(evaluation: Evaluation) -> str:
    """What is said of times where there are some: how they were taken, and which are not told apart."""
    if all(strategy.prefill_ms is None for strategy in evaluation.strategies.values()):
        return ""
    pairs = [f"{name} from {', '.join(others)}" for name, others in evaluation.prefill_not_told_apart.items()]
    untold = f" Prefills not told apart: {escape('; '.join(pairs))}." if pairs else ""
    return f" Times: medians at batch 1, the language model alone.{untold}"


def pairs_table(evaluation: Evaluation, link: str) -> str:
    """All paired differences, folded, with the link to their data."""
    titles = {task: one.title for task, one in evaluation.benchmarks.items()}
    rows: list[Row] = [
        [
            (escape(pair.first), pair.first),
            (escape(pair.second), pair.second),
            (escape(titles.get(pair.benchmark, pair.benchmark)), pair.benchmark),
            (_difference(pair), pair.difference),
            (f"{points(pair.low)} … {points(pair.high)}", pair.low),
            ("–" if pair.p is None else f"{pair.p:.2g}", pair.p),
            (escape(pair.test), pair.test),
            ("yes" if pair.significant else "no", str(pair.significant)),
        ]
        for pair in evaluation.pairs
    ]
    columns = ("first", "second", "benchmark", "first - second", "95 % interval", "p", "test", "significant")
    return (
        f"<details><summary>All {len(rows)} paired differences</summary>"
        + table("Paired differences, in points", columns, rows)
        + f"{link}</details>"
    )


def figures_table(evaluation: Evaluation) -> str:
    """What the tasks' own metrics say, folded; empty where they say nothing."""
    names = list(
        dict.fromkeys(
            (task, figure)
            for strategy in evaluation.strategies.values()
            for task, measured in strategy.benchmarks.items()
            for figure in measured.figures
        )
    )
    if not names:
        return ""
    rows: list[Row] = []
    for name, strategy in evaluation.strategies.items():
        found = [
            strategy.benchmarks[task].figures.get(figure) if task in strategy.benchmarks else None
            for task, figure in names
        ]
        cells = [(f"{value:.4g}" if value is not None else "–", value) for value in found]
        rows.append([(escape(name), name), *cells])
    columns = ("strategy", *(f"{evaluation.benchmarks[task].title}: {figure}" for task, figure in names))
    return (
        "<details><summary>The tasks' own figures</summary>"
        + table("Figures of the whole set, as each task reports them", columns, rows)
        + "</details>"
    )


def _measured(value: Measured | None, pair: Difference | None) -> Cell:
    if value is None:
        return "–", None
    shown = f"{100 * value.value:.1f}"
    if value.low is not None and value.high is not None:
        interval = f"95 %: {100 * value.low:.1f} to {100 * value.high:.1f}"
        shown = f'<span title="{interval}">{shown}</span>'
    return shown + (f"<br>{_difference(pair)}" if pair is not None else ""), value.value


def _difference(pair: Difference) -> str:
    kind, sign, word = "same", "≈", "not significant"
    if pair.significant:
        kind, sign = ("worse", "▼") if pair.difference < 0 else ("better", "▲")
        word = "significant"
    said = f"{word}, 95 %: {points(pair.low)} to {points(pair.high)}, {_chance(pair)}{pair.test}"
    return (
        f'<span class="difference {kind}" title="{escape(said)}">{sign}&nbsp;{points(pair.difference)}'
        f'<span class="unseen"> {word}</span></span>'
    )


def _chance(pair: Difference) -> str:
    return "" if pair.p is None else f"p {pair.p:.2g}, "


def tasks_list(tasks: Mapping[str, Benchmark]) -> str:
    """What the tasks are, folded; empty where nothing is known of them."""
    lines = []
    for one in tasks.values():
        documents = "" if one.documents is None else f"{one.documents} documents"
        said = ", ".join(filter(None, (one.group, one.metric, documents)))
        if said or one.note:
            lines.append(
                f"<li><b>{escape(one.title)}</b>: {escape('. '.join(filter(None, (said, one.note))))}</li>"
            )
    if not lines:
        return ""
    return f"<details><summary>What the benchmarks are</summary><ul>{''.join(lines)}</ul></details>"


def _sorted_by(value: str | float | None) -> str:
    return "" if value is None else escape(str(value))
