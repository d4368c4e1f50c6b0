"""Whole searches through real Ray Tune and real actors: equal to a for-loop, killed, resumed, interrupted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray
import tuning_toys as toys

from vtr_ray.errors import InputError, Stopped
from vtr_ray.evaluation.outcome import Outcome
from vtr_ray.evaluation.pool import EvaluatorPool
from vtr_ray.schedule import Schedule
from vtr_ray.search import GSearch, PSigmoidSearch
from vtr_ray.store import default_uri
from vtr_ray.tracking import LINK, Tracker
from vtr_ray.tuning.directory import LEDGER, Entry, read_ledger
from vtr_ray.tuning.progress import Progress
from vtr_ray.tuning.run import run_search
from vtr_ray.tuning.trials import AskTell

pytestmark = pytest.mark.slow
DRIVER = Path(__file__).with_name("tuning_driver.py")


@pytest.fixture(scope="module", autouse=True)
def toys_by_value(ray_here: None) -> Iterator[None]:
    ray.cloudpickle.register_pickle_by_value(toys)
    yield
    ray.cloudpickle.unregister_pickle_by_value(toys)


@pytest.fixture(scope="module")
def pool() -> Iterator[EvaluatorPool]:
    with EvaluatorPool(toys.Make(), actors=2, cpus=1.0) as started:
        yield started


def bare(entries: list[Entry]) -> list[Entry]:
    """Without the clock."""
    return sorted((replace(e, seconds=0.0, time=0.0) for e in entries), key=lambda e: e.trial)


def test_a_search_through_tune_equals_a_for_loop(pool: EvaluatorPool, tmp_path: Path) -> None:
    seen: list[Progress] = []
    found = run_search(toys.new_search(), pool, tmp_path / "run", toys.SETTINGS, on_trial=seen.append)
    alone = toys.new_search()
    assert [(e.trial, e.score) for e in found.entries] == toys.undisturbed(alone)
    assert found.schedule == alone.best == Schedule.load(tmp_path / "run" / "schedule.json")
    assert found.score == alone.best_score and found.score_before == found.entries[3].score
    assert read_ledger(tmp_path / "run") == list(found.entries)
    told = [toys.scores_of(toys.Analytic().evaluate(e.schedule)) for e in found.entries]
    assert [list(e.scores or ()) for e in found.entries] == told

    assert [p.entry for p in seen] == list(found.entries) and not any(p.replayed for p in seen)
    assert [p.done for p in seen] == list(range(1, len(seen) + 1))
    assert seen[-1].total == len(seen) and seen[-1].remaining == 0.0
    for progress in seen:
        so_far = [e for e in found.entries[: progress.done] if e.layer == progress.entry.layer]
        assert progress.best == max(so_far, key=lambda e: (e.objective, -e.rate))


def test_one_actor_and_two_write_the_same_ledger(pool: EvaluatorPool, tmp_path: Path) -> None:
    two = run_search(toys.new_search(), pool, tmp_path / "two", toys.SETTINGS)
    with EvaluatorPool(toys.Make(), actors=1, cpus=1.0) as single:
        one = run_search(toys.new_search(), single, tmp_path / "one", toys.SETTINGS)
    assert bare(list(one.entries)) == bare(list(two.entries))


def test_rounds_of_several_trials_and_other_searches(pool: EvaluatorPool, tmp_path: Path) -> None:
    def search() -> PSigmoidSearch:
        return PSigmoidSearch(toys.LAYERS, toys.TOKENS, 0.3, initial=5, iterations=4, round_size=3)

    found = run_search(search(), pool, tmp_path / "run", toys.SETTINGS)
    alone = search()
    while not alone.finished:
        trials = [trial for _ in range(3) if (trial := alone.ask()) is not None]
        for trial in trials:
            alone.tell(trial, toys.effectiveness(toys.Analytic().evaluate(trial.schedule)))
    assert found.schedule == alone.best and all(e.scores is None for e in found.entries)
    assert {(e.trial, e.score, e.fields["k"]) for e in found.entries} == {
        (r.id, r.score, r.k) for r in alone.results
    }


class Moody(toys.Analytic):
    """Raises on the schedules that it does not like."""

    def __init__(self, mood: str) -> None:
        super().__init__()
        self.mood = mood
        self.seen: set[Schedule] = set()

    def evaluate(self, schedule: Schedule, batches: list[int] | None = None) -> list[Outcome]:
        first = schedule not in self.seen
        self.seen.add(schedule)
        if self.mood == "once" and first and schedule.rates[-1] < 0.5:
            raise OSError("a short trouble")
        if self.mood == "zero" and schedule.rates[-1] == 0.0:
            raise OSError("nothing left\nto see")
        if self.mood == "always":
            raise OSError("the GPU is gone")
        if self.mood == "input":
            raise InputError("the schedule has 8 layers, the model 12")
        return super().evaluate(schedule, batches)


@pytest.fixture(scope="module", autouse=True)
def by_value() -> Iterator[None]:
    """Other processes do not find this module."""
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


def moody(mood: str) -> EvaluatorPool:
    kind = Moody
    return EvaluatorPool(lambda: kind(mood), cpus=0.5)


def test_a_trial_that_fails_once_is_tried_again(pool: EvaluatorPool, tmp_path: Path) -> None:
    with moody("once") as once:
        found = run_search(toys.new_search(), once, tmp_path / "run", toys.SETTINGS)
    assert [(e.trial, e.score) for e in found.entries] == toys.undisturbed(toys.new_search())


def test_a_trial_that_cannot_succeed_is_given_up(tmp_path: Path) -> None:
    with moody("zero") as zero:
        found = run_search(toys.new_search(), zero, tmp_path / "run", toys.SETTINGS)
        failed = [e for e in read_ledger(tmp_path / "run") if e.error is not None]
        assert failed and all(e.rate == 0.0 and e.score is None for e in failed)
        assert failed[0].error == "OSError: to see"
        again = run_search(toys.new_search(), zero, tmp_path / "run", toys.SETTINGS, resume=True)
    assert again.schedule == found.schedule and again.entries == found.entries


def test_three_failures_in_a_row_stop_the_search_and_are_not_kept(tmp_path: Path) -> None:
    with (
        moody("always") as broken,
        pytest.raises(RuntimeError, match=r"3 trials in a row .* the GPU is gone"),
    ):
        run_search(toys.new_search(), broken, tmp_path / "run", toys.SETTINGS)
    assert read_ledger(tmp_path / "run") == []


@pytest.mark.parametrize("kind", ["keep-accuracy", "psigmoid"])
def test_where_every_trial_failed_none_is_kept_and_mended_it_goes_on(
    pool: EvaluatorPool, tmp_path: Path, kind: str
) -> None:
    """Fewer than three: no reduction, without which there is nothing to compare with; or all there are."""

    def search() -> Any:
        if kind == "psigmoid":
            return PSigmoidSearch(toys.LAYERS, toys.TOKENS, 0.3, initial=2, iterations=0)
        return GSearch(toys.LAYERS, toys.TOKENS, initial=4, iterations=1, objective="keep-accuracy:20")

    path = tmp_path / "run"
    with (
        moody("always") as broken,
        pytest.raises(Stopped, match=r"every trial failed .*the GPU is gone\); mend it, then --resume$"),
    ):
        run_search(search(), broken, path, toys.SETTINGS)
    assert read_ledger(path) == [] and not (path / "schedule.json").exists()
    found = run_search(search(), pool, path, toys.SETTINGS, resume=True)
    undisturbed = run_search(search(), pool, tmp_path / "undisturbed", toys.SETTINGS)
    assert found.schedule == undisturbed.schedule and bare([*found.entries]) == bare([*undisturbed.entries])


class Gone:
    """A pool whose actors are gone for good."""

    search = "gone"

    def __init__(self, calls: Path) -> None:
        self.calls = calls

    def evaluate(self, schedule: Schedule) -> list[Outcome]:
        with self.calls.open("a") as file:
            file.write("called\n")
        raise Stopped("no evaluator process has lived for 900 s; look for lost nodes (`ray status`)")

    def take_notices(self) -> list[str]:
        return []

    heard = print


def test_a_pool_without_actors_is_not_asked_again(tmp_path: Path) -> None:
    """Each time costs a quarter of an hour."""
    gone: Any = Gone(tmp_path / "calls")
    with pytest.raises(Stopped, match=r"^no evaluator process has lived for 900 s; .* then --resume$"):
        run_search(toys.new_search(), gone, tmp_path / "run", toys.SETTINGS)
    assert gone.calls.read_text() == "called\n" and read_ledger(tmp_path / "run") == []


def test_a_users_mistake_in_a_trial_arrives_as_one_line(tmp_path: Path) -> None:
    with (
        moody("input") as wrong,
        pytest.raises(InputError, match=r"^the schedule has 8 layers, the model 12$"),
    ):
        run_search(toys.new_search(), wrong, tmp_path / "run", toys.SETTINGS)


def test_a_killed_actor_and_a_killed_trial_are_not_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    trials: list[int] = []  # process ids, as Tune reports them
    complete = AskTell.on_trial_complete

    def listen(
        self: AskTell, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        trials.extend([result["pid"]] if result else [])
        complete(self, trial_id, result, error)

    monkeypatch.setattr(AskTell, "on_trial_complete", listen)
    search = toys.new_search(iterations=1)
    with EvaluatorPool(toys.Make(0.05), actors=2, cpus=0.5) as pool:
        victim = pool.pids()[0]

        def kill() -> None:
            toys.wait_for_lines(tmp_path / "run" / LEDGER, 4)
            os.kill(victim, signal.SIGKILL)
            toys.wait_for_lines(tmp_path / "run" / LEDGER, 8)
            os.kill(trials[0], signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        found = run_search(search, pool, tmp_path / "run", toys.SETTINGS)
        killer.join()
        assert pool.pids()[0] != victim and len(set(trials)) == 2
    time.sleep(0.5)  # Ray hears of deaths late
    assert capfd.readouterr() == ("", "")
    assert [(e.trial, e.score) for e in found.entries] == toys.undisturbed(toys.new_search(iterations=1))


def test_resuming_a_finished_search_runs_nothing(pool: EvaluatorPool, tmp_path: Path) -> None:
    found = run_search(toys.new_search(), pool, tmp_path / "run", toys.SETTINGS)
    seen: list[Progress] = []
    again = run_search(
        toys.new_search(), pool, tmp_path / "run", toys.SETTINGS, resume=True, on_trial=seen.append
    )
    assert again.entries == found.entries and again.schedule == found.schedule
    assert len(seen) == len(found.entries) and all(p.replayed for p in seen)


def test_a_ledger_of_other_trials_is_refused(pool: EvaluatorPool, tmp_path: Path) -> None:
    run_search(toys.new_search(), pool, tmp_path / "run", toys.SETTINGS)
    ledger = tmp_path / "run" / LEDGER
    lines = ledger.read_text().splitlines(keepends=True)
    ledger.write_text(lines[0] + lines[2].replace('"trial": 3', '"trial": 2'))
    with pytest.raises(InputError, match=r"trial 2 of .* another schedule"):
        run_search(toys.new_search(), pool, tmp_path / "run", toys.SETTINGS, resume=True)


def drive(*arguments: object, **environment: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(DRIVER), *map(str, arguments)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment}
    )


def logged_parent(path: Path, store: str) -> str | None:
    """Status of the run that MLflow has of a directory; None: none yet."""
    from mlflow import MlflowClient

    if not (path / LINK).is_file():
        return None
    link = json.loads((path / LINK).read_text())
    return str(MlflowClient(tracking_uri=store).get_run(link["run_id"]).info.status)


def test_a_killed_driver_resumes_to_the_undisturbed_result(pool: EvaluatorPool, tmp_path: Path) -> None:
    """Killed in mid-search in a process and a Ray of its own; resumed here."""
    path, store = tmp_path / "run", default_uri(tmp_path)
    driver = drive(path, 0.2, 1, store)
    try:
        toys.wait_for_lines(path / LEDGER, 6, driver)
        while not logged_parent(path, store):  # so that MLflow is cut in the middle, too
            assert driver.poll() is None
            time.sleep(0.1)
        driver.kill()
        _, err = driver.communicate(timeout=120)
    finally:
        driver.kill()
    assert (driver.returncode, err) == (-9, "")

    before = read_ledger(path)
    assert 6 <= len(before) < len(toys.undisturbed(toys.new_search()))
    assert logged_parent(path, store) == "RUNNING"
    seen: list[Progress] = []
    with Tracker(path, store, experiment=tmp_path.name, warn=pytest.fail) as tracker:
        found = run_search(
            toys.new_search(), pool, path, toys.SETTINGS, resume=True, on_trial=seen.append, tracker=tracker
        )
    toys.check_run(path, store)
    assert [p.replayed for p in seen] == [True] * len(before) + [False] * (len(seen) - len(before))
    alone = toys.new_search()
    assert [(e.trial, e.score) for e in found.entries] == toys.undisturbed(alone)
    assert list(found.entries[: len(before)]) == before and found.schedule == alone.best


def test_the_console_stays_silent(tmp_path: Path) -> None:
    driver = drive(tmp_path / "run", 0.0)
    out, err = driver.communicate(timeout=180)
    assert (driver.returncode, out, err) == (0, "done\n", "")


def test_a_started_cluster_is_joined(tmp_path: Path) -> None:
    """One that knows nothing of ours: no own resource, all CPUs held by the pool."""
    port, folder = toys.free_port(), tmp_path.parent / "r"  # Ray's socket names must stay short
    command = [Path(sys.executable).with_name("ray"), "start", "--head", "--block", f"--port={port}"]
    options = ["--num-cpus=1", "--include-dashboard=false", "--object-store-memory=100000000"]
    head = subprocess.Popen(
        [*command, *options, f"--temp-dir={folder}", "--disable-usage-stats"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "RAY_AUTH_MODE": "token"},
    )
    try:
        toys.wait_for_port(port)
        environment = {"RAY_ADDRESS": f"127.0.0.1:{port}"}
        drivers = [drive(tmp_path / name, 0.0, 0.5, **environment) for name in ("one", "two")]
        for driver in drivers:  # two searches on one cluster
            out, err = driver.communicate(timeout=240)
            assert (driver.returncode, out, err) == (0, "done\n", "")
        assert bare(read_ledger(tmp_path / "one")) == bare(read_ledger(tmp_path / "two"))
    finally:
        head.send_signal(signal.SIGTERM)
        head.wait(120)
