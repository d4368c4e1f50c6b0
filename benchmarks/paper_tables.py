"""The paper's TFLOPs, TMACs, parameters and memory costs (Tables 1, 6, 8, 9, 10) beside ours, as markdown.

    python benchmarks/paper_tables.py             # to the terminal, and to benchmarks/paper/paper_vs_ours.md

The paper's numbers are those of `vtr_ray.studies.paper`. Ours follow from the models' shapes and the
strategies alone, by the paper's convention: 75 text tokens, one image (LLaVA-1.5: 576 vision tokens) or five
tiles (InternVL2: 1280). The schedules that its searches found are not published: those rows show a P-Sigmoid
curve of the same memory cost (k = 0.3 at 32 layers, every third layer) and the range that any schedule of
that memory cost must be in.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from vtr_ray import Schedule, strategies
from vtr_ray.efficiency import Flops, count_flops, count_parameters, read_config
from vtr_ray.efficiency.bench import sampled_p_sigmoid
from vtr_ray.studies import paper

FOLDER = Path(__file__).parent / "paper"
TEXT_TOKENS = 75
SEARCHED = ("G-Search", "P-Sigmoid")
TABLES = (1, 6, 8, 9, 10)  # whose models need no encoder or projector of their own to be counted
QUANTITIES = ("memory_cost", "tflops", "tmacs", "parameters_billion")
# The paper's list of stages, whatever the depth: of 24 layers the last one never fires.
PDROP_LAYERS = {24: (8, 16, 24), 32: (8, 16, 24), 40: (10, 20, 30), 48: (12, 24, 36)}


@dataclass(frozen=True)
class Cell:
    """One number of the paper and ours; `low` and `high` where only a range follows."""

    table: str
    model: str
    method: str
    quantity: str
    paper: float
    ours: float
    low: float
    high: float
    note: str = ""

    @property
    def difference(self) -> float:
        """Of the paper's number to ours or to the nearest end of the range, relative; 0 inside it."""
        nearest = min(max(self.paper, self.low), self.high)
        return self.paper / nearest - 1

    @property
    def digit(self) -> float:
        """Half of the last digit printed, relative."""
        return (0.0005 if self.quantity == "memory_cost" else 0.005) / self.paper


@cache
def config_of(model: str) -> Any:
    return read_config(model.lower())


def flops_of(model: str, schedule: Schedule) -> Flops:
    tokens = 576 if model.startswith("LLaVA") else 1280
    return count_flops(config_of(model), schedule, tokens, TEXT_TOKENS)


def published(method: str, layers: int) -> Schedule | None:
    """The schedule of a row; None for what a search found."""
    return {
        "none": lambda: strategies.none(layers),
        "FlashAttention2": lambda: strategies.none(layers),
        "VTW": lambda: strategies.vtw(layers),
        "PDrop": lambda: strategies.pyramid_drop(layers, PDROP_LAYERS[layers]),
        "FastV 50 %": lambda: strategies.fastv(layers, drop=0.5),
        "FastV 87.5 %": lambda: strategies.fastv(layers, drop=0.875),
    }.get(method, lambda: None)()


def bounds(model: str, layers: int, memory_cost: float) -> tuple[float, float]:
    """Least and most FLOPs of any schedule with `r_1 = r_2 = 1` and this memory cost.

    The linear part depends on the sum of the rates alone; attention is least for equal rates, most for rates
    that are 1 and then 0; the head's tokens are the last rate's.
    """
    budget = (memory_cost * layers - 2) / (layers - 2)
    flat = flops_of(model, Schedule.from_rates([1, 1] + [budget] * (layers - 2)))
    whole = memory_cost * layers
    full = math.floor(whole + 1e-9)
    rest = [min(1.0, max(0.0, whole - full))] if full < layers else []
    step = flops_of(model, Schedule.from_rates([1.0] * full + rest + [0.0] * (layers - full - 1)))
    return flat.total - flat.head + step.head, step.total - step.head + flat.head


