"""The evaluator's prefix cache: of each batch the state that enters the searched layer."""

from __future__ import annotations

import logging
from collections import OrderedDict

import torch

from vtr_ray.errors import InputError
from vtr_ray.evaluation.tiers import Held, Tiers
from vtr_ray.prefixes import GENERATIONS, Key, Sharing, key_of
from vtr_ray.reduction.prefix import Prefix
from vtr_ray.schedule import Schedule

logger = logging.getLogger(__name__)

Part = tuple[int, ...]  # the samples of a batch
DEFAULT_LIMIT = 4 * 2**30
_UNITS = {"": 1, "b": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30, "kb": 10**3, "mb": 10**6, "gb": 10**9}


def parse_size(text: str) -> int:
    """Bytes of "4GiB", "500 MB" or "0". Raises InputError for anything else."""
    number = text.strip().lower().rstrip("bgikm ")
    try:
        size = float(number) * _UNITS[text.strip().lower()[len(number) :].strip()]
        if 0 <= size < 2**63:
            return int(size)
    except (ValueError, KeyError):
        pass
    raise InputError(f"the cache's size is {text!r}; give one such as 4GiB or 500MiB, or 0 for none")


class PrefixCache:
    """Prefixes by schedule and batch. A batch that finds none runs from the start: never wrong, only slower.

    Of each batch the states of the layer searched now and of the one before are kept; where room is short the
    older goes. Which layer that is, `vtr_ray.prefixes.Sharing` infers from the schedules.

    Args:
        limit: bytes on the device, in host memory and on disk together; 0: keep nothing.
        device: of the model.
    """

    def __init__(self, limit: int, device: torch.device) -> None:
        self.tiers = Tiers(limit, device)
        self.checked = False  # whether one prefix was seen to give what the whole model gives
        self.found = self.missed = 0  # batches that went on from a prefix, and that did not
        self._on = limit > 0
        self._full = False
        self._sharing = Sharing()
        self._held: OrderedDict[Key, dict[Part, Held]] = OrderedDict()  # the latest used last

    def layer(self, schedule: Schedule) -> int | None:
        """The layer whose entering state is worth keeping under this schedule; None: the cache is off."""
        if not self._on or schedule.num_layers < 2:
            return None
        return self._sharing.layer(schedule)

    def get(self, part: Part, schedule: Schedule) -> Prefix | None:
        """The deepest state of the batch that `schedule` may go on from."""
        serving = [
            key for key, parts in self._held.items() if part in parts and key == key_of(schedule, key[0])
        ]
        for key in sorted(serving, key=lambda key: -key[0]):
            self._held.move_to_end(key)
            prefix = self.tiers.get(self._held[key][part])
            if prefix is not None:
                self.found += 1
                return prefix
            self._drop(key, part)
        self.missed += 1
        return None

    def put(self, part: Part, prefix: Prefix) -> None:
        """Keep a state, if there is room once older ones are gone."""
        key = key_of(prefix.schedule, prefix.layer)
        self._drop(key, part)
        self._held.setdefault(key, {})
        self._held.move_to_end(key)
        while len(self._held) > GENERATIONS:
            self._drop_all(next(iter(self._held)))
        held = self.tiers.put(prefix)
        for older in [] if held is not None else [other for other in self._held if other != key]:
            self._drop(older, part)  # of this batch; other batches may still go on from theirs
            held = held or self.tiers.put(prefix)
        if held is not None:
            self._held[key][part] = held
        elif not self._full:
            self._full = True
            logger.warning(
                "The prefix cache is full (%d MiB of at most %d): what does not fit is run again.",
                self.tiers.bytes >> 20,
                self.tiers.limit >> 20,
            )

    def forget(self, part: Part) -> None:
        """Give up what is kept of a batch."""
        for key in list(self._held):
            self._drop(key, part)

    def release(self) -> int:
        """After out-of-memory: give up everything. Bytes that were kept in the memory that ran out."""
        kept = self.tiers.near
        if kept:
            for key in list(self._held):
                self._drop_all(key)
        return kept

    def shrink(self, limit: int) -> None:
        """From now on, at most `limit` bytes in the memory that ran out."""
        self.tiers.near_limit = limit

    def switch_off(self, reason: str) -> None:
        """Keep nothing from now on; says why."""
        for key in list(self._held):
            self._drop_all(key)
        self._on = False
        logger.warning("The prefix cache is off: %s.", reason)

    def _drop(self, key: Key, part: Part) -> None:
        held = self._held.get(key, {}).pop(part, None)
        if held is not None:
            self.tiers.drop(held)

    def _drop_all(self, key: Key) -> None:
        for part in list(self._held[key]):
            self._drop(key, part)
        del self._held[key]
