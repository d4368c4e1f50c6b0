"""Images and questions without answers, however they come; the command line's options for them."""

import json

import pytest
from PIL import Image

from vtr_ray.commands.inputs import DataOptions, ModelOptions
from vtr_ray.errors import InputError
from vtr_ray.evaluation.plain import load_unanswered

QUESTIONS = {"a/one.png": "Which colour?", "a/two.jpg": "How many?", "three.webp": "Is it round?"}


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "pictures"
    for number, name in enumerate(QUESTIONS):
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8 + number, 8), (90 * number, 10, 10)).save(file)
    (folder / ".DS_Store").write_bytes(b"x")
    (folder / "._one.png").write_bytes(b"x")
    return folder


def beside(folder):
    for name, question in QUESTIONS.items():
        (folder / name).with_suffix(".txt").write_text(f"{question}\n")
    return folder


def plain(folder):
    return write(folder, [{"image": name, "question": asked} for name, asked in QUESTIONS.items()])


def named(folder):
    entries = [{"id": name, "image": name, "question": asked} for name, asked in QUESTIONS.items()]
    return write(folder, entries)


def turns(name, asked, *more):
    return {
        "id": name,
        "image": name,
        "conversations": [{"from": "human", "value": f"<image>\n{asked}"}, *more],
    }


def one_turn(folder):
    return write(folder, [turns(name, asked) for name, asked in QUESTIONS.items()])


def answered(folder):
    answer = {"from": "gpt", "value": "red"}
    return write(folder, [turns(name, asked, answer) for name, asked in QUESTIONS.items()])


def write(folder, entries):
    (folder / "s.json").write_text(json.dumps(entries))
    return folder / "s.json"


KINDS = [beside, plain, named, one_turn, answered]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_the_same_samples(folder, kind):
    samples = {one.id: one for one in load_unanswered(kind(folder))}
    assert {name: one.question for name, one in samples.items()} == QUESTIONS
    assert {one.answers for one in samples.values()} == {()}
    assert [samples[name].source for name in QUESTIONS] == ["a", "a", "."]
    assert all(len(one.digest) == 64 for one in samples.values())
    asked = (
        DataOptions(samples=kind(folder), labels="self", label_tokens=5).search_samples(ModelOptions()).set
    )
    assert {(one.exact, one.max_new_tokens, one.judge) for one in asked} == {(False, 5, None)}


@pytest.mark.parametrize("kind", [lambda folder: folder, *KINDS[:-1]])
def test_without_answers_one_line_says_what_to_do(folder, kind):
    with pytest.raises(InputError, match="have no answers; add --labels self: ") as refused:
        DataOptions(samples=kind(folder)).search_samples(ModelOptions())
    assert "\n" not in str(refused.value)


def test_one_question_for_all_that_have_none(folder):
    (folder / "a/one.txt").write_text("Which colour?")
    found = {one.id: one.question for one in load_unanswered(folder, question="What is it?")}
    assert found == {"a/one.png": "Which colour?", "a/two.jpg": "What is it?", "three.webp": "What is it?"}
    entries = write(folder, [{"image": "a/one.png", "question": "Which colour?"}, {"image": "three.webp"}])
    asked = [one.question for one in load_unanswered(entries, question="What is it?")]
    assert asked == ["Which colour?", "What is it?"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"labels": "own"}, "--labels is 'own'; use given or self"),
        ({"labels": "self", "label_tokens": 0}, "--label-tokens is 0"),
        ({"question": "What?"}, "--question is for samples without questions"),
        ({"labels": "self", "question": "What?"}, "--question is for samples without questions"),
        ({"labels": "self", "score": "anls"}, "--score and --labels self both say what is right"),
    ],
)
def test_options_that_do_not_go_together(options, said):
    with pytest.raises(InputError, match=said):
        DataOptions(**options)


def test_what_a_folder_lacks(folder, tmp_path):
    with pytest.raises(InputError, match=r"one\.png has no question; write it to one\.txt .* --question"):
        load_unanswered(folder)
    with pytest.raises(InputError, match="leave --images out"):
        load_unanswered(beside(folder), images=tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="has no images"):
        load_unanswered(tmp_path / "empty")
    bad = [{"image": "three.webp", "question": asked} for asked in ("", 7)] + [{"question": "What?"}]
    with pytest.raises(
        InputError, match=r"no readable samples among 3: .*empty question.*valid string.*no image"
    ):
        load_unanswered(write(folder, bad))
