"""P-Sigmoid at a cost: the budget that each steepness needs to cost as much as another schedule."""

from __future__ import annotations

from collections.abc import Callable

from vtr_ray.errors import InputError
from vtr_ray.schedule import Schedule
from vtr_ray.search.psigmoid import steepnesses
from vtr_ray.strategies import p_sigmoid

RELATIVE = 1e-3  # a cost is met to within this, or to within one token's
_FINEST = 1e-7  # of a budget; two layers' counts hardly ever change within it


def matched_budgets(
    num_layers: int, k_max: float, cost: Callable[[Schedule], float], target: float, tolerance: float
) -> tuple[float, ...]:
    """The budget `b` of every steepness of `PSigmoidSearch`'s grid at which the curve costs `target`.

    In the decoder layers an S-curve costs more than a flat one of the same mean (paper, section 9.1); in the
    language model's head, which runs on what the last layer keeps, it costs less. Costs move in steps of one
    token; the nearest is taken, the lower on a tie.

    Args:
        num_layers: decoder layers `L`, at least 3.
        k_max: largest steepness.
        cost: FLOPs of a schedule; must not fall where rates rise.
        target: what to match, in units of `cost`.
        tolerance: largest allowed difference; see `tolerance_of`.

    Raises:
        InputError: a target below the cost of no vision tokens from layer 3 on, or above no reduction's.
    """
    least, most = (cost(p_sigmoid(num_layers, budget, 0.0)) for budget in (0.0, 1.0))
    if not least - tolerance <= target <= most + tolerance:
        raise InputError(
            f"P-Sigmoid keeps layers 1 and 2 whole and costs {least:.4g} to {most:.4g} FLOPs; "
            f"{target:.4g} is out of its reach: match something else"
        )
    budgets: list[float] = []
    for k in steepnesses(k_max):

        def cost_at(budget: float, k: float = k) -> float:
            return cost(p_sigmoid(num_layers, budget, k))

        budgets.append(_matched(cost_at, target, near=budgets[-1] if budgets else 0.5))
    return tuple(budgets)


def tolerance_of(
    num_layers: int, vision_tokens: int, cost: Callable[[Schedule], float], target: float
) -> float:
    """How near a match must come: 0.1 % of `target`, or one token's cost in layers 3..L if that is more."""
    fewer = [(vision_tokens - 1) / vision_tokens] * (num_layers - 2)
    one = cost(Schedule.from_rates([1.0] * num_layers)) - cost(Schedule.from_rates([1.0, 1.0, *fewer]))
    return max(RELATIVE * target, one)


def _matched(cost_at: Callable[[float], float], target: float, near: float) -> float:
    """The budget in [0, 1] whose cost is nearest to `target`; the search begins around `near`."""
    width = 0.01
    low, high = max(0.0, near - width), min(1.0, near + width)
    while low > 0.0 and cost_at(low) > target:
        width *= 4
        low, high = max(0.0, low - width), low
    while high < 1.0 and cost_at(high) <= target:
        width *= 4
        low, high = high, min(1.0, high + width)
    below, above = cost_at(low), cost_at(high)
    while high - low > _FINEST:
        middle = (low + high) / 2
        value = cost_at(middle)
        if value <= target:
            low, below = middle, value
        else:
            high, above = middle, value
    if abs(target - below) <= abs(above - target):
        return _inside(cost_at, low, below, -1)
    return _inside(cost_at, high, above, 1)


def _inside(cost_at: Callable[[float], float], edge: float, value: float, direction: int) -> float:
    """A budget well within the step that begins at `edge`, rather than where a rounding error decides."""
    reach = _FINEST
    while 0.0 <= edge + direction * reach <= 1.0 and cost_at(edge + direction * reach) == value:
        reach *= 2
    same = edge + direction * reach / 2 if reach > _FINEST else edge
    return (edge + same) / 2