def cells() -> Iterator[Cell]:
    costs: dict[tuple[str, str], float] = {}
    for table in TABLES:
        for model, rows in paper.rows(table).items():
            layers = config_of(model).get_text_config(decoder=True).num_hidden_layers
            for row in rows:
                method, figures = row.method, row.figures
                costs.setdefault((model, method), figures.get("memory_cost", math.nan))
                for quantity in QUANTITIES:
                    if quantity not in figures:
                        continue
                    slip = paper.slips().get(f"Table {table}/{model}/{method}/{quantity}", "")
                    named = f"Table {table}"
                    yield compared(named, model, method, quantity, figures[quantity], costs, layers, slip)


def compared(
    table: str,
    model: str,
    method: str,
    quantity: str,
    paper: float,
    costs: dict[tuple[str, str], float],
    layers: int,
    slip: str,
) -> Cell:
    note = f"slip: {slip}" if slip else ""
    if quantity == "parameters_billion":
        ours = count_parameters(config_of(model)) / 1e9
        if model.startswith("LLaVA"):
            note = "the paper's is without the encoder"
        return Cell(table, model, method, quantity, paper, ours, ours, ours, note)
    schedule = published(method, layers)
    scale = 1e12 if quantity == "tflops" else 2e12
    if schedule is not None:
        ours = schedule.memory_cost if quantity == "memory_cost" else flops_of(model, schedule).total / scale
        if method == "FlashAttention2":
            note = "the same sums in another order: a kernel changes no FLOPs"
        return Cell(table, model, method, quantity, paper, ours, ours, ours, note)
    known = costs[model, method]
    if quantity == "memory_cost" or math.isnan(known):
        note = (
            "found by its search"
            if quantity == "memory_cost"
            else "neither schedule nor memory cost published"
        )
        return Cell(table, model, method, quantity, paper, math.nan, -math.inf, math.inf, note)
    ours = flops_of(model, sampled_p_sigmoid(layers, known)).total / scale
    # The memory cost is known to its third digit only.
    low = bounds(model, layers, known - 0.0005)[0] / scale
    high = bounds(model, layers, known + 0.0005)[1] / scale
    return Cell(table, model, method, quantity, paper, ours, low, high, "schedule not published")


def markdown() -> str:
    found = list(cells())
    plain = [one for one in found if one.method not in SEARCHED and not one.note]
    ranged = [one for one in found if one.note == "schedule not published"]
    inside = [one for one in ranged if abs(one.difference) <= one.digit]
    worst = max(plain, key=lambda one: abs(one.difference))
    lines = [
        "# The paper's numbers and ours",
        "",
        "Written by `python benchmarks/paper_tables.py`. Convention: the paper's (linear layers of encoder,",
        "projector and decoder, the decoder's attention as a full square, the head on all tokens left; a",
        "multiply-add is 2). Difference: of the paper's number to ours.",
        "",
        f"- {len(plain)} numbers whose schedule is published: the largest difference is "
        f"{100 * worst.difference:+.2f} % ({worst.table}, {worst.model}, {worst.method}, {worst.quantity}).",
        f"- {len(ranged)} TFLOPs and TMACs of searched schedules, which are not published: {len(inside)} are "
        "in the range that their memory cost allows.",
        "",
    ]
    for table in dict.fromkeys(one.table for one in found):
        lines += [
            f"## {table}",
            "",
            "| model | method | quantity | paper | ours | difference | |",
            "| --- | --- | --- | ---: | ---: | ---: | --- |",
        ]
        lines += [line(one) for one in found if one.table == table] + [""]
    return "\n".join(lines)


def line(one: Cell) -> str:
    unit = {
        "memory_cost": "memory cost",
        "tflops": "TFLOPs",
        "tmacs": "TMACs",
        "parameters_billion": "parameters, B",
    }
    digits = 3 if one.quantity == "memory_cost" else 2
    ours, difference = f"{one.ours:.{digits}f}", f"{100 * (one.paper / one.ours - 1):+.2f} %"
    note = one.note
    if math.isnan(one.ours):
        ours = difference = ""
    elif one.low < one.high:
        note += f"; its memory cost allows {one.low:.2f} to {one.high:.2f}"
    cells = (one.model, one.method, unit[one.quantity], f"{one.paper:.{digits}f}", ours, difference, note)
    return f"| {' | '.join(cells)} |"


def main() -> None:
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    text = markdown()
    target = FOLDER / "paper_vs_ours.md"
    temporary = target.with_suffix(".tmp")
    temporary.write_text(text)
    temporary.replace(target)
    print(text)


if __name__ == "__main__":
    main()
