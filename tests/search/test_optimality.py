"""The paper's argument (section 3.2): under assumptions 1 and 2 greedy search is optimal."""

import itertools
from collections.abc import Callable

import numpy as np
import pytest

from vtr_ray.search import GSearch

WEIGHT = 0.01
Counts = tuple[int, ...]


def objective(effectiveness: Callable[[Counts], float], counts: Counts, tokens: int) -> float:
    return effectiveness(counts) - WEIGHT * sum(counts) / len(counts) / tokens


def best_of_all(
    effectiveness: Callable[[Counts], float], reduced: int, tokens: int
) -> tuple[float, list[Counts]]:
    """All non-increasing token counts of the reduced layers: the largest objective and who has it."""
    values = {
        counts: objective(effectiveness, counts, tokens)
        for counts in itertools.product(range(tokens + 1), repeat=reduced)
        if all(a >= b for a, b in itertools.pairwise(counts))
    }
    top = max(values.values())
    return top, [counts for counts, value in values.items() if value > top - 1e-12]


def greedy(effectiveness: Callable[[Counts], float], reduced: int, tokens: int) -> Counts:
    """G-Search with every grid point of every layer tried."""
    search = GSearch(2 + reduced, tokens, stride=1, initial=tokens + 1, weight=WEIGHT)
    while not search.finished:
        trial = search.ask()
        assert trial is not None
        search.tell(trial, effectiveness(tuple(trial.schedule.counts(tokens)[2:])))
    return tuple(search.best.counts(tokens)[2:])


def by_tokens(
    rankings: list[list[int]], answered: Callable[[int, frozenset[int]], bool], counts: Counts
) -> bool:
    """Whether a question is right: Sort & Reduce on actual token sets, checked at every layer.

    `rankings[j]`: tokens, best first, as reduced layer `j` ranks them; `answered(j, kept)`: does layer `j`
    have what it needs. Removed tokens never return.
    """
    kept = frozenset(rankings[0])
    for j, count in enumerate(counts):
        kept = frozenset([token for token in rankings[j] if token in kept][:count])
        if not answered(j, kept):
            return False
    return True


@pytest.mark.parametrize("seed", range(10))
def test_greedy_is_optimal_where_the_assumptions_hold(seed: int) -> None:
    # One ranking per question for all layers (assumption 1); the top m_j tokens are essential at layer j and
    # m_j never increases (assumption 2); one question is worth more than all tokens (1/8 > 0.01).
    tokens, reduced, questions = 6, 4, 8
    rng = np.random.default_rng(seed)
    rankings = [rng.permutation(tokens).tolist() for _ in range(questions)]
    needs = np.sort(rng.integers(0, tokens + 1, size=(questions, reduced)), axis=1)[:, ::-1]
    if seed % 2:  # not all questions need everything at the start
        needs = np.minimum(needs, rng.integers(1, tokens))

    def effectiveness(counts: Counts) -> float:
        right = 0
        for ranking, need in zip(rankings, needs, strict=True):
            right += by_tokens(
                [ranking] * reduced, lambda j, kept, r=ranking, n=need: kept >= frozenset(r[: n[j]]), counts
            )
        return right / questions

    found = greedy(effectiveness, reduced, tokens)
    top, winners = best_of_all(effectiveness, reduced, tokens)
    assert found in winners
    assert objective(effectiveness, found, tokens) == pytest.approx(top, abs=1e-12)
    assert found == tuple(needs.max(axis=0))


def test_greedy_is_not_optimal_where_the_ranking_changes() -> None:
    # Tokens 0 and 1 together answer, and so does 2 alone. The first reduced layer ranks 2 last, deeper ones
    # first (assumption 1 broken). Greedy removes 2 at once and must keep two tokens for ever; keeping all
    # three for one layer would have let one token do.
    tokens, reduced = 3, 4
    rankings = [[0, 1, 2], [2, 0, 1], [2, 0, 1], [2, 0, 1]]

    def effectiveness(counts: Counts) -> float:
        return float(by_tokens(rankings, lambda j, kept: kept >= {0, 1} or 2 in kept, counts))

    found = greedy(effectiveness, reduced, tokens)
    top, winners = best_of_all(effectiveness, reduced, tokens)
    assert found == (2, 2, 2, 2)
    assert winners == [(3, 1, 1, 1)]
    assert top - objective(effectiveness, found, tokens) == pytest.approx(WEIGHT * 2 / 12)
