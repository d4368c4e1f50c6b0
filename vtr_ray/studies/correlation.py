"""Rank correlation of vision tokens' scores between layers (the paper's Figures 1a, 1b, 8 and 9)."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau

from vtr_ray.studies.finding import Finding, Table, read, records
from vtr_ray.studies.verdict import every, t_interval

_HIGH = 0.7  # of tau: what the caption of Figure 1 calls high
_INEQUALITY = (
    f"Holds where tau >= {_HIGH} between every two consecutive layers from layer 2 on, with all of its 95 % "
    f"interval over the samples. Does not hold where one of these intervals is below {_HIGH}."
)


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

    The claim holds where `tau(i, i + 1) >= 0.7` for every layer `i >= 2`, by the t interval over the samples.
    """
    every_sample = np.stack([correlations(scores) for scores in samples])
    # A layer that scores all tokens alike has no tau; where no sample has one, neither has the mean.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        mean, spread = np.nanmean(every_sample, axis=0), np.nanstd(every_sample, axis=0)
    count = (~np.isnan(every_sample)).sum(axis=0)
    layers = len(mean)
    places = [(i, i + 1) for i in range(layers - 1)]
    pairs = [(i + 1, j + 1, float(mean[i, j]), float(spread[i, j]), int(count[i, j])) for i, j in places]
    tables = {
        "consecutive": Table(("layer", "next", "tau", "standard deviation", "samples"), pairs),
        "every_two": Table(
            ("layer", "other", "tau", "standard deviation"),
            [
                (i + 1, j + 1, float(mean[i, j]), float(spread[i, j]))
                for i in range(layers)
                for j in range(layers)
            ],
        ),
    }
    return judged({name: table.to_dict() for name, table in tables.items()}, {})


def judged(tables: Mapping[str, Any], facts: Mapping[str, Any]) -> Finding:
    """Judge from the tables. facts: `samples`, where the table has no column of them."""
    pairs = records(tables["consecutive"])
    deep = [one for one in pairs if one["layer"] >= 2]
    verdicts = {f"{one['layer']} and {one['next']}": _high(one, facts) for one in deep}
    jump, after = pairs[0]["tau"], [one["tau"] for one in deep]
    low, high = min(after), max(after)
    samples = pairs[0].get("samples", facts.get("samples", "the"))
    layers = len(pairs) + 1
    sentences = [
        f"Over {samples} samples, Kendall's tau between consecutive layers is {jump:.2f} from layer 1 "
        f"to 2, and {np.mean(after):.2f} on average from layer 2 on ({low:.2f} to {high:.2f}).",
    ]
    if "every_two" in tables:
        ends = {(one["layer"], one["other"]): one["tau"] for one in records(tables["every_two"])}
        sentences.append(f"Between layers 2 and {layers} it is {ends[2, layers]:.2f}.")
    if weak := [which for which, one in verdicts.items() if one is False]:
        named = "all of them" if len(weak) == len(deep) else f"layers {', '.join(weak)}"
        sentences.append(f"Below {_HIGH} are {named}: there a layer would rank tokens differently.")
    if unclear := [which for which, one in verdicts.items() if one is None]:
        sentences.append(f"The interval contains {_HIGH}, or is not known, for layers {', '.join(unclear)}.")
    return Finding(
        study="correlation",
        title="Rank correlation of vision tokens between layers",
        paper="Figures 1a, 1b, 8, 9",
        claim="After the first layer vision tokens keep their relative importance from layer to layer.",
        inequality=_INEQUALITY,
        holds=every(verdicts.values()),
        sentences=tuple(sentences),
        tables={name: read(table) for name, table in tables.items()},
        metrics={"tau_first": jump, "tau_after": float(np.mean(after)), "tau_least": low},
        facts=facts,
    )


def _high(pair: Mapping[str, Any], facts: Mapping[str, Any]) -> bool | None:
    """Whether tau is at least `_HIGH` between two layers."""
    samples = pair.get("samples", facts.get("samples", 0))
    if samples < 2:
        return None
    low, high = t_interval(pair["tau"], pair["standard deviation"], samples)
    return True if low >= _HIGH else False if high < _HIGH else None
