"""Synthetic plateau-and-cliff curves, and the bar that G-Search must reach on them."""

import math
from itertools import pairwise

import numpy as np
import pytest

from vtr_ray.search import GSearch
from vtr_ray.search.optimiser import spread
from vtr_ray.search.synthetic import KINDS, Kind, World, draw, greedy, layer_regrets, objective

BAR = 0.0005
SEEDS = range(20)


def curve(world: World) -> list[float]:
    n = world.vision_tokens
    return [world([1, 1] + [tokens / n] * (world.num_layers - 2)) for tokens in range(n + 1)]


def g_search(world: World, round_size: int = 1) -> GSearch:
    search = GSearch(world.num_layers, world.vision_tokens, iterations=5, round_size=round_size)
    while not search.finished:
        for trial in [trial for trial in (search.ask() for _ in range(round_size)) if trial]:
            rates = trial.schedule.rates
            search.tell(trial, world(rates), scores=world.scores(rates))
    return search


@pytest.mark.parametrize("kind", KINDS)
def test_curves_have_a_plateau_and_a_cliff(kind: Kind) -> None:
    for seed in range(5):
        world = draw(kind, seed)
        values = np.array(curve(world))
        cliff = world.cliffs[2]
        plateau = values[math.ceil(min(1, cliff * 1.5) * 144) :]
        assert values.min() >= 0 and values.max() <= 1
        assert values[-1] - values[0] > 0.15
        assert np.ptp(plateau) < 0.08
        assert np.diff(world.cliffs).max() <= 0
        assert draw(kind, seed)([1] * 12) == world([1] * 12)


def test_kinds_differ_as_said() -> None:
    steps = np.array(curve(draw("sampled", 3))) * 240
    assert np.allclose(steps, steps.round())
    assert all(low <= high for low, high in pairwise(steps))
    fickle = curve(draw("fickle", 3))
    assert any(low > high for low, high in pairwise(fickle))


def test_exhaustive_greedy_has_no_regret_at_any_layer() -> None:
    world = draw("fickle", 2, num_layers=9, vision_tokens=30)
    rates, most = greedy(world, lambda layer, top: range(top + 1))
    assert most == 31
    assert layer_regrets(world, rates) == [0] * 3
    worse, _ = greedy(world, lambda layer, top: [top])
    assert worse == [1] * 9
    assert max(layer_regrets(world, worse)) > 0


def check_bar(kind: Kind, layers: int, tokens: int, round_size: int = 1) -> None:
    regrets, by_layer, even = [], [], []
    for seed in SEEDS:
        world = draw(kind, seed, layers, tokens)
        goal = objective(world, greedy(world, lambda layer, top: range(top + 1))[0])
        search = g_search(world, round_size)
        assert max(len(layer.trials) for layer in search.layers) <= 15
        regrets.append(goal - objective(world, search.best.rates))
        by_layer.append(np.mean(layer_regrets(world, search.best.rates)))
        rates, _ = greedy(world, lambda layer, top: spread(top + 1, 15))
        even.append(np.mean(layer_regrets(world, rates)))
    assert np.mean(regrets) <= BAR
    assert np.mean(by_layer) <= BAR
    assert np.mean(by_layer) < np.mean(even)


@pytest.mark.parametrize("kind", ["smooth", "sampled"])
def test_g_search_is_within_the_bar_of_exhaustive_search(kind: Kind) -> None:
    check_bar(kind, 12, 144)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["smooth", "sampled"])
@pytest.mark.parametrize(("layers", "tokens", "round_size"), [(12, 144, 4), (32, 576, 1)])
def test_g_search_is_within_the_bar_in_rounds_and_on_large_models(
    kind: Kind, layers: int, tokens: int, round_size: int
) -> None:
    check_bar(kind, layers, tokens, round_size)
