"""The pool of real Ray actors."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

sys.path.append(str(Path(__file__).parents[1] / "tuning"))
import tuning_toys as toys

from vtr_ray.errors import InputError
from vtr_ray.evaluation.outcome import effectiveness
from vtr_ray.evaluation.pool import EvaluatorPool, PoolClient
from vtr_ray.schedule import Schedule
from vtr_ray.tuning.cluster import fair_share

pytestmark = pytest.mark.slow
SCHEDULE = Schedule.from_rates([1, 1, 0.6, 0.5, 0.4, 0.3, 0.2, 0.0])


@pytest.fixture(scope="module", autouse=True)
def by_value(ray_here: None) -> Iterator[None]:
    ray.cloudpickle.register_pickle_by_value(toys)
    yield
    ray.cloudpickle.unregister_pickle_by_value(toys)


@pytest.fixture(scope="module")
def pool() -> Iterator[EvaluatorPool]:
    with EvaluatorPool(toys.Make(0.05), actors=3, cpus=1.0) as started:
        yield started


def test_sharded_outcomes_equal_unsharded_ones(pool: EvaluatorPool) -> None:
    alone = toys.Analytic()
    assert pool.evaluate(SCHEDULE) == alone.evaluate(SCHEDULE)
    assert effectiveness(pool.evaluate(SCHEDULE)) == effectiveness(alone.evaluate(SCHEDULE))
    assert pool.evaluate(SCHEDULE, [3, 0]) == alone.evaluate(SCHEDULE, [3, 0])
    assert (pool.num_batches, pool.num_samples, pool.num_layers, pool.vision_tokens) == (4, 11, 8, 36)


def test_actors_share_the_batches(pool: EvaluatorPool) -> None:
    pool.evaluate(SCHEDULE)
    started = time.perf_counter()
    pool.evaluate(SCHEDULE)
    assert time.perf_counter() - started < 4 * 0.05  # four batches of 0.05 s, three actors
    assert len(set(pool.pids())) == 3


def test_other_methods_reach_the_first_actor(pool: EvaluatorPool) -> None:
    assert pool.describe() == {"samples": 11, "pid": pool.pids()[0], "threads": 1}


def test_another_process_finds_the_pool_by_name(pool: EvaluatorPool) -> None:
    @ray.remote(num_cpus=0)
    def elsewhere(client: PoolClient) -> list[object]:
        return [type(client).__name__, client.evaluate(SCHEDULE)]

    assert ray.get(elsewhere.remote(pool)) == ["PoolClient", toys.Analytic().evaluate(SCHEDULE)]


def test_a_killed_actor_restarts_and_its_shard_is_evaluated_again() -> None:
    with EvaluatorPool(toys.Make(0.4), actors=2, cpus=0.5) as pool:
        before = pool.pids()
        killer = threading.Timer(0.5, os.kill, (before[1], signal.SIGKILL))
        killer.start()
        outcomes = pool.evaluate(SCHEDULE)  # 0.8 s an actor
        killer.join()
        after = pool.pids()
    assert outcomes == toys.Analytic().evaluate(SCHEDULE)
    assert after[0] == before[0] and after[1] != before[1]


def test_a_users_mistake_in_the_factory_arrives_as_one_line() -> None:
    with pytest.raises(InputError, match=r"^no model at /nowhere; name a checkpoint$"):
        EvaluatorPool(toys.refuse, actors=2, cpus=0.5)


def test_two_pools_of_one_name_do_not_meet(pool: EvaluatorPool) -> None:
    names = {"name": "same"}
    with (
        EvaluatorPool(toys.Make(), cpus=0.2, **names) as one,
        EvaluatorPool(toys.Make(), cpus=0.2, **names) as two,
    ):
        assert one.pids() != two.pids()
    with pytest.raises(ValueError, match="Failed to look up actor"):
        ray.get_actor(one.names[0])


@pytest.mark.parametrize(
    "ask",
    [
        {"cpus": 8.0},
        {"actors": 9},
        {"gpus": 0.5},
        {"actors": 0},
        {"cpus": -1.0},
        {"gpus": 1.5},
        {"cpus": float("nan")},
    ],
)
def test_more_than_the_cluster_has_is_refused_at_once(ask: dict[str, float]) -> None:
    with pytest.raises(InputError, match=r"do not fit|at least one|cannot hold"):
        EvaluatorPool(toys.Make(), **ask)  # type: ignore[arg-type]


def test_no_room_in_time_is_refused(pool: EvaluatorPool) -> None:
    with pytest.raises(InputError, match="1 of 2 evaluator actors"):
        EvaluatorPool(toys.Make(), actors=2, cpus=1.0, placement_timeout=4.0)


def test_actors_share_the_cluster_evenly() -> None:
    assert fair_share(3) == (1.0, 0.0) and fair_share(2) == (2.0, 0.0) and fair_share(9) == (1.0, 0.0)
