"""Accuracy against TFLOPs, and the strategies that none other beats."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.ticker import MaxNLocator

from vtr_ray.efficiency.units import FlopsUnit, flops_unit
from vtr_ray.report.controls import ONE_CUT, RANDOM_TOKENS
from vtr_ray.report.page.drawing import INK, PAPER, Drawing, Look, axes_of, slug
from vtr_ray.report.page.evaluations import Evaluation, Measured
from vtr_ray.search.front import non_dominated


def pareto_front(evaluation: Evaluation) -> list[str]:
    """The strategies with more accuracy than any of no more TFLOPs, by rising TFLOPs; no controls."""
    names = [name for name in evaluation.strategies if evaluation.control(name) is None]
    values = [evaluation.strategies[name] for name in names]
    return [names[i] for i in non_dominated([(one.average.value, one.tflops) for one in values])]


def unit_of(evaluation: Evaluation) -> FlopsUnit:
    """Return the unit in which the page shows the FLOPs of an evaluation's strategies."""
    return flops_unit(one.tflops for one in evaluation.strategies.values())


def sample_of(evaluation: Evaluation) -> str:
    """Return whose FLOPs the strategies' are, in words; earlier versions counted one sample's."""
    if any(one.counted_samples is None for one in evaluation.strategies.values()):
        return "of the sample with the median number of tokens"
    return "means over the samples' prompts"


def draw_accuracy(evaluation: Evaluation, looks: Mapping[str, Look], name: str = "accuracy") -> Drawing:
    """Average with its interval; controls hollow or half filled, in the colour of what they control."""
    front, unit, rows = pareto_front(evaluation), unit_of(evaluation), []
    bars = any(_bars(one.average) for one in evaluation.strategies.values())
    with axes_of(5.0, 3.4 + 0.12 * len(evaluation.strategies)) as (figure, axes):
        steps = [evaluation.strategies[one] for one in front]
        axes.plot(
            [unit.of(one.tflops) for one in steps],
            [100 * one.average.value for one in steps],
            drawstyle="steps-post",
            color=INK,
            linewidth=1.1,
            linestyle=(0, (4, 2)),
            zorder=1,
            label="Pareto front",
        )
        for label, one in evaluation.strategies.items():
            look, mean, control = looks[label], one.average, evaluation.control(label)
            axes.errorbar(
                [unit.of(one.tflops)],
                [100 * mean.value],
                _bars(mean),
                color=look.colour,
                marker=look.marker,
                fillstyle="bottom" if control == ONE_CUT else "full",
                markerfacecolor=PAPER if control == RANDOM_TOKENS else look.colour,
                markerfacecoloralt=PAPER,
                markersize=8 if label in front else 6.5,
                linestyle="none",
                elinewidth=1.2,
                capsize=3,
                label=label,
            )
            rows.append(
                (label, one.tflops, mean.value, mean.low, mean.high, int(label in front), control or "")
            )
        axes.set(xlabel=f"{unit.name} of a prefill (paper's convention)", ylabel="average, %")
        axes.margins(0.08)
        axes.xaxis.set_major_locator(MaxNLocator(6))
        figure.legend(loc="outside lower center", ncols=2)
    return Drawing(
        name=slug(name),
        title="Accuracy against TFLOPs" + (", with 95 % intervals" if bars else ""),
        text=f"Pareto front, by rising {unit.name} (the paper's convention, {sample_of(evaluation)}): "
        + "; ".join(
            f"{one}: {unit.show(evaluation.strategies[one].tflops)} {unit.name}, "
            f"{100 * evaluation.strategies[one].average.value:.1f} %"
            for one in front
        )
        + ".",
        columns=("strategy", "tflops", "average", "low", "high", "on_front", "control"),
        rows=rows,
        figure=figure,
    )


def _bars(mean: Measured) -> list[list[float]] | None:
    """Below and above the value, in percent."""
    if mean.low is None or mean.high is None:
        return None
    return [[100 * max(0.0, mean.value - mean.low)], [100 * max(0.0, mean.high - mean.value)]]
