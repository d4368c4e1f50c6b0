"""The surrogate that knows the shape of E over the keeping rate: a plateau, a cliff, and roughness.

On a line of rates `x` in [0, 1] it models

    E(x) = a + s (x - 1) - d q(x) + w(x)

where `q` falls from 1 to 0 at an edge `c` (logistic, or Weibull: a cliff that ends in a gentle bend) and `w`
is a stationary Gaussian process. `a`, `s` and `d` are Gaussian and integrated out; the shape of `q` and the
roughness of `w` are drawn from a finite set of hypotheses, weighed by their evidence. So nothing is fitted by
gradients, and what the trials leave open - the edge lies anywhere between two tried points - stays open.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from botorch.models.model import Model
from botorch.posteriors.gpytorch import GPyTorchPosterior
from gpytorch.distributions import MultivariateNormal
from torch import Tensor

LEVEL, SLOPE = 0.1, 0.01  # prior deviations of a and s, in units of E
DROPS = (
    (0.45, 0.17),
    (0.05, 0.02),
)  # prior means and deviations of d: far from below 0, as E does not rise there
ROUGHNESS = (1e-4, 1e-3, 3e-3)  # deviation of w, in units of E
LENGTHS = (0.03, 0.1, 0.4)  # over which w turns
MISFIT = (0.01, 0.1)  # of the depth below the best point: no cliff has exactly the form of `q`
LOGISTIC = (0.0, 0.002, 0.006, 0.02, 0.05, 0.12)  # widths; 0: a step
WEIBULL = (1.0, 2.0, 5.0)  # exponents
EDGES, FEWEST = 160, 3  # places of the edge, over the line and at least between two neighbouring tried points
NO_CLIFF = 0.02  # prior probability
CHANCE = 0.3  # of the binomial deviation that so many samples give E at a depth below the best point
MEMBERS = 64  # hypotheses kept, drawn by weight


@dataclass(frozen=True)
class Hypotheses:
    """`q` by its form. kind: [H], -1 none, 0 logistic, 1 Weibull; edge, form: [H]; log_prior: [H]."""

    kind: Tensor
    edge: Tensor
    form: Tensor
    log_prior: Tensor

    def take(self, index: Tensor) -> Hypotheses:
        """Some of them."""
        return Hypotheses(self.kind[index], self.edge[index], self.form[index], self.log_prior[index])

    def falls(self, x: Tensor) -> Tensor:
        """`q` at `x` [..., n] under each: [..., H, n]."""
        x = x.unsqueeze(-2)
        edge, form = self.edge.unsqueeze(-1), self.form.unsqueeze(-1)
        width = form.clamp(min=1e-9)
        logistic = torch.sigmoid(((edge - x) / width).clamp(-60, 60))
        weibull = torch.exp(-((x / edge.clamp(min=1e-9)) ** form.clamp(min=1.0)).clamp(max=60))
        kind = self.kind.unsqueeze(-1)
        return torch.where(kind == 0, logistic, torch.where(kind == 1, weibull, torch.zeros_like(logistic)))


def hypotheses(tried: Tensor) -> Hypotheses:
    """The finite set: edges between the tried points `tried` [n], ascending; each form at each edge."""
    bounds = tried.new_tensor(sorted({0.0, *tried.tolist(), 1.0}))
    gaps = bounds.diff()
    count = max(FEWEST, EDGES // len(gaps))
    places = (torch.arange(count, dtype=tried.dtype) + 0.5) / count
    edges = (bounds[:-1, None] + gaps[:, None] * places).reshape(-1)
    mass = (gaps[:, None] / count).expand(-1, count).reshape(-1).log()
    forms = [(0, width) for width in LOGISTIC] + [(1, exponent) for exponent in WEIBULL]
    kind = torch.tensor([-1] + [k for k, _ in forms for _ in edges])
    form = tried.new_tensor([1.0] + [f for _, f in forms for _ in edges])
    edge = torch.cat([tried.new_tensor([1.0]), edges.repeat(len(forms))])
    prior = torch.cat(
        [
            tried.new_tensor([math.log(NO_CLIFF)]),
            mass.repeat(len(forms)) + math.log((1 - NO_CLIFF) / len(forms)),
        ]
    )
    return Hypotheses(kind, edge, form, prior)


def _rough(x: Tensor, y: Tensor, length: Tensor) -> Tensor:
    """Matern-3/2 correlation of `x` [..., n] with `y` [..., m]: [..., n, m]."""
    far = math.sqrt(3) * (x.unsqueeze(-1) - y.unsqueeze(-2)).abs() / length.unsqueeze(-1).unsqueeze(-1)
    return (1 + far) * torch.exp(-far)


def _linear(x: Tensor, y: Tensor) -> Tensor:
    """Covariance that `a` and `s` give: [..., n, m]."""
    return LEVEL**2 + SLOPE**2 * (x.unsqueeze(-1) - 1) * (y.unsqueeze(-2) - 1)


class ShapeModel(Model):  # type: ignore[misc]
    """An ensemble of Gaussian processes with known hyperparameters, for BoTorch's acquisition functions.

    x: [n], rates in [0, 1]; y: [n], outcomes `E - slope x`, as the posterior gives them; E is modelled.
    resolution: the step of E (1 / samples); 0: not known.
    below, ceilings: [m], where an outcome is only known to be less than so much: this weighs the hypotheses.
    """

    _is_ensemble = True
    num_outputs = 1

    def __init__(
        self,
        x: Tensor,
        y: Tensor,
        slope: float,
        resolution: float = 0.0,
        below: Tensor | None = None,
        ceilings: Tensor | None = None,
    ) -> None:
        super().__init__()
        x, order = x.sort()
        y = y[order] + slope * x
        self._x, self._slope, self._top = x, slope, float(y.max())
        self._y, self._resolution = y - self._top, resolution
        space = hypotheses(x)
        self._falls = space.falls(x)  # [H, n]
        bases = [(r, length, m) for r in ROUGHNESS for length in LENGTHS for m in MISFIT]
        evidence = torch.cat([self._evidence(self._y, *base, resolution) for base in bases])  # [G, H]
        grid = [(*base, *drop) for base in bases for drop in DROPS]
        weights = (evidence + space.log_prior).reshape(-1).softmax(0)
        table = x.new_tensor(grid)
        censored = below is not None and ceilings is not None and len(below) > 0
        chosen = _systematic(weights, MEMBERS * (8 if censored else 1))
        base, index = chosen // len(space.edge), chosen % len(space.edge)
        self._condition(space.take(index), table[base])
        if below is not None and ceilings is not None and censored:
            mean, covariance = ShapeModel._moments(self, below[:, None])
            deviation = covariance[..., 0, 0].sqrt()
            likely = torch.special.log_ndtr((ceilings[:, None] - mean[..., 0]) / deviation)
            again = _systematic(likely.sum(0).softmax(0), MEMBERS)
            self._condition(space.take(index[again]), table[base[again]])

    def _condition(self, space: Hypotheses, table: Tensor) -> None:
        """Take these hypotheses as the members; `table`: roughness, length, misfit and drop of each."""
        self._space, self._members = space, len(table)
        self._roughness, self._length, self._misfit, self._drop, self._doubt = table.unbind(-1)
        x = self._x.expand(self._members, -1)
        self._train_falls = space.falls(self._x)
        noise = _noise(self._y, self._misfit, self._resolution)
        gram = self._prior(x, x, self._train_falls, self._train_falls) + noise.diag_embed()
        factor = torch.linalg.cholesky(gram)
        eye = torch.eye(len(self._x), dtype=x.dtype).expand_as(factor)
        self._inverse = torch.linalg.solve_triangular(factor, eye, upper=False)
        rest = self._y + self._drop.unsqueeze(-1) * self._train_falls
        self._alpha = self._inverse.transpose(-1, -2) @ (self._inverse @ rest.unsqueeze(-1))

    @property
    def batch_shape(self) -> torch.Size:
        """One Gaussian process for each member."""
        return torch.Size([self._members])

    def _prior(self, x: Tensor, z: Tensor, falls_x: Tensor, falls_z: Tensor) -> Tensor:
        """Prior covariance under each member; `x`: [..., M, n], `z`: [..., M, m]."""
        rough = self._roughness[:, None, None] ** 2 * _rough(x, z, self._length)
        fall = self._doubt[:, None, None] ** 2 * falls_x.unsqueeze(-1) * falls_z.unsqueeze(-2)
        return rough + _linear(x, z) + fall

    def _evidence(
        self, y: Tensor, roughness: float, length: float, misfit: float, resolution: float
    ) -> Tensor:
        """Log evidence of every `DROPS` and form of `q`, [2, H]: one factorisation, then rank-one steps."""
        x = self._x
        base = _linear(x, x) + roughness**2 * _rough(x, x, x.new_tensor(length))
        base = base + _noise(y, x.new_tensor([misfit]), resolution)[0].diag_embed()
        factor = torch.linalg.cholesky(base)
        both = torch.cat([y.unsqueeze(-1), self._falls.T], dim=1)
        solved = torch.linalg.solve_triangular(factor, both, upper=False)
        z, u = solved[:, 0], solved[:, 1:]
        found = []
        for drop, doubt in DROPS:
            rest = z.unsqueeze(-1) + drop * u  # of y + drop q
            size, along = 1 + doubt**2 * (u * u).sum(0), (u * rest).sum(0)
            quadratic = (rest * rest).sum(0) - doubt**2 * along**2 / size
            found.append(-0.5 * (quadratic + size.log()) - factor.diagonal().log().sum())
        return torch.stack(found)

    def posterior(
        self,
        X: Tensor,
        output_indices: list[int] | None = None,
        observation_noise: bool | Tensor = False,
        posterior_transform: Any = None,
    ) -> GPyTorchPosterior:
        """Of `E - slope x` at `X` [..., q, 1]: batch shape [..., M]."""
        batch, q = X.shape[:-2], X.shape[-2]
        mean, covariance = self._moments(X[..., 0].reshape(-1, q))
        normal = MultivariateNormal(
            mean.reshape(*batch, self._members, q), covariance.reshape(*batch, self._members, q, q)
        )
        posterior = GPyTorchPosterior(normal)
        return posterior if posterior_transform is None else posterior_transform(posterior)

    def _moments(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Mean [B, M, q] and covariance [B, M, q, q] of `E - slope x` at `points` [B, q]."""
        q, flat = points.shape[-1], points.reshape(-1)
        # All points side by side: one product for each member, however many batches there are.
        everywhere = flat.expand(self._members, -1)
        train = self._x.expand(self._members, -1)
        cross = self._prior(train, everywhere, self._train_falls, self._space.falls(flat))  # [M, n, points]
        mean = (self._alpha * cross).sum(-2) - self._drop.unsqueeze(-1) * self._space.falls(flat)
        mean = mean + self._top - self._slope * flat
        solved = (self._inverse @ cross).reshape(self._members, -1, flat.numel() // q, q)
        x = flat.reshape(-1, 1, q).expand(-1, self._members, -1)
        falls = self._space.falls(flat.reshape(-1, q))
        explained = (
            (solved.unsqueeze(-1) * solved.unsqueeze(-2)).sum(1).transpose(0, 1)
        )  # few points: q is small
        covariance = self._prior(x, x, falls, falls) - explained
        depth = self._top - (mean + self._slope * flat)
        chance = _chance(depth, self._resolution).reshape(self._members, -1, q).transpose(0, 1)
        covariance = covariance + (chance + 1e-12).diag_embed()
        return mean.reshape(self._members, -1, q).transpose(0, 1), covariance


def _noise(y: Tensor, misfit: Tensor, resolution: float) -> Tensor:
    """Variance that no form explains, [M, n]: part of the depth, and the chance of the samples."""
    deviation = misfit.unsqueeze(-1) * -y
    return deviation**2 + _chance(-y, resolution) + 1e-10


def _chance(depth: Tensor, resolution: float) -> Tensor:
    """Variance of E at `depth` below the plateau, as of samples that each fall off at a rate of their own."""
    return CHANCE**2 * resolution * depth.clamp(0, 1)


def _systematic(weights: Tensor, count: int) -> Tensor:
    """`count` indices by systematic resampling, the same for the same weights."""
    places = (torch.arange(count, dtype=weights.dtype) + 0.5) / count
    return torch.searchsorted(weights.cumsum(0).contiguous(), places).clamp(max=len(weights) - 1)
