"""The controls that every comparison shows: what a schedule must beat for its choices to count."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from vtr_ray import strategies
from vtr_ray.errors import InputError
from vtr_ray.schedule import Ranking, Schedule

RANDOM_TOKENS, ONE_CUT = "random tokens", "one cut"
MEANINGS: Mapping[str, str] = {
    RANDOM_TOKENS: "the same rates, tokens drawn at random",
    ONE_CUT: "the same ranking and memory cost, cut once before layer 3",
}
"""By control, in the order of a table's rows, what it has in common with the schedule it stands beside."""


@dataclass(frozen=True)
class Controls:
    """The controls of one schedule, by their names. left_out: why one does not apply."""

    schedules: dict[str, Schedule] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)


def controls_of(schedule: Schedule, seed: int) -> Controls:
    """Return the controls that stand beside a schedule.

    Random tokens show what the ranking is worth, one cut what the shape of the curve is worth. A schedule
    that chooses no tokens (each layer keeps all or none), or that chooses them at random, has no control.
    """
    if schedule.ranking == Ranking.RANDOM:
        return Controls({}, dict.fromkeys(MEANINGS, "it draws its tokens at random itself"))
    if not any(0 < rate < 1 for rate in schedule.rates):
        return Controls({}, dict.fromkeys(MEANINGS, "it never chooses among tokens"))
    found = Controls({RANDOM_TOKENS: strategies.random(schedule, seed)})
    if len({*schedule.rates}) == 2 and schedule.rates[0] == 1 and schedule.rates[-1] != 1:
        found.left_out[ONE_CUT] = "it is one cut itself"
        return found
    try:
        found.schedules[ONE_CUT] = strategies.one_cut(schedule)
    except InputError as error:
        found.left_out[ONE_CUT] = str(error).partition(";")[0]
    return found


def control_name(name: str, control: str) -> str:
    """Return the name of a control's row where several schedules have one: `FastV, one cut`."""
    return f"{name}, {control}"


def control_in(name: str) -> str | None:
    """Return which control a row is by its name; None where it is none.

    Names are `FastV, one cut`; beside what a search found `one cut`; of several searches
    `one cut, b = 0.3`.
    """
    return next((one for one in MEANINGS if one in (name, name.split(", ")[0], name.split(", ")[-1])), None)


def controlled(name: str) -> str:
    """Return the row that `NAME, one cut` stands beside; "" where the name does not say."""
    control = control_in(name)
    ending = control_name("", control or "")
    return name.removesuffix(ending) if control is not None and name.endswith(ending) else ""


def explained(names: Iterable[str]) -> str:
    """Return what a table says of the controls among its rows; "" where there are none."""
    present = {control_in(name) for name in names}
    return "; ".join(f"{control}: {said}" for control, said in MEANINGS.items() if control in present)
