"""Tasks that ask another model or a server to judge: what is reported without them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from vtr_ray.errors import InputError

KEY = "OPENAI_API_KEY"

_MATHVISTA = "mathvista_"
_ASKS = {
    "mmbench_en_dev": "mmbench_en_dev_static matches answers by rule",
    "mmbench_cn_dev": "mmbench_en_dev_static matches answers by rule",
}


def check(name: str, task: Any) -> None:
    """Refuse a task of which nothing can be reported here.

    Raises:
        InputError: its answers go to a submission server; it asks GPT and there is no key.
    """
    figures = [metric for metric in task.aggregation() if metric != "submission"]
    if not figures or all("submission" in one.__name__ for one in task.aggregation().values()):
        raise InputError(
            f"task {name} only writes a file for a submission server, so there is nothing to report; name "
            "the split that comes with answers (as docvqa_val)"
        )
    if name in _ASKS and not os.environ.get(KEY):
        raise InputError(f"task {name} asks GPT to judge and {KEY} is not set; {_ASKS[name]}")
    if name == "hallusion_bench_image":
        from lmms_eval.tasks.hallusion_bench import evaluate_hb

        rules = {
            metric: getattr(evaluate_hb, f"hb_aggregation_result_{metric}_intern")
            for metric in task.aggregation()
        }
        task.aggregation().update(rules)


def note(name: str) -> str:
    """What to say of a task before it runs; "": nothing."""
    if _partial(name):
        return (
            f"without {KEY} only its multiple-choice questions are asked, matched to the nearest choice by "
            "lmms-eval's own rule; its free-form answers need GPT"
        )
    return ""


def answerable(name: str, task: Any) -> list[int]:
    """Places of the documents that can be judged here."""
    docs = task.eval_docs_no_media
    if not _partial(name):
        return list(range(len(docs)))
    return [place for place, kind in enumerate(docs["question_type"]) if kind == "multi_choice"]


@contextmanager
def without_key(name: str) -> Iterator[None]:
    """MathVista's task cannot even be loaded without a key; without one, answers are taken as they are."""
    if not _partial(name):
        yield
        return
    os.environ[KEY] = "none"
    try:
        yield
        from lmms_eval.tasks.mathvista import utils

        def as_it_is(response: str, problem: Any, quick_extract: bool = False) -> str:
            return response

        utils.mathvista_evaluator.extract_answer = as_it_is
    finally:
        del os.environ[KEY]


def _partial(name: str) -> bool:
    return name.startswith(_MATHVISTA) and not os.environ.get(KEY)
