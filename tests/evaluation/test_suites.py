import pickle
import subprocess
import sys
import time

import pytest
from PIL import ImageFile
from quiz_files import ANLS, CHARTS, EXACT, picture, write_task

from vtr_ray.errors import InputError
from vtr_ray.evaluation.images import read_image
from vtr_ray.evaluation.outcome import Outcome
from vtr_ray.evaluation.suites import (
    figure_tasks,
    load_task,
    load_tasks,
    task_figures,
    task_names,
    with_answers,
)


def test_documents_become_samples(suite):
    assert task_names(suite) == ["charts", "colours", "documents", "existence"]
    samples = load_tasks(["colours", "documents"], suite)
    assert samples.per_source == {"colours": 10, "documents": 8}
    first = samples.samples[0]
    assert (first.id, first.question, first.answers) == ("colours/0", "What colour is shape 0?", ("red",))
    assert (first.exact, first.max_new_tokens, first.until) == (True, 8, ("\n\n",))
    assert not samples.samples[10].exact
    assert read_image(first.image).tobytes() == read_image(picture(0)).tobytes()
    assert len(load_tasks(["colours"], suite, limit=3)) == 3


@pytest.mark.parametrize(
    ("task", "index", "answer", "score"),
    [
        ("colours", 0, "red", 1),
        ("colours", 0, " red\n", 1),
        ("colours", 0, "Red", 0),
        ("colours", 3, "dark", 0),
        ("documents", 1, "112.50", 1),
        ("documents", 1, "112.58", 1 - 1 / 6),
        ("documents", 1, "999", 0),
        ("charts", 0, "41", 1),  # 2.5 % off
        ("charts", 0, "43", 0),  # 7.5 % off
        ("charts", 0, "forty", 0),
        ("existence", 1, "Yes", 1),
        ("existence", 1, "no", 0),
    ],
)
def test_an_answer_scores_what_the_metric_says(suite, task, index, answer, score):
    sample = load_tasks([task], suite).samples[index]
    assert sample.score(answer) == pytest.approx(score)


def test_samples_judge_in_another_process(suite, tmp_path):
    samples = load_tasks(["documents", "charts"], suite)
    path = tmp_path / "samples.pickle"
    path.write_bytes(pickle.dumps(samples))
    code = (
        "import pickle, sys; samples = pickle.load(open(sys.argv[1], 'rb')).samples;"
        "print(samples[3].score('312.50'), samples[3].score('x'), samples[8].score('41'));"
        "from PIL import ImageFile; print(ImageFile.LOAD_TRUNCATED_IMAGES, 'lmms_eval' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1.0", "0.0", "1.0", "False", "True"]  # lmms-eval's import sets the flag
    assert "DEBUG" not in done.stderr
    assert "Generating" not in done.stderr  # a progress bar of datasets


def test_figures_of_a_whole_task_use_its_aggregation(suite):
    samples = load_tasks(["existence", "documents"], suite)
    existence = [sample for sample in samples if sample.source == "existence"]
    # no, yes, no, yes, ...: two of four "yes" found, one "no" called "yes".
    said = ["no", "yes", "yes", "yes", "no", "no", "no", "no"]
    outcomes = [Outcome(s.id, s.score(a), a) for s, a in zip(existence, said, strict=True)]
    figures = task_figures(samples, outcomes[::-1])
    assert figures == {"existence": {"pope_accuracy": 5 / 8, "pope_f1_score": pytest.approx(4 / 7)}}


def test_samples_of_tasks_with_figures_generate_and_are_judged_as_before(suite):
    samples = load_tasks(["colours", "existence", "documents"], suite)
    assert figure_tasks(samples) == ["existence"]  # the others' metrics are plain means
    answered = with_answers(lambda: samples)
    for before, now in zip(samples, answered, strict=True):
        assert now.exact == (before.source == "colours")
        for answer in (before.answers[0], "nonsense"):
            assert now.score(answer) == before.score(answer)


def test_figures_need_the_answers(suite):
    samples = load_tasks(["existence"], suite, limit=1)
    with pytest.raises(ValueError, match="existence/0 has no answer"):
        task_figures(samples, [Outcome("existence/0", 1.0)])


