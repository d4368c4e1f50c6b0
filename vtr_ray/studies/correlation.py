"""Rank correlation of vision tokens' scores between layers (the paper's Figures 1a, 1b, 8 and 9)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau

from vtr_ray.studies.finding import Finding, Table

_HIGH = 0.7  # of tau: what the caption of Figure 1 calls high


def correlations(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Kendall's tau-b between every two layers of one sample.

    scores: [L, N], of each layer its scores of the vision tokens. Gives [L, L]; NaN where a layer scores all
    tokens alike.
    """
    layers = len(scores)
    found = np.eye(layers)
    for first in range(layers):
        for second in range(first + 1, layers):
            tau = kendalltau(scores[first], scores[second]).statistic
            found[first, second] = found[second, first] = tau
    return found


def rank_correlation(samples: Sequence[NDArray[np.float64]]) -> Finding:
    """Mean and spread over samples, of consecutive layers and of every two.

    samples: of each sample its scores, [L, N_s].
    """
    every = np.stack([correlations(scores) for scores in samples])
    mean, spread = np.nanmean(every, axis=0), np.nanstd(every, axis=0)
    layers = len(mean)
    pairs = [(i + 1, i + 2, float(mean[i, i + 1]), float(spread[i, i + 1])) for i in range(layers - 1)]
    after_first = [tau for first, _, tau, _ in pairs if first >= 2]
    low, high = min(after_first), max(after_first)
    jump = pairs[0][2]
    holds = low >= _HIGH
    sentences = [
        f"Over {len(samples)} samples, Kendall's tau between consecutive layers is {jump:.2f} from layer 1 "
        f"to 2, and {np.mean(after_first):.2f} on average from layer 2 on ({low:.2f} to {high:.2f}).",
        f"Between layers 2 and {layers} it is {mean[1, -1]:.2f}.",
    ]
    if not holds:
        weak = [f"{i} and {j}" for i, j, tau, _ in pairs if i >= 2 and tau < _HIGH]
        which = "all of them" if len(weak) == len(after_first) else f"layers {', '.join(weak)}"
        sentences.append(f"Below {_HIGH} are {which}: there a layer would rank tokens differently.")
    return Finding(
        study="correlation",
        title="Rank correlation of vision tokens between layers",
        paper="Figures 1a, 1b, 8, 9",
        claim="After the first layer vision tokens keep their relative importance from layer to layer.",
        holds=holds,
        sentences=tuple(sentences),
        tables={
            "consecutive": Table(("layer", "next", "tau", "standard deviation"), pairs),
            "every_two": Table(
                ("layer", "other", "tau", "standard deviation"),
                [
                    (i + 1, j + 1, float(mean[i, j]), float(spread[i, j]))
                    for i in range(layers)
                    for j in range(layers)
                ],
            ),
        },
        metrics={"tau_first": jump, "tau_after": float(np.mean(after_first)), "tau_least": low},
    )
