"""What studies measured, in the units and under the names of the paper's tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vtr_ray.studies.efficiency import FLASH, FLASH_ATTENTION
from vtr_ray.studies.exchange import OWN
from vtr_ray.studies.finding import records
from vtr_ray.studies.methods import DROP, G_SEARCH, NONE, fastv_name
from vtr_ray.studies.training import REDUCED, SHIPPED

SELF = "self"
# Table 10 has the plain kernel, and FlashAttention: here PyTorch's flash kernel where the package is missing.
_KERNELS = {
    (NONE, "eager"): "none",
    (NONE, FLASH): FLASH_ATTENTION,
    (NONE, FLASH_ATTENTION): FLASH_ATTENTION,
    (G_SEARCH, "eager"): G_SEARCH,
}
# Of a study's column: the paper's quantity, and what turns the one into the other.
_COLUMNS = {
    "average": ("average", 100.0),
    "accuracy": ("average", 100.0),
    "memory cost": ("memory_cost", 1.0),
    "TFLOPs": ("tflops", 1.0),
    "TMACs": ("tmacs", 1.0),
    "parameters, B": ("parameters_billion", 1.0),
    "prefill s": ("prefill_s", 1.0),
    "decode s": ("decode_s", 1.0),
}
_COSTS = ("memory_cost", "tflops", "tmacs")
_TIMED = "the timed sample, one picture and 75 text tokens"
_EVALUATED = "the benchmarks' prompts, means over them"


@dataclass(frozen=True)
class Ours:
    """One row as measured. figures: by the paper's quantity. benchmarks: fractions by title."""

    model: str
    method: str
    figures: Mapping[str, float]
    benchmarks: Mapping[str, float] = field(default_factory=dict)


def measured(table: int, model: str, studies: Mapping[str, Mapping[str, Any]]) -> list[Ours]:
    """Rows of one table. model: of studies of one. studies: the `study.json` of each that the table needs.

    Studies count costs of different prompts, so that each column of costs is of one study alone, see
    `counted_by`; a row that this one lacks has none.
    """
    read = {name: list(_READERS[name](table, model, content["tables"])) for name, content in studies.items()}
    sources = _counted_by(read)
    found: dict[tuple[str, str], Ours] = {}
    for name, rows in read.items():
        for one in rows:
            before = found.get((one.model, one.method), Ours(one.model, one.method, {}))
            own = {key: value for key, value in one.figures.items() if sources.get(key, name) == name}
            figures = {**before.figures, **own}
            found[one.model, one.method] = Ours(
                one.model, one.method, figures, {**before.benchmarks, **one.benchmarks}
            )
    return list(found.values())


def counted_by(table: int, model: str, studies: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Return whose prompts a table's costs are of: by quantity, in words."""
    read = {name: list(_READERS[name](table, model, content["tables"])) for name, content in studies.items()}
    return {
        quantity: _TIMED if name == "efficiency" else _EVALUATED
        for quantity, name in _counted_by(read).items()
    }


def _counted_by(read: Mapping[str, Sequence[Ours]]) -> dict[str, str]:
    """By cost, the study that a column is taken from: the last one that has it."""
    return {
        quantity: name
        for name, rows in read.items()
        for quantity in _COSTS
        if any(quantity in one.figures for one in rows)
    }


def _figures(row: Mapping[str, Any]) -> dict[str, float]:
    return {
        quantity: scale * row[column]
        for column, (quantity, scale) in _COLUMNS.items()
        if row.get(column) is not None
    }


def _methods(table: int, model: str, tables: Mapping[str, Any]) -> Iterator[Ours]:
    benchmarks = {row.pop("method"): row for row in records(tables["benchmarks"])}
    for row in records(tables["methods"]):
        known = {title: value for title, value in benchmarks[row["method"]].items() if value is not None}
        yield Ours(model, _named(row["method"]), _figures(row), known)


def _efficiency(table: int, model: str, tables: Mapping[str, Any]) -> Iterator[Ours]:
    if table == 10:
        for row in records(tables["kernels"]):
            method = _KERNELS.get((row["method"], row["kernel"]))
            if method is not None:
                yield Ours(model, method, _figures(row))
        return
    for row in records(tables["methods"]):
        # In Table 9 PDrop has FastV's memory cost, and what was timed has the paper's stages.
        if (table, row["method"]) != (9, "PDrop"):
            yield Ours(model, _named(row["method"]), _figures(row))


def _trade_off(table: int, model: str, tables: Mapping[str, Any]) -> Iterator[Ours]:
    for row in records(tables["points"]):
        if row["FastV's drop"] == DROP:
            method = fastv_name(DROP) if row["strategy"] == "FastV" else row["strategy"]
            yield Ours(model, method, _figures(row))


def _on_top(table: int, model: str, tables: Mapping[str, Any]) -> Iterator[Ours]:
    for row in records(tables["accuracies"]):
        name = {NONE: "none", OWN: G_SEARCH}.get(row["schedule"], row["schedule"])
        yield Ours(row["model"], name, _figures(row))


def _exchange(table: int, model: str, tables: Mapping[str, Any]) -> Iterator[Ours]:
    for row in records(tables["accuracies"]):
        yield Ours(row["model"], SELF if row["schedule"] == OWN else row["schedule"], _figures(row))


def _training(table: int, model: str, tables: Mapping[str, Any]) -> Iterator[Ours]:
    for row in records(tables["accuracies"]):
        if row["trained"] == REDUCED or row["weights"] == SHIPPED:
            yield Ours(model, f"{row['schedule']}, {row['weights']}", _figures(row))


def _named(method: str) -> str:
    return "none" if method == NONE else method


_READERS = {
    "benchmarks": _methods,
    "video": _methods,
    "efficiency": _efficiency,
    "tradeoff": _trade_off,
    "ontop": _on_top,
    "exchange": _exchange,
    "training": _training,
}
