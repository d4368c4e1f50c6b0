"""`vtr-ray gsearch`: search, compare on held-out samples, record."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from vtr_ray import strategies
from vtr_ray.commands.inputs import (
    ModelOptions,
    PoolOptions,
    Samples,
    search_samples,
    test_samples,
)
from vtr_ray.efficiency import count_flops
from vtr_ray.errors import InputError
from vtr_ray.models import load_config
from vtr_ray.report.comparison import (
    Row,
    compare_schedules,
    comparison_table,
    rivals,
    sources_table,
)
from vtr_ray.report.curve import draw_curve
from vtr_ray.report.live import Display
from vtr_ray.schedule import Schedule
from vtr_ray.search import GSearch
from vtr_ray.store import default_uri, ui_command
from vtr_ray.tracking import Tracker
from vtr_ray.tuning.cluster import connected
from vtr_ray.tuning.directory import Settings, check_run_directory, record_results, write_json
from vtr_ray.tuning.run import Found, run_search

Costs = tuple[dict[str, float], dict[str, float]]  # of the found schedule, of no reduction


@dataclass(frozen=True)
class GSearchOptions:
    """Settings of the search itself; see `vtr_ray.search.GSearch`."""

    stride: int = 3
    initial: int = 10
    iterations: int = 5
    weight: float = 0.01
    seed: int = 0
    round_size: int = 1


@dataclass(frozen=True)
class DataOptions:
    """LLaVA-format files for search and comparison; None: the embedded model's own splits."""

    samples: Path | None = None
    images: Path | None = None
    test: Path | None = None
    test_images: Path | None = None


@dataclass(frozen=True)
class RunOptions:
    """Where results go. out: None is a new folder under `home()`, or with `resume` the newest one there."""

    out: Path | None = None
    resume: bool = False
    compare: bool = True
    ui_port: int | None = None


def home() -> Path:
    """Where runs and the MLflow store go by default.

    The current directory; inside a Ray job that is a copy that Ray deletes, so there `~/vtr_ray` it is.
    """
    return Path.home() / "vtr_ray" if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ else Path.cwd()


def gsearch(
    model: ModelOptions,
    data: DataOptions,
    search_options: GSearchOptions,
    pool_options: PoolOptions,
    run: RunOptions,
    console: Console,
) -> Path:
    """Runs it all; gives the run directory. Raises InputError for what the user can mend."""
    began = time.monotonic()
    out = _run_directory(run)
    check_run_directory(out, run.resume)
    uri = default_uri(home())
    ui = ui_command(uri, run.ui_port)
    # A number out of range must fail before anything starts.
    GSearch(num_layers=model.num_layers(), vision_tokens=1, **asdict(search_options))
    samples = search_samples(model, data.samples, data.images)
    test = test_samples(model, data.test, data.test_images) if run.compare else None
    _say_skipped(console, samples, test)
    # The tracker first: creating a store takes as long as Ray takes to start, in the background.
    with Tracker(out, uri, warn=lambda text: console.print(text, soft_wrap=True)) as tracker, connected():
        with pool_options.open(model, samples, "search") as pool:
            search = GSearch(
                num_layers=pool.num_layers, vision_tokens=pool.vision_tokens, **asdict(search_options)
            )
            settings = Settings(
                command="gsearch",
                parameters={
                    "model": model.model,
                    "dtype": model.dtype,
                    "attn": model.attn,
                    "max_pixels": model.max_pixels,
                    **asdict(search_options),
                },
                seed=search_options.seed,
                samples=samples.set.fingerprint,
            )
            console.print(
                f"G-Search on {model.model}: {pool.num_layers} layers, {pool.vision_tokens} vision tokens, "
                f"{len(samples.set)} search samples, at most {search.total_trials} trials. Run: {out}",
                soft_wrap=True,
            )
            cost = partial(_cost, load_config(model.path), pool.call("sample_tokens"))
            with Display(console) as display:
                found = run_search(
                    search,
                    pool,
                    out,
                    settings,
                    resume=run.resume,
                    on_trial=display,
                    tracker=tracker,
                    cost=cost,
                )
            if run.compare and test is None:
                console.print("No held-out samples (--test FILE.json): compared on the search samples.")
                rows = _compare(pool, found, search_options.seed, console)
        if run.compare and test is not None:
            with pool_options.open(model, test, "test") as pool:
                rows = _compare(pool, found, search_options.seed, console)
        costs = cost(found.schedule), cost(strategies.none(found.schedule.num_layers))
        _record(found, costs, rows if run.compare else [], out, len((test or samples).set))
        tracker.notify()
        if run.compare:
            console.print(comparison_table(rows, len((test or samples).set)))
            console.print(sources_table(rows))
    _say_where(console, found, costs, out, ui, time.monotonic() - began)
    return out


