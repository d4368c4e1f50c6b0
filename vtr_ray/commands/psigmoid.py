"""`vtr-ray psigmoid`: the best steepness for each budget, compared on held-out samples, recorded."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console

from vtr_ray.commands.inputs import DataOptions, ModelOptions, PoolOptions
from vtr_ray.commands.named import schedule_of
from vtr_ray.commands.searching import RunOptions, SearchJob
from vtr_ray.efficiency import MeanCost
from vtr_ray.errors import InputError
from vtr_ray.evaluation.untouched import Needed
from vtr_ray.report.budgets import Found as Line
from vtr_ray.report.budgets import budgets_table, write_budgets
from vtr_ray.report.comparison import NO_REDUCTION, Rivals, Row, rivals
from vtr_ray.report.controls import controls_of
from vtr_ray.schedule import Schedule
from vtr_ray.search import PSigmoidSearch
from vtr_ray.search.matching import matched_budgets, tolerance_of
from vtr_ray.tuning.cluster import connected
from vtr_ray.tuning.directory import SEARCH, check_run_directory
from vtr_ray.tuning.run import Found

OURS = "P-Sigmoid"  # as tables name what was found


@dataclass(frozen=True)
class PSigmoidOptions:
    """Settings of the searches; see `vtr_ray.search.PSigmoidSearch`.

    budgets: mean keeping rates over layers 3..L. matches: strategies (`fastv:0.875`) or schedule files whose
    FLOPs are met. force: also of schedule files that were found on another model.
    """

    budgets: tuple[float, ...] = ()
    matches: tuple[str, ...] = ()
    k_max: float = 2.0
    initial: int = 10
    iterations: int = 15
    seed: int = 0
    round_size: int = 1
    force: bool = False

    def search(self, num_layers: int, vision_tokens: int, budget: float | Sequence[float]) -> PSigmoidSearch:
        """A fresh search. Raises InputError: a number out of its range."""
        return PSigmoidSearch(num_layers, vision_tokens, budget, **self.shared)

    @property
    def shared(self) -> dict[str, Any]:
        """What all searches of the job have in common."""
        names = ("k_max", "initial", "iterations", "seed", "round_size")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class Goal:
    """One search of the job: for a budget, or for the FLOPs of a schedule.

    name: of its run sub-directory. label: as tables name it.
    """

    name: str
    label: str
    budget: float | None = None
    match: Schedule | None = None


def goals_of(options: PSigmoidOptions, num_layers: int, model: str | None = None) -> list[Goal]:
    """Budgets, then matches. Raises InputError: none, one twice, what is no strategy and no schedule, a
    schedule that was found on another model than `model`."""
    goals = [Goal(f"budget-{budget:g}", f"b = {budget:g}", budget) for budget in options.budgets]
    for text in options.matches:
        name = "match-" + re.sub(r"[^A-Za-z0-9._=-]+", "-", text).strip("-")
        goals.append(Goal(name, text, match=schedule_of(text, num_layers, model, options.force)))
    if not goals:
        raise InputError("nothing to search for; give --budget 0.116 or --match fastv:0.875")
    for number, goal in enumerate(goals):
        if goal.name in [other.name for other in goals[:number]]:
            raise InputError(f"{goal.label} is given twice; give each budget once")
    return goals


def psigmoid(
    model: ModelOptions,
    data: DataOptions,
    options: PSigmoidOptions,
    pool_options: PoolOptions,
    run: RunOptions,
    console: Console,
) -> Path:
    """Runs it all; gives the run directory. Raises InputError for what the user can mend."""
    goals: list[Goal] = []

    def check(out: Path) -> None:
        _check_directory(out, run.resume)
        layers = model.num_layers()
        goals.extend(goals_of(options, layers, model.model))
        for budget in options.budgets or (0.5,):
            options.search(layers, 1, budget)

    job = SearchJob("psigmoid", OURS, model, data, pool_options, run, console, check)
    found: dict[Goal, Found] = {}
    with ExitStack() as stack:
        # Trackers first: creating a store takes as long as Ray takes to start, in the background.
        trackers = [
            stack.enter_context(job.tracker(job.out / goal.name, f"{job.out.name}/{goal.name}"))
            for goal in goals
        ]
        stack.enter_context(connected())
        with job.open() as pool:
            costs = _with_budget(job.cost(pool))
            # All before the first runs: what cannot be matched should not wait for other budgets' hours.
            mean = job.mean_cost(pool)
            searches = {goal: _search(goal, options, pool, mean) for goal in goals}
            job.say(
                f"P-Sigmoid on {model.model}: {pool.num_layers} layers, {pool.vision_tokens} vision tokens, "
                f"{len(job.samples.set)} search samples, {len(goals)} searches of at most "
                f"{max(search.total_trials for search in searches.values())} trials. Run: {job.out}"
            )
            job.check_right(pool, Needed())
            lines: list[Line] = []
            files: list[Path] = []
            for goal, tracker in zip(goals, trackers, strict=True):
                job.say(f"{goal.label}:")
                out, search = job.out / goal.name, searches[goal]
                parameters = {"budget": goal.budget, "match": goal.match and goal.label, **options.shared}
                found[goal] = job.search(
                    search,
                    pool,
                    out,
                    parameters,
                    options.seed,
                    tracker,
                    resume=(out / SEARCH).is_file(),
                    columns=("k",),
                    cost=costs,
                )
                lines.append(_line(goal, search, found[goal], costs))
                files = write_budgets(lines, job.out)
            named: dict[str, Schedule] = {}
            beside: dict[str, str] = {}
            left_out: dict[str, str] = {}
            others = {goal: _others(goal, found[goal].schedule, options.seed) for goal in goals}
            for goal, rival in others.items():
                ours = _row_name(OURS, goal)
                theirs = {_row_name(name, goal): one for name, one in rival.schedules.items()}
                named |= {ours: found[goal].schedule, **theirs}
                beside |= dict.fromkeys(theirs, ours)
                left_out |= {_row_name(name, goal): why for name, why in rival.left_out.items()}
            rows = job.compare(pool, named, beside)
        for goal, line, tracker in zip(goals, lines, trackers, strict=True):
            own = _own_rows(goal, rows)
            values = {"best_k": line.k, "budget": line.budget, "search_samples": len(job.samples.set)}
            job.record(found[goal], costs, own, values, files, others[goal].left_out)
            tracker.notify()
        job.show(rows, left_out)
        console.print(budgets_table(lines, job.labels))
    job.say(
        f"{len(goals)} searches in {job.minutes:.1f} minutes.",
        *(f"Schedule:   {job.out / goal.name / 'schedule.json'}" for goal in goals),
        f"k by budget: {job.out / 'psigmoid.json'}, {job.out / 'k_by_budget.png'}",
    )
    job.say_claims(rows, "a larger --budget, or a --match of more FLOPs")
    job.say_mlflow(*(f"{job.out.name}/{goal.name}" for goal in goals))
    return job.out


def _check_directory(out: Path, resume: bool) -> None:
    """One directory holds one job: each search has a folder in it."""
    runs = sorted(out.glob(f"*/{SEARCH}")) if out.is_dir() else []
    if resume and (out / SEARCH).is_file():
        raise InputError(f"{out} holds a search of another command; name the directory of a psigmoid run")
    if not runs:
        check_run_directory(out, resume)  # also refuses another command's run
    elif not resume:
        check_run_directory(runs[0].parent, resume)


def _search(goal: Goal, options: PSigmoidOptions, pool: Any, mean: MeanCost) -> PSigmoidSearch:
    budget: float | Sequence[float]
    if goal.match is None:
        assert goal.budget is not None
        budget = goal.budget
    else:
        target, layers = mean.flops(goal.match), pool.num_layers
        tolerance = tolerance_of(layers, max(1, mean.most), mean.flops, target)
        try:
            budget = matched_budgets(layers, options.k_max, mean.flops, target, tolerance)
        except InputError as error:
            raise InputError(f"--match {goal.label}: {error}") from None
    return options.search(pool.num_layers, pool.vision_tokens, budget)


def _with_budget(
    cost: Callable[[Schedule], Mapping[str, float]],
) -> Callable[[Schedule], dict[str, float]]:
    return lambda schedule: {**cost(schedule), "budget": fmean(schedule.rates[2:])}


def _line(
    goal: Goal, search: PSigmoidSearch, found: Found, costs: Callable[[Schedule], Mapping[str, float]]
) -> Line:
    return Line(
        name=goal.name,
        label=goal.label,
        budget=search.best_budget,
        k=search.best_k,
        score=found.score,
        tflops=costs(found.schedule)["tflops"],
        target=None if goal.match is None else costs(goal.match)["tflops"],
        schedule=found.schedule,
        memory_cost=costs(found.schedule)["memory_cost"],
    )


def _others(goal: Goal, found: Schedule, seed: int) -> Rivals:
    """What stands beside a found schedule: what it matches, or the fixed strategies at its memory cost."""
    if goal.match is not None:
        controls = controls_of(found, seed)
        return Rivals({goal.label: goal.match, **controls.schedules}, controls.left_out)
    others = rivals(found, seed)
    for entries in (others.schedules, others.left_out):
        entries.pop(OURS, None)  # its steepness is what was searched
    return others


def _row_name(name: str, goal: Goal) -> str:
    return name if name == goal.label else f"{name}, {goal.label}"


def _own_rows(goal: Goal, rows: Sequence[Row]) -> list[Row]:
    """One goal's rows under plain names, no reduction first."""
    ending = f", {goal.label}"
    own = [replace(row, name=row.name.removesuffix(ending)) for row in rows if row.name.endswith(ending)]
    own[1:1] = [row for row in rows if row.name == goal.label]
    return [row for row in rows if row.name == NO_REDUCTION] + own
