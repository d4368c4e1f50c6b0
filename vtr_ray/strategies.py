"""Rules that yield schedules: published baselines as their code does them, the random control, P-Sigmoid."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from decimal import Decimal
from itertools import pairwise
from typing import Any

from vtr_ray.errors import InputError
from vtr_ray.schedule import Ranking, Schedule

__all__ = ["at_memory_cost", "fastv", "none", "one_cut", "p_sigmoid", "pyramid_drop", "random", "vtw"]


def none(num_layers: int) -> Schedule:
    """No reduction: every layer keeps every vision token."""
    return Schedule.from_rates([1.0] * _layers(num_layers))


def fastv(num_layers: int, drop: float = 0.5, after_layer: int = 2) -> Schedule:
    """FastV (Chen et al., 2024): one cut before layer `after_layer + 1` (their K), `drop` is their R.

    Ranked by the last prompt token's row of layer K, mean over heads; original positions.
    `round(N * (1 - R))` tokens stay, half to even, as in their code.
    """
    _fraction("drop", drop)
    _inside("after_layer", after_layer, num_layers)
    rates = [1.0] * after_layer + [1.0 - drop] * (num_layers - after_layer)
    return Schedule.from_rates(rates, ranking=Ranking.LAST_TOKEN, rounding="half_even")


def vtw(num_layers: int, withdraw_after: int | None = None) -> Schedule:
    """VTW (Lin et al., 2024): all vision tokens leave after layer `withdraw_after` (default `L // 2`)."""
    last = _layers(num_layers) // 2 if withdraw_after is None else withdraw_after
    _inside("withdraw_after", last, num_layers)
    return Schedule.from_rates([1.0] * last + [0.0] * (num_layers - last))


def pyramid_drop(
    num_layers: int, layers: Sequence[int] | None = None, keep: float | Sequence[float] = 0.5
) -> Schedule:
    """PDrop (Xing et al., 2024): after each layer of `layers`, keep `keep` times as many as before.

    Stage `s` keeps `int(N * keep**s)` of the original `N`, ranked by the last prompt token's row with the
    coming layer's projections; positions are renumbered. The power is that of the decimal number (0.7 gives
    0.49, not 0.48999999999999994), as their code is given its ratios. `keep` may be these ratios themselves,
    one for each of `layers`.

    `layers` defaults to L/4, L/2, 3L/4 (of 32: 8, 16, 24). Stages at or beyond `L` never fire:
    `pyramid_drop(24, layers=(8, 16, 24))` is PDrop on 24 layers as the G-Search paper ran it (the list of 32
    layers reused, its third drop idle, memory cost 0.583); `pyramid_drop(24)` scales the stages. For a
    budget, `at_memory_cost("pyramid_drop", ...)` solves `keep`, which is PDrop's lambda.
    """
    if layers is None:
        layers = [_layers(num_layers) * quarter // 4 for quarter in (1, 2, 3)]
    stages = list(layers)
    if any(later <= earlier for earlier, later in pairwise(stages)) or min(stages, default=1) < 1:
        raise InputError(f"pyramid_drop layers are {stages}; give increasing layer numbers of at least 1.")
    ratios = [1.0, *_stage_ratios(keep, len(stages))]
    rates = [ratios[sum(layer > stage for stage in stages)] for layer in range(1, _layers(num_layers) + 1)]
    return Schedule.from_rates(rates, ranking=Ranking.NEXT_LAYER, positions="renumber", rounding="down")


def _stage_ratios(keep: float | Sequence[float], stages: int) -> list[float]:
    """Shares of the original tokens after each of PDrop's stages."""
    if not isinstance(keep, Sequence):
        _fraction("keep", keep)
        return [float(Decimal(repr(float(keep))) ** stage) for stage in range(1, stages + 1)]
    for ratio in keep:
        _fraction("keep", ratio)
    if len(keep) != stages:
        raise InputError(f"pyramid_drop has {stages} layers and {len(keep)} ratios; give one for each layer.")
    return list(keep)


def random(schedule: Schedule, seed: int = 0) -> Schedule:
    """The control: the same rates, tokens drawn at random (the same ones for all samples of equal `N`)."""
    return replace(schedule, ranking=Ranking.RANDOM, seed=seed, found=None)