def _cost(config: Any, tokens: tuple[int, int], schedule: Schedule) -> dict[str, float]:
    """What stands beside a schedule; TFLOPs by the paper's convention, for a median sample."""
    tflops = count_flops(config, schedule, *tokens).total / 1e12
    return {"memory_cost": schedule.memory_cost, "tflops": tflops}


def _compare(pool: object, found: Found, seed: int, console: Console) -> list[Row]:
    schedules = {"G-Search": found.schedule, **rivals(found.schedule, seed)}
    with console.status("comparing schedules") as status:
        return compare_schedules(pool, schedules, on_row=lambda row: status.update(f"compared: {row.name}"))


def _record(found: Found, costs: Costs, rows: Sequence[Row], out: Path, samples: int) -> None:
    """Figure and table on disk, and named for MLflow."""
    curves = {"G-Search": found.schedule}
    curves |= {row.name: row.schedule for row in rows if row.name in ("FastV", "PDrop", "VTW", "P-Sigmoid")}
    figure = draw_curve(curves, out / "keeping_rate.png", "Keeping rate by layer")
    artifacts = [figure]
    metrics = {"tflops": costs[0]["tflops"], "tflops_no_reduction": costs[1]["tflops"]}
    if rows:
        write_json(out / "comparison.json", {"samples": samples, "rows": [row.to_dict() for row in rows]})
        artifacts.append(out / "comparison.json")
        none, ours = rows[0], rows[1]
        metrics |= {
            "prefill_ms": 1000 * ours.prefill,
            "prefill_ms_no_reduction": 1000 * none.prefill,
        }
        metrics |= {f"accuracy/{row.name}": row.accuracy for row in rows}
    record_results(out, metrics, artifacts)


def _say_where(console: Console, found: Found, costs: Costs, out: Path, ui: str, seconds: float) -> None:
    before = "" if found.score_before is None else f" (no reduction: {found.score_before:.4f})"
    score = "" if found.score is None else f", E {found.score:.4f}{before}"
    lines = [
        f"Found: memory cost {found.schedule.memory_cost:.3f}, {costs[0]['tflops']:.4g} TFLOPs "
        f"(no reduction: {costs[1]['tflops']:.4g}){score}, in {seconds / 60:.1f} minutes.",
        f"Schedule:   {out / 'schedule.json'}",
        f"Figure:     {out / 'keeping_rate.png'}",
        f"MLflow run: {out.name}; open the UI with",
        f"  {ui}",
    ]
    for line in lines:
        console.print(line, soft_wrap=True, highlight=False)


def _run_directory(run: RunOptions) -> Path:
    if run.out is not None:
        return run.out.absolute()
    root = home() / "runs"
    if run.resume:
        runs = sorted(path for path in root.glob("gsearch-*") if path.is_dir())
        if not runs:
            raise InputError(f"no run to resume under {root}; name its directory with --out")
        return runs[-1]
    return root / time.strftime("gsearch-%Y%m%d-%H%M%S")


def _say_skipped(console: Console, *read: Samples | None) -> None:
    for one in (samples.set for samples in read if samples is not None):
        if one.skipped:
            names = "; ".join(f"{skipped.name}: {skipped.reason}" for skipped in one.skipped[:5])
            more = f"; and {len(one.skipped) - 5} more" if len(one.skipped) > 5 else ""
            console.print(f"{one.where}: skipped {len(one.skipped)} samples ({names}{more})", soft_wrap=True)
