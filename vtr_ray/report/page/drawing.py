"""A figure with its words and its data: as SVG and PNG files, and as SVG that takes the page's colours."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from html import escape
from typing import Any

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

INK, GRID, PAPER = "#1b1f24", "#d9dee5", "#fefefe"  # no other colour of a figure may equal one of these
# Chosen to be told apart with any colour vision; the page's style sheet has them for dark paper, too.
SERIES = ("#1e07c7", "#f6396d", "#0b5202", "#3486f8", "#75024b", "#619702", "#e054ab", "#58238f")
_MARKERS = "oDs^vPX*"
_DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5)))
_PAGE_COLOURS = {INK: "currentColor", GRID: "var(--grid)", PAPER: "var(--card)"} | {
    colour: f"var(--series-{number})" for number, colour in enumerate(SERIES, start=1)
}
_DPI = 144
_NO_METADATA = dict.fromkeys(("Date", "Creator", "Format", "Type"))


@dataclass(frozen=True)
class Look:
    """How a series is told from others: not by colour alone."""

    colour: str
    marker: str
    dash: Any


@dataclass(frozen=True)
class Drawing:
    """One figure. text: what it shows, in words. columns, rows: exactly the numbers that are drawn."""

    name: str
    title: str
    text: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[Any, ...]]
    figure: Figure

    def csv(self) -> str:
        """The data."""
        return to_csv(self.columns, self.rows)

    def files(self) -> dict[str, bytes]:
        """Contents by file name: the figure as PNG and SVG, its data as CSV."""
        return {
            f"{self.name}.png": self.png,
            f"{self.name}.svg": self.svg.encode(),
            f"{self.name}.csv": self.csv().encode(),
        }

    @cached_property
    def png(self) -> bytes:
        """On white."""
        FigureCanvasAgg(self.figure)
        file = io.BytesIO()
        self.figure.savefig(file, format="png", dpi=_DPI, facecolor=PAPER)
        # Few colours: a third of the size.
        small, few = io.BytesIO(), Image.open(file).convert("RGB").quantize(64, dither=Image.Dither.NONE)
        few.save(small, "PNG", optimize=True, dpi=(_DPI, _DPI))
        return small.getvalue()

    @cached_property
    def svg(self) -> str:
        """On white, whole by itself."""
        file = io.StringIO()
        with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": self.name}):
            self.figure.savefig(file, format="svg", facecolor=PAPER, metadata=_NO_METADATA)
        # In paths a hundredth of a point is enough: half of the file would be digits.
        shorter = partial(re.sub, r"(\.\d\d)\d+", r"\1")
        return re.sub(r' d="[^"]*"', lambda path: shorter(path.group()), file.getvalue())

    def inline(self) -> str:
        """For the page: colours of the page, title and description, ids that no other figure has."""
        text = re.sub(r"<metadata>.*?</metadata>", "", self.svg, flags=re.S)
        text = text[text.index("<svg") :]
        for colour, ours in _PAGE_COLOURS.items():
            text = text.replace(colour, ours)
        text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{self.name}-", text)
        head, body = text.split(">", 1)
        box = re.search(r'viewBox="[^"]*"', head)
        label = f'role="img" aria-labelledby="{self.name}-title {self.name}-text"'
        title = f'<title id="{self.name}-title">{escape(self.title)}</title>'
        words = f'<desc id="{self.name}-text">{escape(self.text)}</desc>'
        return f"<svg {box.group() if box else ''} {label}>{title}{words}{body}"


UNNAMED = Look(SERIES[-1], "o", "-")  # of a control without its strategy


def looks(names: Iterable[str]) -> dict[str, Look]:
    """A look for each name; names beyond the eighth repeat colours with other markers and dashes."""
    return {
        name: Look(
            SERIES[number % len(SERIES)],
            _MARKERS[(number + 3 * (number // len(SERIES))) % len(_MARKERS)],
            _DASHES[(number + number // len(SERIES)) % len(_DASHES)],
        )
        for number, name in enumerate(names)
    }


def to_csv(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """With a header; None is empty."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return file.getvalue()


@contextmanager
def axes_of(width: float = 5.0, height: float = 4.0) -> Iterator[tuple[Figure, Any]]:
    """A new figure and its axes in the page's style. No pyplot. `$` in a name is a dollar."""
    style = {
        "text.parse_math": False,
        "font.size": 10,
        "axes.edgecolor": INK,
        "axes.labelcolor": INK,
        "axes.linewidth": 0.8,
        "text.color": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "axes.grid": True,
        "grid.color": GRID,
        "grid.linewidth": 0.8,
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.facecolor": "none",
        "axes.formatter.useoffset": False,
        "legend.frameon": False,
        "legend.fontsize": 9,
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure, figure.subplots()


def slug(text: str) -> str:
    """A part of a file's name and of an id."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "x"
