"""Rendered text (TextVQA-like) and key-value documents (DocVQA-like)."""

from __future__ import annotations

import random

from vtr_ray.embedded.draw.picture import (
    CHARACTERS,
    COLORS,
    FONTS,
    ORDINALS,
    SIZE,
    Picture,
    background,
    color,
    font,
    write,
)

KEYS = ("name", "date", "item", "room", "code", "city", "team", "size", "gate", "seat", "line", "zone")
_POSITIONS = {2: ("top", "bottom"), 3: ("top", "middle", "bottom")}


def _string(rng: random.Random, low: int, high: int) -> str:
    return "".join(rng.choices(CHARACTERS, k=rng.randint(low, high)))


def text(rng: random.Random) -> Picture:
    """Two or three words of two to four characters, each in its own colour, one below the other."""
    image, brush = background(rng)
    picture = Picture(image)
    count = rng.choice((2, 3, 3))
    band = SIZE / count
    for index, name in enumerate(rng.sample([c for c in COLORS if c != "yellow"], count)):
        face = font(rng.choice(FONTS), rng.randint(14, 17))
        string = _string(rng, 2, 4)
        wide, high = face.getlength(string), -face.getbbox("H", anchor="ls")[1]
        x = rng.uniform(2, SIZE - wide - 2)
        y = index * band + rng.uniform(high + 2, band - 3)
        words = [(letter, name, ORDINALS[k]) for k, letter in enumerate(string)]
        write(picture, brush, (x, y), string, face, color(rng, name), words)
        picture.questions.append((f"what does the {name} text say?", string))
        picture.questions.append((f"what is written at the {_POSITIONS[count][index]}?", string))
        for place, letter in zip(ORDINALS, string, strict=False):
            picture.practice.append((f"what is the {place} letter of the {name} text?", letter))
    rng.shuffle(picture.practice)
    rng.shuffle(picture.questions)
    return picture


def document(rng: random.Random) -> Picture:
    """Four or five lines `key value` in one face; every line can be asked for."""
    image, brush = background(rng)
    picture = Picture(image)
    count = rng.choice((4, 5))
    face = font(rng.choice(FONTS), rng.randint(12, 13))
    ink = color(rng, "black")
    left = rng.uniform(2, 6)
    values = [_string(rng, 2, 3) for _ in range(count)]
    column = left + max(face.getlength(key) for key in KEYS) + rng.uniform(5, 9)
    column = min(column, SIZE - 1 - max(face.getlength(value) for value in values))
    pitch = rng.uniform(17, 18.5) if count == 5 else rng.uniform(18, 22)
    top = rng.uniform(13, max(14, SIZE - 5 - pitch * (count - 1)))
    for index, (key, value) in enumerate(zip(rng.sample(KEYS, count), values, strict=True)):
        y = top + index * pitch
        write(picture, brush, (left, y), key, face, ink, [(key,)] * len(key))
        words = [(letter, key, ORDINALS[k]) for k, letter in enumerate(value)]
        write(picture, brush, (column, y), value, face, ink, words)
        picture.questions.append((f"what is the {key}?", value))
        picture.practice.append((f"which line says {value}?", key))
        for place, letter in zip(ORDINALS, value, strict=False):
            picture.practice.append((f"what is the {place} letter of the {key}?", letter))
    rng.shuffle(picture.practice)
    rng.shuffle(picture.questions)
    return picture
