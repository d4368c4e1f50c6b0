"""Clips of eight frames: what moved, what appeared, in which order. One frame alone does not tell."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field, replace

from PIL import Image, ImageDraw

from vtr_ray.embedded.draw.picture import COLORS, ORDINALS, SIZE, Picture, background, color
from vtr_ray.embedded.draw.scenes import SHAPES, Thing, paint_shape

FRAMES = 8
_WAYS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
_GAP = 2  # pixels between two shapes


@dataclass
class Clip:
    """One generated video with its questions.

    `frames` are pictures whose marks say what they show; `practice` holds what only training asks.
    """

    frames: list[Picture]
    questions: list[tuple[str, str]] = field(default_factory=list)
    practice: list[tuple[str, str]] = field(default_factory=list)

    @property
    def image(self) -> Image.Image:
        """All frames side by side, the first one left."""
        strip = Image.new("RGB", (SIZE * len(self.frames), SIZE))
        for index, frame in enumerate(self.frames):
            strip.paste(frame.image, (SIZE * index, 0))
        return strip


def clip(rng: random.Random) -> Clip:
    """Three to five shapes of different colours: one moves, one to three appear, the rest stay."""
    way = rng.choice(list(_WAYS))
    things: list[Thing] = []
    count = rng.randint(3, 5)
    while len(things) < count:
        things, end = _things(rng, count, _WAYS[way])
    mover, *others = things
    late = others[: rng.randint(1, count - 2)]
    since = {
        thing.color: frame for thing, frame in zip(late, rng.sample(range(1, FRAMES), len(late)), strict=True)
    }
    fills = {thing.color: color(rng, thing.color) for thing in things}
    ground, _ = background(rng)
    frames = []
    for index in range(FRAMES):
        done = index / (FRAMES - 1)
        here = replace(mover, x=mover.x + done * (end.x - mover.x), y=mover.y + done * (end.y - mover.y))
        shown = [here, *(thing for thing in others if index >= since.get(thing.color, 0))]
        frames.append(_frame(ground, shown, fills))
    return Clip(frames, _questions(rng, mover, way, late, since), _practice(rng, things, way, since))


def _things(rng: random.Random, count: int, step: tuple[int, int]) -> tuple[list[Thing], Thing]:
    """The moving shape where it starts, others apart from its way and from each other (fewer than `count`
    where they find no room); and the moving one where it ends."""
    names = rng.sample(list(COLORS), count)
    length, radius = rng.uniform(30, 56), rng.uniform(9, 12)
    x, y = (  # so that it ends inside
        rng.uniform(radius + max(0, -pace) * length, SIZE - radius - max(0, pace) * length) for pace in step
    )
    mover = Thing(names[0], rng.choice(SHAPES), x, y, radius)
    end = replace(mover, x=mover.x + step[0] * length, y=mover.y + step[1] * length)
    swept = [
        replace(mover, x=mover.x + part * step[0] * length, y=mover.y + part * step[1] * length)
        for part in (0, 0.25, 0.5, 0.75, 1)
    ]
    others: list[Thing] = []
    for _ in range(60):
        radius = rng.uniform(9, 12)
        x, y = rng.uniform(radius, SIZE - radius), rng.uniform(radius, SIZE - radius)
        thing = Thing(names[1 + len(others)], rng.choice(SHAPES), x, y, radius)
        if all(_apart(thing, one) for one in [*swept, *others]):
            others.append(thing)
        if len(others) == count - 1:
            break
    return [mover, *others], end


def _apart(one: Thing, two: Thing) -> bool:
    return math.dist((one.x, one.y), (two.x, two.y)) > one.radius + two.radius + _GAP


def _frame(ground: Image.Image, things: list[Thing], fills: dict[str, tuple[int, int, int]]) -> Picture:
    picture = Picture(ground.copy())
    brush = ImageDraw.Draw(picture.image)
    for thing in things:
        x, y, r = thing.x, thing.y, thing.radius
        paint_shape(brush, thing, fills[thing.color])
        picture.marks.append(((x - r, y - r, x + r, y + r), (thing.color, thing.shape)))
    return picture


def _questions(
    rng: random.Random, mover: Thing, way: str, late: list[Thing], since: dict[str, int]
) -> list[tuple[str, str]]:
    ordered = [thing.color for thing in sorted(late, key=lambda thing: since[thing.color])]
    questions = [
        ("what color is the object that moved?", mover.color),
        ("what shape is the object that moved?", mover.shape),
        ("in what direction did the object move?", way),
        ("how many objects appeared?", str(len(late))),
    ]
    if len(ordered) > 1:
        questions.append(("what color is the object that appeared first?", ordered[0]))
        questions.append(("what color is the object that appeared last?", ordered[-1]))
    else:
        questions.append(("what color is the object that appeared?", ordered[0]))
    rng.shuffle(questions)
    return questions


def _practice(
    rng: random.Random, things: list[Thing], way: str, since: dict[str, int]
) -> list[tuple[str, str]]:
    mover, *others = things
    practice = [
        (f"in what direction did the {mover.color} object move?", way),
        (f"did the {mover.color} object move?", "yes"),
        (f"did the {rng.choice(others).color} object move?", "no"),
        (f"did the {rng.choice(list(since))} object appear?", "yes"),
    ]
    still = [thing.color for thing in others if thing.color not in since]
    practice += [(f"did the {name} object appear?", "no") for name in still[:1]]
    practice += [
        (f"in what image did the {name} object appear?", ORDINALS[frame])
        for name, frame in since.items()
        if frame < len(ORDINALS)
    ]
    rng.shuffle(practice)
    return practice
