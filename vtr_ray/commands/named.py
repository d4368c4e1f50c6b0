"""Strategies as the command line names them: `fastv:drop=0.875`, `pyramid_drop:layers=8/16/24`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vtr_ray import strategies
from vtr_ray.errors import InputError
from vtr_ray.provenance import check_model
from vtr_ray.schedule import Schedule
from vtr_ray.store import REGISTERED, default_uri
from vtr_ray.tuning.directory import SCHEDULE, SEARCH

_MAKERS: dict[str, Callable[..., Schedule]] = {
    name: getattr(strategies, name) for name in ("none", "fastv", "vtw", "pyramid_drop", "p_sigmoid")
}
CONTROL = "random"
_MAIN = {"fastv": "drop", "pyramid_drop": "keep", "vtw": "withdraw_after"}  # what a bare value means


def name_of(text: str) -> str:
    """The strategy's name, checked.

    Raises:
        InputError: an unknown one.
    """
    name = text.partition(":")[0]
    if name not in (*_MAKERS, CONTROL):
        raise InputError(f"no strategy {name!r}; use one of: {', '.join((*_MAKERS, CONTROL))}")
    return name


def named_schedule(text: str, num_layers: int, memory_cost: float | None = None) -> Schedule:
    """The schedule of `NAME` or `NAME:OPTION=VALUE,...`, options as the function in `strategies` has them.

    A bare value is fastv's drop, pyramid_drop's keep or vtw's withdraw_after: `fastv:0.875`.
    memory_cost: solve the strategy's free parameter for it.

    Raises:
        InputError: an unknown name or option, a value that is none, a cost that cannot be reached.
    """
    name, maker = name_of(text), _MAKERS[name_of(text)]
    options = _options(name, text.partition(":")[2])
    if memory_cost is not None:
        return strategies.at_memory_cost(name, num_layers, memory_cost, **options)
    parameters = list(inspect.signature(maker).parameters.values())[1:]
    known = [parameter.name for parameter in parameters]
    for option in options:
        if option not in known:
            raise InputError(f"{name} has no option {option!r}; it has: {', '.join(known) or 'none'}")
    for parameter in parameters:
        if parameter.default is inspect.Parameter.empty and parameter.name not in options:
            raise InputError(f"{name} needs {parameter.name}: write {name}:{parameter.name}=VALUE")
    return maker(num_layers, **options)


@dataclass(frozen=True)
class Given:
    """A schedule to use, and the run directory of the search that found it; None: it names none."""

    schedule: Schedule
    search: str | None = None


def read_schedule(text: str | Path, model: str | None = None, force: bool = False) -> Schedule:
    """The schedule of a file, of a run directory, or at `mlflow:NAME@ALIAS` in MLflow's registry.

    model: the model it is for, as the command line names it; None: of no model, or of any.

    Raises:
        InputError: none of these; without `force` a schedule that was found on another model than `model`.
    """
    return given_schedule(text, model, force).schedule


def given_schedule(text: str | Path, model: str | None = None, force: bool = False) -> Given:
    """As `read_schedule`, with the run directory that the schedule lies in."""
    given = _given(text)
    if model is not None:
        check_model(given.schedule, str(text), model, force)
    return given


def _given(text: str | Path) -> Given:
    if str(text).startswith(REGISTERED):
        from vtr_ray.commands.searching import home
        from vtr_ray.tracking import registered_schedule

        return Given(registered_schedule(str(text), default_uri(home())))
    path = Path(text)
    if path.is_dir():
        path = path / SCHEDULE
        if not path.is_file():
            raise InputError(
                f"{path.parent} has no {SCHEDULE}; its search is not finished, or is of no schedule"
            )
    found = Schedule.load(path)
    search = path.parent / SEARCH
    return Given(found, str(path.parent.absolute()) if path.name == SCHEDULE and search.is_file() else None)


def schedule_of(text: str, num_layers: int, model: str | None = None, force: bool = False) -> Schedule:
    """The schedule of a strategy as `named_schedule` takes it, or as `read_schedule` does.

    Raises:
        InputError: neither of both, the random control, a file with another number of layers.
    """
    name = text.partition(":")[0]
    if name in _MAKERS:
        return named_schedule(text, num_layers)
    if not Path(text).exists() and not text.startswith(REGISTERED):
        raise InputError(
            f"{text!r} is no strategy ({', '.join(_MAKERS)}) and no schedule file; write fastv:0.875"
        )
    schedule = read_schedule(text, model, force)
    if schedule.num_layers != num_layers:
        raise InputError(
            f"{text} has {schedule.num_layers} layers, the model {num_layers}; search one for it"
        )
    return schedule


def _options(name: str, text: str) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for part in filter(None, text.split(",")):
        option, equals, value = part.partition("=")
        if not equals and name in _MAIN and _number(part):
            option, equals, value = _MAIN[name], "=", part
        if not equals or option in options:
            raise InputError(f"{name}: {part!r} is no new option; write {name}:OPTION=VALUE,OPTION=VALUE")
        options[option] = _value(name, option, value)
    return options


def _number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _value(name: str, option: str, text: str) -> Any:
    try:
        if option == "layers":
            return tuple(int(layer) for layer in text.split("/"))
        if option == "keep" and "/" in text:
            return tuple(float(ratio) for ratio in text.split("/"))
        return int(text) if option in ("after_layer", "withdraw_after") else float(text)
    except ValueError:
        expected = {"layers": "layers as 8/16/24", "after_layer": "a layer", "withdraw_after": "a layer"}
        raise InputError(f"{name}: {option} is {text!r}; use {expected.get(option, 'a number')}") from None
