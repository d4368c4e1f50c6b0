"""What is exported, without a Ray: a stand-in for its metrics API notes the calls."""

from __future__ import annotations

import time
from typing import Any

import pytest

from vtr_ray import metrics as exported
from vtr_ray.evaluation.crew import tags_of
from vtr_ray.metrics import METRICS, Exporter
from vtr_ray.schedule import Schedule
from vtr_ray.tuning.directory import Entry
from vtr_ray.tuning.metrics import SearchMetrics
from vtr_ray.tuning.progress import Clock

Call = tuple[str, float, dict[str, str]]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Call]:
    noted: list[Call] = []

    class Noted:
        def __init__(self, name: str, description: str, tag_keys: tuple[str, ...]) -> None:
            self.name, self.tag_keys = name, tag_keys

        def set(self, value: float, tags: dict[str, str]) -> None:
            assert set(tags) == set(self.tag_keys)
            noted.append((self.name, value, tags))

        inc = set

    monkeypatch.setattr(exported.metrics, "Counter", Noted)
    monkeypatch.setattr(exported.metrics, "Gauge", Noted)
    monkeypatch.setattr(exported, "_AGAIN", 0.01)
    return noted


def wait_for(condition: Any) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_gauge_is_repeated_until_the_end_and_a_counter_is_not(calls: list[Call]) -> None:
    layer = ("vtr_ray_current_layer", 3, {"search": "one"})
    with Exporter(search="one") as exporter:
        exporter.count("vtr_ray_trials_finished_total", outcome="scored")
        exporter.show("vtr_ray_current_layer", 3)
        wait_for(lambda: calls.count(layer) > 3)
        exporter.show("vtr_ray_current_layer", None)
        time.sleep(0.05)  # a repetition may be under way
        gone = len(calls)
        exporter.show("vtr_ray_current_rate", 0.5)
        wait_for(lambda: len(calls) > gone + 3)
        assert all(name == "vtr_ray_current_rate" for name, *_ in calls[gone:])
    assert exporter._thread is not None
    exporter._thread.join(30)
    assert not exporter._thread.is_alive()
    assert [name for name, *_ in calls].count("vtr_ray_trials_finished_total") == 1


def test_nothing_added_is_no_call(calls: list[Call]) -> None:
    Exporter(search="one", actor="0").count("vtr_ray_prefix_cache_hits_total", 0)  # Ray raises for 0
    assert calls == []


def test_an_api_that_raises_is_not_heard_of(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("no metrics here")

    for kind in ("Counter", "Gauge"):
        monkeypatch.setattr(exported.metrics, kind, refuse)
    with Exporter(search="one") as exporter:
        for name in METRICS:
            (exporter.count if METRICS[name].counts else exporter.show)(name, 1.0)


def entry(number: int, score: float | None, rate: float = 0.5, **more: Any) -> Entry:
    schedule = Schedule.from_rates([1, 1, rate])
    return Entry(number, 3, rate, schedule, score, 1.0, score and score - 0.01 * rate, **more)


def test_a_search_shows_where_it_stands(calls: list[Call]) -> None:
    clock = Clock()
    with SearchMetrics("one") as metrics:
        metrics.started({"layer": 3, "rate": 0.25})
        metrics.finished(clock.finished(entry(1, 0.9), 5, replayed=True))
        metrics.finished(clock.finished(entry(2, 0.8), 5, replayed=False))
        metrics.finished(clock.finished(entry(3, None, stopped=True, bound=0.7), 5, replayed=False))
        metrics.finished(clock.finished(entry(4, None, error="out of memory"), 5, replayed=False))
    last = {name: value for name, value, _ in calls}
    assert (last["vtr_ray_current_layer"], last["vtr_ray_current_rate"]) == (3, 0.25)
    assert last["vtr_ray_progress_ratio"] == 0.8 and last["vtr_ray_remaining_seconds"] >= 0
    assert last["vtr_ray_effectiveness"] == 0.8 and last["vtr_ray_best_objective"] == 0.9 - 0.005
    counted = [tags["outcome"] for name, _, tags in calls if name == "vtr_ray_trials_finished_total"]
    assert counted == ["scored", "stopped", "failed"]  # the first was of an earlier process
    assert all(tags["search"] == "one" for *_, tags in calls)


def test_an_actors_name_tells_its_search_and_number() -> None:
    assert tags_of("gsearch-20261126-093000-0a1b2c3d4e5f-11") == {
        "search": "gsearch-20261126-093000",
        "actor": "11",
    }
