"""A strategy's look beside its name, as in the figures."""

from __future__ import annotations

from collections.abc import Mapping

from vtr_ray.report.controls import ONE_CUT
from vtr_ray.report.page.drawing import SERIES, Look

_SHAPES: Mapping[str, str] = {
    "o": "M-3.5 0a3.5 3.5 0 1 0 7 0a3.5 3.5 0 1 0-7 0z",
    "D": "M0-4 4 0 0 4-4 0z",
    "s": "M-3-3h6v6h-6z",
    "^": "M0-4 4 3h-8z",
    "v": "M0 4-4-3h8z",
    "P": "M-1.3-4h2.6v2.7h2.7v2.6h-2.7v2.7h-2.6v-2.7h-2.7v-2.6h2.7z",
    "X": "M-2-4 0-2 2-4 4-2 2 0 4 2 2 4 0 2-2 4-4 2-2 0-4-2z",
    "*": "M0-4.5 1.2-1.4 4.3-1.4 1.8.6 2.8 3.8 0 1.9-2.8 3.8-1.8.6-4.3-1.4-1.2-1.4z",
}


def mark_of(look: Look, control: str | None = None) -> str:
    """Line and marker, as HTML. control: which one it is of, whose marker is hollow or half filled."""
    colour = f"var(--series-{SERIES.index(look.colour) + 1})"
    dash = "" if look.dash == "-" else f' stroke-dasharray="{" ".join(str(2 * x) for x in look.dash[1])}"'
    line = "" if control else f'<path d="M0 5H20" stroke="{colour}" stroke-width="1.8"{dash}/>'
    path = f'<path d="{_SHAPES[look.marker]}" transform="translate(10 5)"'
    shape = f'{path} fill="{"var(--card)" if control else colour}" stroke="{colour}"/>'
    if control == ONE_CUT:  # a nested picture shows what is inside its own box
        box = 'x="0" y="5" width="20" height="5" viewBox="0 5 20 5"'
        shape += f'<svg {box}>{path} fill="{colour}"/></svg>'
    return f'<svg class="mark" viewBox="0 0 20 10" aria-hidden="true">{line}{shape}</svg>'
