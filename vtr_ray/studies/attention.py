"""How much attention the instruction pays vision tokens, layer by layer (the paper's Figure 6)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vtr_ray.studies.finding import Finding, Table


def attention_by_layer(samples: Sequence[NDArray[np.float64]]) -> Finding:
    """Median and quartiles of vision tokens' scores per layer, over all tokens of all samples.

    samples: of each sample its scores, [L, N_s].
    """
    layers = len(samples[0])
    rows = []
    for layer in range(layers):
        scores = np.concatenate([one[layer] for one in samples])
        share = float(np.mean([one[layer].sum() for one in samples]))
        low, median, high = (float(value) for value in np.quantile(scores, [0.25, 0.5, 0.75]))
        rows.append((layer + 1, median, low, high, share))
    medians = [row[1] for row in rows]
    half = layers // 2
    early, late = float(np.mean(medians[:half])), float(np.mean(medians[half:]))
    shares = [row[4] for row in rows]
    holds = late < early
    return Finding(
        study="attention",
        title="Attention to vision tokens by layer",
        paper="Figure 6",
        claim="Vision tokens get less attention in deeper layers.",
        holds=holds,
        sentences=(
            f"Over {len(samples)} samples, the median score of a vision token is {early:.2e} in layers 1 to "
            f"{half} and {late:.2e} in layers {half + 1} to {layers}; it is largest in layer "
            f"{int(np.argmax(medians)) + 1} and smallest in layer {int(np.argmin(medians)) + 1}.",
            f"All vision tokens together get {shares[0]:.0%} of the instruction's attention in layer 1, "
            f"{max(shares):.0%} at most (layer {int(np.argmax(shares)) + 1}), {shares[-1]:.0%} in the last.",
        ),
        tables={
            "by_layer": Table(
                ("layer", "median", "lower quartile", "upper quartile", "of all vision tokens"), rows
            )
        },
        metrics={"median_early": early, "median_late": late},
    )
