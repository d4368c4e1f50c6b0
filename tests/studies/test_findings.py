"""What studies compute, against slow, obvious ways; and what they say of the paper's claims."""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
import pytest

from vtr_ray import strategies
from vtr_ray.report.studies import draw
from vtr_ray.studies.attention import attention_by_layer
from vtr_ray.studies.correlation import correlations, rank_correlation
from vtr_ray.studies.curves import keeping_rates
from vtr_ray.studies.tradeoff import Point, steepness_by_budget, trade_off


def tau(first: list[float], second: list[float]) -> float:
    """Pairs ranked the same way less those ranked the other way, by all pairs; there are no ties."""
    signs = [
        np.sign((first[i] - first[j]) * (second[i] - second[j]))
        for i, j in combinations(range(len(first)), 2)
    ]
    return float(np.mean(signs))


def test_tau_counts_pairs_that_two_layers_rank_alike() -> None:
    scores = np.random.default_rng(0).random((4, 15))
    found = correlations(scores)
    for i, j in combinations(range(4), 2):
        assert found[i, j] == found[j, i] == pytest.approx(tau(scores[i].tolist(), scores[j].tolist()))
    assert found.diagonal().tolist() == [1.0] * 4


def test_layers_that_rank_otherwise_are_named() -> None:
    rng = np.random.default_rng(1)
    alike, unrelated = [], []
    for _ in range(6):
        base = rng.random(40)
        alike.append(np.stack([rng.random(40), *(base + 0.02 * rng.random(40) for _ in range(4))]))
        unrelated.append(rng.random((5, 40)))
    held, broken = rank_correlation(alike), rank_correlation(unrelated)
    assert held.holds is True and broken.holds is False
    assert held.tables["consecutive"].rows[0][2] < 0.4 < 0.7 < held.metrics["tau_least"]
    assert len(held.tables["every_two"].rows) == 25
    assert any("Below 0.7" in sentence for sentence in broken.sentences)


def test_attention_is_the_median_over_all_tokens_of_all_samples() -> None:
    samples = [np.array([[0.1, 0.3], [0.02, 0.04]]), np.array([[0.5, 0.1, 0.2], [0.01, 0.03, 0.05]])]
    found = attention_by_layer(samples)
    first, second = found.tables["by_layer"].rows
    assert first[:2] == (1, pytest.approx(0.2)) and second[:2] == (2, pytest.approx(0.03))
    assert first[4] == pytest.approx((0.4 + 0.8) / 2)
    assert found.tables["by_sample"].rows == [
        (1, pytest.approx(0.2), pytest.approx(0.03)), (2, pytest.approx(0.2), pytest.approx(0.03)),
    ]  # fmt: skip


def test_a_curve_that_is_a_p_sigmoid_is_fitted() -> None:
    smooth = strategies.p_sigmoid(12, 0.4, 0.8)
    found = keeping_rates({"one": smooth})
    assert found.metrics["r2/one"] == pytest.approx(1, abs=1e-6)
    assert [row[2] for row in found.tables["rates"].rows] == list(smooth.rates)
    falls = [before - after for before, after in pairwise(smooth.rates)]
    assert found.metrics["largest_step/one"] == pytest.approx(max(falls) / (1 - smooth.rates[-1]))


def test_every_figure_draws_exactly_its_table() -> None:
    scores = [np.random.default_rng(2).random((5, 20)) for _ in range(3)]
    findings = [
        rank_correlation(scores),
        attention_by_layer(scores),
        keeping_rates({"one": strategies.p_sigmoid(12, 0.4, 0.8)}),
        trade_off([Point("P-Sigmoid", 0.5, 1.0, 0.5, 0.9), Point("P-Sigmoid", 0.75, 0.7, 0.4, 0.8)], []),
        steepness_by_budget({"one": [(1.0, 0.5, 0.2), (0.7, 0.3, 0.4)]}),
    ]
    for finding in findings:
        drawings = draw(finding)
        assert drawings
        for drawing in drawings:
            assert drawing.png.startswith(b"\x89PNG") and "<svg" in drawing.svg
            assert any(table.rows == drawing.rows for table in finding.tables.values())
