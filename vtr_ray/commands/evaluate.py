"""`vtr-ray evaluate`: given schedules side by side with no reduction."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from vtr_ray.commands.inputs import ModelOptions, PoolOptions, test_samples
from vtr_ray.errors import InputError
from vtr_ray.report.comparison import Row, compare_schedules, comparison_table, sources_table
from vtr_ray.schedule import Schedule
from vtr_ray.tuning.cluster import connected


def evaluate(
    schedules: Sequence[Path],
    model: ModelOptions,
    samples: Path | None,
    images: Path | None,
    pool_options: PoolOptions,
    console: Console,
) -> list[Row]:
    """Prints the comparison of schedule files on the samples (default: the embedded test split)."""
    loaded = {path.stem if len(schedules) == 1 else str(path): Schedule.load(path) for path in schedules}
    layers = model.num_layers()
    for path, schedule in loaded.items():
        if schedule.num_layers != layers:
            raise InputError(
                f"{path} has {schedule.num_layers} layers, the model {layers}; search one for this model"
            )
    data = test_samples(model, samples, images)
    if data is None:
        raise InputError("a model of your own needs samples: give --samples FILE.json and --images DIR")
    with connected(), pool_options.open(model, data, "evaluate") as pool:
        rows = compare_schedules(pool, loaded)
    console.print(comparison_table(rows, len(data.set)))
    console.print(sources_table(rows))
    return rows
