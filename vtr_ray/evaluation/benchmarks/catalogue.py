"""Suites and benchmarks by name: which lmms-eval task, which figure of it, and what it needs beyond data."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vtr_ray import embedded

Field = Callable[[Mapping[str, Any]], Hashable]

MME_FULL = 2800  # 2000 of perception, 800 of cognition


@dataclass(frozen=True)
class Benchmark:
    """One column of a table.

    task: of lmms-eval; may be a group of tasks, then the figure is the group's own, or the mean of its tasks.
    title: as papers write it. group: of a suite, as "OCR & Chart".
    metrics: whose sum is the figure; empty: the task's own choice (`metadata: {score: ...}`, or its first).
    full: what the figure is at best; its fraction of this enters averages.
    unit: names the question group of a document, which is kept whole; None: each on its own.
    stratum: names what the figure averages by itself before it sums or averages those; None: nothing.
    note: said before anything runs.
    """

    task: str
    title: str = ""
    group: str = ""
    metrics: tuple[str, ...] = ()
    full: float = 1.0
    unit: Field | None = None
    stratum: Field | None = None
    note: str = ""

    @property
    def name(self) -> str:
        """The title; the task where it has none."""
        return self.title or self.task


def _by(*names: str) -> Field:
    def field(document: Mapping[str, Any]) -> Hashable:
        return tuple(document[name] for name in names)

    return field


def _circular(document: Mapping[str, Any]) -> Hashable:
    # MMBench asks a question once for each order of its options; those count together.
    return int(document["index"]) % 1_000_000


_GENERAL, _KNOWLEDGE, _OCR, _VISION = "General VQA", "Knowledge", "OCR & Chart", "Vision-Centric"

# Section 4.1 of the paper: twelve benchmarks in four groups, with each one's default metric.
PAPER = (
    Benchmark(
        "mme", "MME", _GENERAL, ("mme_perception_score", "mme_cognition_score"), MME_FULL,
        _by("category", "question_id"), _by("category"),
    ),
    Benchmark(
        "mmbench_en_dev_static", "MMBench", _GENERAL, ("gpt_eval_score",), 100, _circular,
        note="answers are matched by rule (mmbench_en_dev would ask GPT)",
    ),
    Benchmark("gqa", "GQA", _GENERAL, ("exact_match",)),
    Benchmark("mmmu_val", "MMMU", _KNOWLEDGE, ("mmmu_acc",)),
    Benchmark("mathvista_testmini_format", "MathVista", _KNOWLEDGE, ("llm_as_judge_eval",), 100),
    Benchmark("ai2d", "AI2D", _KNOWLEDGE, ("exact_match",)),
    Benchmark("textvqa_val", "TextVQA", _OCR, ("exact_match",)),
    Benchmark("chartqa", "ChartQA", _OCR, ("relaxed_overall",)),
    Benchmark("docvqa_val", "DocVQA", _OCR, ("anls",)),
    Benchmark("pope", "POPE", _VISION, ("pope_f1_score",)),
    Benchmark("realworldqa", "RealWorldQA", _VISION, ("exact_match",)),
    Benchmark(
        "hallusion_bench_image", "HallusionBench", _VISION, ("aAcc",), 1.0,
        _by("category", "subcategory", "set_id"),
        note="judged by lmms-eval's own rule: whether the answer says yes (its default asks GPT)",
    ),
)  # fmt: skip

VIDEO = (
    Benchmark("mvbench", "MVBench", "Video", ("mvbench_accuracy",), 100),
    Benchmark("videomme", "Video-MME", "Video", ("videomme_perception_score",), 100),
)

# The last of these is what papers report of POPE; the others' is the metric that is E.
_EMBEDDED_METRICS = {"existence": ("pope_f1_score",)}

EMBEDDED = tuple(
    Benchmark(f"vtr_{name}", name, "embedded", _EMBEDDED_METRICS.get(name, ())) for name in embedded.TASKS
)

SUITES: Mapping[str, tuple[Benchmark, ...]] = {"paper": PAPER, "video": VIDEO, "embedded": EMBEDDED}

_KNOWN = {benchmark.task: benchmark for suite in SUITES.values() for benchmark in suite}


def benchmarks_of(names: Sequence[str]) -> tuple[Benchmark, ...]:
    """The benchmarks of suites and of single tasks, in their order, each once.

    A name that is no suite is taken for a task's; whether there is such a task is seen when it is loaded.
    """
    found: dict[str, Benchmark] = {}
    for name in names:
        for benchmark in SUITES.get(name) or (_KNOWN.get(name, Benchmark(name)),):
            found.setdefault(benchmark.task, benchmark)
    return tuple(found.values())
