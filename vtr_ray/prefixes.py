"""Which layers two schedules share, and from which layer on a trial is worth keeping. Pure Python."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import Any

from vtr_ray.schedule import Schedule

GENERATIONS = 2  # different states of one batch that are kept: the layer searched now, and the one before
_REMEMBERED = 256  # schedules

Key = tuple[int, tuple[float, ...], Any]


def key_of(schedule: Schedule, layer: int) -> Key:
    """What two schedules must agree in to share the state that enters `layer` (from 1).

    The ranking counts even where nothing is cut before: the state holds the scores for the next cut.
    """
    rules = (schedule.ranking, schedule.positions, schedule.seed, schedule.rounding)
    return layer, schedule.rates[: layer - 1], rules


class Sharing:
    """Sees schedules go by, and says from which layer on each is likely to be shared.

    That is the deepest layer before which it agrees with an earlier schedule; at first, layer 3: every search
    leaves layers 1 and 2 alone. A G-Search's first trial of a layer agrees up to it with the trial that
    measured the rates before, so its own state is the one that the layer's other trials go on from.
    """

    def __init__(self) -> None:
        self._layers: OrderedDict[Schedule, int] = OrderedDict()

    def layer(self, schedule: Schedule) -> int:
        """The layer (from 1; at least 2) whose entering state is worth keeping; notes the schedule."""
        if schedule not in self._layers:
            alike = max((_agreement(schedule, other) for other in self._layers), default=0)
            untouched = 2 if schedule.rates[:2] == (1.0, 1.0) else 1
            self._layers[schedule] = min(max(alike, untouched) + 1, schedule.num_layers)
        self._layers.move_to_end(schedule)
        while len(self._layers) > _REMEMBERED:
            self._layers.popitem(last=False)
        return self._layers[schedule]


def first_layers(schedules: Iterable[Schedule]) -> Iterator[tuple[Schedule, int]]:
    """Each schedule with the first layer (from 1) that runs, where every state has room in the cache."""
    sharing, held = Sharing(), OrderedDict[Key, None]()
    for schedule in schedules:
        keep = sharing.layer(schedule)
        found = [key for key in held if key == key_of(schedule, key[0])]
        start = max(found, default=None)
        if start is not None:
            held.move_to_end(start)
        first = 1 if start is None else start[0]
        if keep > first:
            held[key_of(schedule, keep)] = None
        while len(held) > GENERATIONS:
            held.popitem(last=False)
        yield schedule, first


def _agreement(one: Schedule, other: Schedule) -> int:
    """Layers, from the first, that two schedules treat alike."""
    if one.num_layers != other.num_layers or key_of(one, 1) != key_of(other, 1):
        return 0
    for count, (rate, its) in enumerate(zip(one.rates, other.rates, strict=True)):
        if rate != its:
            return count
    return one.num_layers
