"""Where a search stands, for Prometheus."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from vtr_ray.metrics import Exporter
from vtr_ray.tuning.directory import Entry
from vtr_ray.tuning.progress import Progress


class SearchMetrics:
    """Exports the trials of one search; a context manager. Nothing here raises or waits.

    search: its name, as the actors of its pool have it.
    """

    def __init__(self, search: str) -> None:
        self._exporter = Exporter(search=search)

    def started(self, said: Mapping[str, Any]) -> None:
        """Take what the search says of a trial that begins."""
        self._exporter.show("vtr_ray_current_layer", said.get("layer"))
        self._exporter.show("vtr_ray_current_rate", said.get("rate"))

    def finished(self, progress: Progress) -> None:
        """Take a finished trial, also one that was read from the ledger."""
        if not progress.replayed:
            self._exporter.count("vtr_ray_trials_finished_total", outcome=_outcome(progress.entry))
        self._exporter.show("vtr_ray_progress_ratio", progress.done / progress.total)
        self._exporter.show("vtr_ray_remaining_seconds", progress.remaining)
        if progress.entry.score is not None:
            self._exporter.show("vtr_ray_effectiveness", progress.entry.score)
        best = progress.best
        if best is not None:
            objective = best.objective if best.objective is not None else best.score
            self._exporter.show("vtr_ray_best_objective", objective)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._exporter.close()


def _outcome(entry: Entry) -> str:
    if entry.error is not None:
        return "failed"
    return "stopped" if entry.stopped else "scored"
