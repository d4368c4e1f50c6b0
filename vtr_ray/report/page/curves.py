"""Keeping rates by layer, and the P-Sigmoid that comes nearest to each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.ticker import MaxNLocator

from vtr_ray.report.page.drawing import Drawing, Look, axes_of
from vtr_ray.schedule import Schedule
from vtr_ray.search.fit import Fit, fit_p_sigmoid


def fits_of(schedules: Mapping[str, Schedule]) -> dict[str, Fit]:
    """The fit to each schedule that removes anything after layer 2."""
    return {
        name: fit_p_sigmoid(schedule)
        for name, schedule in schedules.items()
        if schedule.reduces and schedule.num_layers >= 3
    }


def draw_curves(
    schedules: Mapping[str, Schedule], fits: Mapping[str, Fit], looks: Mapping[str, Look]
) -> Drawing:
    """Steps for schedules, thin lines for fits."""
    rows: list[tuple[Any, ...]] = []
    with axes_of(5.0, 3.5 + 0.17 * len(schedules)) as (figure, axes):
        for number, (name, schedule) in enumerate(schedules.items()):
            layers, look = range(1, schedule.num_layers + 1), looks[name]
            axes.plot(
                layers,
                schedule.rates,
                drawstyle="steps-mid",
                color=look.colour,
                linestyle=look.dash,
                marker=look.marker,
                markersize=4.5,
                linewidth=1.8,
                zorder=3 + 0.01 * number,
                label=f"{name} ({schedule.memory_cost:.3f})",
            )
            fit = fits.get(name)
            if fit is not None:
                # From layer 3 on: before it nothing is fitted.
                axes.plot(
                    layers[2:],
                    fit.schedule.rates[2:],
                    color=look.colour,
                    linestyle=(0, (3, 2)),
                    linewidth=0.9,
                )
            fitted = [None, None, *fit.schedule.rates[2:]] if fit else [None] * schedule.num_layers
            rows += [
                (name, *values) for values in zip(layers, schedule.rates, fitted, strict=True)
            ]  # fmt: skip
        axes.set(xlabel="layer", ylabel="keeping rate", ylim=(-0.03, 1.05))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        figure.legend(
            loc="outside lower center", ncols=2, title="strategy (mean of its rates); thin: its P-Sigmoid"
        )
    return Drawing(
        name="keeping-rates",
        title="Keeping rate by layer",
        text="Share of the vision tokens that each layer keeps. " + _words(schedules),
        columns=("strategy", "layer", "keeping_rate", "p_sigmoid"),
        rows=rows,
        figure=figure,
    )


def _words(schedules: Mapping[str, Schedule]) -> str:
    said = []
    for name, schedule in schedules.items():
        first = next((i for i, rate in enumerate(schedule.rates, 1) if rate < 1), None)
        start = "keeps everything" if first is None else f"reduces from layer {first} on"
        said.append(f"{name} {start} and ends at {schedule.rates[-1]:.3f}")
    return "; ".join(said) + "."
