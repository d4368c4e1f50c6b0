"""What a surrogate says of a whole grid, for figures. The search itself only asks what to try next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vtr_ray.search.optimiser import Known, Surrogate, calm, column, model_of

_QUANTILES = 101  # of each member's normal, for the band of them all


@dataclass(frozen=True)
class Belief:
    """What a surrogate says of outcomes at the points of a grid: mean, and the band that holds 95 %."""

    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


def believe(points: Sequence[float], known: Known, surrogate: Surrogate) -> Belief | None:
    """The surrogate's posterior of the outcome at every point; None where none serves, as in `propose`.

    Members of an ensemble count alike, so the band may be lopsided where they disagree about a cliff.
    """
    values = known.values.values()
    if max(values, default=0.0) - min(values, default=0.0) <= 1e-12:
        return None
    import torch

    with calm(0):
        from linear_operator.utils.errors import NanError, NotPSDError

        try:
            model, _ = model_of(points, known, surrogate)
            with torch.no_grad():
                posterior = model.posterior(column(points, range(len(points)))[:, None])
                mean = posterior.mean.reshape(len(points), -1)
                deviation = posterior.variance.clamp(min=0).sqrt().reshape(len(points), -1)
        except (NanError, NotPSDError, torch.linalg.LinAlgError):  # type: ignore[attr-defined]
            return None
    steps = (torch.arange(_QUANTILES, dtype=mean.dtype) + 0.5) / _QUANTILES
    likely = mean.unsqueeze(-1) + deviation.unsqueeze(-1) * torch.special.ndtri(steps)
    ends = likely.flatten(1).quantile(mean.new_tensor([0.025, 0.975]), dim=1)
    return Belief(tuple(mean.mean(1).tolist()), *(tuple(end.tolist()) for end in ends))


@dataclass(frozen=True)
class LayerBelief:
    """What the surrogate says of one searched layer, after all its trials so far.

    rates: the layer's whole grid, ascending. mean, low, high: at each rate, `low..high` holding 95 %: of E;
    where accuracy is to be kept, of the bound that `tell` took.
    """

    rates: tuple[float, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


def by_rate(belief: Belief | None, top: int, grid: int, slope: float) -> LayerBelief | None:
    """A belief about a layer's points `0..top` as one about E at the rates `0..top / grid`.

    slope: what outcomes lack of E at the last point, in proportion at the others.
    """
    if belief is None:
        return None
    rates = tuple(tokens / grid for tokens in range(top + 1))
    cost = [slope * tokens / top for tokens in range(top + 1)]
    parts = ((v + c for v, c in zip(p, cost, strict=True)) for p in (belief.mean, belief.low, belief.high))
    return LayerBelief(rates, *(tuple(part) for part in parts))
