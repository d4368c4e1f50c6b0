"""Scenes of several coloured shapes: attributes, counts, relations (GQA-like) and existence (POPE-like)."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from PIL import ImageDraw

from vtr_ray.embedded.draw.picture import COLORS, SIZE, Picture, background, color

SHAPES = ("circle", "square", "triangle", "diamond")
_CELLS = 4


@dataclass(frozen=True)
class Thing:
    """A coloured shape; centre and radius in pixels."""

    color: str
    shape: str
    x: float
    y: float
    radius: float


def _things(rng: random.Random, low: int, high: int) -> list[Thing]:
    """Shapes in a jittered grid, so that they never overlap."""
    step = SIZE / _CELLS
    palette = rng.sample(list(COLORS), rng.randint(3, 5))
    cells = rng.sample(range(_CELLS * _CELLS), rng.randint(low, high))
    things = []
    for cell in cells:
        radius = rng.uniform(7.0, 10.0)
        slack = step / 2 - radius
        x = (cell % _CELLS + 0.5) * step + rng.uniform(-slack, slack)
        y = (cell // _CELLS + 0.5) * step + rng.uniform(-slack, slack)
        things.append(Thing(rng.choice(palette), rng.choice(SHAPES), x, y, radius))
    return things


def _paint(rng: random.Random, things: list[Thing]) -> Picture:
    image, brush = background(rng)
    picture = Picture(image)
    for thing in things:
        x, y, r = thing.x, thing.y, thing.radius
        paint_shape(brush, thing, color(rng, thing.color))
        picture.marks.append(((x - r, y - r, x + r, y + r), (thing.color, thing.shape)))
    return picture


def paint_shape(brush: ImageDraw.ImageDraw, thing: Thing, fill: tuple[int, int, int]) -> None:
    """Fills a thing's shape."""
    x, y, r = thing.x, thing.y, thing.radius
    if thing.shape == "circle":
        brush.ellipse((x - r, y - r, x + r, y + r), fill=fill)
    elif thing.shape == "square":
        side = 0.85 * r
        brush.rectangle((x - side, y - side, x + side, y + side), fill=fill)
    elif thing.shape == "triangle":
        brush.polygon([(x, y - r), (x - r, y + 0.85 * r), (x + r, y + 0.85 * r)], fill=fill)
    else:
        brush.polygon([(x, y - r), (x - r, y), (x, y + r), (x + r, y)], fill=fill)


def _name(thing: Thing) -> str:
    return f"{thing.color} {thing.shape}"


def scene(rng: random.Random) -> Picture:
    """A scene of three to six shapes with questions about attributes, counts and relations."""
    things = _things(rng, 3, 6)
    picture = _paint(rng, things)
    colors = [thing.color for thing in things]
    shapes = [thing.shape for thing in things]
    names = [_name(thing) for thing in things]
    attributes, counts, relations = [], [], []
    for thing in things:
        if colors.count(thing.color) == 1:
            attributes.append((f"what shape is the {thing.color} object?", thing.shape))
        if shapes.count(thing.shape) == 1:
            attributes.append((f"what color is the {thing.shape}?", thing.color))
    counts.append(("how many objects are there?", str(len(things))))
    for name in sorted(set(colors)):
        counts.append((f"how many {name} objects are there?", str(colors.count(name))))
    for name in sorted(set(shapes)):
        counts.append((f"how many {name}s are there?", str(shapes.count(name))))
    for side, key in _SIDES.items():
        first, second = sorted(things, key=key)[:2]
        if key(second) - key(first) > 6:
            relations.append((f"what color is the {side} object?", first.color))
            relations.append((f"what shape is the {side} object?", first.shape))
    unique = [thing for thing in things if names.count(_name(thing)) == 1]
    compared: list[tuple[str, str]] = []
    for _ in range(6 if len(unique) > 1 else 0):
        one, two = rng.sample(unique, 2)
        for word, gap in (("left of", two.x - one.x), ("above", two.y - one.y)):
            if abs(gap) > 8:
                answer = "yes" if gap > 0 else "no"
                compared.append((f"is the {_name(one)} {word} the {_name(two)}?", answer))
    rng.shuffle(compared)
    relations += compared[:4]
    picture.practice = [*compared[4:6], *_places(rng, things)]
    kinds = [list(dict.fromkeys(kind)) for kind in (attributes, counts, relations) if kind]
    picture.questions = _interleave(rng, kinds)
    return picture


_SIDES: dict[str, Callable[[Thing], float]] = {
    "leftmost": lambda thing: thing.x,
    "rightmost": lambda thing: -thing.x,
    "top": lambda thing: thing.y,
    "bottom": lambda thing: -thing.y,
}


def _interleave(rng: random.Random, kinds: list[list[tuple[str, str]]]) -> list[tuple[str, str]]:
    """The kinds in turn, so that the first few questions of a picture are a fair mix."""
    for kind in kinds:
        rng.shuffle(kind)
    rng.shuffle(kinds)
    longest = max(len(kind) for kind in kinds)
    return [kind[i] for i in range(longest) for kind in kinds if i < len(kind)]


def _places(rng: random.Random, things: list[Thing]) -> list[tuple[str, str]]:
    """Where each unmistakable thing is: practice in finding a colour and a shape in one place."""
    names = [_name(thing) for thing in things]
    third = SIZE / 3
    places = [
        (
            f"the {_name(thing)} is at the?",
            f"{('top', 'middle', 'bottom')[int(thing.y // third)]} "
            f"{('left', 'middle', 'right')[int(thing.x // third)]}",
        )
        for thing in things
        if names.count(_name(thing)) == 1
    ]
    rng.shuffle(places)
    return places


def existence(rng: random.Random) -> Picture:
    """A scene of four to eight shapes; every present pair has an absent one beside it.

    Absent pairs are adversarial where possible, as in POPE: colour and shape both occur, but not together.
    """
    things = _things(rng, 4, 8)
    picture = _paint(rng, things)
    present = {(thing.color, thing.shape) for thing in things}
    near = [
        (c, s)
        for c in sorted({c for c, _ in present})
        for s in sorted({s for _, s in present})
        if (c, s) not in present
    ]
    far = [(c, s) for c in COLORS for s in SHAPES if (c, s) not in present and (c, s) not in near]
    rng.shuffle(near)
    rng.shuffle(far)
    absent = near + far
    pairs = [(pair, "yes") for pair in rng.sample(sorted(present), min(4, len(present)))]
    pairs = [entry for i, yes in enumerate(pairs) for entry in (yes, (absent[i], "no"))]
    rng.shuffle(pairs)
    picture.questions = [(f"is there a {c} {s}?", answer) for (c, s), answer in pairs]
    places = _places(rng, things)[:3]
    places += [(f"the {c} {s} is at the?", "no") for c, s in absent[5:6]]
    rng.shuffle(places)
    picture.practice = places
    return picture
