"""Which schedules promise most to push the front of E against a known cost: qLogNEHVI over candidates.

A Gaussian process (BoTorch `SingleTaskGP`, float64) models E alone: the cost is counted, not measured. The
acquisition is log noisy expected hypervolume improvement (Ament et al., NeurIPS 2023, arXiv 2310.20708) at
every candidate, one after the other for a round, those before being pending: no inner optimiser.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from vtr_ray.search.optimiser import calm
from vtr_ray.search.process import Lengthscales, fitted

LENGTHSCALES = Lengthscales(0.5, 0.7, 0.02)
SAMPLES = 64  # of the process
CHUNK = 256  # candidates scored at once


def propose_front(
    seen: Sequence[Sequence[float]],
    scores: Sequence[float],
    costs: Sequence[float],
    candidates: Sequence[Sequence[float]],
    candidate_costs: Sequence[float],
    reference: float,
    count: int = 1,
    seed: int = 0,
) -> list[int] | None:
    """Indices of the `count` candidates that promise most, the most promising first.

    The same arguments give the same candidates, whatever the global random state, which is left as it was.
    None where the numbers of the process fail, or there is nothing to learn from: less than two points.

    Args:
        seen: [n, d], what the model sees of the evaluated schedules, in [0, 1].
        scores: [n], their E.
        costs: [n], their costs; 1 is that of no reduction, beyond which nothing counts.
        candidates: [m, d]; `count` of them at most are taken.
        candidate_costs: [m].
        reference: E below which nothing counts.
        count: how many.
        seed: of the quasi-random samples.
    """
    if len(seen) < 2:
        return None
    if count >= len(candidates):
        return list(range(len(candidates)))
    with calm(seed):
        return _by_volume(seen, scores, costs, candidates, candidate_costs, reference, count, seed)


def _by_volume(
    seen: Sequence[Sequence[float]],
    scores: Sequence[float],
    costs: Sequence[float],
    candidates: Sequence[Sequence[float]],
    candidate_costs: Sequence[float],
    reference: float,
    count: int,
    seed: int,
) -> list[int] | None:
    import torch
    from botorch.acquisition.multi_objective.logei import qLogNoisyExpectedHypervolumeImprovement
    from botorch.acquisition.multi_objective.objective import GenericMCMultiOutputObjective
    from botorch.sampling import SobolQMCNormalSampler
    from linear_operator.utils.errors import NanError, NotPSDError

    def rows(points: Sequence[Sequence[float]], prices: Sequence[float]) -> torch.Tensor:
        # The cost travels as the last column, where only the objective looks at it.
        return torch.tensor([[*x, c] for x, c in zip(points, prices, strict=True)], dtype=torch.float64)

    def both(samples: torch.Tensor, X: torch.Tensor | None = None) -> torch.Tensor:
        assert X is not None
        return torch.stack([samples[..., 0], -X[..., -1].expand(samples.shape[:-1])], dim=-1)

    x, pool = rows(seen, costs), rows(candidates, candidate_costs)
    y = torch.tensor([[score] for score in scores], dtype=torch.float64)
    chosen: list[int] = []
    try:
        acquisition = qLogNoisyExpectedHypervolumeImprovement(
            model=fitted(x, y, LENGTHSCALES, columns=x.shape[-1] - 1, noise=None),  # the cost is unseen
            ref_point=[reference, -1.0],
            X_baseline=x,
            sampler=SobolQMCNormalSampler(torch.Size([SAMPLES]), seed=seed),
            objective=GenericMCMultiOutputObjective(both),
            prune_baseline=False,
        )
        while len(chosen) < count:
            if chosen:
                acquisition.set_X_pending(pool[chosen])
            with torch.no_grad():
                gains = torch.cat([acquisition(part[:, None]) for part in torch.split(pool, CHUNK)])
            gains[chosen] = -math.inf
            if bool(gains.isnan().any()):
                return None
            chosen.append(int(gains.argmax()))
    except (NanError, NotPSDError, torch.linalg.LinAlgError):  # type: ignore[attr-defined]
        return None
    return chosen
