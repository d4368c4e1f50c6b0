"""`vtr-ray pareto`: search the front of E against executed FLOPs, pick from it, record."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from vtr_ray.commands.inputs import DataOptions, ModelOptions, PoolOptions
from vtr_ray.commands.searching import RunOptions, SearchJob
from vtr_ray.efficiency.times import untold
from vtr_ray.errors import InputError
from vtr_ray.evaluation.untouched import Needed
from vtr_ray.provenance import with_provenance
from vtr_ray.report.comparison import rivals
from vtr_ray.report.front import FrontPoint, Rival, draw_front, front_table, volume_table
from vtr_ray.schedule import Schedule
from vtr_ray.search import ParetoSearch, TrialResult
from vtr_ray.tuning.cluster import connected
from vtr_ray.tuning.directory import FRONT, SCHEDULE, check_run_directory, record_results, write_json
from vtr_ray.tuning.run import Found

MAX_DROP = 0.5  # points of E, where no limit is given


@dataclass(frozen=True)
class ParetoOptions:
    """Settings of the search itself; see `vtr_ray.search.ParetoSearch`."""

    trials: int = 40
    initial: int = 12
    reference: int = 10
    k_max: float = 2.0
    seed: int = 0
    round_size: int = 1


@dataclass(frozen=True)
class Limits:
    """What the schedule picked from the front must meet. No part of the search: `--resume` may have others.

    max_tflops: executed, of a prefill, mean over the samples. max_prefill_ms: measured on this device, batch
    1; a schedule meets it only where the clock tells so.
    max_drop: points of E below no reduction; where all are None it is `MAX_DROP`.
    With `max_drop` the cheapest that fits is picked, else the one with the largest E.
    """

    max_tflops: float | None = None
    max_prefill_ms: float | None = None
    max_drop: float | None = None

    @property
    def prefill(self) -> float | None:
        """`max_prefill_ms` in seconds."""
        return None if self.max_prefill_ms is None else self.max_prefill_ms / 1000

    @property
    def allowed_drop(self) -> float | None:
        """How much E may fall, in units of E; None: as much as the other limits take."""
        if self.max_drop is None and self.max_tflops is None and self.max_prefill_ms is None:
            return MAX_DROP / 100
        return None if self.max_drop is None else self.max_drop / 100

    def choose(self, search: ParetoSearch, front: Sequence[FrontPoint]) -> TrialResult | None:
        """The point of the front; None where nothing fits."""
        fast = (
            front if self.prefill is None else [one for one in front if one.faster_than(self.prefill, front)]
        )
        fitting = {
            point.trial for point in fast if self.max_tflops is None or point.tflops <= self.max_tflops
        }
        drop = self.allowed_drop
        return search.choose(drop, lambda result: result.id in fitting)

    def unmet(self, front: Sequence[FrontPoint], out: Path) -> InputError:
        """Why nothing fits: what the front has to offer for each limit."""
        offers = []
        if self.max_tflops is not None:
            least = min(point.tflops for point in front)
            offers.append(f"--max-tflops {self.max_tflops:g} (the least is {least:.4g})")
        if self.max_prefill_ms is not None:
            least = 1000 * min(point.slowest(front) for point in front)
            offer = (
                f"{least:.1f} is the least that the clock told" if least < math.inf else "no time was told"
            )
            offers.append(f"--max-prefill-ms {self.max_prefill_ms:g} ({offer})")
        if self.max_drop is not None:
            known = [100 * point.drop for point in front if point.drop is not None]
            offer = f"the least is {min(known):.1f}" if known else "no reduction was not measured"
            offers.append(f"--max-drop {self.max_drop:g} ({offer})")
        return InputError(
            f"no schedule of the front meets {' with '.join(offers)}; the front is in {out / FRONT}: the "
            f"same command with --resume --out {out} and other limits picks from it again"
        )


def pareto(
    model: ModelOptions,
    data: DataOptions,
    search_options: ParetoOptions,
    limits: Limits,
    pool_options: PoolOptions,
    run: RunOptions,
    console: Console,
) -> Path:
    """Runs it all; gives the run directory. Raises InputError for what the user can mend.

    Where no schedule of the front meets the limits, everything but `schedule.json` is saved before it raises.
    """

    def check(out: Path) -> None:
        check_run_directory(out, run.resume)
        # A number out of range must fail before anything starts.
        ParetoSearch(model.num_layers(), 1, lambda schedule: schedule.memory_cost, **asdict(search_options))

    job = SearchJob("pareto", "Pareto", model, data, pool_options, run, console, check, convention="executed")
    with job.tracker(job.out) as tracker, connected():
        with job.open() as pool:
            executed = partial(job.mean_cost(pool).flops, convention="executed", logits_to_keep=1)
            search = ParetoSearch(pool.num_layers, pool.vision_tokens, executed, **asdict(search_options))
            job.say(
                f"Pareto search on {model.model}: {pool.num_layers} layers, {pool.vision_tokens} vision "
                f"tokens, {len(job.samples.set)} search samples, at most {search.total_trials} trials, those "
                f"of reference strategies included. Run: {job.out}"
            )
            job.check_right(pool, Needed())
            cost = job.cost(pool)
            found = job.search(
                search,
                pool,
                job.out,
                asdict(search_options),
                search_options.seed,
                tracker,
                columns=("k", "alpha", "budget"),
                cost=cost,
                save=False,
            )
            front = _front(search, pool, limits)
            chosen = limits.choose(search, front)
            source = job.provenance(pool)
            _save_front(search, front, chosen, limits, job, source)
            rows, left_out = [], {}
            if chosen is None:
                (job.out / SCHEDULE).unlink(
                    missing_ok=True
                )  # no schedule is better than one that breaks a limit
            else:
                _with_provenance(search, chosen.schedule, chosen.score, source).save(job.out / SCHEDULE)
                found = replace(found, schedule=chosen.schedule, score=chosen.score)
                others = rivals(chosen.schedule, search_options.seed)
                left_out = others.left_out
                rows = job.compare(pool, {"Pareto": chosen.schedule, **others.schedules})
        _record(search, found, chosen, rows, left_out, cost, job)
        tracker.notify()
        job.show(rows, left_out)
    own = sum(1 for result in search.trials if result.strategy is None)
    job.console.print(front_table(front, chosen.id if chosen else None, job.labels))
    job.console.print(volume_table(own, search.hypervolume, _rivals(search)))
    if chosen is not None:
        job.say_found(found, cost)
        drop = limits.allowed_drop
        allowed = "" if drop is None else f"--max-drop {100 * drop:g}"
        advice = "a smaller --max-drop, larger limits, or more search samples"
        job.say_claims(rows, advice, drop, allowed)
    job.say(f"Front:      {job.out / FRONT}, {job.out / 'front.png'}")
    job.say_mlflow(job.out.name)
    if chosen is None:
        raise limits.unmet(front, job.out)
    return job.out


def _front(search: ParetoSearch, pool: Any, limits: Limits) -> list[FrontPoint]:
    """The front with what its schedules cost and how long their prefills take here."""
    results, none = search.front, search.unreduced_score
    costs = pool.call("costs", [result.schedule for result in results], target=limits.prefill)
    points = []
    for number, (result, cost) in enumerate(zip(results, costs, strict=True), start=1):
        score = result.score or 0.0
        points.append(
            FrontPoint(
                file=f"front/{number:02}.json",
                trial=result.id,
                schedule=result.schedule,
                score=score,
                drop=None if none is None else none - score,
                cost=cost,
                budget=result.budget,
                k=result.k,
                alpha=result.alpha,
            )
        )
    return points


def _rivals(search: ParetoSearch) -> list[Rival]:
    return [
        Rival(group.name, [_point(search, result) for result in group.trials], group.hypervolume, group.ours)
        for group in search.groups
    ]


def _point(search: ParetoSearch, result: TrialResult) -> tuple[float, float]:
    return search.cost(result.schedule) / 1e12, result.score or 0.0


def _with_provenance(
    search: ParetoSearch, schedule: Schedule, score: float | None, source: Mapping[str, Any]
) -> Schedule:
    return with_provenance(schedule, source, score, search.unreduced_score)


def _save_front(
    search: ParetoSearch,
    front: Sequence[FrontPoint],
    chosen: TrialResult | None,
    limits: Limits,
    job: SearchJob,
    source: Mapping[str, Any],
) -> None:
    """`front/NN.json`, the figure, and `front.json` last."""
    temporary, folder = job.out / f".front.{os.getpid()}", job.out / "front"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    for point in front:
        found = _with_provenance(search, point.schedule, point.score, source)
        found.save(temporary / Path(point.file).name)
    shutil.rmtree(folder, ignore_errors=True)
    temporary.replace(folder)
    beside = _rivals(search)
    off = [_point(search, result) for result in search.trials if result not in search.front]
    draw_front(
        job.out / "front.png",
        [(point.tflops, point.score) for point in front],
        off,
        {rival.name: rival.points for rival in beside},
        None if chosen is None else _point(search, chosen),
    )
    picked = None if chosen is None else next(point.file for point in front if point.trial == chosen.id)
    content = {
        "samples": len(job.samples.set),
        "labels": job.labels,
        "E_no_reduction": search.unreduced_score,
        "front": [point.to_dict() for point in front],
        "prefill_not_told_apart": untold({point.file: point.cost.prefill for point in front}),
        "limits": asdict(limits),
        "chosen": picked,
        "hypervolume": search.hypervolume,
        "trials": sum(1 for result in search.trials if result.strategy is None),
        "reference": [
            {
                "name": rival.name,
                "trials": len(rival.points),
                "hypervolume": rival.hypervolume,
                "search_at_as_many_trials": rival.ours,
                "points": [{"tflops_executed": cost, "E": score} for cost, score in rival.points],
            }
            for rival in beside
        ],
    }
    write_json(job.out / FRONT, content)


def _record(
    search: ParetoSearch,
    found: Found,
    chosen: TrialResult | None,
    rows: Sequence[Any],
    left_out: Mapping[str, str],
    cost: Callable[[Schedule], Mapping[str, float]],
    job: SearchJob,
) -> None:
    """Hypervolumes, figure and table named for MLflow."""
    metrics = {"hypervolume": search.hypervolume}
    metrics |= {f"hypervolume/{group.name}": group.hypervolume for group in search.groups}
    files = [job.out / FRONT, job.out / "front.png"]
    if chosen is None:
        record_results(job.out, metrics, files)
    else:
        job.record(found, cost, rows, metrics, files, left_out)