@pytest.mark.parametrize("flag", [False, True])
def test_unreadable_documents_are_skipped_and_named(tmp_path, monkeypatch, flag):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", flag)  # as another import may have left it
    rows = [(f"What is {i}?", "a") for i in range(60)]
    rows[7] = ("  ", "a")
    images = [picture(i % 5) for i in range(60)]
    images[9] = images[9][: len(images[9]) // 2]
    images[11] = b"no image"
    write_task(tmp_path, EXACT, "flawed", rows, images)
    samples = load_tasks(["flawed"], tmp_path)
    assert ImageFile.LOAD_TRUNCATED_IMAGES is flag
    reasons = samples.describe()["skipped"]
    assert reasons.keys() == {"flawed/7", "flawed/9", "flawed/11"}
    assert "empty question" in reasons["flawed/7"]
    assert "truncated" in reasons["flawed/9"]
    assert len(samples) == 57
    assert "flawed/8" in {sample.id for sample in samples}


def test_a_target_that_its_own_metric_rejects_is_refused(tmp_path):
    # "exact_answer" with a metric that never gives the target 1.
    yaml = EXACT.replace("metric: exact_match", "metric: anls").replace("score: exact_match", "score: anls")
    write_task(tmp_path, yaml, "fine", [("What?", "a")])
    assert load_tasks(["fine"], tmp_path).samples[0].exact
    write_task(tmp_path, EXACT, "odd", [("What?", " padded ")])
    with pytest.raises(InputError, match=r"odd/0.*exact_answer.*' padded '"):
        load_tasks(["odd"], tmp_path)


def test_the_score_must_be_clear(tmp_path):
    silent = "metadata:\n  score: anls\n  exact_answer: false\n"
    write_task(tmp_path, ANLS.replace(silent, ""), "single", [("What?", "a")])
    assert load_tasks(["single"], tmp_path).samples[0].score("a") == 1.0
    two = (
        CHARTS.replace("metadata:\n  score: relaxed_overall\n  exact_answer: false\n", "")
        .replace("process_results: !function utils.charts\n", "")
        .replace(
            "metric_list:",
            "metric_list:\n  - metric: anls\n    aggregation: mean\n    higher_is_better: true",
        )
        .replace("relaxed_overall", "exact_match")
    )
    write_task(tmp_path, two, "double", [("What?", "a")])
    with pytest.raises(InputError, match="anls, exact_match; say which"):
        load_tasks(["double"], tmp_path)
    assert load_tasks(["double"], tmp_path, score="anls").samples[0].score("a") == 1.0
    with pytest.raises(InputError, match="no metric 'f1'"):
        load_tasks(["double"], tmp_path, score="f1").samples[0].score("a")


def test_user_mistakes_are_clear_and_quick(tmp_path, suite):
    with pytest.raises(InputError, match=r"unknown task 'colors'.*colours"):
        load_tasks(["colors"], suite)
    with pytest.raises(InputError, match="task folder"):
        load_tasks(["colours"], tmp_path / "nowhere")
    (tmp_path / "lost.yaml").write_text(EXACT.format(name="lost", tokens=4))
    start = time.perf_counter()
    with pytest.raises(InputError, match=r"lost\.parquet.*does not exist"):
        load_tasks(["lost"], tmp_path)
    assert time.perf_counter() - start < 4  # lmms-eval itself tries five times, two seconds apart


def test_a_search_split_includes_the_other_yaml(suite):
    write_task(suite, EXACT, "words", [("Which word?", "yes")])
    folder = suite.parent / "search"
    folder.mkdir(exist_ok=True)
    write_task(folder, EXACT, "words", [("Which word?", "yes"), ("Which other?", "no")])
    (folder / "words_search.yaml").write_text(
        "include: words.yaml\ntask: words_search\n"
        "dataset_kwargs:\n  data_files:\n    test: words_search.parquet\n"
    )
    (folder / "words.parquet").rename(folder / "words_search.parquet")
    samples = load_tasks(["words_search"], folder)
    assert [sample.question for sample in samples] == ["Which word?", "Which other?"]
    assert samples.samples[0].exact
    (suite / "words.yaml").unlink()


def test_a_document_that_names_a_video_is_a_video_sample(tmp_path):
    """As MVBench's and Video-MME's do: `doc_to_visual` gives a path."""
    from clips import turned_clip

    from vtr_ray.evaluation.samples import Video
    from vtr_ray.evaluation.video import read_video

    turned_clip(tmp_path / "0.mp4", (0, 1, -1, 0))
    yaml = EXACT.replace("doc_to_visual: image", "doc_to_visual: !function utils.clip")
    here = str(tmp_path)
    (tmp_path / "utils.py").write_text(
        f'def clip(doc):\n    return ["{here}/" + str(len(doc["question"]) - 2) + ".mp4"]\n'
    )
    write_task(tmp_path, yaml, "moves", [("a?", "yes")] * 19 + [("gone?", "yes")])
    samples = load_tasks(["moves"], tmp_path, frames=3)
    assert {sample.image for sample in samples} == {Video(tmp_path / "0.mp4", 3)}
    assert "no video" in samples.describe()["skipped"]["moves/19"]
    assert read_video(samples.samples[0].image).pixels.shape == (3, 64, 32, 3)


def test_a_tasks_own_picture_stays_as_it_is(tmp_path):
    """In memory a picture is neither turned nor put on white, by whichever way it reaches a model."""
    from vtr_ray.evaluation.benchmarks.lmms_model import _Shown
    from vtr_ray.evaluation.benchmarks.loading import DocumentPictures

    (tmp_path / "utils.py").write_text(
        "from PIL import Image\n"
        "def drawn(doc):\n"
        "    if doc['question'] == 'deep?':\n"
        "        deep = Image.new('I;16', (3, 1), 100 * 257)\n"
        "        deep.putpixel((0, 0), 0)\n"
        "        return [deep]\n"
        "    image = Image.new('RGBA', (3, 1), (10, 20, 30, 0))\n"
        "    image.info['exif'] = b'Exif\\0\\0II*\\0\\x08\\0\\0\\0\\1\\0'\\\n"
        "        b'\\x12\\1\\3\\0\\1\\0\\0\\0\\6\\0\\0\\0\\0\\0\\0\\0'\n"
        "    assert image.getexif()[274] == 6\n"
        "    return [image]\n"
    )
    yaml = EXACT.replace("doc_to_visual: image", "doc_to_visual: !function utils.drawn")
    write_task(tmp_path, yaml, "drawn", [("flat?", "yes"), ("deep?", "yes")])
    flat, deep = (read_image(sample.image) for sample in load_tasks(["drawn"], tmp_path))
    task = load_task(str(tmp_path), "drawn")
    for number, image in enumerate((flat, deep)):
        (shown,) = DocumentPictures(str(tmp_path), "drawn", number).pictures()
        (asked,) = _Shown(task.doc_to_visual, lambda number=number: task.eval_docs[number]).pictures()
        assert shown.tobytes() == asked.tobytes() == image.tobytes()
        assert (shown.mode, shown.size) == ("RGB", (3, 1))
    assert flat.tobytes() == bytes((10, 20, 30)) * 3
    assert deep.tobytes() == bytes(3) + bytes([100]) * 6
