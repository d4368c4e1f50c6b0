"""`vtr-ray gsearch`: search, compare on held-out samples, record."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console

from vtr_ray.commands.inputs import DataOptions, ModelOptions, PoolOptions
from vtr_ray.commands.searching import RunOptions, SearchJob
from vtr_ray.errors import InputError
from vtr_ray.evaluation.statistics import samples_to_show
from vtr_ray.evaluation.untouched import Needed
from vtr_ray.report.comparison import rivals
from vtr_ray.search import GSearch
from vtr_ray.search.objectives import allowed_drop, too_few_samples
from vtr_ray.tuning.cluster import connected
from vtr_ray.tuning.directory import check_run_directory


@dataclass(frozen=True)
class GSearchOptions:
    """Settings of the search itself; see `vtr_ray.search.GSearch`."""

    stride: int = 3
    initial: int = 10
    iterations: int = 5
    weight: float = 0.01
    seed: int = 0
    round_size: int = 1
    surrogate: str = "shape"
    objective: str = "paper"
    stop_early: bool = False


def gsearch(
    model: ModelOptions,
    data: DataOptions,
    search_options: GSearchOptions,
    pool_options: PoolOptions,
    run: RunOptions,
    console: Console,
) -> Path:
    """Runs it all; gives the run directory. Raises InputError for what the user can mend."""

    def check(out: Path) -> None:
        check_run_directory(out, run.resume)
        # A number out of range must fail before anything starts.
        GSearch(num_layers=model.num_layers(), vision_tokens=1, **asdict(search_options))

    def check_samples(samples: int) -> None:
        _too_few(search_options, samples)

    job = SearchJob("gsearch", "G-Search", model, data, pool_options, run, console, check, check_samples)
    # The tracker first: creating a store takes as long as Ray takes to start, in the background.
    with job.tracker(job.out) as tracker, connected():
        with job.open() as pool:
            samples = len(job.samples.set)  # less those that the model cannot be asked about
            few = _too_few(search_options, samples)
            search = GSearch(
                num_layers=pool.num_layers,
                vision_tokens=pool.vision_tokens,
                samples=samples,
                **asdict(search_options),
            )
            job.say(
                f"G-Search on {model.model}: {pool.num_layers} layers, {pool.vision_tokens} vision tokens, "
                f"{samples} search samples, at most {search.total_trials} trials. Run: {job.out}"
            )
            if few:
                job.say(few)
            job.check_right(pool, _needed(search_options))
            cost = job.cost(pool)
            found = job.search(search, pool, job.out, asdict(search_options), search_options.seed, tracker)
            others = rivals(found.schedule, search_options.seed)
            rows = job.compare(pool, {"G-Search": found.schedule, **others.schedules})
        job.record(found, cost, rows, left_out=others.left_out)
        tracker.notify()
        job.show(rows, others.left_out)
    job.say_found(found, cost)
    drop = allowed_drop(search_options.objective)
    if drop is None:
        job.say_claims(rows, "--objective keep-accuracy:0.5, a smaller --weight, or more search samples")
    else:
        advice = "fewer points in --objective, or more search samples"
        job.say_claims(rows, advice, drop, f"--objective {search_options.objective}")
    job.say_mlflow(job.out.name)
    return job.out


def _needed(options: GSearchOptions) -> Needed:
    """What no reduction must reach: more than the objective gives away for all tokens."""
    drop = allowed_drop(options.objective)
    if drop is None:
        return Needed(options.weight, f"--weight {options.weight:g}")
    return Needed(drop, f"--objective {options.objective}")


def _too_few(options: GSearchOptions, samples: int) -> str | None:
    """The line about too few samples, or None. Raises InputError where they could show nothing."""
    drop = allowed_drop(options.objective)
    if drop is None:
        return too_few_samples(samples, options.weight)
    if samples < (least := samples_to_show(drop)):
        raise InputError(
            f"{samples} search samples cannot show that no more than {100 * drop:g} points are lost, even "
            f"where every answer stays the same: give {least} or more, or allow more points in --objective"
        )
    return None
