"""What every generated picture is made of: a canvas, questions, and which words each patch shows."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SIZE = 96
PATCH = 8
GRID = SIZE // PATCH

COLORS = {
    "red": (220, 30, 30),
    "green": (30, 150, 40),
    "blue": (30, 60, 220),
    "yellow": (235, 200, 20),
    "black": (10, 10, 10),
    "gray": (130, 130, 130),
    "teal": (0, 150, 150),
    "brown": (125, 70, 25),
}
# Left out: I, O, Q, S, Z and the digits they are mistaken for at ten pixels.
LETTERS = "ABCDEFGHJKLMNPRTUVWXY"
CHARACTERS = LETTERS + "34679"
FONTS = ("DejaVuSans-Bold.ttf", "DejaVuSansMono-Bold.ttf", "DejaVuSerif-Bold.ttf")
ORDINALS = ("first", "second", "third", "fourth")

Box = tuple[float, float, float, float]


@dataclass
class Picture:
    """One generated image with its questions.

    `marks` says what covers which pixels, as (box, words): training turns it into dense patch targets.
    `practice` holds further questions that only training asks.
    """

    image: Image.Image
    questions: list[tuple[str, str]] = field(default_factory=list)
    practice: list[tuple[str, str]] = field(default_factory=list)
    marks: list[tuple[Box, tuple[str, ...]]] = field(default_factory=list)

    def patch_words(self, grid: int = GRID) -> list[tuple[str, ...]]:
        """Words shown by each of the `grid * grid` patches in raster order; `("empty",)` where nothing is.

        The mark that covers most of a patch wins, if it covers a fifth of it.
        """
        side = SIZE / grid
        best = np.full((grid, grid), 0.2 * side * side)
        owner = np.full((grid, grid), -1)
        edges = np.arange(grid + 1) * side
        for index, ((x0, y0, x1, y1), _) in enumerate(self.marks):
            wide = np.clip(np.minimum(edges[1:], x1) - np.maximum(edges[:-1], x0), 0, None)
            high = np.clip(np.minimum(edges[1:], y1) - np.maximum(edges[:-1], y0), 0, None)
            cover = high[:, None] * wide[None, :]
            better = cover > best
            best[better], owner[better] = cover[better], index
        return [self.marks[i][1] if i >= 0 else ("empty",) for i in owner.ravel()]


Draw = Callable[[random.Random], Picture]


@cache
def font(name: str, size: int) -> ImageFont.FreeTypeFont:
    """A DejaVu face in `size` pixels, from the copy that matplotlib ships."""
    import matplotlib

    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name, size)


def background(rng: random.Random) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """A light canvas, never quite the same."""
    tint = tuple(rng.randint(238, 255) for _ in range(3))
    image = Image.new("RGB", (SIZE, SIZE), tint)
    return image, ImageDraw.Draw(image)


def color(rng: random.Random, name: str) -> tuple[int, int, int]:
    """The named colour, jittered so that its exact value says nothing."""
    red, green, blue = (max(0, min(255, c + rng.randint(-12, 12))) for c in COLORS[name])
    return red, green, blue


def write(
    picture: Picture,
    brush: ImageDraw.ImageDraw,
    at: tuple[float, float],
    text: str,
    face: ImageFont.FreeTypeFont,
    fill: tuple[int, int, int],
    words: Iterable[tuple[str, ...]],
) -> None:
    """Writes `text` with its base line's left end at `at`; character `k` is marked with `words[k]`."""
    x, y = at
    brush.text((x, y), text, fill=fill, font=face, anchor="ls")
    top = y + face.getbbox("H", anchor="ls")[1]
    for index, marked in enumerate(words):
        left = x + face.getlength(text[:index])
        right = x + face.getlength(text[: index + 1])
        picture.marks.append(((left, top, right, y), marked))
