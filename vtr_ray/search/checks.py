"""Numbers that a search is given, checked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from vtr_ray.errors import InputError


def checked_int(name: str, value: Any, least: int) -> int:
    """`value`, if it is an integer of at least `least`; InputError otherwise."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InputError(f"{name} is {value!r}; use an integer of at least {least}.")
    return value


def checked_float(name: str, value: Any, least: float, most: float = math.inf) -> float:
    """`value` as float, if it is a finite number within the bounds; InputError otherwise."""
    ok = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not ok or not least <= value <= most:
        bounds = f"of at least {least:g}" if math.isinf(most) else f"in [{least:g}, {most:g}]"
        raise InputError(f"{name} is {value!r}; use a number {bounds}.")
    return float(value)


def checked_score(score: Any, where: str) -> float:
    """`score` as float, if it is in [0, 1]; InputError otherwise."""
    try:
        value = float(score)
    except (TypeError, ValueError):
        value = math.nan
    if not 0.0 <= value <= 1.0:
        raise InputError(f"The score of {where} is {score!r}; E must be in [0, 1] (or report search.fail).")
    return value


def checked_scores(where: str, scores: Sequence[float], mean: float, count: int | None) -> tuple[float, ...]:
    """Each sample's score behind a mean; InputError where they are not, or not `count` of them."""
    values = tuple(checked_score(score, f"a sample of {where}") for score in scores)
    if count is not None and len(values) != count:
        raise InputError(f"{where} has {len(values)} samples and others have {count}; tell the same.")
    if not values or abs(math.fsum(values) / len(values) - mean) > 1e-6:
        raise InputError(f"The scores of {where} do not have the mean {mean:g}; tell those behind E.")
    return values
