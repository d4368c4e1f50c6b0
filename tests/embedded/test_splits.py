import io
import json
import random

import pyarrow.parquet as pq
import pytest
from PIL import Image

from vtr_ray.embedded import MODEL, TASKS, TASKS_FOLDER, VARIANTS, model_folder, search_tasks, test_tasks
from vtr_ray.embedded.draw import DRAWS
from vtr_ray.embedded.lessons import EasyVQA, Teacher, fingerprint
from vtr_ray.embedded.splits import SPLITS, draw_split, held_out, size_of
from vtr_ray.embedded.tokenizer import build_tokenizer
from vtr_ray.evaluation.suites import load_tasks

test_tasks.__test__ = False


def shipped(task, split):
    return pq.read_table(TASKS_FOLDER / "data" / f"{task}_{split}.parquet").to_pylist()


def pictures(task, split):
    return [fingerprint(Image.open(io.BytesIO(row["image"]["bytes"]))) for row in shipped(task, split)]


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("task", TASKS)
def test_the_shipped_split_is_what_the_seed_draws(task, split):
    drawn = draw_split(task, split)
    rows = shipped(task, split)
    assert [(q.id, q.question, q.answer) for q in drawn] == [
        (row["id"], row["question"], row["answer"]) for row in rows
    ]
    # FreeType versions may differ by a shade: compare what is drawn, not its bytes.
    assert len({row["id"] for row in rows}) == size_of(task, split)


def test_no_image_is_shared_between_splits():
    marks = [mark for task in TASKS for split in SPLITS for mark in pictures(task, split)]
    assert len(marks) == len(set(marks)) == sum(size_of(t, s) for t in TASKS for s in SPLITS)


def test_training_never_shows_a_held_out_image():
    held = held_out()
    easy = EasyVQA(held)
    assert len(easy.pictures) == 4000 - size_of("easy_vqa", "search")
    teacher = Teacher(build_tokenizer(), held, weights={"text": 1, "scenes": 1})
    batch = teacher.batch(8, seed=0, step=0)
    again = teacher.batch(8, seed=0, step=0)
    assert batch.ids.equal(again.ids) and batch.pixels.equal(again.pixels)


@pytest.mark.parametrize("task", sorted(DRAWS))
def test_a_held_out_picture_is_drawn_again(task):
    rng = random.Random(1)
    first, second, third = (DRAWS[task](rng) for _ in range(3))
    marks = [fingerprint(picture.image) for picture in (first, second, third)]
    assert len(set(marks)) == 3
    for held in range(3):  # so many of them are held out
        teacher = Teacher(build_tokenizer(), frozenset(marks[:held]), weights={task: 1})
        drawn = teacher.picture(task, random.Random(1))
        assert fingerprint(drawn.image) == marks[held]
        assert drawn.questions == (first, second, third)[held].questions


def test_easy_vqa_is_balanced():
    answers = [row["answer"] for row in shipped("easy_vqa", "test")]
    shapes = sum(answer in ("circle", "rectangle", "triangle") for answer in answers)
    polar = [answer for answer in answers if answer in ("yes", "no")]
    assert 60 <= shapes <= 72 and 60 <= len(polar) <= 80
    assert abs(polar.count("yes") - polar.count("no")) <= 4


def test_all_tasks_load_and_judge_their_own_answers():
    samples = load_tasks([*search_tasks(), *test_tasks()], TASKS_FOLDER)
    assert not samples.skipped
    assert samples.per_source == {
        f"vtr_{task}{suffix}": size_of(task, split)
        for task in TASKS
        for split, suffix in (("search", "_search"), ("test", ""))
    }
    for sample in samples.samples[::37]:
        assert sample.score(sample.answers[0]) == 1
        assert sample.score("nonsense") == 0


@pytest.mark.parametrize("variant", ["", *VARIANTS])
def test_the_cards_table_states_what_was_measured(variant):
    folder = model_folder(variant)
    measured = json.loads((folder / "measured.json").read_text())["accuracy"]
    if variant:
        whole = json.loads((MODEL / "measured.json").read_text())["accuracy"]["no reduction"]
        measured = {"144 tokens, no reduction": whole, **measured}
    lines = (folder / "README.md").read_text().splitlines()
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    header, _, *rows = table
    assert header == ["", *TASKS, "average"]
    assert rows == [
        [name, *(f"{figures[task]:.3f}" for task in TASKS), f"{sum(figures.values()) / len(TASKS):.3f}"]
        for name, figures in measured.items()
    ]
