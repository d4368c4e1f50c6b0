"""The surrogate that sees which samples change between two tried rates."""

from __future__ import annotations

import torch
from torch import Tensor

from vtr_ray.search.shape import ShapeModel

GENTLE = 0.003  # of the cliff's fall, what every gap has beside it: gains that are no cliff's come evenly
HIDDEN = 0.1  # deviation midway between two tried points, in samples, of changes that cancel out


class FlipModel(ShapeModel):
    """A plateau and a cliff, which say where samples change; how many do, and which way, is known.

    Between neighbouring tried rates `a < b` every sample whose score differs has changed somewhere. One that
    gains with the rate does so where the member's cliff rises, `F` growing from 0 at `a` to 1 at `b`; one
    that loses, anywhere, `u = (x - a) / (b - a)`. With the gains and losses `g_i`, `l_i` of N samples

        mean(x)    = E(a) + (E(b) - E(a) + L) F(x) - L u(x),  L = sum l_i / N
        cov(x, z)  = sum g_i^2 / N^2 F(x) (1 - F(z)) + sum l_i^2 / N^2 u(x) (1 - u(z)),  x <= z

    so E may lie above both of its neighbours where samples are lost as well as gained. Different gaps are
    independent; outside all of them the `ShapeModel` says what it says.

    x, y, slope, below, ceilings: as `ShapeModel` takes them. scores: [n, N], each sample's at `x`, in [0, 1].
    """

    def __init__(
        self,
        x: Tensor,
        y: Tensor,
        scores: Tensor,
        slope: float,
        below: Tensor | None = None,
        ceilings: Tensor | None = None,
    ) -> None:
        samples = scores.shape[1]
        super().__init__(x, y, slope, 1 / samples, below, ceilings)
        change = scores[x.argsort()].diff(dim=0) / samples
        gain, loss = change.clamp(min=0), (-change).clamp(min=0)
        self._gained, self._lost = (gain**2).sum(1), loss.sum(1)  # [n - 1], as all of these
        self._turned = (loss**2).sum(1) + 4 * (HIDDEN / samples) ** 2

    def _moments(self, points: Tensor) -> tuple[Tensor, Tensor]:
        x = self._x
        gap = (torch.searchsorted(x, points.contiguous(), right=True) - 1).clamp(0, len(x) - 2)  # [B, q]
        inside = (points >= x[0]) & (points <= x[-1])
        even = ((points - x[gap]) / (x[gap + 1] - x[gap])).clamp(0, 1)
        falls = self._space.falls(points).transpose(-1, -2)  # [B, q, M]
        above, under = self._train_falls.T[gap], self._train_falls.T[gap + 1]
        rising = (GENTLE * even.unsqueeze(-1) + above - falls) / (GENTLE + above - under)
        rising, even = rising.clamp(0, 1).transpose(-1, -2), even.unsqueeze(-2)  # [B, M, q], [B, 1, q]

        lost = self._lost[gap].unsqueeze(-2)
        net = (self._y[gap + 1] - self._y[gap]).unsqueeze(-2)
        mean = self._y[gap].unsqueeze(-2) + (net + lost) * rising - lost * even
        mean = mean + self._top - self._slope * points.unsqueeze(-2)
        gained, turned = self._gained[gap][:, None, :, None], self._turned[gap][:, None, :, None]
        covariance = gained * _bridge(rising) + turned * _bridge(even)
        covariance = torch.where((gap.unsqueeze(-1) == gap.unsqueeze(-2)).unsqueeze(1), covariance, 0.0)
        covariance = covariance + torch.full_like(covariance[..., 0], 1e-12).diag_embed()
        if bool(inside.all()):
            return mean, covariance
        elsewhere, around = super()._moments(points)
        known, pairs = inside.unsqueeze(1), (inside.unsqueeze(-1) & inside.unsqueeze(-2)).unsqueeze(1)
        unknown = (~inside.unsqueeze(-1) & ~inside.unsqueeze(-2)).unsqueeze(1)
        return (
            torch.where(known, mean, elsewhere),
            torch.where(pairs, covariance, torch.where(unknown, around, 0.0)),
        )


def _bridge(clock: Tensor) -> Tensor:
    """Covariance of having changed by `clock` [..., q], a change being uniform in [0, 1]: [..., q, q]."""
    one, other = clock.unsqueeze(-1), clock.unsqueeze(-2)
    return torch.minimum(one, other) * (1 - torch.maximum(one, other))
