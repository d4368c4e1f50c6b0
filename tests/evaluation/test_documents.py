"""Tasks as a command names them."""

import pickle

import pytest
from quiz_files import ANLS, COMMON, EXACT, write_task

from vtr_ray.embedded import TASKS_FOLDER
from vtr_ray.errors import InputError
from vtr_ray.evaluation.documents import find_documents, load_documents
from vtr_ray.evaluation.suites import load_tasks, spread_documents

TWO = (
    COMMON
    + """
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
  - metric: anls
    aggregation: mean
    higher_is_better: true
"""
)


@pytest.fixture
def own(tmp_path):
    write_task(tmp_path, EXACT, "words", [(f"Which word is {i}?", f"w{i}") for i in range(10)])
    write_task(tmp_path, TWO, "double", [("What?", "abcd"), ("What else?", "b")])
    return tmp_path


def test_documents_are_spread_evenly():
    assert spread_documents(10, 4) == [0, 2, 5, 7]
    assert spread_documents(10, None) == spread_documents(10, 10) == spread_documents(10, 99) == [*range(10)]
    for limit in range(1, 10):
        gaps = [b - a for a, b in zip(spread_documents(10, limit), spread_documents(10, limit)[1:])]  # noqa: B905
        assert len(spread_documents(10, limit)) == limit and all(10 // limit <= gap for gap in gaps)


def test_own_and_shipped_tasks_together(own):
    parts = find_documents(["words:4", "vtr_text_search:3"], own)
    samples = load_documents(pickle.loads(pickle.dumps(parts)))
    ids = [f"words/{i}" for i in (0, 2, 5, 7)] + [f"vtr_text_search/{i}" for i in (0, 30, 60)]
    assert [sample.id for sample in samples] == ids
    assert samples.fingerprint == load_documents(parts).fingerprint
    first = samples.samples[1]
    assert (first.question, first.score("w2"), first.score("w3")) == ("Which word is 2?", 1, 0)
    whole = load_tasks(["vtr_text_search"], TASKS_FOLDER).samples
    assert samples.samples[-1].question == whole[60].question


def test_own_tasks_come_before_those_that_ship(own):
    write_task(own, EXACT, "vtr_text_search", [("Mine?", "yes")])
    assert [one.question for one in load_documents(find_documents(["vtr_text_search"], own))] == ["Mine?"]


def test_the_fingerprint_knows_metric_and_task_but_not_the_folder(own, tmp_path_factory):
    def fingerprint(text, folder, score):
        return load_documents(find_documents([text], folder), score).fingerprint

    exact, anls = (fingerprint("double", own, score) for score in ("exact_match", "anls"))
    assert exact != anls
    moved = tmp_path_factory.mktemp("moved")
    write_task(moved, TWO, "double", [("What?", "abcd"), ("What else?", "b")])
    assert fingerprint("double", moved, "anls") == anls


def test_the_score_counts_where_a_task_has_it(own):
    parts = find_documents(["double", "words"], own)
    with pytest.raises(InputError, match=r"double has the metrics .*--score METRIC"):
        load_documents(parts)
    double, _, words = load_documents(parts, "anls").samples[:3]
    assert double.score("abce") == pytest.approx(0.75)  # anls: one letter of four
    assert words.score("w1") == 0 and words.score("w0") == 1
    with pytest.raises(
        InputError, match=r"no task has the metric 'bleu'.*double: .*anls; words: exact_match"
    ):
        load_documents(parts, "bleu")


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["words:0"], "no number of documents; write words:100"),
        (["words:x"], "no number of documents"),
        (["words", "words:3"], "named twice"),
        (["word:3"], "unknown task 'word'; near it: words"),
        (["vtr_tex"], "near it: vtr_text"),
    ],
)
def test_mistakes_in_names(own, texts, message):
    with pytest.raises(InputError, match=message):
        find_documents(texts, own)


def test_tasks_that_cannot_be_searched_on(own):
    write_task(own, EXACT.replace("doc_to_visual: image\n", ""), "blind", [("What?", "a")])
    with pytest.raises(InputError, match="blind has no images"):
        load_documents(find_documents(["blind"], own))
    # A judge that wants what it is not given, and a metric that is no number per answer.
    (own / "utils.py").write_text(
        "def needs_key(doc, results):\n    raise RuntimeError('no key')\n\n\n"
        "def lists(doc, results):\n    return {'anls': [results[0]]}\n"
    )
    for name, message in (
        ("needs_key", "cannot judge an answer by itself.*no key"),
        ("lists", "not one number"),
    ):
        yaml = ANLS + f"process_results: !function utils.{name}\n"
        write_task(own, yaml, name, [("What?", "a")])
        with pytest.raises(InputError, match=message):
            load_documents(find_documents([name], own))
