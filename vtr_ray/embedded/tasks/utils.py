"""How existence and charts are judged: lmms-eval's own POPE and ChartQA rules."""

from __future__ import annotations

from typing import Any

from lmms_eval.tasks.chartqa.utils import relaxed_correctness
from lmms_eval.tasks.pope.utils import pope_process_results


def existence(doc: dict[str, Any], results: list[str]) -> dict[str, Any]:
    """POPE's accuracy and, over the whole set, F1."""
    figures: dict[str, Any] = pope_process_results({**doc, "question_id": doc["id"]}, results)
    return {name: figures[name] for name in ("pope_accuracy", "pope_f1_score")}


def charts(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """ChartQA's relaxed accuracy: numbers within 5 %."""
    return {"relaxed_overall": float(relaxed_correctness(results[0], doc["answer"]))}
