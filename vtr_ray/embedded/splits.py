"""The search and test splits of the embedded tasks: from fixed seeds, one question per image or clip."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from PIL import Image

from vtr_ray.embedded import TASKS, VIDEO_TASKS
from vtr_ray.embedded.draw import DRAWS, SIZE, clip
from vtr_ray.embedded.lessons import easy_vqa_image, easy_vqa_questions, fingerprint

SPLITS = ("search", "test")
_SIZES = {"search": 90, "test": 200}
_EASY_VQA_SEARCH = 60  # the shipped weights have seen all other training images


def size_of(task: str, split: str) -> int:
    """Questions in one task's split."""
    return _EASY_VQA_SEARCH if (task, split) == ("easy_vqa", "search") else _SIZES[split]


@dataclass(frozen=True)
class Question:
    """One line of a split; a clip's image has its frames side by side."""

    id: str
    image: Image.Image
    question: str
    answer: str

    def frames(self) -> list[Image.Image]:
        """The frames of a clip, in order."""
        return [self.image.crop((x, 0, x + SIZE, SIZE)) for x in range(0, self.image.width, SIZE)]


def draw_split(task: str, split: str) -> list[Question]:
    """All questions of one task's split, always the same; images are distinct."""
    if task in VIDEO_TASKS:
        drawn = _clips(split)
    else:
        drawn = _easy_vqa(split) if task == "easy_vqa" else _generated(task, split)
    seen: set[str] = set()
    questions: list[Question] = []
    for image, question, answer in drawn:
        mark = fingerprint(image)
        if mark not in seen:
            seen.add(mark)
            questions.append(Question(f"{task}-{split}-{len(questions):03d}", image, question, answer))
        if len(questions) == size_of(task, split):
            break
    return questions


def held_out() -> frozenset[str]:
    """Fingerprints of every image of both splits: what training must not show."""
    return frozenset(
        fingerprint(question.image)
        for task in (*TASKS, *VIDEO_TASKS)
        for split in SPLITS
        for question in draw_split(task, split)
    )


def _generated(task: str, split: str) -> Iterator[tuple[Image.Image, str, str]]:
    rng, pick = random.Random(f"{task}/{split}"), random.Random(f"{task}/{split}/question")
    wanted = 0
    while True:
        picture = DRAWS[task](rng)
        questions = picture.questions[:6]
        if task == "existence":  # balanced: yes and no in turn
            questions = [q for q in questions if q[1] == ("yes", "no")[wanted % 2]]
            if not questions:
                continue
        wanted += 1
        yield picture.image, *pick.choice(questions)


def _clips(split: str) -> Iterator[tuple[Image.Image, str, str]]:
    """Each kind of question once in six: colour and shape of what moved, direction, number, order."""
    rng, pick = random.Random(f"clips/{split}"), random.Random(f"clips/{split}/question")
    kinds = ("color is the object that moved", "shape", "direction", "many", "first", "last")
    while True:
        for kind in pick.sample(kinds, len(kinds)):
            fit: list[tuple[str, str]] = []
            while not fit:  # with one that appears, nothing is first or last
                drawn = clip(rng)
                fit = [question for question in drawn.questions if kind in question[0]]
            yield drawn.image, *fit[0]


def _easy_vqa(split: str) -> Iterator[tuple[Image.Image, str, str]]:
    """A third asks for the shape, a third for the colour, the rest for yes and no in equal parts.

    As the data set comes, three questions in four are yes/no and 68 % of all can be answered from their
    text alone.
    The search split comes from the data set's training images, which the recipe then leaves out.
    """
    source = "test" if split == "test" else "train"
    shapes = {"circle", "rectangle", "triangle"}
    rng = random.Random(f"easy_vqa/{split}")
    images = sorted(easy_vqa_questions(source))
    rng.shuffle(images)
    for index, image in enumerate(images):
        kind = ("shape", "color", ("yes", "no")[index // 3 % 2])[index % 3]
        questions = easy_vqa_questions(source)[image]
        fit = [
            (question, answer)
            for question, answer in questions
            if ("shape" if answer in shapes else answer if answer in ("yes", "no") else "color") == kind
        ]
        if fit:
            yield easy_vqa_image(source, image), *rng.choice(fit)
