"""Bayesian optimisation over a finite 1-D grid: which unseen points to try next. Pure functions.

A surrogate and log expected improvement (Ament et al., NeurIPS 2023, arXiv 2310.20708) at every unseen point:
no inner optimiser.
"""

from __future__ import annotations

import bisect
import math
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from vtr_ray.errors import InputError

Kind = Literal["shape", "paper"]
SAMPLES = 2048  # of the surrogate, over all its members, for the points of a round after the first
SHORTLIST, EACH_GAP = (
    48,
    2,
)  # such points are chosen among the best, and the best of each gap between tried ones


@dataclass(frozen=True)
class Surrogate:
    """How outcomes are modelled.

    kind: `shape`, a plateau, a cliff and roughness (`vtr_ray.search.shape`), and between tried points, where
        each sample's score is known, which samples change there (`vtr_ray.search.flips`); `paper`, a
        stationary Gaussian process.
    slope: outcomes are `E - slope x`; `shape` models E.
    samples: how many samples are behind E, which moves in steps of one; None: not known.
    """

    kind: Kind = "shape"
    slope: float = 0.0
    samples: int | None = None


@dataclass(frozen=True)
class Known:
    """What the trials of a line say, by index into its grid.

    values: finite outcomes, larger is better.
    excluded: never proposed and without an outcome (failed, or pending elsewhere).
    ceilings: of trials stopped early: an outcome is below this. No outcome either; never proposed.
    scores: of trials with an outcome, each sample's score, the same samples in the same order.
    """

    values: Mapping[int, float]
    excluded: Collection[int] = ()
    ceilings: Mapping[int, float] = field(default_factory=dict)
    scores: Mapping[int, Sequence[float]] = field(default_factory=dict)

    @property
    def tried(self) -> list[int]:
        """All indices that are not to be proposed, ascending."""
        return sorted({*self.values, *self.excluded, *self.ceilings})


def checked_kind(value: object, *kinds: Kind) -> Kind:
    """`value`, if it is one of `kinds`; InputError otherwise."""
    for kind in kinds:
        if value == kind:
            return kind
    raise InputError(f"surrogate is {value!r}; use {' or '.join(kinds)}.")


def spread(size: int, count: int) -> list[int]:
    """`count` indices spread uniformly over `0..size-1`, both ends among them, ascending, no repeats."""
    if size <= count:
        return list(range(size))
    return sorted({math.floor((size - 1) * step / (count - 1) + 0.5) for step in range(count)})


def propose(
    points: Sequence[float],
    known: Known,
    surrogate: Surrogate,
    count: int = 1,
    seed: int = 0,
    needed: float | None = None,
) -> list[int]:
    """The `count` unseen points that promise most, the most promising first; fewer where fewer are left.

    The same arguments give the same points, whatever the global random state, which is left as it was.
    Where no surrogate serves (constant outcomes, less than two of them) the points furthest from all
    tried ones are taken.

    Args:
        points: the grid, ascending, in [0, 1].
        known: what was tried.
        surrogate: how outcomes are modelled.
        count: how many points; from the second on, those before are pending (`qLogExpectedImprovement`).
        seed: of the quasi-random samples behind several points.
        needed: None: the largest outcome is sought; else the lowest point whose outcome is at least this.
    """
    unseen = sorted(set(range(len(points))) - set(known.tried))
    if needed is not None:
        reached = [index for index, value in known.values.items() if value >= needed]
        lower = [index for index in unseen if not reached or index < min(reached)]
        unseen = lower or unseen
    count = min(count, len(unseen))
    if count == len(unseen):
        return unseen
    values = known.values.values()
    if max(values, default=0.0) - min(values, default=0.0) > 1e-12:
        with calm(seed):
            chosen = _by_model(points, known, surrogate, unseen, count, seed, needed)
        if chosen is not None:
            return chosen
    return _furthest(points, known.tried, unseen, count)


def _by_model(
    points: Sequence[float],
    known: Known,
    surrogate: Surrogate,
    unseen: list[int],
    count: int,
    seed: int,
    needed: float | None,
) -> list[int] | None:
    """The proposal of the surrogate; None where its numbers fail."""
    import torch
    from linear_operator.utils.errors import NanError, NotPSDError

    try:
        model, best = model_of(points, known, surrogate)
        chosen: list[int] = []
        left = list(unseen)
        reached = [i for i, value in known.values.items() if needed is not None and value >= needed]
        ceiling = points[min(reached)] if reached else 1.0
        while len(chosen) < count:
            candidates, pending = column(points, left), column(points, chosen)
            with torch.no_grad():
                if needed is None:
                    gains = _improvement(model, best, candidates, pending, seed)
                else:
                    gains = _saving(model, needed, ceiling, candidates, pending, seed)
            if not bool(torch.isfinite(gains).all()):
                return None
            if not chosen and count > 1:
                left, gains = _shortlist(left, gains.tolist(), known.tried, count)
            chosen.append(left.pop(int(gains.argmax())))
    except (NanError, NotPSDError, torch.linalg.LinAlgError):  # type: ignore[attr-defined]
        return None
    return chosen


