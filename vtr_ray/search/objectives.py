"""What a search maximises: the paper's E - lambda r, or the least tokens that keep the accuracy."""

from __future__ import annotations

import math

from vtr_ray.errors import InputError

PAPER, KEEP = "paper", "keep-accuracy"
MOST_OF_A_LAYER = 0.1


def allowed_drop(objective: str) -> float | None:
    """How much E may fall, in units of E: 0.005 for `keep-accuracy:0.5` (points); None for `paper`.

    Raises:
        InputError: another name, or points outside (0, 100].
    """
    if objective == PAPER:
        return None
    name, _, points = str(objective).partition(":")
    try:
        value = float(points)
    except ValueError:
        value = math.nan
    if name != KEEP or not 0 < value <= 100:
        raise InputError(
            f"objective is {objective!r}; use paper, or keep-accuracy:POINTS with the points of accuracy "
            "that may be lost, such as keep-accuracy:0.5"
        )
    return value / 100


def too_few_samples(samples: int, weight: float) -> str | None:
    """One line where one sample outweighs a tenth of a layer's tokens; None where it does not.

    E moves in steps of `1 / samples`; a step is worth `1 / (samples * weight)` of a layer's tokens.
    """
    if samples < 1 or weight <= 0 or 1 / samples <= MOST_OF_A_LAYER * weight:
        return None
    share, enough = 1 / (samples * weight), math.ceil(1 / (MOST_OF_A_LAYER * weight))
    worth = f"{share:.0%} of a layer's tokens" if share <= 1 else "more than all of a layer's tokens"
    return (
        f"{samples} search samples are few: E moves in steps of {1 / samples:.2g}, so one sample weighs "
        f"as much as {worth} at lambda {weight:g}; give {enough} samples or more, a larger --weight, or "
        "--objective keep-accuracy:POINTS."
    )
