"""Schedule: how many vision tokens each decoder layer keeps, and how they are ranked. Pure Python."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, cast, get_args

from vtr_ray.errors import InputError

Positions = Literal["original", "renumber"]
Rounding = Literal["nearest", "down", "half_even"]


class Ranking(StrEnum):
    """How vision tokens are ranked before a layer removes the lowest."""

    INSTRUCTION = "instruction"  # scores of the layer before: mean over heads and instruction rows
    LAST_TOKEN = "last_token"  # the last prompt token's row of the layer before (FastV)
    NEXT_LAYER = "next_layer"  # the last prompt token's row, the coming layer's projections (PDrop)
    RANDOM = "random"  # seeded, independent of the input


@dataclass(frozen=True)
class Schedule:
    """The keeping rates of all `L` decoder layers and the way tokens are ranked.

    Frozen, comparable, hashable. Make one with `Schedule.from_rates`.

    Attributes:
        rates: keeping rates `r_1 .. r_L`, each in [0, 1], non-increasing, the first one 1.
        ranking: how vision tokens are ranked.
        positions: kept tokens keep their "original" rotary positions, or are "renumber"ed (PDrop).
        seed: seed of `Ranking.RANDOM`; unused elsewhere.
        rounding: how a rate becomes a count: "nearest" is `floor(r * N + 0.5)`, "down" is `int(N * r)`
            (PDrop's code), "half_even" is Python's `round(N * r)` (FastV's code).
        found: where a search found the schedule, JSON values (`vtr_ray.provenance`); None: it was written by
            hand or by a rule. Two schedules that differ in it alone are equal.
    """

    rates: tuple[float, ...]
    ranking: Ranking = Ranking.INSTRUCTION
    positions: Positions = "original"
    seed: int = 0
    rounding: Rounding = "nearest"
    found: Mapping[str, Any] | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "rates", _checked_rates(self.rates))
        object.__setattr__(self, "ranking", _checked_ranking(self.ranking))
        for name, allowed in (("positions", get_args(Positions)), ("rounding", get_args(Rounding))):
            value = getattr(self, name)
            if value not in allowed:
                raise InputError(f"Schedule {name} is {value!r}; use one of: {', '.join(allowed)}.")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or self.seed < 0:
            raise InputError(f"Schedule seed is {self.seed!r}; use an integer of at least 0.")
        if self.found is not None and not isinstance(self.found, Mapping):
            raise InputError(f"Schedule found is {self.found!r}; use a JSON object, or leave it out.")

    @classmethod
    def from_rates(
        cls,
        rates: Iterable[float],
        ranking: Ranking | str = Ranking.INSTRUCTION,
        positions: Positions = "original",
        seed: int = 0,
        rounding: Rounding = "nearest",
    ) -> Schedule:
        """A schedule from one keeping rate per decoder layer, layer 1 first.

        Raises:
            InputError: rates outside [0, 1], increasing, not numbers, or not starting with 1.
        """
        try:
            listed = tuple(rates)
        except TypeError:
            raise InputError(f"Schedule rates are {rates!r}; give a list, one rate per layer.") from None
        return cls(listed, cast(Ranking, ranking), positions, seed, rounding)

    @property
    def num_layers(self) -> int:
        """Number of decoder layers `L`."""
        return len(self.rates)

    @property
    def memory_cost(self) -> float:
        """Mean keeping rate over all `L` layers: the KV cache of vision tokens relative to no reduction."""
        return math.fsum(self.rates) / len(self.rates)

    @property
    def reduces(self) -> bool:
        """Whether any layer keeps less than everything."""
        return self.rates[-1] < 1.0

    def counts(self, n: int) -> list[int]:
        """Kept vision tokens per layer, layer 1 first, of a sample with `n` vision tokens."""
        if self.rounding == "down":
            return [int(n * rate) for rate in self.rates]
        if self.rounding == "half_even":
            return [round(n * rate) for rate in self.rates]
        return [math.floor(rate * n + 0.5) for rate in self.rates]

    def to_dict(self) -> dict[str, Any]:
        """JSON content; `from_dict` is the inverse."""
        found = {} if self.found is None else {"found": dict(self.found)}
        return {
            "rates": list(self.rates),
            "ranking": self.ranking.value,
            "positions": self.positions,
            "seed": self.seed,
            "rounding": self.rounding,
            **found,
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Schedule:
        """The schedule that `to_dict` gave.

        Raises:
            InputError: not a mapping, "rates" missing, an unknown key, or a bad value.
        """
        if not isinstance(content, Mapping):
            raise InputError(f'A schedule is a JSON object with "rates", not {type(content).__name__}.')
        if "rates" not in content:
            raise InputError('A schedule needs "rates": one keeping rate per decoder layer.')
        known = ("rates", "ranking", "positions", "seed", "rounding", "found")
        unknown = sorted(str(key) for key in content if key not in known)
        if unknown:
            raise InputError(f"A schedule has no {unknown[0]!r}; remove it (known: {', '.join(known)}).")
        described = {name: value for name, value in content.items() if name != "found"}
        schedule = cls.from_rates(**described)
        return replace(schedule, found=content["found"]) if content.get("found") is not None else schedule

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write JSON: to a temporary name in the same directory, then renamed."""
        target = Path(path)
        try:
            handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        except OSError as error:
            raise InputError(f"Cannot write the schedule {target}: {error.strerror}.") from None
        temporary = Path(name)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(self.to_dict(), file, indent=1)
                file.write("\n")
            temporary.chmod(0o644)
            temporary.replace(target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Schedule:
        """Read what `save` wrote.

        Raises:
            InputError: no such file, not JSON, or not a valid schedule; the message names the file.
        """
        source = Path(path)
        try:
            content = json.loads(source.read_text(encoding="utf-8"))
        except OSError as error:
            raise InputError(f"Cannot read the schedule {source}: {error.strerror}.") from None
        except (ValueError, RecursionError):
            raise InputError(f"The schedule {source} is not JSON; write it with Schedule.save.") from None
        try:
            return cls.from_dict(content)
        except InputError as error:
            raise InputError(f"{source}: {error}") from None


def _checked_rates(rates: Iterable[Any]) -> tuple[float, ...]:
    checked: list[float] = []
    for layer, rate in enumerate(rates, start=1):
        if isinstance(rate, (bool, str)) or not hasattr(rate, "__float__"):
            raise InputError(f"The keeping rate of layer {layer} is {rate!r}; use a number in [0, 1].")
        try:
            value = float(rate)
        except OverflowError:  # an integer that no float can hold
            value = math.inf
        if not 0.0 <= value <= 1.0:  # also refuses NaN
            raise InputError(f"The keeping rate of layer {layer} is {value}; use a number in [0, 1].")
        if checked and value > checked[-1]:
            raise InputError(
                f"Keeping rates increase at layer {layer} ({checked[-1]} to {value}); removed tokens cannot "
                "return, so give non-increasing rates."
            )
        checked.append(value)
    if not checked:
        raise InputError("A schedule needs one keeping rate per decoder layer; none were given.")
    if checked[0] != 1.0:
        raise InputError(
            f"The keeping rate of layer 1 is {checked[0]}; it must be 1, no scores exist before it."
        )
    return tuple(checked)


def _checked_ranking(ranking: Any) -> Ranking:
    try:
        return Ranking(ranking)
    except ValueError:
        raise InputError(f"Schedule ranking is {ranking!r}; use one of: {', '.join(Ranking)}.") from None
