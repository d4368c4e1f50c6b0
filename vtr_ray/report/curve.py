"""The keeping-rate curve as a figure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from vtr_ray.errors import InputError
from vtr_ray.files import replacing
from vtr_ray.schedule import Schedule


def draw_curve(schedules: Mapping[str, Schedule], path: str | Path, title: str | None = None) -> Path:
    """Draw the keeping rate of each layer, one step line per named schedule; gives the path.

    The first schedule is drawn strongest and its area filled; the legend states every memory cost. The file's
    ending decides the format (png, svg, pdf). Written to a temporary name and renamed. No pyplot: any thread
    may call it.

    Raises:
        InputError: an ending that names no format, a place that cannot be written.
    """
    path = Path(path)
    figure = Figure(figsize=(7.0, 4.0), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for number, (name, schedule) in enumerate(schedules.items()):
        layers = range(1, schedule.num_layers + 1)
        first = number == 0
        label = f"{name} (memory cost {schedule.memory_cost:.3f})"
        axes.plot(
            layers,
            schedule.rates,
            drawstyle="steps-mid",
            marker="o" if first else None,
            markersize=4,
            linewidth=2.2 if first else 1.2,
            alpha=1.0 if first else 0.8,
            zorder=3 if first else 2,
            label=label,
        )
        if first:
            axes.fill_between(layers, schedule.rates, step="mid", alpha=0.12)
    longest = max((schedule.num_layers for schedule in schedules.values()), default=1)
    axes.set(xlabel="layer", ylabel="keeping rate", xlim=(0.5, longest + 0.5), ylim=(-0.02, 1.05))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.25)
    if schedules:
        axes.legend(fontsize=8)
    if title:
        axes.set_title(title)
    known = figure.canvas.get_supported_filetypes()
    if path.suffix[1:].lower() not in known:
        raise InputError(f"cannot draw {path}: no format has that ending; use one of: {', '.join(known)}")
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120)
    return path
