"""A stationary Gaussian process: BoTorch's `SingleTaskGP` on standardised outcomes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Lengthscales:
    """The log-normal prior of each column's lengthscale, and the least that is allowed."""

    median: float
    sigma: float
    least: float


# What is known of keeping-rate curves: they turn within a tenth to all of the range; E is deterministic.
CURVES = Lengthscales(0.3, 0.7, 0.01)
NOISE = 1e-6  # variance, of standardised outcomes


def fitted(
    x: Any,
    y: Any,
    lengthscales: Lengthscales = CURVES,
    columns: int | None = None,
    noise: float | None = NOISE,
) -> Any:
    """`SingleTaskGP` on `x` [n, d] in [0, 1], `y` [n, 1]; at the prior's median where the fit fails.

    columns: only the first so many are seen, each with a lengthscale of its own; None: all, with one.
    noise: variance of standardised outcomes; None: fitted.
    """
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
            ard_num_dims=columns,
            active_dims=None if columns is None else tuple(range(columns)),
            lengthscale_prior=LogNormalPrior(math.log(lengthscales.median), lengthscales.sigma),
            lengthscale_constraint=GreaterThan(lengthscales.least, initial_value=lengthscales.median),
        )
        return SingleTaskGP(
            x,
            y,
            train_Yvar=None if noise is None else torch.full_like(y, noise * float(y.var())),
            covar_module=kernel,
            outcome_transform=Standardize(m=1),
        )

    model = fresh()
    try:
        fit_gpytorch_mll(ExactMarginalLogLikelihood(model.likelihood, model))
    except (ModelFittingError, NanError, NotPSDError, torch.linalg.LinAlgError):  # type: ignore[attr-defined]
        model = fresh().eval()
    return model
