"""`vtr-ray show`: one schedule, printed and drawn."""

from __future__ import annotations

from pathlib import Path

from rich.bar import Bar
from rich.console import Console
from rich.table import Table

from vtr_ray.commands.costs import cost_lines, with_weights
from vtr_ray.commands.named import read_schedule
from vtr_ray.provenance import found_line
from vtr_ray.report.curve import draw_curve
from vtr_ray.search.fit import fit_p_sigmoid


def show(
    path: Path,
    tokens: int | None,
    model: str | None,
    text_tokens: int,
    fit: bool,
    figure: Path | None,
    console: Console,
    force: bool = False,
) -> None:
    """Prints ranking, memory cost, where it was found, rates and their curve; on request counts, FLOPs, a
    fit, a figure.

    force: also counts FLOPs of a schedule that was found on another model.
    """
    loaded = read_schedule(path, None if model is None else with_weights(model), force)
    console.print(
        f"{loaded.num_layers} layers, memory cost {loaded.memory_cost:.3f}, {loaded.ranking} ranking"
    )
    if loaded.found is not None:
        console.print(found_line(loaded.found), highlight=False, soft_wrap=True, markup=False)
    table = Table(box=None)
    counts = loaded.counts(tokens) if tokens is not None else []
    fitted = fit_p_sigmoid(loaded) if fit else None
    for column in ("layer", "keeping rate", *(["tokens"] if counts else []), *(["fit"] if fitted else [])):
        table.add_column(column, justify="right")
    table.add_column("curve", width=min(40, max(8, console.width - 50)))
    for layer, rate in enumerate(loaded.rates, start=1):
        cells = [str(layer), f"{rate:.4f}"]
        cells += [str(counts[layer - 1])] if counts else []
        cells += [f"{fitted.schedule.rates[layer - 1]:.4f}"] if fitted else []
        table.add_row(*cells, Bar(1.0, 0.0, rate))
    table.add_section()
    unused = [""] * (bool(counts) + bool(fitted))
    table.add_row("mean", f"{loaded.memory_cost:.4f}", *unused, Bar(1.0, 0.0, loaded.memory_cost))
    console.print(table)
    curves = {path.stem: loaded}
    if fitted is not None:
        console.print(
            f"P-Sigmoid over layers 3..{loaded.num_layers}: b {fitted.b:.4f}, k {fitted.k:.4f}, "
            f"alpha {fitted.alpha:.3f}, R² {fitted.r2:.4f}",
            highlight=False,
            soft_wrap=True,
        )
        curves[f"P-Sigmoid's fit, R² {fitted.r2:.3f}"] = fitted.schedule
    if model is not None:
        for line in cost_lines(loaded, model, tokens, text_tokens):
            console.print(line, highlight=False, soft_wrap=True)
    if figure is not None:
        console.print(f"Wrote {draw_curve(curves, figure)}", soft_wrap=True)
