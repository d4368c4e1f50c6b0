"""The paper's numbers: `paper.json`, by table, model and method."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from vtr_ray.errors import InputError


@dataclass(frozen=True)
class Row:
    """One row of a table.

    method: "none", "VTW", "PDrop", "FastV 50 %", "G-Search", ...; of Table 4 the model whose schedule it is,
    or "self"; of Table 5 "G-Search, trained". figures, as far as it has them: average (percent), memory_cost,
    tflops, tmacs, parameters_billion, prefill_s, decode_s (seconds). benchmarks: by lmms-eval task, as
    printed (percent, MME in points).
    """

    method: str
    figures: Mapping[str, float]
    benchmarks: Mapping[str, float]


@cache
def _content() -> dict[str, Any]:
    text = resources.files("vtr_ray.studies").joinpath("paper.json").read_text(encoding="utf-8")
    content: dict[str, Any] = json.loads(text)
    return content


def tables() -> list[int]:
    """The tables that have numbers."""
    return [int(table) for table in _content()["tables"]]


def slips() -> dict[str, str]:
    """Where the paper contradicts itself, by "Table 1/model/method/figure"."""
    return dict(_content()["slips"])


def rows(table: int) -> dict[str, list[Row]]:
    """A table's rows by model. Raises InputError: no such table."""
    models = _content()["tables"].get(str(table))
    if models is None:
        raise InputError(
            f"the paper has no numbers in Table {table}; use one of {', '.join(map(str, tables()))}"
        )
    return {
        model: [
            Row(
                one["method"],
                {name: value for name, value in one.items() if name not in ("method", "benchmarks")},
                one.get("benchmarks", {}),
            )
            for one in own
        ]
        for model, own in models.items()
    }


def where(table: int, model: str, method: str) -> str:
    """Where in the paper a number stands."""
    return f"Table {table}, {model}, {method}"


def nearest(model: str, known: Sequence[str]) -> str:
    """The paper's model that a checkpoint's name means, else the first of its family, else the first."""
    letters = _letters(model)
    for name in known:  # "LLaVA-1.5-7B + DeCo": what stands behind the plus tells them apart
        if _letters(name.rpartition("+")[2]) in letters:
            return name
    family = [name for name in known if _letters(name.partition("-")[0].rstrip("0123456789")) in letters]
    return (family or list(known))[0]


def _letters(text: str) -> str:
    return "".join(letter for letter in text.lower() if letter.isalnum())
