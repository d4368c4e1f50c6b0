"""Known functions E(schedule) with a plateau and a cliff, to measure searches without a model.

A `World` stands for a model and its search samples. Each layer `i` has a cliff `c_i`: the share of the
vision tokens that it needs, falling along the layers as a sigmoid (assumption 2 of the paper, section 3.2).

- `smooth`: `E = floor + (top - floor) * min_i logistic((r_i - c_i) / width)`, an endless number of samples;
- `sampled`: a finite number of questions, each right while `r_i` reaches its own need at every layer; needs
  lie around the cliff, in most worlds a few anywhere, so E moves in steps of `1 / samples` over a sloping
  plateau and never rises when tokens leave;
- `fickle`: as `sampled`, but one question in 50 flips to and fro with the rates, as real ones do, so that
  E has many small peaks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Kind = Literal["smooth", "sampled", "fickle"]
KINDS: tuple[Kind, ...] = ("smooth", "sampled", "fickle")


@dataclass(frozen=True)
class World:
    """A drawn function: call it with the rates of all layers, it gives E in [0, 1].

    `cliffs`: [L], rates. `needs`: [samples, L], the rate from which a question is right (above 1: never).
    `frequencies`, `phases`: [samples, L], when a fickle question flips; `fickle`: bool [samples].
    """

    kind: Kind
    num_layers: int
    vision_tokens: int
    cliffs: Floats
    floor: float
    top: float
    width: float
    needs: Floats
    frequencies: Floats
    phases: Floats
    fickle: NDArray[np.bool_]

    def __call__(self, rates: Sequence[float] | Floats) -> float:
        """E of the schedule with these `L` rates; the first two layers do not matter."""
        scores = self.scores(rates)
        if scores is not None:
            return float(scores.mean())
        r = np.asarray(rates, dtype=np.float64)[2:]
        gate = 1 / (1 + np.exp(np.minimum((self.cliffs[2:] - r) / self.width, 700)))
        return float(self.floor + (self.top - self.floor) * gate.min())

    def scores(self, rates: Sequence[float] | Floats) -> Floats | None:
        """1 for each right question, 0 for the others: [samples]. None in a smooth world: it has none."""
        if self.kind == "smooth":
            return None
        r = np.asarray(rates, dtype=np.float64)[2:]
        right = (r + 1e-9 >= self.needs[:, 2:]).all(axis=1)
        if self.kind == "fickle":
            waves = np.sin((self.frequencies[:, 2:] * r + self.phases[:, 2:]).sum(axis=1))
            right &= ~(self.fickle & (waves > 0.6))
        return np.asarray(right, dtype=np.float64)


def draw(kind: Kind, seed: int, num_layers: int = 12, vision_tokens: int = 144, samples: int = 240) -> World:
    """One world; the same arguments give the same one.

    The first reduced layer's cliff lies between 0.1 and 0.9 of the tokens, the last one's near 0.
    """
    rng = np.random.default_rng([KINDS.index(kind), seed, num_layers, vision_tokens, samples])
    layers = np.arange(1, num_layers + 1)
    middle = 3 + rng.uniform(0.2, 0.9) * (num_layers - 3)
    curve = 1 / (1 + np.exp(rng.uniform(0.15, 1.2) * 12 / num_layers * (layers - middle)))
    cliffs = rng.uniform(0.1, 0.9) * curve / curve[2]
    floor, top = rng.uniform(0.2, 0.5), rng.uniform(0.7, 0.98)

    # From cliffs of a single token to gentle ones, from flat plateaus to sloping ones.
    width, blur = np.exp(rng.uniform(np.log([0.0005, 0.002]), np.log([0.05, 0.15])))
    around = cliffs * np.exp(rng.normal(0, blur, size=(samples, 1)))
    anywhere = rng.uniform(size=(samples, 1)) * curve / curve[2]
    slope = max(0.0, rng.uniform(-0.04, 0.08))
    needs = np.minimum(np.where(rng.uniform(size=(samples, 1)) < slope, anywhere, around), 1)
    fate = rng.uniform(size=(samples, 1))
    needs = np.where(fate < floor, 0.0, np.where(fate < top, needs, 2.0))
    return World(
        kind=kind,
        num_layers=num_layers,
        vision_tokens=vision_tokens,
        cliffs=cliffs,
        floor=floor,
        top=top,
        width=float(width),
        needs=needs,
        frequencies=rng.uniform(2, 8, size=(samples, num_layers)),
        phases=rng.uniform(0, 2 * np.pi, size=(samples, num_layers)),
        fickle=rng.uniform(size=samples) < 0.02,
    )


def objective(world: World, rates: Sequence[float], weight: float = 0.01) -> float:
    """`E - weight * mean of r_3..r_L`: what a whole schedule is worth."""
    return world(rates) - weight * sum(rates[2:]) / len(rates[2:])


def layer_objective(world: World, earlier: Sequence[float], tokens: int, weight: float = 0.01) -> float:
    """G-Search's `f(r)` at the layer after `earlier`, `r = tokens / N` held by all deeper layers."""
    rate = tokens / world.vision_tokens
    return world([*earlier, *[rate] * (world.num_layers - len(earlier))]) - weight * rate


def greedy(
    world: World, points: Callable[[int, int], Iterable[int]], stride: int = 3, weight: float = 0.01
) -> tuple[list[float], int]:
    """Greedy search that tries given points: the oracle of G-Search, and its rivals.

    Args:
        world: the function.
        points: from (layer, tokens of the layer before) to the token counts to try, none above; all of them
            is exhaustive search. From the second searched layer on the upper end is free.
        stride: layers from one searched layer to the next.
        weight: what a keeping rate of 1 costs, in units of E.

    Returns:
        The rates of all layers, and the largest number of trials that a layer took.
    """
    rates, top, most = [1.0] * world.num_layers, world.vision_tokens, 0
    for layer in range(3, world.num_layers + 1, stride):
        known = {top} if layer > 3 else set()
        tried = set(points(layer, top)) | known
        most = max(most, len(tried - known))
        values = {tokens: layer_objective(world, rates[: layer - 1], tokens, weight) for tokens in tried}
        top = max(values, key=lambda tokens: (values[tokens], -tokens))
        rates[layer - 1 :] = [top / world.vision_tokens] * (world.num_layers - layer + 1)
    return rates, most


def layer_regrets(world: World, rates: Sequence[float], stride: int = 3, weight: float = 0.01) -> list[float]:
    """Per searched layer, the best `f` on its grid after the same earlier rates minus `f` of its rate."""
    regrets, top = [], world.vision_tokens
    for layer in range(3, world.num_layers + 1, stride):
        if top == 0:
            break
        values = [layer_objective(world, rates[: layer - 1], n, weight) for n in range(top + 1)]
        top = round(rates[layer - 1] * world.vision_tokens)
        regrets.append(max(values) - values[top])
    return regrets
