"""What a comparison shows, in words: whether accuracy was kept, and the gain over the controls."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from vtr_ray.evaluation.statistics import MARGIN, Comparison, samples_to_show
from vtr_ray.report.controls import MEANINGS, ONE_CUT, RANDOM_TOKENS

KEPT, FELL, UNKNOWN = "kept", "fell", "unknown"
_EVEN = {
    RANDOM_TOKENS: "Where no difference is told apart, nothing shows that the ranking beats chance.",
    ONE_CUT: "Where no difference is told apart, nothing shows that the curve is worth more than one cut.",
}


def verdict(difference: Comparison, margin: float = MARGIN) -> str:
    """Return `KEPT`, `FELL` or `UNKNOWN` for a paired difference to no reduction.

    Accuracy fell where the interval lies below 0, and was kept where it lies above `-margin`: the absence of
    a significant loss alone shows nothing. Fewer samples than `samples_to_show(margin)` show only a gain: a
    bootstrap's interval has no width where no answer differs.
    """
    if difference.high < 0:
        return FELL
    shown = difference.low > 0 or difference.samples >= samples_to_show(margin)
    return KEPT if shown and difference.low > -margin else UNKNOWN


def accuracy_line(difference: Comparison, advice: str, margin: float = MARGIN, allowed: str = "") -> str:
    """Return whether accuracy was kept, and what to do where it was not.

    Args:
        difference: of the schedule to no reduction, paired.
        advice: what makes a search lose less.
        margin: the loss that must be ruled out, in units of accuracy.
        allowed: what allows that loss (`--objective keep-accuracy:1`); "": nothing does.
    """
    said, points = verdict(difference, margin), f"{_points(difference)} to no reduction"
    most = f"more than {100 * margin:g} {'point' if margin == 0.01 else 'points'}"
    if said == KEPT:
        return f"Accuracy was kept: {points}; a loss of {most} is ruled out (paired, 95 %)."
    if said == UNKNOWN:
        return (
            f"It cannot be told whether accuracy was kept: {points} over {difference.samples} samples; a "
            f"loss of {most} is not ruled out (paired, 95 %): compare on more samples."
        )
    within = difference.low > -margin
    if within and allowed:
        return (
            f"Accuracy fell, within what {allowed} allows: {points} (significant); a loss of {most} is ruled "
            "out."
        )
    return f"Accuracy fell: {points} (significant); to lose less: {advice}."


def accuracy_lines(differences: Mapping[str, Comparison], margin: float = MARGIN) -> list[str]:
    """Return the same of several schedules, a line a verdict. differences: to no reduction, by name."""
    most = f"{100 * margin:g} {'point' if margin == 0.01 else 'points'}"
    heads = {
        KEPT: f"Accuracy was kept (a loss of more than {most} is ruled out; paired, 95 %)",
        FELL: "Accuracy fell (significant; paired, 95 %)",
        UNKNOWN: f"It cannot be told whether accuracy was kept (a loss of more than {most} is not ruled out; "
        "compare on more samples)",
    }
    groups: dict[str, list[str]] = {said: [] for said in heads}
    for name, difference in differences.items():
        groups[verdict(difference, margin)].append(f"{name} {_points(difference)}")
    return [f"{heads[said]}: {'; '.join(names)}." for said, names in groups.items() if names]


def control_lines(gains: Mapping[str, Mapping[str, Comparison]]) -> list[str]:
    """Return what schedules gain over their controls, a line for each control.

    gains: by control, by schedule, the schedule minus its control, paired.
    """
    lines = []
    for control, meaning in MEANINGS.items():
        if own := gains.get(control):
            even = any(not one.significant for one in own.values())
            advice = f" {_EVEN[control]}" if even and control in _EVEN else ""
            lines.append(f"Against {control} ({meaning}): {_gains(own)}.{advice}")
    return lines


def turned(difference: Comparison) -> Comparison:
    """Return the difference the other way round."""
    mean, low, high = (0.0 - value for value in (difference.difference, difference.high, difference.low))
    return Comparison(mean, low, high, difference.p_value, difference.samples)


def _gains(gains: Mapping[str, Comparison]) -> str:
    said: Sequence[str] = [f"{name} is {_gain(gain)}" for name, gain in gains.items()]
    return "; ".join(said)


def _gain(gain: Comparison) -> str:
    if not gain.significant:
        return f"not told apart ({_points(gain)})"
    return f"{'more' if gain.low > 0 else 'less'} accurate ({_points(gain)}, significant)"


def _points(difference: Comparison) -> str:
    mean, low, high = (100 * value for value in (difference.difference, difference.low, difference.high))
    interval = f"[{low:+.1f}, {high:+.1f}]" if math.isfinite(low + high) else "(no interval)"
    return f"{mean:+.1f} {interval} points"
