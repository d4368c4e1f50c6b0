"""What a study found: tables, the paper's claim, and plain sentences about both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

_TEXTS = ("study", "title", "paper", "claim", "inequality", "holds")


def records(table: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of a table's JSON, each by column."""
    return [dict(zip(table["columns"], row, strict=True)) for row in table["rows"]]


@dataclass(frozen=True)
class Table:
    """Numbers in columns."""

    columns: tuple[str, ...]
    rows: Sequence[tuple[Any, ...]]

    def to_dict(self) -> dict[str, Any]:
        """JSON."""
        return {"columns": list(self.columns), "rows": [list(row) for row in self.rows]}


def read(table: Mapping[str, Any]) -> Table:
    """A table from its JSON."""
    return Table(tuple(table["columns"]), [tuple(row) for row in table["rows"]])


@dataclass(frozen=True)
class Finding:
    """One study of one model, or of several.

    study: its name on the command line. paper: the figures and tables of the paper. claim: what the paper
    says, in a sentence. inequality: what the numbers must satisfy for the claim to hold, in a sentence that
    begins with "Holds where". holds: whether they do; None: it cannot be told from them. sentences: what was
    measured, and where the claim does not hold, why. tables: by name; with `facts` (JSON) they hold all that
    `judging.judge` needs. metrics: for MLflow.
    """

    study: str
    title: str
    paper: str
    claim: str
    inequality: str
    holds: bool | None
    sentences: tuple[str, ...]
    tables: Mapping[str, Table]
    metrics: Mapping[str, float] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """JSON."""
        return {
            "kind": "study",
            "version": 2,
            **{name: getattr(self, name) for name in _TEXTS},
            "sentences": list(self.sentences),
            "tables": {name: table.to_dict() for name, table in self.tables.items()},
            "metrics": dict(self.metrics),
            "facts": dict(self.facts),
        }