def one_cut(schedule: Schedule, after_layer: int = 2) -> Schedule:
    """The control of a searched curve: its ranking and its memory cost in a single cut.

    Layers up to `after_layer` keep everything, all deeper ones the same rate. What a schedule gains over it
    comes from how its rates fall; what both gain over other strategies comes from the ranking.

    Raises:
        InputError: a memory cost below `after_layer / L`, a layer that is not before the last.
    """
    layers = schedule.num_layers
    drop = _flat_drop("one_cut", layers, schedule.memory_cost, after_layer)
    rates = (1.0,) * after_layer + (1.0 - drop,) * (layers - after_layer)
    return replace(schedule, rates=rates, found=None)


def p_sigmoid(num_layers: int, budget: float, k: float, alpha: float | None = None) -> Schedule:
    """P-Sigmoid (paper, section 3.3): `r(i) = 2b / (1 + exp(k (i - alpha)))` for `i = 3..L`.

    `r_1 = r_2 = 1`. Where the curve passes 1 it becomes `min(1, c r(i))` with the one `c` that keeps the mean
    over layers 3..L at `budget`. `k = 0` is flat; the larger `k`, the steeper. `alpha`, the layer around
    which the curve falls, is `(3 + L) / 2`, where the curve's own mean is `b`; around any other layer it is
    scaled to that mean in the same way.
    """
    if _layers(num_layers) < 3:
        raise InputError(f"p_sigmoid reduces layers 3..L; {num_layers} layers leave none.")
    _fraction("budget", budget)
    if not (math.isfinite(k) and k >= 0):
        raise InputError(f"p_sigmoid k is {k}; use a finite number of at least 0.")
    if alpha is not None and not math.isfinite(alpha):
        raise InputError(f"p_sigmoid alpha is {alpha}; use a finite number, best between 3 and {num_layers}.")
    if alpha is None or alpha == (3 + num_layers) / 2:
        return Schedule.from_rates([1.0, 1.0, *_sigmoid_rates(num_layers, budget, k)])
    return Schedule.from_rates([1.0, 1.0, *_scaled_rates(num_layers, budget, k, alpha)])


def _sigmoid_rates(num_layers: int, budget: float, k: float) -> list[float]:
    alpha = (3 + num_layers) / 2
    reduced = range(3, num_layers + 1)
    if budget in (0.0, 1.0):
        return [budget] * len(reduced)
    # Logarithms: at large k the factor c overflows while c * r(i) does not.
    logs = [math.log(2 * budget) - _softplus(k * (layer - alpha)) for layer in reduced]

    def rates(log_c: float) -> list[float]:
        return [math.exp(min(0.0, log_c + log)) for log in logs]

    if logs[0] <= 0.0:
        return rates(0.0)

    def excess(log_c: float) -> float:
        return math.fsum(rates(log_c)) / len(logs) - budget

    return rates(_root(excess, 0.0, -logs[-1] if logs[-1] < 0 else 0.0))


def _scaled_rates(num_layers: int, budget: float, k: float, alpha: float) -> list[float]:
    """`min(1, c / (1 + exp(k (i - alpha))))` for `i = 3..L` with mean `budget`."""
    reduced = range(3, num_layers + 1)
    if budget in (0.0, 1.0):
        return [budget] * len(reduced)
    logs = [-_softplus(k * (layer - alpha)) for layer in reduced]
    for capped in range(len(logs)):
        # The first layers are at 1; the others share what is left, in logarithms for the sake of large k.
        share = budget * len(logs) - capped
        top = logs[capped]
        rest = math.fsum(math.exp(log - top) for log in logs[capped:])
        if share <= rest:
            shift = math.log(share / rest) - top
            return [1.0] * capped + [math.exp(min(0.0, log + shift)) for log in logs[capped:]]
    raise AssertionError("the last layer alone can always take its share")


