"""What the service exports through Ray's metrics API, for Prometheus: the only file that imports that API.

Ray puts `ray_` before each name: `vtr_ray_trials_finished_total` is queried as
`ray_vtr_ray_trials_finished_total`. `dashboards/` shows them.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from ray.util import metrics

_AGAIN = 1.0  # seconds; Ray drops a gauge that was not set in its last two reports (20 s by default)
_SEARCH, _ACTOR = ("search",), ("search", "actor")


@dataclass(frozen=True)
class Metric:
    """Name, help and tags of one metric; a counter's name ends in `_total`, any other is a gauge."""

    name: str
    help: str
    tags: tuple[str, ...]

    @property
    def counts(self) -> bool:
        """Whether it is a counter."""
        return self.name.endswith("_total")


METRICS = {
    metric.name: metric
    for metric in (
        Metric(
            "vtr_ray_trials_finished_total",
            "Trials that this process finished, by outcome: scored, stopped (early) or failed.",
            (*_SEARCH, "outcome"),
        ),
        Metric(
            "vtr_ray_progress_ratio",
            "Finished trials, those before a resume included, over all trials that there can be.",
            _SEARCH,
        ),
        Metric("vtr_ray_remaining_seconds", "Estimated seconds until the search ends, at most.", _SEARCH),
        Metric(
            "vtr_ray_best_objective",
            "Best objective so far, of the layer searched now or of a search without layers.",
            _SEARCH,
        ),
        Metric("vtr_ray_effectiveness", "E of the trial that was scored last, 0 to 1.", _SEARCH),
        Metric("vtr_ray_current_layer", "Layer of the trial that was started last.", _SEARCH),
        Metric("vtr_ray_current_rate", "Keeping rate that the trial started last tries, 0 to 1.", _SEARCH),
        Metric("vtr_ray_skipped_samples", "Samples that an actor could not read and goes without.", _ACTOR),
        Metric("vtr_ray_samples_evaluated_total", "Samples that an actor has evaluated.", _ACTOR),
        Metric("vtr_ray_busy_seconds_total", "Seconds that an actor spent evaluating.", _ACTOR),
        Metric("vtr_ray_actor_restarts_total", "Times that an actor's process was started again.", _ACTOR),
        Metric(
            "vtr_ray_prefix_cache_hits_total",
            "Batches that went on from the state of a trial before.",
            _ACTOR,
        ),
        Metric("vtr_ray_prefix_cache_misses_total", "Batches that ran from the first layer.", _ACTOR),
        Metric(
            "vtr_ray_prefix_cache_bytes",
            "What an actor's prefix cache holds, by tier: device, host or disk.",
            (*_ACTOR, "tier"),
        ),
    )
}


class Exporter:
    """The metrics of one process. Nothing here raises, waits or needs a running Ray. A context manager.

    tags: of all that is exported here.
    """

    def __init__(self, **tags: str) -> None:
        self._tags = tags
        self._made: dict[str, Any] = {}
        self._shown: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def count(self, name: str, amount: float = 1.0, **tags: str) -> None:
        """Add to a counter."""
        if amount > 0:
            with suppress(Exception):  # whatever it is, it is not the search's concern
                self._metric(name).inc(amount, self._tags | tags)

    def show(self, name: str, value: float | None, **tags: str) -> None:
        """Set a gauge, until it is set again or this is closed. None: it has no value any more."""
        key = name, tuple(tags.items())
        if value is None:
            self._shown.pop(key, None)
            return
        self._shown[key] = value
        self._set(name, value, tags)
        if self._thread is None:
            self._thread = threading.Thread(target=self._repeat, name="metrics", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Let all gauges go; counters stay as they are."""
        self._closing.set()

    def __enter__(self) -> Exporter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _repeat(self) -> None:
        while not self._closing.wait(_AGAIN):
            for (name, tags), value in list(self._shown.items()):
                self._set(name, value, dict(tags))

    def _set(self, name: str, value: float, tags: dict[str, str]) -> None:
        with suppress(Exception):
            self._metric(name).set(value, self._tags | tags)

    def _metric(self, name: str) -> Any:
        if name not in self._made:
            metric = METRICS[name]
            kind = metrics.Counter if metric.counts else metrics.Gauge
            self._made[name] = kind(name, metric.help, metric.tags)
        return self._made[name]
