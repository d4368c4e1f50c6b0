"""Draws docs/overview.png, the README's figure of how vtr_ray works: `python docs/draw_overview.py`."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

VISION, TEXT, INK, BOX = "#4c78a8", "#f2a541", "#222222", "#eef2f7"
RATES = (1, 1, 0.6, 0.6, 0.3, 0.3, 0.1, 0.1)


def box(axes: Axes, x: float, y: float, wide: float, high: float, text: str) -> None:
    """A rounded box with centred text."""
    axes.add_patch(
        FancyBboxPatch((x, y), wide, high, boxstyle="round,pad=0.02,rounding_size=0.08", fc=BOX, ec=INK, lw=1)
    )
    axes.text(x + wide / 2, y + high / 2, text, ha="center", va="center", fontsize=9, color=INK)


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], text: str = "") -> None:
    """An arrow with a label beside its middle."""
    axes.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=11, lw=1.1, color=INK))
    middle = ((start[0] + end[0]) / 2, (start[1] + end[1]) / 2)
    axes.text(middle[0] + 0.06, middle[1], text, fontsize=8, va="center", color=INK)


def model(axes: Axes) -> None:
    """Layers from the bottom up, each as wide as what it computes on."""
    axes.set_title("Sort & Reduce inside the language model", fontsize=10, loc="left")
    for layer, rate in enumerate(RATES, start=1):
        y = layer * 0.62
        axes.add_patch(Rectangle((1.0, y), 3.2 * rate, 0.4, color=VISION))
        axes.add_patch(Rectangle((1.0 + 3.2 * rate + 0.04, y), 0.55, 0.4, color=TEXT))
        axes.text(0.9, y + 0.2, f"layer {layer}", ha="right", va="center", fontsize=8)
        if layer > 1 and rate < RATES[layer - 2]:
            axes.text(
                5.0,
                y + 0.2,
                f"keep the top {rate:.0%} by layer {layer - 1}'s scores",
                fontsize=8,
                va="center",
            )
    axes.text(1.0, 0.28, "vision tokens", color=VISION, fontsize=9)
    axes.text(3.6, 0.28, "text tokens", color="#b9741a", fontsize=9)
    axes.set(xlim=(0, 8), ylim=(0.1, 5.8))


def service(axes: Axes) -> None:
    """The loop around it."""
    axes.set_title("The search around it", fontsize=10, loc="left")
    box(axes, 0.3, 4.3, 3.4, 0.9, "G-Search\nBoTorch proposes a rate")
    box(axes, 0.3, 2.5, 3.4, 0.9, "Ray Tune\none trial per schedule")
    box(axes, 0.3, 0.7, 3.4, 0.9, "evaluator actors\nmodel + samples, one per GPU")
    box(axes, 5.0, 2.5, 2.7, 0.9, "ledger on disk\nevery finished trial")
    box(axes, 5.0, 0.7, 2.7, 0.9, "MLflow\ncurves, E, schedule")
    arrow(axes, (1.4, 4.3), (1.4, 3.42), "schedule")
    arrow(axes, (1.4, 2.5), (1.4, 1.62), "whole batches")
    arrow(axes, (2.8, 1.6), (2.8, 2.48), "outcomes")
    arrow(axes, (2.8, 3.4), (2.8, 4.28), "E")
    arrow(axes, (3.72, 2.95), (4.98, 2.95))
    arrow(axes, (6.35, 2.5), (6.35, 1.62))
    axes.set(xlim=(0, 8), ylim=(0.1, 5.8))


if __name__ == "__main__":
    figure = Figure(figsize=(11, 3.9), layout="constrained")
    for part, draw in zip(figure.subplots(1, 2), (model, service), strict=True):
        part.axis("off")
        draw(part)
    figure.savefig(Path(__file__).with_name("overview.png"), dpi=110)
