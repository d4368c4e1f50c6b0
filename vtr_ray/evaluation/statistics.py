"""Comparing two schedules on the same samples."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from vtr_ray.errors import InputError
from vtr_ray.evaluation.outcome import Outcome
from vtr_ray.evaluation.samples import SampleSet

MARGIN = 0.01
"""Of accuracy: the loss or the lead that must be ruled out before none is called shown."""


@dataclass(frozen=True)
class Comparison:
    """Mean paired difference of scores, its interval, and the two-sided p-value of "no difference"."""

    difference: float
    low: float
    high: float
    p_value: float
    samples: int

    @property
    def significant(self) -> bool:
        """The interval does not contain zero."""
        return self.low > 0 or self.high < 0


def compare(outcomes: Sequence[Outcome], baseline: Sequence[Outcome], confidence: float = 0.95) -> Comparison:
    """`outcomes` minus `baseline`, paired by sample id, with the interval of the paired t-test.

    The t interval needs differences whose mean is near normal: from some tens of samples that disagree.
    Where all differences are equal, which does not prove that all others are, it is that of `lower_bound`.
    Raises ValueError: not the same samples, fewer than two of them.
    """
    ours = {outcome.sample_id: outcome.score for outcome in outcomes}
    theirs = {outcome.sample_id: outcome.score for outcome in baseline}
    if len(ours) != len(outcomes) or len(theirs) != len(baseline) or ours.keys() != theirs.keys():
        raise ValueError("a paired comparison needs the same samples on both sides, each once")
    if len(ours) < 2:
        raise ValueError(f"a paired comparison needs at least two samples, not {len(ours)}")
    names = sorted(ours)
    first = np.array([ours[name] for name in names])
    second = np.array([theirs[name] for name in names])
    mean = float(np.mean(first - second))
    if np.ptp(first - second) == 0:  # no spread: the t statistic is 0/0 or infinite
        adjusted, error = _adjusted_wald([float(value) for value in first - second])
        half = float(stats.norm.ppf((1 + confidence) / 2)) * error
        low, high = max(-1.0, min(mean, adjusted - half)), min(1.0, max(mean, adjusted + half))
        return Comparison(mean, low, high, float(2 * stats.norm.sf(abs(adjusted) / error)), len(names))
    test = stats.ttest_rel(first, second)
    interval = test.confidence_interval(confidence)
    return Comparison(mean, float(interval.low), float(interval.high), float(test.pvalue), len(names))


def check_comparable(samples: SampleSet, otherwise: str = "") -> None:
    """Refuse before anything runs what `compare` would refuse at the end. otherwise: what else to do."""
    if len(samples) < 2:
        instead = f", or {otherwise}" if otherwise else ""
        raise InputError(
            f"{samples.where}: a paired comparison needs at least two samples; give more{instead}"
        )


def lower_bound(
    scores: Mapping[str, float], baseline: Mapping[str, float], confidence: float = 0.95
) -> float:
    """What the mean of `scores - baseline`, paired by sample id, is at least: one-sided, in [-1, 1].

    The adjusted Wald bound of Bonett and Price (2012) for paired proportions: one sample that won and one
    that lost are added to the `n` differences `d`, then `mean - z sqrt(variance / (n + 2))`. Unlike the plain
    bound it does not take no observed difference for proof of none: it is then about `-z sqrt(2) / n`.

    Raises:
        ValueError: not the same samples, or none.
    """
    if not scores or scores.keys() != baseline.keys():
        raise ValueError("a paired comparison needs the same samples on both sides")
    mean, error = _adjusted_wald([scores[name] - baseline[name] for name in sorted(scores)])
    return max(-1.0, mean - float(stats.norm.ppf(confidence)) * error)


def _adjusted_wald(differences: Sequence[float]) -> tuple[float, float]:
    """Mean and standard error of paired differences, one that was won and one that was lost added to them."""
    count = len(differences) + 2
    mean = math.fsum(differences) / count
    variance = (math.fsum(d * d for d in differences) + 2) / count - mean * mean
    return mean, math.sqrt(variance / count)


def samples_to_show(drop: float, confidence: float = 0.95) -> int:
    """How many samples `lower_bound` needs to show a loss of at most `drop` where no sample differs."""
    return max(1, math.ceil(float(stats.norm.ppf(confidence)) * math.sqrt(2) / drop) - 2)


def wilson_interval(mean: float, samples: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return Wilson's score interval of a mean of `samples` scores, within [0, 1].

    `(mean + z^2 / 2n -+ z sqrt(mean (1 - mean) / n + z^2 / 4n^2)) / (1 + z^2 / n)`. It is meant for scores of
    0 and 1, and keeps a width where all of them are equal. Scores between have at most the variance
    `mean (1 - mean)`, so for them it is at least as wide as it needs to be.

    Raises:
        ValueError: no samples, or a mean outside [0, 1].
    """
    if samples < 1 or not 0.0 <= mean <= 1.0:
        raise ValueError(f"an interval of mean {mean} over {samples} samples")
    z = float(stats.norm.ppf((1 + confidence) / 2))
    middle = mean + z * z / (2 * samples)
    half = z * math.sqrt(mean * (1 - mean) / samples + (z / (2 * samples)) ** 2)
    scale = 1 + z * z / samples
    return max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)