def _shortlist(
    unseen: Sequence[int], gains: Sequence[float], tried: Sequence[int], count: int
) -> tuple[list[int], Any]:
    """The most promising unseen points, and the best ones of each gap between tried points; with their gains.

    What joins a point of the round need not be scored everywhere: neighbours promise alike, and a pending
    point takes from them all.
    """
    import torch

    order = sorted(range(len(unseen)), key=lambda place: -gains[place])
    kept, by_gap = set(order[: max(SHORTLIST, count)]), dict[int, int]()
    for place in order:
        gap = bisect.bisect(tried, unseen[place])
        if by_gap.setdefault(gap, 0) < EACH_GAP:
            by_gap[gap] += 1
            kept.add(place)
    places = sorted(kept)
    return [unseen[place] for place in places], torch.tensor([gains[place] for place in places])


def column(points: Sequence[float], indices: Sequence[int]) -> Any:
    """Some points of a grid, as BoTorch takes them: [n, 1]."""
    import torch

    return torch.tensor([points[index] for index in indices], dtype=torch.float64).reshape(-1, 1)


def model_of(points: Sequence[float], known: Known, surrogate: Surrogate) -> tuple[Any, float]:
    """A BoTorch model of the outcomes, and the best of them."""
    import torch

    seen = sorted(known.values)
    x = column(points, seen)
    y = torch.tensor([[known.values[index]] for index in seen], dtype=torch.float64)
    if surrogate.kind == "shape":
        from vtr_ray.search.flips import FlipModel
        from vtr_ray.search.shape import ShapeModel

        below = sorted(known.ceilings)
        ceilings = torch.tensor([known.ceilings[index] for index in below], dtype=torch.float64)
        stopped = column(points, below)[:, 0], ceilings
        if known.scores.keys() >= known.values.keys():
            scores = torch.tensor([known.scores[index] for index in seen], dtype=torch.float64)
            return FlipModel(x[:, 0], y[:, 0], scores, surrogate.slope, *stopped), float(y.max())
        step = 1 / surrogate.samples if surrogate.samples else 0.0
        return ShapeModel(x[:, 0], y[:, 0], surrogate.slope, step, *stopped), float(y.max())
    from vtr_ray.search.process import fitted

    return fitted(x, y), float(y.max())


def _improvement(model: Any, best: float, candidates: Any, pending: Any, seed: int) -> Any:
    """Log expected improvement of each of `candidates` [n, 1] beside `pending` [p, 1]: [n]."""
    from botorch.acquisition import LogExpectedImprovement, qLogExpectedImprovement

    if not len(pending):
        return LogExpectedImprovement(model, best_f=best)(candidates[:, None])
    gains = qLogExpectedImprovement(model, best_f=best, sampler=_sampler(model, seed), X_pending=pending)
    return gains(candidates[:, None])


def _saving(model: Any, needed: float, ceiling: float, candidates: Any, pending: Any, seed: int) -> Any:
    """Expected fall below `ceiling` of the lowest point whose outcome is at least `needed`: [n]."""
    from botorch.acquisition import GenericMCObjective, qExpectedImprovement

    def saved(samples: Any, X: Any) -> Any:
        fall = (ceiling - X[..., 0]).unsqueeze(-2) if samples.dim() - 1 > X.dim() else ceiling - X[..., 0]
        return fall * (samples[..., 0] >= needed)

    gains = qExpectedImprovement(
        model,
        best_f=0.0,
        sampler=_sampler(model, seed),
        objective=GenericMCObjective(saved),
        X_pending=pending if len(pending) else None,
    )
    return gains(candidates[:, None])


def _sampler(model: Any, seed: int) -> Any:
    import torch
    from botorch.sampling import SobolQMCNormalSampler

    members = model.batch_shape.numel()
    return SobolQMCNormalSampler(torch.Size([SAMPLES // members]), seed=seed)


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
def calm(seed: int) -> Iterator[None]:
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
