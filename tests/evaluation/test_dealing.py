"""Dealing on a clock of its own: actors of any speed, dying, hanging; no Ray."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest

from vtr_ray.evaluation.dealing import LOSSES, Report, TooManyLosses, evaluate
from vtr_ray.evaluation.outcome import Outcome
from vtr_ray.evaluation.speeds import Speeds

HANGS = float("inf")


def outcome(batch: int) -> list[Outcome]:
    return [Outcome(f"s{batch}-{row}", (batch % 7) / 7) for row in range(2)]


@dataclass
class Simulated:
    """Actors that take `cost(batch) * pace(actor)` seconds of a clock that only waiting moves."""

    paces: list[float]
    costs: Callable[[int], float] = lambda batch: 1.0
    jitter: float = 0.0
    dies: Callable[[int, int], bool] = lambda actor, batch: False
    restart: float = 20.0
    seed: int = 0

    time: float = 0.0
    started: list[tuple[int, int]] = field(default_factory=list)  # (actor, batch)
    events: list[tuple[float, int, int, Report | None]] = field(default_factory=list)
    busy: set[int] = field(default_factory=set)
    gone: set[int] = field(default_factory=set)
    epoch: int = 0

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)

    def now(self) -> float:
        return self.time

    def free(self) -> list[int]:
        return [a for a in range(len(self.paces)) if a not in self.busy and a not in self.gone]

    def present(self) -> set[int]:
        return set(range(len(self.paces))) - self.gone

    def start(self, actor: int, batches: tuple[int, ...]) -> None:
        assert actor in self.free() and batches
        self.started += [(actor, batch) for batch in batches]
        self.busy.add(actor)
        results, total = [], 0.0
        for batch in batches:
            if self.dies(actor, batch):
                self._at(total + self.costs(batch) * self.paces[actor] / 2, Report(actor, batches, None))
                return
            noise = 1 + self.random.uniform(-self.jitter, self.jitter)
            seconds = self.costs(batch) * self.paces[actor] * noise
            total += seconds
            results.append((outcome(batch), seconds))
        self._at(total, Report(actor, batches, results))

    def wait(self, timeout: float | None) -> list[Report]:
        end = HANGS if timeout is None else self.time + timeout
        if not self.events or self.events[0][0] > end:
            assert end < HANGS, "waits for ever"
            self.time = end
            return []
        self.time, epoch, _, report = heapq.heappop(self.events)
        if report is None:  # an actor is back
            self.gone.discard(epoch)
            return []
        self.busy.discard(report.actor)
        if report.results is None:
            self.gone.add(report.actor)
            heapq.heappush(self.events, (self.time + self.restart, report.actor, len(self.started), None))
        return [report] if epoch == self.epoch else []

    def _at(self, seconds: float, report: Report) -> None:
        if seconds < HANGS:
            heapq.heappush(self.events, (self.time + seconds, self.epoch, len(self.started), report))


def seconds_of(crew: Simulated, speeds: Speeds, batches: Sequence[int]) -> float:
    crew.epoch += 1
    before = crew.time
    done = evaluate(speeds, crew, batches)
    assert done == {batch: outcome(batch) for batch in batches}
    return crew.time - before


def ideal(crew: Simulated, batches: Sequence[int]) -> float:
    return sum(map(crew.costs, batches)) / sum(1 / pace for pace in crew.paces)


@pytest.mark.parametrize("actors", [2, 4, 8])
@pytest.mark.parametrize("length", [0.02, 1.0, 30.0])
def test_one_actor_five_times_slower(actors: int, length: float) -> None:
    crew = Simulated([5.0] + [1.0] * (actors - 1), lambda batch: length, jitter=0.05)
    speeds, batches = Speeds(actors), range(8 * actors)
    times = [seconds_of(crew, speeds, batches) / ideal(crew, batches) for _ in range(6)]
    assert max(times) <= 1.3  # the first one included, when nothing is known


def test_an_actor_that_turns_slow_between_two_evaluations() -> None:
    crew = Simulated([1.0] * 4, lambda batch: 0.01)
    speeds, batches = Speeds(4), range(64)
    for _ in range(3):
        seconds_of(crew, speeds, batches)
    crew.paces[2] = 5.0
    times = [seconds_of(crew, speeds, batches) / ideal(crew, batches) for _ in range(4)]
    assert max(times) <= 1.3


def test_batches_of_very_different_cost() -> None:
    """A few that generate, ten times as long: it is the batches, not the actors that got them."""
    crew = Simulated([1.0] * 4, lambda batch: 10.0 if batch in (3, 4, 5, 31) else 1.0, jitter=0.05)
    speeds, batches = Speeds(4), range(32)
    times = [seconds_of(crew, speeds, batches) / ideal(crew, batches) for _ in range(8)]
    assert max(times[3:]) <= 1.15 and max(times) <= 1.6
    slow = {actor for actor in range(4) if speeds.typical(actor) > 1.5 * speeds.typical((actor + 1) % 4)}
    assert not slow


def test_batches_stay_where_they_were() -> None:
    """What an actor keeps of a batch is of use only there."""
    crew = Simulated([1.0, 1.1, 0.95, 1.05], jitter=0.1)
    speeds, batches = Speeds(4), range(40)
    for _ in range(3):
        seconds_of(crew, speeds, batches)
    moved = 0
    for _ in range(10):
        before = dict(speeds.home)
        assert seconds_of(crew, speeds, batches) <= 1.15 * ideal(crew, batches)
        moved += sum(speeds.home[batch] != before[batch] for batch in batches)
    assert moved <= 0.03 * 400


@pytest.mark.parametrize("seed", range(20))
def test_outcomes_are_one_evaluators_whatever_happens(seed: int) -> None:
    chance = random.Random(seed)
    actors = chance.randint(1, 6)
    deaths = {(chance.randrange(actors), chance.randrange(30)) for _ in range(4)}

    def dies(actor: int, batch: int) -> bool:
        return (actor, batch) in deaths and (deaths.remove((actor, batch)) is None)

    paces = [chance.choice([0.2, 1.0, 1.0, 6.0]) for _ in range(actors)]
    costs = [chance.choice([0.5, 1.0, 9.0]) for _ in range(30)]
    crew = Simulated(paces, costs.__getitem__, jitter=0.3, dies=dies, seed=seed)
    speeds = Speeds(actors)
    for _ in range(3):
        batches = chance.sample(range(30), chance.randint(1, 30))
        seconds_of(crew, speeds, batches)  # checks them


def test_a_dead_actors_batches_go_on_elsewhere_at_once() -> None:
    crew = Simulated([1.0] * 3, dies=lambda actor, batch: actor == 1, restart=1e6)
    assert seconds_of(crew, Speeds(3), range(30)) <= 1.1 * 15  # two actors, thirty batches
    crew = Simulated([1.0], dies=lambda actor, batch: len(crew.started) == 3, restart=20.0)
    assert seconds_of(crew, Speeds(1), range(4)) == 4 + 0.5 + 20


def test_a_batch_that_ends_every_process_is_given_up() -> None:
    crew = Simulated([1.0] * 3, dies=lambda actor, batch: batch == 5)
    with pytest.raises(TooManyLosses, match=rf"^{LOSSES} evaluator processes ended on batch 5$"):
        evaluate(Speeds(3), crew, range(12))
    assert sum(batch == 5 for _, batch in crew.started) == LOSSES


def test_an_actor_that_hangs_holds_nobody_up() -> None:
    crew = Simulated([1.0] * 4)
    speeds, batches = Speeds(4), range(32)
    seconds_of(crew, speeds, batches)
    crew.paces[0] = HANGS
    assert seconds_of(crew, speeds, batches) <= 1.3 * 32 / 3
    assert seconds_of(crew, speeds, batches) <= 1.3 * 32 / 3  # it still hangs
    assert speeds.home[0] != 0


def test_no_copies_where_other_trials_share_the_actors() -> None:
    """Everything takes three times its own seconds, because two other trials queue at the same actors."""
    crew = Simulated([1.0] * 3)
    own = crew._at
    crew._at = lambda seconds, report: own(3 * seconds, report)  # type: ignore[method-assign]
    speeds = Speeds(3)
    for _ in range(3):
        seconds_of(crew, speeds, range(11))
    assert len(crew.started) == 33


def test_dealing_ends_when_it_is_enough() -> None:
    crew = Simulated([1.0, 1.0])
    done = evaluate(Speeds(2), crew, range(20), lambda deal: len(deal.done) >= 4)
    assert 4 <= len(done) <= 6 and len(crew.started) < 10
    assert done == {batch: outcome(batch) for batch in done}
