"""The shape surrogate against its definition, written out densely."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from vtr_ray.search import shape
from vtr_ray.search.shape import ShapeModel, hypotheses

X = np.array([0.0, 0.2, 0.3, 0.45, 0.7, 1.0])
Y = np.array([0.31, 0.52, 0.74, 0.90, 0.91, 0.905])
SLOPE, STEP = 0.02, 1 / 300


def model() -> ShapeModel:
    return ShapeModel(torch.tensor(X), torch.tensor(Y), SLOPE, STEP)


def fall(kind: int, edge: float, form: float, x: np.ndarray) -> np.ndarray:
    if kind < 0:
        return np.zeros_like(x)
    if kind == 0:
        return 1 / (1 + np.exp(np.clip((x - edge) / max(form, 1e-9), -60, 60)))
    return np.exp(-np.minimum((x / edge) ** form, 60))


def covariance(x: np.ndarray, z: np.ndarray, roughness: float, length: float) -> np.ndarray:
    """Of a + s (x - 1) + w."""
    far = math.sqrt(3) * abs(x[:, None] - z[None, :]) / length
    line = shape.LEVEL**2 + shape.SLOPE**2 * np.outer(x - 1, z - 1)
    return line + roughness**2 * (1 + far) * np.exp(-far)


def noise(misfit: float) -> np.ndarray:
    e = Y + SLOPE * X
    depth = e.max() - e
    return np.diag((misfit * depth) ** 2 + chance(depth) + 1e-10)


def chance(depth: np.ndarray) -> np.ndarray:
    """Binomial variance."""
    return shape.CHANCE**2 * STEP * np.clip(depth, 0, 1)


@pytest.mark.parametrize(("roughness", "length", "misfit"), [(1e-3, 0.1, 0.1), (0.01, 0.03, 0.01)])
def test_evidence_is_the_density_of_the_outcomes(roughness: float, length: float, misfit: float) -> None:
    ours, space = model(), hypotheses(torch.tensor(X))
    e = Y + SLOPE * X - (Y + SLOPE * X).max()
    found = ours._evidence(torch.tensor(e), roughness, length, misfit, STEP)
    base = covariance(X, X, roughness, length) + noise(misfit)
    constant = 0.5 * len(X) * math.log(2 * math.pi)  # left out: the same for all
    for number, (drop, doubt) in enumerate(shape.DROPS):
        for h in range(0, len(space.edge), 37):
            q = fall(int(space.kind[h]), float(space.edge[h]), float(space.form[h]), X)
            normal = stats.multivariate_normal(-drop * q, base + doubt**2 * np.outer(q, q))
            assert float(found[number, h]) == pytest.approx(normal.logpdf(e) + constant, rel=1e-6, abs=1e-6)


def test_posterior_is_that_of_each_members_gaussian_process() -> None:
    ours = model()
    z = np.array([0.25, 0.5, 0.95])
    with torch.no_grad():
        posterior = ours.posterior(torch.tensor(z)[None, :, None])  # one batch of three points
    assert posterior.mean.shape == (1, shape.MEMBERS, 3, 1)
    e = Y + SLOPE * X
    for m in range(0, shape.MEMBERS, 9):
        member = ours._space
        parts = int(member.kind[m]), float(member.edge[m]), float(member.form[m])
        roughness, length = float(ours._roughness[m]), float(ours._length[m])
        both = np.concatenate([X, z])
        q = fall(*parts, both)
        drop, doubt = float(ours._drop[m]), float(ours._doubt[m])
        full = covariance(both, both, roughness, length) + doubt**2 * np.outer(q, q)
        n = len(X)
        gram = full[:n, :n] + noise(float(ours._misfit[m]))
        weights = np.linalg.solve(gram, full[:n, n:])
        mean = weights.T @ (e - e.max() + drop * q[:n]) - drop * q[n:] + e.max() - SLOPE * z
        spread = full[n:, n:] - weights.T @ full[:n, n:]
        spread += np.diag(chance(e.max() - (mean + SLOPE * z)))
        np.testing.assert_allclose(posterior.mean[0, m, :, 0].numpy(), mean, atol=1e-7)
        got = posterior.distribution.covariance_matrix[0, m].numpy()
        np.testing.assert_allclose(got, spread, atol=1e-7)


def test_hypotheses_cover_the_line_with_probability_one_and_leave_no_gap() -> None:
    tried = torch.tensor([0.0, 0.25, 1.0], dtype=torch.float64)
    space = hypotheses(tried)
    assert float(space.log_prior.exp().sum()) == pytest.approx(1)
    steps = space.edge[(space.kind == 0) & (space.form == 0)].sort().values
    assert float(steps.diff().max()) <= 0.75 * 2 / shape.EDGES + 1e-12
    assert float(steps[0]) > 0 and float(steps[-1]) < 1


def test_members_agree_where_the_cliff_is_seen_and_differ_where_it_is_not() -> None:
    x = torch.linspace(0, 1, 11, dtype=torch.float64)
    y = torch.where(x > 0.55, 0.9, 0.2).to(torch.float64)
    edges = ShapeModel(x, y, 0.0, 1 / 500)._space.edge
    assert float(edges.min()) > 0.45 and float(edges.max()) < 0.65
    assert float(edges.max() - edges.min()) > 0.05  # anywhere between two tried points
