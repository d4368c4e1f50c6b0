"""Three-valued verdicts: a claim holds, does not hold, or cannot be told from what was measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from scipy import stats

from vtr_ray.evaluation.statistics import MARGIN, samples_to_show

WORDS: Mapping[bool | None, str] = {True: "holds", False: "does not hold", None: "cannot be told"}
NO_DROP = "no significant drop, and the 95 % interval of the paired difference lies above -1 point"

SAME_FLOPS = 0.02
"""Of TFLOPs: what more one may cost where both are said to cost the same."""

_COLUMNS = ("difference", "low", "high", "significant", "documents")


@dataclass(frozen=True)
class PairedDifference:
    """One accuracy minus another over the same documents, in [-1, 1].

    low, high: its 95 % interval; None where none was recorded. significant: whether chance alone would hardly
    give it. documents: how many there are; where accuracies are averages of benchmarks, the number at which
    all would weigh as much as the heaviest document does. None: not recorded.
    """

    difference: float
    low: float | None = None
    high: float | None = None
    significant: bool = False
    documents: int | None = None

    COLUMNS = _COLUMNS

    @property
    def cells(self) -> tuple[Any, ...]:
        """The values of `COLUMNS`."""
        return tuple(getattr(self, name) for name in _COLUMNS)

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Self | None:
        """Read it from a table's row; None where the row has none."""
        if record.get("difference") is None:
            return None
        return cls(**{name: _no_negative_zero(record[name]) for name in _COLUMNS if name in record})

    def __neg__(self) -> PairedDifference:
        low, high = (None if end is None else 0.0 - end for end in (self.high, self.low))
        return PairedDifference(0.0 - self.difference, low, high, self.significant, self.documents)

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{100 * self.difference:+.1f} points, {'' if self.significant else 'not '}significant"
        low, high = 100 * self.low, 100 * self.high
        return f"{100 * self.difference:+.1f} points [{low:+.1f}, {high:+.1f}]"


def _no_negative_zero(value: Any) -> Any:
    return value + 0.0 if isinstance(value, float) else value


def cells_of(difference: PairedDifference | None) -> tuple[Any, ...]:
    """The cells of a difference, empty ones where there is none."""
    return (None,) * len(_COLUMNS) if difference is None else difference.cells


def every(verdicts: Iterable[bool | None]) -> bool | None:
    """Whether all hold: False where one does not; None where one cannot be told, or there are none."""
    found = list(verdicts)
    if any(one is False for one in found):
        return False
    return True if found and all(found) else None


def no_drop(change: PairedDifference | None, margin: float = MARGIN) -> bool | None:
    """Whether accuracy is kept: not significantly below 0, and `low > -margin`.

    A significant drop is one, however small. With fewer documents than `samples_to_show(margin)` only a gain
    is shown: not even where no answer differs could a drop of `margin` be told from none.
    """
    if change is None:
        return None
    if change.significant and change.difference < 0:
        return False
    if change.low is None:
        return None
    if change.low <= 0 and (change.documents is None or change.documents < samples_to_show(margin)):
        return None
    return True if change.low > -margin else None


def more(lead: PairedDifference | None, margin: float | None = MARGIN) -> bool | None:
    """Whether one is more accurate: significantly above 0.

    It is not where it is significantly below 0, or shown to lead by less than `margin` (None: only there).
    """
    if lead is None:
        return None
    if lead.significant:
        return lead.difference > 0
    return False if margin is not None and no_drop(-lead, margin) else None


def at_same_flops(ahead: bool | None, ours: float | None, theirs: float | None) -> bool | None:
    """Return a lead as it counts at the same TFLOPs: what costs more may be ahead for that alone."""
    dearer = ours is None or theirs is None or ours > (1 + SAME_FLOPS) * theirs
    return None if ahead and dearer else ahead


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float, float]:
    """Return mean, low and high of the t interval of a mean; NaN ends for fewer than two values."""
    known = np.asarray(values, dtype=float)
    known = known[~np.isnan(known)]
    if not len(known):
        return float("nan"), float("nan"), float("nan")
    mean = float(known.mean())
    if len(known) < 2:
        return mean, float("nan"), float("nan")
    return mean, *t_interval(mean, float(known.std()), len(known), confidence)


def t_interval(mean: float, deviation: float, samples: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the ends of the t interval of a mean. deviation: of the `samples` values, by their number."""
    half = float(stats.t.ppf((1 + confidence) / 2, samples - 1)) * deviation / (samples - 1) ** 0.5
    return mean - half, mean + half


def credit(search: str, gain: PairedDifference | None) -> str:
    """Say what a found curve gains over one cut with the same ranking at the same memory cost."""
    if gain is None:
        return f"No one cut with {search}'s ranking and memory cost was measured beside it."
    if gain.significant and gain.difference > 0:
        why = "that comes from how its rates fall"
    elif gain.significant:
        why = "its ranking in a single cut would serve better"
    else:
        why = "not significant, so that what it gains over other strategies may be its ranking's alone"
    return f"Over one cut with the same ranking and memory cost, {search} gains {gain}: {why}."
