"""Keeping rates that G-Search found, model by model, and the P-Sigmoid nearest to each (Figures 1c and 3)."""

from __future__ import annotations

from collections.abc import Mapping

from vtr_ray.schedule import Schedule
from vtr_ray.search.fit import fit_p_sigmoid
from vtr_ray.studies.finding import Finding, Table

_GOOD = 0.9  # of R²


def keeping_rates(schedules: Mapping[str, Schedule]) -> Finding:
    """schedules: as G-Search found them, by model."""
    fits = {name: fit_p_sigmoid(schedule) for name, schedule in schedules.items()}
    good = [name for name, fit in fits.items() if fit.r2 >= _GOOD]
    described = "; ".join(
        f"{name}: memory cost {schedules[name].memory_cost:.3f}, b {fit.b:.3f}, k {fit.k:.3f}, alpha "
        f"{fit.alpha:.2f}, R² {fit.r2:.3f}"
        for name, fit in fits.items()
    )
    poor = [name for name in fits if name not in good]
    sentences = [f"The nearest P-Sigmoid: {described}."]
    if poor:
        sentences.append(
            f"R² is below {_GOOD} for {', '.join(poor)}: rates are searched at every third layer and held "
            "between, and so few steps are no smooth curve."
        )
    return Finding(
        study="curves",
        title="Keeping rates that G-Search finds",
        paper="Figures 1c, 3",
        claim="Keeping rates fall steadily with depth, and a sigmoid-like curve fits them in every model.",
        holds=not poor,
        sentences=tuple(sentences),
        tables={
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
                ("model", "memory cost", "b", "k", "alpha", "R2"),
                [
                    (name, schedules[name].memory_cost, fit.b, fit.k, fit.alpha, fit.r2)
                    for name, fit in fits.items()
                ],
            ),
        },
        metrics={f"r2/{name}": fit.r2 for name, fit in fits.items()},
    )
