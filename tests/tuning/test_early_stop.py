"""Early stop and kept accuracy through real Ray Tune and real actors: as a for-loop does, resumed, logged."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import ray
import tuning_toys as toys

from vtr_ray.errors import InputError
from vtr_ray.evaluation.outcome import Outcome
from vtr_ray.evaluation.pool import EvaluatorPool
from vtr_ray.evaluation.statistics import lower_bound
from vtr_ray.schedule import Schedule
from vtr_ray.search import GSearch
from vtr_ray.tuning.directory import BASELINE, LEDGER, Entry, read_ledger
from vtr_ray.tuning.facts import trial_facts
from vtr_ray.tuning.run import run_search
from vtr_ray.tuning.trials import Terms, measure

OBJECTIVES = ("paper", "keep-accuracy:20")


def new_search(objective: str) -> GSearch:
    return GSearch(
        toys.LAYERS, toys.TOKENS, initial=4, iterations=3, weight=0.3, objective=objective, stop_early=True
    )


class OneByOne(toys.Analytic):
    """A pool of nobody: asks after each batch."""

    def evaluate(  # type: ignore[override]
        self, schedule: Schedule, enough: Callable[[list[Outcome], int], bool] | None = None
    ) -> list[Outcome]:
        outcomes: list[Outcome] = []
        for batch in range(self.num_batches):
            outcomes += super().evaluate(schedule, [batch])
            if enough is not None and enough(outcomes, self.num_samples - len(outcomes)):
                break
        return outcomes


def by_hand(search: GSearch) -> list[tuple[int, float | None, float | None]]:
    """(trial, E, bound) of all trials of a for-loop."""
    pool, told = OneByOne(), []
    base: dict[str, float] = {}
    while not search.finished:
        trial = search.ask()
        assert trial is not None
        found = measure(pool, trial.schedule, Terms(search.threshold(trial), paired=True))
        bound = found.ceiling
        if found.ceiling is not None:
            search.stop(trial, found.ceiling)
        else:
            if search.needs_bound:
                base = base or dict(found.scores or {})
                bound = lower_bound(found.scores or {}, base) if trial.schedule.reduces else 0.0
            scores = [(found.scores or {})[name] for name in sorted(found.scores or {})]
            search.tell(trial, found.score or 0.0, bound, scores)
        told.append((trial.id, found.score, bound))
    return told


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_stopped_trial_costs_less_and_the_rest_is_measured_in_full(objective: str) -> None:
    search = new_search(objective)
    told = by_hand(search)
    assert 0 < sum(score is None for _, score, _ in told) < len(told)
    pool = OneByOne()
    trial = next(result for result in search.results if result.stopped is not None)
    found = measure(pool, trial.schedule, Terms(threshold=1.0))
    assert found.share < 1 and found.score is None and found.ceiling is not None


def test_tracking_is_told_of_stopped_trials_and_bounds() -> None:
    stopped = Entry(
        4, 3, 0.25, Schedule.from_rates([1, 1, 0.25]), None, 0.5, time=9.0, stopped=True, bound=0.7
    )
    kept = replace(stopped, trial=5, score=0.9, stopped=False, bound=-0.01)
    named = {(fact.name, fact.step): fact.value for fact in trial_facts([stopped, kept])}
    assert named["stopped", 4] == 1.0 and named["E_at_most", 4] == 0.7 and ("E", 4) not in named
    assert named["difference_at_least", 5] == -0.01 and named["E", 5] == 0.9 and ("stopped", 5) not in named


@pytest.fixture(scope="module")
def pools(ray_here: None) -> Iterator[list[EvaluatorPool]]:
    ray.cloudpickle.register_pickle_by_value(toys)
    with (
        EvaluatorPool(toys.Make(), actors=2, cpus=1.0) as two,
        EvaluatorPool(toys.Make(), actors=1, cpus=1.0) as one,
    ):
        yield [one, two]
    ray.cloudpickle.unregister_pickle_by_value(toys)


@pytest.mark.slow
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_tune_and_any_number_of_actors_do_what_a_for_loop_does(
    pools: list[EvaluatorPool], tmp_path: Path, objective: str
) -> None:
    expected = by_hand(alone := new_search(objective))
    for number, pool in enumerate(pools):
        found = run_search(new_search(objective), pool, tmp_path / str(number), toys.SETTINGS)
        assert [(e.trial, e.score, e.bound) for e in sorted(found.entries, key=lambda e: e.trial)] == expected
        assert found.schedule == alone.best
        for entry in found.entries:
            assert entry.stopped == (entry.score is None)
            assert not entry.stopped or 0 < entry.fields["evaluated"] <= 1
    assert (tmp_path / "0" / BASELINE).is_file() == (objective != "paper")


@pytest.mark.slow
def test_a_cut_run_resumes_from_its_ledger_and_baseline(pools: list[EvaluatorPool], tmp_path: Path) -> None:
    path = tmp_path / "run"
    whole = run_search(new_search(OBJECTIVES[1]), pools[0], path, toys.SETTINGS)
    lines = (path / LEDGER).read_text().splitlines(keepends=True)
    cut = next(i for i, line in enumerate(lines) if json.loads(line)["stopped"]) + 1
    (path / LEDGER).write_text("".join(lines[:cut]))
    again = run_search(new_search(OBJECTIVES[1]), pools[1], path, toys.SETTINGS, resume=True)
    assert again.schedule == whole.schedule
    assert [(e.trial, e.score, e.bound) for e in read_ledger(path)] == [
        (e.trial, e.score, e.bound) for e in whole.entries
    ]
    (path / LEDGER).write_text("".join(lines[:cut]))
    (path / BASELINE).unlink()
    with pytest.raises(InputError, match=r"baseline\.json cannot be read"):
        run_search(new_search(OBJECTIVES[1]), pools[0], path, toys.SETTINGS, resume=True)
