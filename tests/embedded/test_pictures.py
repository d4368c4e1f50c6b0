import random

import numpy as np
import pytest

from vtr_ray.embedded.draw import DRAWS, GRID
from vtr_ray.embedded.tokenizer import build_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


@pytest.mark.parametrize("task", DRAWS)
def test_same_seed_same_picture(task):
    first, second = (DRAWS[task](random.Random(3)) for _ in range(2))
    assert first.image.tobytes() == second.image.tobytes()
    assert first.questions == second.questions
    assert first.image.tobytes() != DRAWS[task](random.Random(4)).image.tobytes()


@pytest.mark.parametrize("task", DRAWS)
def test_questions_and_answers_are_made_of_known_tokens(task, tokenizer):
    for seed in range(50):
        picture = DRAWS[task](random.Random(seed))
        for question, answer in picture.questions + picture.practice:
            ids = tokenizer(question).input_ids + tokenizer(answer).input_ids
            assert tokenizer.unk_token_id not in ids
            assert tokenizer.decode(tokenizer(answer).input_ids) == answer


@pytest.mark.parametrize("task", DRAWS)
def test_everything_drawn_stays_inside_and_is_marked(task):
    for seed in range(30):
        picture = DRAWS[task](random.Random(seed))
        for (x0, y0, x1, y1), _ in picture.marks:
            assert x0 >= -1 and y0 >= -1 and x1 <= 97 and y1 <= 97
        words = picture.patch_words()
        assert len(words) == GRID * GRID
        assert {"empty"} < {word for patch in words for word in patch}


def test_patches_say_what_their_pixels_show():
    """A patch marked with a colour has that colour's pixels, one marked empty has none of any shape."""
    for seed in range(20):
        picture = DRAWS["scenes"](random.Random(seed))
        pixels = np.asarray(picture.image, dtype=int)
        ground = np.median(pixels, axis=(0, 1))
        strange = np.abs(pixels - ground).sum(-1) > 60
        for patch, words in enumerate(picture.patch_words()):
            row, column = divmod(patch, GRID)
            filled = strange[row * 8 : row * 8 + 8, column * 8 : column * 8 + 8].mean()
            if words == ("empty",):
                assert filled < 0.3
            if filled > 0.5:
                assert words != ("empty",)


def test_scene_answers_are_true():
    """Counts and attributes against the marks, which are what was painted."""
    asked = 0
    for seed in range(100):
        picture = DRAWS["scenes"](random.Random(seed))
        things = [words for _, words in picture.marks]
        for question, answer in picture.questions:
            words = question.rstrip("?").split()
            if words[:2] == ["how", "many"]:
                wanted = words[2].removesuffix("s") if words[2] != "objects" else None
                assert int(answer) == sum(wanted is None or wanted in thing for thing in things)
                asked += 1
            elif question.startswith("what shape is the") and words[4] in {color for color, _ in things}:
                assert [shape for color, shape in things if color == words[4]] == [answer]
                asked += 1
    assert asked > 300


def test_existence_is_balanced_and_true():
    for seed in range(100):
        picture = DRAWS["existence"](random.Random(seed))
        present = {words for _, words in picture.marks}
        for question, answer in picture.questions:
            color, shape = question.rstrip("?").split()[-2:]
            assert ((color, shape) in present) == (answer == "yes")
        answers = [answer for _, answer in picture.questions]
        assert answers.count("yes") == answers.count("no")


def test_chart_answers_are_true():
    for seed in range(100):
        picture = DRAWS["charts"](random.Random(seed))
        bars = {words[0]: (int(words[1]), words[2]) for _, words in picture.marks if len(words) == 3}
        for question, answer in picture.questions:
            words = question.rstrip("?").split()
            if question.startswith("what is the value of the"):
                assert int(answer) == bars[words[-2]][0]
            elif question.startswith("what is the value of bar"):
                assert int(answer) in [value for value, label in bars.values() if label == words[-1]]
            elif "tallest" in question and "color" in question:
                assert bars[answer][0] == max(value for value, _ in bars.values())
