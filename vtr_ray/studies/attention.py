"""How much attention the instruction pays vision tokens, layer by layer (the paper's Figure 6)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vtr_ray.studies.finding import Finding, Table, read, records
from vtr_ray.studies.verdict import mean_interval

_INEQUALITY = (
    "Holds where late - early < 0: per sample, the mean of the layers' median scores over the deeper half of "
    "the layers minus that over the other half; its mean over the samples with all of its 95 % interval. "
    "Does not hold where all of the interval is above 0."
)


def attention_by_layer(samples: Sequence[NDArray[np.float64]]) -> Finding:
    """Median and quartiles of vision tokens' scores per layer, over all tokens of all samples.

    samples: of each sample its scores, [L, N_s].

    The claim holds where `late - early < 0` by the t interval over the samples: of a sample, `early` is the
    mean over layers `1..L/2` of the median score of its tokens, `late` the same over the deeper layers.
    """
    layers = len(samples[0])
    rows = []
    for layer in range(layers):
        scores = np.concatenate([one[layer] for one in samples])
        share = float(np.mean([one[layer].sum() for one in samples]))
        low, median, high = (float(value) for value in np.quantile(scores, [0.25, 0.5, 0.75]))
        rows.append((layer + 1, median, low, high, share))
    half = layers // 2
    medians = np.array([[np.median(layer) for layer in one] for one in samples])
    halves = [
        (number + 1, float(own[:half].mean()), float(own[half:].mean())) for number, own in enumerate(medians)
    ]
    tables = {
        "by_layer": Table(
            ("layer", "median", "lower quartile", "upper quartile", "of all vision tokens"), rows
        ),
        "by_sample": Table(("sample", "early", "late"), halves),
    }
    return judged({name: table.to_dict() for name, table in tables.items()}, {})


def judged(tables: Mapping[str, Any], facts: Mapping[str, Any]) -> Finding:
    """Judge from the tables; without the samples' own numbers it cannot be told."""
    rows = [tuple(row) for row in tables["by_layer"]["rows"]]
    medians = [row[1] for row in rows]
    shares = [row[4] for row in rows]
    half = len(rows) // 2
    early, late = float(np.mean(medians[:half])), float(np.mean(medians[half:]))
    samples = records(tables["by_sample"]) if "by_sample" in tables else []
    mean, low, high = mean_interval([one["late"] - one["early"] for one in samples])
    holds = True if high < 0 else False if low > 0 else None
    count = f"Over {len(samples) or facts.get('samples', 'the')} samples, the"
    sentences = [
        f"{count} median score of a vision token is {early:.2e} in layers 1 to {half} and {late:.2e} in "
        f"layers {half + 1} to {len(rows)}; it is largest in layer {int(np.argmax(medians)) + 1} and "
        f"smallest in layer {int(np.argmin(medians)) + 1}.",
        f"All vision tokens together get {shares[0]:.0%} of the instruction's attention in layer 1, "
        f"{max(shares):.0%} at most (layer {int(np.argmax(shares)) + 1}), {shares[-1]:.0%} in the last.",
        f"Late minus early, sample by sample: {mean:+.2e} [{low:+.2e}, {high:+.2e}]."
        if len(samples) > 1
        else "With one sample chance cannot be told from a difference."
        if len(samples)
        else "The samples' own medians were not recorded, so that chance cannot be told from a difference.",
    ]
    return Finding(
        study="attention",
        title="Attention to vision tokens by layer",
        paper="Figure 6",
        claim="Vision tokens get less attention in deeper layers.",
        inequality=_INEQUALITY,
        holds=holds,
        sentences=tuple(sentences),
        tables={name: read(table) for name, table in tables.items()},
        metrics={"median_early": early, "median_late": late},
        facts=facts,
    )
