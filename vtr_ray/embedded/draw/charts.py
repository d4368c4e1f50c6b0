"""Bar charts (ChartQA-like): values, labels, extremes, comparisons."""

from __future__ import annotations

import random

from vtr_ray.embedded.draw.picture import (
    COLORS,
    FONTS,
    LETTERS,
    SIZE,
    Picture,
    background,
    color,
    font,
    write,
)

TOP_VALUE = 9
_UNIT = 8
_BASE = 80


def chart(rng: random.Random) -> Picture:
    """Three to five bars of whole values 1..9 over a letter each, with a grid line every three units."""
    image, brush = background(rng)
    picture = Picture(image)
    count = rng.randint(3, 5)
    for value in range(3, TOP_VALUE + 1, 3):
        brush.line((0, _BASE - value * _UNIT, SIZE, _BASE - value * _UNIT), fill=(205, 205, 205))
    names = rng.sample(list(COLORS), count)
    labels = rng.sample(LETTERS, count)
    values = [rng.randint(1, TOP_VALUE) for _ in range(count)]
    face = font(rng.choice(FONTS), 13)
    pitch = SIZE / count
    for index, (name, label, value) in enumerate(zip(names, labels, values, strict=True)):
        wide = rng.uniform(0.45, 0.7) * min(pitch, 26)
        middle = (index + 0.5) * pitch + rng.uniform(-2, 2)
        box = (middle - wide / 2, _BASE - value * _UNIT, middle + wide / 2, _BASE)
        brush.rectangle(box, fill=color(rng, name))
        picture.marks.append((box, (name, str(value), label)))
        at = (middle - face.getlength(label) / 2, _BASE + 13)
        write(picture, brush, at, label, face, color(rng, "black"), [(label, name)])
        picture.questions.append((f"what is the value of the {name} bar?", str(value)))
        picture.questions.append((f"what is the value of bar {label}?", str(value)))
    brush.line((0, _BASE, SIZE, _BASE), fill=(20, 20, 20))
    rng.shuffle(picture.questions)
    extras = [(f"what is the label of the {names[0]} bar?", labels[0])]
    for word, extreme in (("tallest", max(values)), ("shortest", min(values))):
        if values.count(extreme) == 1:
            where = values.index(extreme)
            extras.append((f"what color is the {word} bar?", names[where]))
            extras.append((f"what is the label of the {word} bar?", labels[where]))
    one, two = rng.sample(range(count), 2)
    if values[one] != values[two]:
        answer = "yes" if values[one] > values[two] else "no"
        extras.append((f"is the {names[one]} bar taller than the {names[two]} bar?", answer))
    rng.shuffle(extras)
    # Values first and most: they are what a chart is read for.
    picture.questions[2:2] = extras[:1]
    picture.questions[5:5] = extras[1:]
    return picture
