"""Clips: what is drawn, what is asked of it, and how lmms-eval's task hands it out."""

import hashlib
import io
import random
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from vtr_ray.embedded import TASKS, TASKS_FOLDER, VIDEO_TASKS, search_tasks, test_tasks
from vtr_ray.embedded.draw import clip
from vtr_ray.embedded.draw.clips import FRAMES
from vtr_ray.embedded.splits import SPLITS, draw_split, size_of
from vtr_ray.embedded.tokenizer import build_tokenizer
from vtr_ray.evaluation.images import whole_images_only
from vtr_ray.evaluation.samples import Video
from vtr_ray.evaluation.suites import load_tasks
from vtr_ray.evaluation.video import read_video

with whole_images_only():  # lmms-eval lets truncated images through, for the whole process
    from vtr_ray.embedded.tasks import utils

test_tasks.__test__ = False


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "vtr_ray" / "clips"


def shipped(split):
    return pq.read_table(TASKS_FOLDER / "data" / f"clips_{split}.parquet").to_pylist()


def seen(drawn):
    """By colour: shape and centre in each frame, None where it is not shown."""
    frames = [
        {color: (shape, (x0 + x1) / 2, (y0 + y1) / 2) for (x0, y0, x1, y1), (color, shape) in frame.marks}
        for frame in drawn.frames
    ]
    return {color: [frame.get(color) for frame in frames] for frame in frames for color in frame}


def truth(drawn):
    things = seen(drawn)
    moved = {color: places for color, places in things.items() if None not in places and len(set(places)) > 1}
    assert len(moved) == 1
    mover, places = moved.popitem()
    right, down = places[-1][1] - places[0][1], places[-1][2] - places[0][2]
    way = ("right" if right > 0 else "left") if abs(right) > abs(down) else ("down" if down > 0 else "up")
    since = {color: places.count(None) for color, places in things.items() if None in places}
    for color, first in since.items():
        assert all(place is None for place in things[color][:first])
        assert len(set(things[color][first:])) == 1
    return mover, places[0][0], way, sorted(since, key=since.__getitem__), since


def test_the_same_seed_gives_the_same_clip():
    first, second = clip(random.Random(3)), clip(random.Random(3))
    assert first.image.tobytes() == second.image.tobytes() and first.questions == second.questions
    assert first.image.tobytes() != clip(random.Random(4)).image.tobytes()
    assert first.image.size == (96 * FRAMES, 96)


def test_answers_are_true():
    asked = set()
    for seed in range(200):
        drawn = clip(random.Random(seed))
        mover, shape, way, order, since = truth(drawn)
        for question, answer in [*drawn.questions, *drawn.practice]:
            named = next((name for name in seen(drawn) if f" {name} " in question), None)
            expected = {
                "what color is the object that moved?": mover,
                "what shape is the object that moved?": shape,
                "in what direction did the object move?": way,
                "how many objects appeared?": str(len(order)),
                "what color is the object that appeared?": order[0],
                "what color is the object that appeared first?": order[0],
                "what color is the object that appeared last?": order[-1],
                f"in what direction did the {mover} object move?": way,
                f"did the {named} object move?": "yes" if named == mover else "no",
                f"did the {named} object appear?": "yes" if named in since else "no",
                f"in what image did the {named} object appear?": (
                    ("first", "second", "third", "fourth", *[""] * 4)[since.get(named, 0)]
                ),
            }
            assert answer == expected[question], question
            asked.add(question.replace(str(named), "NAMED"))
    assert len(asked) == 11


def test_everything_stays_inside_and_apart():
    for seed in range(100):
        for frame in clip(random.Random(seed)).frames:
            for (x0, y0, x1, y1), _ in frame.marks:
                assert min(x0, y0) >= -1e-6 and max(x1, y1) <= 96 + 1e-6
            for (one, _), (two, _) in combinations(frame.marks, 2):
                centres = [np.array([box[0] + box[2], box[1] + box[3]]) / 2 for box in (one, two)]
                radii = (one[2] - one[0] + two[2] - two[0]) / 2
                assert np.linalg.norm(centres[0] - centres[1]) > radii - 1


