"""How well P-Sigmoid describes a schedule (paper, Figures 1c and 3)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vtr_ray.errors import InputError
from vtr_ray.schedule import Schedule

_STEEPEST = 20.0  # per layer: beyond it the curve is a step to four digits


@dataclass(frozen=True)
class Fit:
    """`r(i) = min(1, 2b / (1 + exp(k (i - alpha))))` over layers `3..L`, as near to a schedule as it comes.

    b: half of the curve's height, in [0, 1]; with a free `alpha` not the mean rate. k: steepness, at least
    0. alpha: the layer at which the curve is at half its height. r2: R², the share of the rates' variance
    over layers `3..L` that the curve explains; 1 for equal rates that it meets. schedule: the curve, layers 1
    and 2 whole.
    """

    b: float
    k: float
    alpha: float
    r2: float
    schedule: Schedule


def fit_p_sigmoid(schedule: Schedule) -> Fit:
    """Fits b, k and alpha to the rates of layers `3..L` by least squares, from many starting points.

    Raises:
        InputError: fewer than 3 layers.
    """
    from scipy.optimize import least_squares

    if schedule.num_layers < 3:
        raise InputError(f"P-Sigmoid describes layers 3..L; {schedule.num_layers} layers leave none to fit.")
    rates = np.array(schedule.rates[2:])
    layers = np.arange(3.0, schedule.num_layers + 1)

    def residuals(values: Any) -> Any:
        return _curve(values, layers) - rates

    span = float(schedule.num_layers)
    bounds = ([0.0, 0.0, 3.0 - span], [1.0, _STEEPEST, 2 * span])
    middles = np.linspace(3.0, span, num=min(6, len(layers)))
    heights = {float(np.clip(height, 1e-3, 1 - 1e-3)) for height in (rates.max() / 2, rates.max())}
    best = np.array([rates.mean(), 0.0, (3 + span) / 2])  # flat
    error = float((residuals(best) ** 2).sum()) / 2  # as least_squares counts
    for b, k, middle in product(sorted(heights), (0.05, 0.3, 1.0, 4.0), middles):
        found = least_squares(residuals, (b, k, middle), bounds=bounds)
        if found.cost < error - 1e-15:
            best, error = found.x, float(found.cost)
    spread = float(((rates - rates.mean()) ** 2).sum())
    rest = float((residuals(best) ** 2).sum())
    flat = 1.0 if rest < 1e-9 else 0.0
    r2 = 1.0 - rest / spread if spread > 1e-12 else flat
    b, k, alpha = (float(value) for value in best)
    # A curve of rounding errors may rise by one.
    curve = np.minimum.accumulate(_curve(best, layers))
    return Fit(b, k, alpha, r2, Schedule.from_rates([1.0, 1.0, *curve.tolist()]))


def _curve(values: Any, layers: NDArray[np.float64]) -> NDArray[np.float64]:
    b, k, alpha = values
    # Logarithms: exp overflows at a steep k.
    curve: NDArray[np.float64] = np.minimum(1.0, 2 * b * np.exp(-np.logaddexp(0.0, k * (layers - alpha))))
    return curve
