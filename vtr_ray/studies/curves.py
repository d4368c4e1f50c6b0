"""Keeping rates that G-Search found, model by model, and the P-Sigmoid nearest to each (Figures 1c and 3)."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby, pairwise
from typing import Any

from vtr_ray.schedule import Schedule
from vtr_ray.search.fit import fit_p_sigmoid
from vtr_ray.studies.finding import Finding, Table, read, records
from vtr_ray.studies.verdict import every

_GOOD = 0.9  # of R²
_FALL = 0.1  # from the input to the last layer; where less is removed, there is no curve to describe
_SHARE = 0.5  # of the fall that one place may carry; three places or more must then share it
_PLACES = 4  # that were searched; with fewer, a steady fall has too few steps to be told from a jump
_INEQUALITY = (
    f"Holds where for every model (1) R² >= {_GOOD} of the nearest P-Sigmoid, (2) the rates fall by at least "
    f"{_FALL} from the input to the last layer, and (3) less than half of that fall is at any one layer. "
    f"Does not hold where one of them fails; with fewer than {_PLACES} searched layers (3) cannot be told."
)


def keeping_rates(schedules: Mapping[str, Schedule], strides: Mapping[str, int] | None = None) -> Finding:
    """schedules: as G-Search found them, by model. strides: of its searched layers, by model; default 1.

    The claim holds where for each model `R² >= 0.9`, `1 - r_L >= 0.1`, and
    `max(r_{i-1} - r_i) < (1 - r_L) / 2` over the layers `i`.
    """
    fits = {name: fit_p_sigmoid(schedule) for name, schedule in schedules.items()}
    tables = {
        "rates": Table(
            ("model", "layer", "keeping rate", "P-Sigmoid's"),
            [
                (name, layer, rate, fitted)
                for name, schedule in schedules.items()
                for layer, (rate, fitted) in enumerate(
                    zip(schedule.rates, fits[name].schedule.rates, strict=True), start=1
                )
            ],
        ),
        "fits": Table(
            ("model", "memory cost", "b", "k", "alpha", "R2", "searched layers"),
            [
                (
                    name, schedules[name].memory_cost, fit.b, fit.k, fit.alpha, fit.r2,
                    len(range(3, schedules[name].num_layers + 1, (strides or {}).get(name, 1))),
                )
                for name, fit in fits.items()
            ],
        ),
    }  # fmt: skip
    return judged({name: table.to_dict() for name, table in tables.items()}, {})


def judged(tables: Mapping[str, Any], facts: Mapping[str, Any]) -> Finding:
    """Judge from the tables."""
    by_model = groupby(records(tables["rates"]), lambda row: row["model"])
    rates = {model: [row["keeping rate"] for row in own] for model, own in by_model}
    fits = {row["model"]: row for row in records(tables["fits"])}
    described = "; ".join(
        f"{name}: memory cost {fit['memory cost']:.3f}, b {fit['b']:.3f}, k {fit['k']:.3f}, alpha "
        f"{fit['alpha']:.2f}, R² {fit['R2']:.3f}"
        for name, fit in fits.items()
    )
    sentences = [f"The nearest P-Sigmoid: {described}."]
    if poor := [name for name, fit in fits.items() if fit["R2"] < _GOOD]:
        sentences.append(
            f"R² is below {_GOOD} for {', '.join(poor)}: rates are searched at every third layer and held "
            "between, and so few steps are no smooth curve."
        )
    steady = {}
    for name, own in rates.items():
        steady[name] = _steady(own, fits[name].get("searched layers", len(own) - 2))
        sentences.append(_fall_line(name, own, steady[name]))
    return Finding(
        study="curves",
        title="Keeping rates that G-Search finds",
        paper="Figures 1c, 3",
        claim="Keeping rates fall steadily with depth, and a sigmoid-like curve fits them in every model.",
        inequality=_INEQUALITY,
        holds=every([*steady.values(), *(fit["R2"] >= _GOOD for fit in fits.values())]),
        sentences=tuple(sentences),
        tables={name: read(table) for name, table in tables.items()},
        metrics={f"r2/{name}": fit["R2"] for name, fit in fits.items()}
        | {f"largest_step/{name}": _largest(own)[0] for name, own in rates.items()},
        facts=facts,
    )


def _largest(rates: list[float]) -> tuple[float, int]:
    """The largest drop as a share of the whole fall, and its layer; 0 where nothing falls."""
    drops = [before - after for before, after in pairwise([1.0, *rates])]
    drop, layer = max(drops), drops.index(max(drops)) + 1
    return (drop / (1.0 - rates[-1]) if rates[-1] < 1.0 else 0.0), layer


def _steady(rates: list[float], places: int) -> bool | None:
    if 1.0 - rates[-1] < _FALL:
        return False
    if places < _PLACES:
        return None
    return _largest(rates)[0] < _SHARE


def _fall_line(name: str, rates: list[float], steady: bool | None) -> str:
    share, layer = _largest(rates)
    if 1.0 - rates[-1] < _FALL:
        return f"{name}: the rates fall by {1.0 - rates[-1]:.2f} in all, which is no curve."
    step = f"{name}: {share:.0%} of the fall is at layer {layer}"
    if steady is None:
        return f"{step}; too few layers were searched to tell a steady fall from a jump."
    return f"{step}{'' if steady else ', which is a step and no steady fall'}."
