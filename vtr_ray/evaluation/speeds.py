"""How fast each actor is and what each batch costs, learned from one evaluation to the next."""

from __future__ import annotations

import math
from collections.abc import Sequence

_OWN_COST, _OWN_PACE = 0.5, 0.3  # how firmly batches are held to cost the same, and actors to be equally fast


class Speeds:
    """What is known of actors and batches, from one evaluation to the next.

    Seconds of batch `b` on actor `a` are taken as `cost(b) * pace(a)`; the last measured ones say how much.
    """

    def __init__(self, actors: int) -> None:
        self.actors = actors
        self.home: dict[int, int] = {}
        self._cost: dict[int, float] = {}  # logarithms, around `_level`
        self._pace = [0.0] * actors  # logarithms, around 0
        self._level: float | None = None

    @property
    def measured(self) -> bool:
        """Whether any batch has been timed."""
        return self._level is not None

    def seconds(self, batch: int, actor: int) -> float:
        """Expected seconds; 1 before anything was measured."""
        return math.exp((self._level or 0.0) + self._cost.get(batch, 0.0) + self._pace[actor])

    def typical(self, actor: int) -> float:
        """Expected seconds of a batch of ordinary cost."""
        return math.exp((self._level or 0.0) + self._pace[actor])

    def learn(self, seen: Sequence[tuple[int, int, float]]) -> None:
        """Take (batch, actor, seconds) of one evaluation.

        Least squares of `log seconds = level + cost + pace`, where costs and paces keep to what they were:
        when one actor's batches all take long it is the actor, when one batch does it is the batch.
        """
        logs = [(batch, actor, math.log(max(seconds, 1e-6))) for batch, actor, seconds in seen]
        if not logs:
            return
        cost = {batch: self._cost.get(batch, 0.0) for batch, _, _ in logs}
        pace = list(self._pace)
        before_cost, before_pace = dict(cost), list(pace)
        level = 0.0
        for _ in range(8):
            level = sum(log - cost[b] - pace[a] for b, a, log in logs) / len(logs)
            rest: dict[int, list[float]] = {b: [] for b in cost}
            for b, a, log in logs:
                rest[b].append(log - level - pace[a])
            for b, own in rest.items():
                cost[b] = (sum(own) + _OWN_COST * before_cost[b]) / (len(own) + _OWN_COST)
            by_actor: dict[int, list[float]] = {}
            for b, a, log in logs:
                by_actor.setdefault(a, []).append(log - level - cost[b])
            for a, own in by_actor.items():
                pace[a] = (sum(own) + _OWN_PACE * before_pace[a]) / (len(own) + _OWN_PACE)
        self._cost.update(cost)
        self._pace, self._level = pace, level