def test_frames_show_what_their_marks_say():
    drawn = clip(random.Random(7))
    pixels = np.stack([np.asarray(frame.image, dtype=int) for frame in drawn.frames])
    for frame, picture in zip(pixels, drawn.frames, strict=True):
        ground = np.median(frame, axis=(0, 1))
        strange = np.abs(frame - ground).sum(-1) > 60
        inside = np.zeros_like(strange)
        for (x0, y0, x1, y1), _ in picture.marks:
            assert strange[int(y0 + y1) // 2, int(x0 + x1) // 2]
            inside[int(y0) : int(y1) + 2, int(x0) : int(x1) + 2] = True
        assert not (strange & ~inside).any()


def test_questions_and_answers_are_made_of_known_tokens():
    tokenizer = build_tokenizer(tiled=True)
    for seed in range(50):
        drawn = clip(random.Random(seed))
        for question, answer in drawn.questions + drawn.practice:
            assert tokenizer.unk_token_id not in tokenizer(question).input_ids
            assert len(tokenizer.tokenize(question)) == len(question.split()) + 1  # words and a question mark
            assert tokenizer.decode(tokenizer(answer).input_ids) == answer


@pytest.mark.parametrize("split", SPLITS)
def test_the_shipped_split_is_what_the_seed_draws(split):
    rows, drawn = shipped(split), draw_split("clips", split)
    assert [(q.id, q.question, q.answer) for q in drawn] == [
        (row["id"], row["question"], row["answer"]) for row in rows
    ]
    assert len(rows) == size_of("clips", split)
    for row, question in list(zip(rows, drawn, strict=True))[::20]:
        for one, two in zip(row["frames"], question.frames(), strict=True):
            assert np.array_equal(np.asarray(Image.open(io.BytesIO(one))), np.asarray(two))
    kinds = [question.question.split("object")[-1] + question.question[:10] for question in drawn]
    assert len(set(kinds)) == 6
    assert max(map(kinds.count, kinds)) - min(map(kinds.count, kinds)) <= 1


def test_no_clip_is_shared_between_splits_and_the_data_stay_small():
    clips = [tuple(row["frames"]) for split in SPLITS for row in shipped(split)]
    assert len(set(clips)) == len(clips)
    assert sum((TASKS_FOLDER / "data" / f"clips_{s}.parquet").stat().st_size for s in SPLITS) < 1.5e6
    assert not set(VIDEO_TASKS) & set(TASKS)


def test_the_tasks_load_as_videos_and_judge_their_own_answers():
    samples = load_tasks([*search_tasks(VIDEO_TASKS), *test_tasks(VIDEO_TASKS)], TASKS_FOLDER)
    assert not samples.skipped and samples.per_source == {"vtr_clips": 200, "vtr_clips_search": 90}
    rows = [*shipped("search"), *shipped("test")]
    for sample, row in list(zip(samples, rows, strict=True))[::29]:
        assert isinstance(sample.image, Video) and sample.exact
        read = read_video(sample.image)
        frames = np.stack([np.asarray(Image.open(io.BytesIO(frame))) for frame in row["frames"]])
        assert np.array_equal(read.pixels, frames)  # all of them, each once, in order
        assert (sample.question, sample.answers) == (row["question"], (row["answer"],))
        assert sample.score(row["answer"]) == 1 and sample.score("nonsense") == 0


def test_many_readers_find_one_whole_folder(cache):
    row = shipped("search")[0]
    with ThreadPoolExecutor(8) as pool:
        found = [*pool.map(utils.clip, [row] * 32)]
    assert len({*map(tuple, found)}) == 1
    assert [path.name for path in cache.iterdir()] == [found[0][0].rsplit("/", 1)[1]]  # no half-written one
    files = sorted(cache.joinpath(found[0][0]).iterdir())
    assert [file.read_bytes() for file in files] == row["frames"]


def test_a_folder_that_another_process_wrote_first_is_taken(cache, monkeypatch):
    row = shipped("search")[1]
    names = b"".join(hashlib.sha256(frame).digest() for frame in row["frames"])
    folder = cache / hashlib.sha256(names).hexdigest()[:32]
    make = utils.tempfile.mkdtemp

    def slow(**options):
        part = make(**options)
        folder.mkdir()
        (folder / "0.png").write_bytes(b"theirs")
        return part

    monkeypatch.setattr(utils.tempfile, "mkdtemp", slow)
    assert utils.clip(row) == [str(folder)]
    assert (folder / "0.png").read_bytes() == b"theirs" and [*cache.iterdir()] == [folder]


def test_a_cache_that_cannot_be_written_is_no_silence(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(OSError):
        utils.clip(shipped("search")[0])
