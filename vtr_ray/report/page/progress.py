"""How a search went: E over its trials, and of G-Search what its surrogate believes of each layer."""

from __future__ import annotations

from typing import Any

from matplotlib.ticker import MaxNLocator

from vtr_ray.report.page.drawing import INK, SERIES, Drawing, axes_of, slug
from vtr_ray.report.page.searches import SearchRun
from vtr_ray.search import GSearch, LayerBelief, LayerResult

MEAN, TRIED, CHOSEN = SERIES[0], SERIES[1], SERIES[2]
_LEAST = 0.02  # of E from bottom to top: less is noise


def draw_layers(run: SearchRun) -> list[Drawing]:
    """One figure for each searched layer; none where the run is no G-Search."""
    search = run.gsearch
    if search is None:
        return []
    return [_layer(run, search, layer, search.belief(layer.layer)) for layer in search.layers if layer.trials]


def _layer(run: SearchRun, search: GSearch, layer: LayerResult, belief: LayerBelief | None) -> Drawing:
    # Where accuracy is to be kept the surrogate models what a trial's difference to no reduction is at least.
    value = "E" if not search.needs_bound else "E - E(no reduction), at least"
    tried = {
        one.rate: one.bound if search.needs_bound else one.score
        for one in (*([layer.inherited] if layer.inherited else []), *layer.trials)
        if one.score is not None
    }
    rates = belief.rates if belief is not None else tuple(sorted(rate for rate in tried if rate is not None))
    curves: list[tuple[float | None, ...]] = [(None,) * 3] * len(rates)
    with axes_of(4.0, 2.9) as (figure, axes):
        if belief is not None:
            curves = list(zip(belief.mean, belief.low, belief.high, strict=True))
            axes.fill_between(rates, belief.low, belief.high, color=MEAN, alpha=0.25, linewidth=0)
            axes.plot(rates, belief.mean, color=MEAN, linewidth=1.6)
        axes.plot(list(tried), list(tried.values()), "o", color=TRIED, markersize=4.5, zorder=4)
        if layer.rate is not None:
            axes.axvline(layer.rate, color=CHOSEN, linewidth=1.2, linestyle=(0, (4, 2)))
            axes.plot(
                [layer.rate],
                [tried[layer.rate]],
                "D",
                color="none",
                markeredgecolor=CHOSEN,
                markersize=10,
                markeredgewidth=1.8,
                zorder=5,
            )
        axes.set(xlabel=f"keeping rate from layer {layer.layer} on", ylabel=value)
        axes.xaxis.set_major_locator(MaxNLocator(6))
        low, high = axes.get_ylim()
        wider = max(0.0, _LEAST - (high - low)) / 2
        axes.set_ylim(low - wider, high + wider)
    chosen = "none yet" if layer.rate is None else f"{layer.rate:.3f}"
    values = [value for value in tried.values() if value is not None]
    spread = f"{value} from {min(values):.3f} to {max(values):.3f}" if values else "none measured"
    return Drawing(
        name=f"{slug(run.name)}-layer-{layer.layer}",
        title=f"Layer {layer.layer}: {value} by keeping rate",
        text=f"{len(layer.trials)} trials, {spread}; surrogate: mean and 95 % band; chosen rate {chosen}.",
        columns=("keeping_rate", "mean", "low", "high", "observed", "chosen"),
        rows=[
            (rate, *curve, tried.get(rate), int(rate == layer.rate))
            for rate, curve in zip(rates, curves, strict=True)
        ],
        figure=figure,
    )


def draw_trials(run: SearchRun) -> Drawing:
    """E and objective of every trial, and the best objective so far within its layer."""
    rows: list[tuple[Any, ...]] = []
    best: dict[int | None, float] = {}
    for entry in run.trials:
        if entry.objective is not None:
            best[entry.layer] = max(entry.objective, best.get(entry.layer, entry.objective))
        rows.append(
            (entry.trial, entry.layer, entry.rate, entry.score, entry.objective, best.get(entry.layer))
        )
    with axes_of(5.0, 3.2) as (figure, axes):
        measured = [row for row in rows if row[3] is not None]
        trial = [row[0] for row in measured]
        axes.plot(trial, [row[3] for row in measured], "o", color=TRIED, markersize=4, label="E of the trial")
        if run.gsearch is None or not run.gsearch.needs_bound:
            for number, layer in enumerate(best):
                own = [row for row in rows if row[1] == layer and row[5] is not None]
                axes.plot(
                    [row[0] for row in own],
                    [row[5] for row in own],
                    drawstyle="steps-post",
                    color=MEAN,
                    linewidth=1.5,
                    label=None if number else "best objective of the layer" if layer else "best objective",
                )
        starts = {row[1]: row[0] for row in reversed(rows) if row[1] is not None}
        for layer, start in starts.items():
            axes.axvline(start - 0.5, color=INK, linewidth=0.6, linestyle=":")
            axes.annotate(
                f"layer {layer}",
                (start - 0.5, 1),
                xycoords=("data", "axes fraction"),
                xytext=(2, 2),
                textcoords="offset points",
                fontsize=9,
            )
        axes.set(xlabel="trial", ylabel="E, objective")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        figure.legend(loc="outside lower center", ncols=2)
    scores = [row[3] for row in measured]
    spread = f", E from {min(scores):.3f} to {max(scores):.3f}" if scores else ""
    return Drawing(
        name=f"{slug(run.name)}-trials",
        title="E and objective over trials",
        text=f"{len(rows)} trials{spread}.",
        columns=("trial", "layer", "keeping_rate", "E", "objective", "best_objective"),
        rows=rows,
        figure=figure,
    )
