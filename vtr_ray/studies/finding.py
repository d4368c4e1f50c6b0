"""What a study found: tables, the paper's claim, and plain sentences about both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Table:
    """Numbers in columns."""

    columns: tuple[str, ...]
    rows: Sequence[tuple[Any, ...]]

    def to_dict(self) -> dict[str, Any]:
        """JSON."""
        return {"columns": list(self.columns), "rows": [list(row) for row in self.rows]}


@dataclass(frozen=True)
class Finding:
    """One study of one model, or of several.

    study: its name on the command line. paper: the figures and tables of the paper. claim: what the paper
    says, in a sentence. holds: whether the numbers agree with it; None: they do not tell. sentences: what was
    measured, and where the claim does not hold, why. tables: by name. metrics: for MLflow.
    """

    study: str
    title: str
    paper: str
    claim: str
    holds: bool | None
    sentences: tuple[str, ...]
    tables: Mapping[str, Table]
    metrics: Mapping[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """JSON."""
        return {
            "kind": "study",
            "version": 1,
            **{name: getattr(self, name) for name in ("study", "title", "paper", "claim", "holds")},
            "sentences": list(self.sentences),
            "tables": {name: table.to_dict() for name, table in self.tables.items()},
            "metrics": dict(self.metrics),
        }
