"""The table that a search ends with (`comparison.json`), read as an evaluation: its rivals on its samples."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from vtr_ray.errors import InputError
from vtr_ray.evaluation.samples import AGREEMENT
from vtr_ray.report.comparison import NO_REDUCTION
from vtr_ray.report.page.evaluations import AVERAGE, Evaluation
from vtr_ray.tuning.directory import read_search

COMPARISON = "comparison.json"


def read_comparison(run: Path) -> Evaluation | None:
    """The comparison in a search's run directory; None: there is none.

    It has paired intervals of the averages' differences, and (but for those of earlier versions) intervals of
    the averages themselves.
    Raises InputError on a broken file.
    """
    file = run / COMPARISON
    if not file.is_file():
        return None
    try:
        content, search = json.loads(file.read_text(encoding="utf-8")), read_search(run)
        rows = content["rows"]
        meaning = f", scored by {AGREEMENT}" if content.get("labels") == "self" else ""
        return Evaluation.model_validate(
            {
                "kind": "evaluation",
                "version": 1,
                "id": search["id"],
                "created": file.stat().st_mtime,
                "model": str(search["parameters"].get("model", "")),
                "suite": f"of {content['samples']} held-out samples{meaning}",
                "layers": len(rows[0]["schedule"]["rates"]),
                "vision_tokens": search["state"]["settings"]["vision_tokens"],
                "benchmarks": {name: {"title": name.removeprefix("vtr_")} for name in rows[0]["per_source"]},
                "prefill_not_told_apart": content.get("prefill_not_told_apart", {}),
                "found": content["found"],
                "strategies": {row["name"]: _strategy(row) for row in rows},
                "pairs": [
                    _pair(row["name"], second, row[key])
                    for row in rows
                    for second, key in ((NO_REDUCTION, "difference"), (content["found"], "to_found"))
                    if row[key] is not None
                ],
            }
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        why = error.errors()[0]["msg"] if isinstance(error, ValidationError) else repr(error)
        raise InputError(f"{file} is broken ({why}); --resume of the search writes it again") from None


def _strategy(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "schedule": row["schedule"],
        "memory_cost": row["memory_cost"],
        "tflops": row["tflops"],
        "counted_samples": row.get("counted_samples"),
        "prefill_ms": None if row["prefill_seconds"] is None else 1000 * row["prefill_seconds"],
        "decode_ms": None,
        "average": {
            "value": row["accuracy"],
            "low": row.get("accuracy_low"),
            "high": row.get("accuracy_high"),
        },
        "benchmarks": {name: {"value": value} for name, value in row["per_source"].items()},
    }


def _pair(first: str, second: str, interval: Mapping[str, float]) -> dict[str, Any]:
    low, high = interval["low"], interval["high"]
    return {
        "first": first,
        "second": second,
        "benchmark": AVERAGE,
        "difference": interval["mean"],
        "low": low,
        "high": high,
        "p": None,
        "test": "paired t",
        "significant": low > 0 or high < 0,
    }
