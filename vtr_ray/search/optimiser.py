"""Bayesian optimisation over a finite 1-D grid: which unseen points to try next. Pure functions.

A Gaussian process (BoTorch `SingleTaskGP`, float64, inputs in [0, 1], standardised outcomes) and log expected
improvement (Ament et al., NeurIPS 2023, arXiv 2310.20708) at every unseen point: no inner optimiser.

A stationary process does not believe in cliffs: after one it expects as much roughness on the plateau. So
where the caller says what a fall from a plateau is (`cliff`), the process models the plateau alone, and each
point is weighed by the probability that it lies on it, the edge being anywhere between two tried points.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

# What is known of keeping-rate curves: they turn within a tenth to all of the range; E is deterministic.
LENGTHSCALE_MEDIAN, LENGTHSCALE_SIGMA, LENGTHSCALE_MIN = 0.3, 0.7, 0.01
NOISE = 1e-6  # variance, of standardised outcomes
SAMPLES = 256  # of the process, where several points are proposed


def spread(size: int, count: int) -> list[int]:
    """`count` indices spread uniformly over `0..size-1`, both ends among them, ascending, no repeats."""
    if size <= count:
        return list(range(size))
    return sorted({math.floor((size - 1) * step / (count - 1) + 0.5) for step in range(count)})


def propose(
    points: Sequence[float],
    values: Mapping[int, float],
    excluded: Collection[int] = (),
    count: int = 1,
    seed: int = 0,
    scale: float = 0.01,
    cliff: float | None = None,
) -> list[int]:
    """The `count` unseen points that promise most, the most promising first; fewer where fewer are left.

    The same arguments give the same points, whatever the global random state, which is left as it was.
    Where no process can be fitted (constant outcomes, less than two of them) the points furthest from all
    tried ones are taken.

    Args:
        points: the grid, ascending, in [0, 1].
        values: finite outcome (larger is better) by index into `points`.
        excluded: indices never proposed and without an outcome (failed or pending elsewhere).
        count: how many points; from the second on, those before are pending (`qLogExpectedImprovement`).
        seed: of the quasi-random samples behind several points.
        scale: gap to the best outcome below which differences matter. The process models
            `-log(1 + gap / scale)`: the order stays, and a cliff does not drown the plateau above it.
        cliff: a point that lies below the best point, in place and by more than this in value, has fallen
            off the plateau, and all lower points with it. None: there are no cliffs.
    """
    tried = sorted({*values, *excluded})
    unseen = sorted(set(range(len(points))) - set(tried))
    count = min(count, len(unseen))
    if count == len(unseen):
        return unseen
    edge = _edge(values, cliff)
    above = [index for index in unseen if index > edge]
    if len(above) < count:  # the plateau is known to the last point
        edge, above = -1, unseen
    plateau = {index: value for index, value in values.items() if index > edge}
    if max(plateau.values(), default=0.0) - min(plateau.values(), default=0.0) > 1e-12:
        with _calm(seed):
            chosen = _by_improvement(points, plateau, above, edge, count, seed, scale)
        if chosen is not None:
            return chosen
    return _furthest(points, tried, above, count)


def _edge(values: Mapping[int, float], cliff: float | None) -> int:
    """The highest tried index that has fallen off the plateau; -1 where none has."""
    if cliff is None or not values:
        return -1
    top = max(values.values())
    best = min(index for index, value in values.items() if value == top)
    return max((index for index, value in values.items() if index < best and top - value > cliff), default=-1)


def _by_improvement(
    points: Sequence[float],
    values: Mapping[int, float],
    unseen: list[int],
    edge: int,
    count: int,
    seed: int,
    scale: float,
) -> list[int] | None:
    """The proposal of the Gaussian process on `values`; None where its numbers fail.

    `edge`: the index that has fallen off the plateau, below all of `values` and `unseen`; -1: none.
    """
    import torch
    from botorch.acquisition import GenericMCObjective, LogExpectedImprovement, qLogExpectedImprovement
    from botorch.sampling import SobolQMCNormalSampler
    from linear_operator.utils.errors import NanError, NotPSDError

    def column(indices: Sequence[int]) -> torch.Tensor:
        return torch.tensor([[points[index]] for index in indices], dtype=torch.float64)

    seen = sorted(values)
    best = max(values.values())
    y = torch.tensor([[-math.log1p((best - values[index]) / scale)] for index in seen], dtype=torch.float64)
    low, high = (points[edge], points[seen[0]]) if edge >= 0 else (-2.0, -1.0)
    # The plateau's edge, anywhere between `low` and `high`: one place for each sample of the process.
    places = low + (high - low) * (torch.randperm(SAMPLES, dtype=torch.float64) + 0.5) / SAMPLES

    def on_plateau(samples: torch.Tensor, X: torch.Tensor) -> torch.Tensor:
        fallen = X[..., 0] < places.view(-1, *[1] * (X.dim() - 1))
        return torch.where(fallen, y.min() - 10.0, samples[..., 0])

    chosen: list[int] = []
    left = list(unseen)
    try:
        model = _fitted(column(seen), y)
        while len(chosen) < count:
            candidates = column(left)
            with torch.no_grad():
                if not chosen:
                    gains = LogExpectedImprovement(model, best_f=y.max())(candidates[:, None])
                    gains += torch.log(((candidates[:, 0] - low) / (high - low)).clamp(max=1))
                else:
                    gains = qLogExpectedImprovement(
                        model,
                        best_f=y.max(),
                        sampler=SobolQMCNormalSampler(torch.Size([SAMPLES]), seed=seed),
                        objective=GenericMCObjective(on_plateau),
                        X_pending=column(chosen),
                    )(candidates[:, None])
            if not bool(torch.isfinite(gains).all()):
                return None
            chosen.append(left.pop(int(gains.argmax())))
    except (NanError, NotPSDError, torch.linalg.LinAlgError):  # type: ignore[attr-defined]
        return None
    return chosen


def _fitted(x: Any, y: Any) -> Any:
    """`SingleTaskGP` on `x` [n, 1] in [0, 1], `y` [n, 1]; at the prior's median where the fit fails."""
    import torch
    from botorch.exceptions import ModelFittingError
    from botorch.fit import fit_gpytorch_mll
    from botorch.models import SingleTaskGP
    from botorch.models.transforms import Standardize
    from gpytorch.constraints import GreaterThan
    from gpytorch.kernels import MaternKernel
    from gpytorch.mlls import ExactMarginalLogLikelihood
    from gpytorch.priors import LogNormalPrior
    from linear_operator.utils.errors import NanError, NotPSDError

    def fresh() -> Any:
        kernel = MaternKernel(
            nu=2.5,
            lengthscale_prior=LogNormalPrior(math.log(LENGTHSCALE_MEDIAN), LENGTHSCALE_SIGMA),
            lengthscale_constraint=GreaterThan(LENGTHSCALE_MIN, initial_value=LENGTHSCALE_MEDIAN),
        )
        return SingleTaskGP(
            x,
            y,
            train_Yvar=torch.full_like(y, NOISE * float(y.var())),
            covar_module=kernel,
            outcome_transform=Standardize(m=1),
        )

    model = fresh()
    try:
        fit_gpytorch_mll(ExactMarginalLogLikelihood(model.likelihood, model))
    except (ModelFittingError, NanError, NotPSDError, torch.linalg.LinAlgError):  # type: ignore[attr-defined]
        model = fresh().eval()
    return model


def _furthest(points: Sequence[float], tried: list[int], unseen: list[int], count: int) -> list[int]:
    """Unseen points by their distance to everything tried or just chosen; the lower one on a tie."""
    near = list(tried)
    chosen: list[int] = []
    for _ in range(count):
        # Rounded: equal gaps of the grid differ in their last bits.
        gaps = {i: min((round(abs(points[i] - points[j]), 9) for j in near), default=1.0) for i in unseen}
        index = max((i for i in unseen if i not in chosen), key=lambda i: (gaps[i], -i))
        chosen.append(index)
        near.append(index)
    return chosen


@contextmanager
def _calm(seed: int) -> Iterator[None]:
    """One torch thread, a seeded CPU generator and no warnings inside; all as before outside.

    One thread: on ten to forty points a second one costs more than it gives. The fit draws random numbers
    only when it must start again. GPU generators are not touched.
    """
    import torch

    threads = torch.get_num_threads()
    state = torch.default_generator.get_state()
    torch.set_num_threads(1)
    torch.default_generator.manual_seed(seed)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.default_generator.set_state(state)
        torch.set_num_threads(threads)