def _softplus(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def at_memory_cost(name: str, num_layers: int, memory_cost: float, **fixed: Any) -> Schedule:
    """The strategy `name`, its free parameter solved so that the schedule's memory cost is `memory_cost`.

    `fastv`: solves `drop` (fixed: `after_layer`). `pyramid_drop`: solves `keep` (fixed: `layers`). `vtw`:
    takes the withdrawal layer whose memory cost is nearest (the deeper on a tie): the cost is met to within
    `1 / (2L)`. `p_sigmoid`: solves `budget` (fixed: `k`, required).

    Raises:
        InputError: an unknown strategy or argument, or a memory cost that the strategy cannot reach.
    """
    _fraction("memory_cost", memory_cost)
    if name not in _SOLVERS:
        raise InputError(
            f"No strategy {name!r} can be solved to a memory cost; use one of: {', '.join(_SOLVERS)}."
        )
    solve, allowed = _SOLVERS[name]
    unknown = [key for key in fixed if key not in allowed]
    if unknown:
        raise InputError(f"{name} takes no {unknown[0]!r} here; use: {', '.join(allowed) or 'none'}.")
    return solve(_layers(num_layers), memory_cost, **fixed)


def _solve_fastv(num_layers: int, memory_cost: float, after_layer: int = 2) -> Schedule:
    drop = _flat_drop("fastv", num_layers, memory_cost, after_layer)
    return fastv(num_layers, drop=drop, after_layer=after_layer)


def _flat_drop(name: str, num_layers: int, memory_cost: float, after_layer: int) -> float:
    """The share of tokens that one cut after `after_layer` removes at a memory cost."""
    _inside("after_layer", after_layer, num_layers)
    if after_layer == num_layers:
        raise InputError(
            f"{name} after layer {after_layer} of {num_layers} removes nothing; use an earlier layer."
        )
    drop = _short((1.0 - memory_cost) * num_layers / (num_layers - after_layer))
    _reachable(name, drop <= 1.0, memory_cost, after_layer / num_layers)
    return drop


def _solve_vtw(num_layers: int, memory_cost: float) -> Schedule:
    layer = math.floor(memory_cost * num_layers + 0.5)
    _reachable("vtw", layer >= 1, memory_cost, 1 / num_layers)
    return vtw(num_layers, withdraw_after=layer)


def _solve_pyramid_drop(num_layers: int, memory_cost: float, layers: Sequence[int] | None = None) -> Schedule:
    def excess(keep: float) -> float:
        return pyramid_drop(num_layers, layers, keep).memory_cost - memory_cost

    _reachable("pyramid_drop", excess(0.0) <= 1e-12, memory_cost, excess(0.0) + memory_cost)
    return pyramid_drop(num_layers, layers, _short(_root(excess, 0.0, 1.0)))


def _solve_p_sigmoid(num_layers: int, memory_cost: float, k: float | None = None) -> Schedule:
    if k is None:
        raise InputError("p_sigmoid needs its steepness: pass k=...")
    if num_layers < 3:
        raise InputError(f"p_sigmoid reduces layers 3..L; {num_layers} layers leave none.")
    budget = _short((memory_cost * num_layers - 2) / (num_layers - 2))
    _reachable("p_sigmoid", budget >= 0.0, memory_cost, 2 / num_layers)
    return p_sigmoid(num_layers, min(max(budget, 0.0), 1.0), k)


_SOLVERS: dict[str, tuple[Callable[..., Schedule], tuple[str, ...]]] = {
    "fastv": (_solve_fastv, ("after_layer",)),
    "vtw": (_solve_vtw, ()),
    "pyramid_drop": (_solve_pyramid_drop, ("layers",)),
    "p_sigmoid": (_solve_p_sigmoid, ("k",)),
}


def _short(parameter: float) -> float:
    """Without the digits that a solver gets wrong: 0.4999999999999988 would lose a token in rounding."""
    return round(parameter, 12)


def _root(excess: Callable[[float], float], low: float, high: float) -> float:
    """Root of a non-decreasing function in [low, high]; an end where rounding leaves no sign change."""
    if excess(low) >= 0.0:
        return low
    if excess(high) <= 0.0:
        return high
    from scipy.optimize import brentq  # 0.2 s to import: only where something is solved

    return float(brentq(excess, low, high, xtol=1e-15, rtol=1e-14))


def _layers(num_layers: int) -> int:
    if isinstance(num_layers, bool) or not isinstance(num_layers, int) or num_layers < 1:
        raise InputError(f"The number of decoder layers is {num_layers!r}; use an integer of at least 1.")
    return num_layers


def _fraction(name: str, value: float) -> None:
    if not 0.0 <= value <= 1.0:
        raise InputError(f"{name} is {value}; use a number in [0, 1].")


def _inside(name: str, layer: int, num_layers: int) -> None:
    if not 1 <= layer <= _layers(num_layers):
        raise InputError(f"{name} is {layer}; use a layer from 1 to {num_layers}.")


def _reachable(name: str, holds: bool, memory_cost: float, lowest: float) -> None:
    if not holds:
        raise InputError(
            f"{name} cannot reach a memory cost of {memory_cost:.4g}: its lowest is {lowest:.4f}; ask for "
            "more or change its fixed layers."
        )
