"""What every search command does around its search: run directory, samples, pool, comparison, files."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ray.exceptions import RayTaskError
from rich.console import Console
from rich.table import Table

from vtr_ray import strategies
from vtr_ray.commands.inputs import DataOptions, ModelOptions, PoolOptions, evaluated
from vtr_ray.commands.labelling import with_labels
from vtr_ray.efficiency import MeanCost
from vtr_ray.efficiency.flops import Convention
from vtr_ray.efficiency.times import untold
from vtr_ray.efficiency.units import flops_unit
from vtr_ray.errors import InputError
from vtr_ray.evaluation.dealing import TooManyLosses
from vtr_ray.evaluation.outcome import too_many_without_answer
from vtr_ray.evaluation.pool import EvaluatorPool
from vtr_ray.evaluation.samples import AGREEMENT, skipped_line
from vtr_ray.evaluation.statistics import MARGIN, check_comparable
from vtr_ray.evaluation.untouched import Needed, refusal
from vtr_ray.models import load_config, revision_of
from vtr_ray.provenance import provenance
from vtr_ray.report.comparison import (
    TFLOPS,
    Row,
    compare_schedules,
    comparison_lines,
    comparison_table,
    convention_words,
    found_lines,
    score_name,
    sources_table,
)
from vtr_ray.report.curve import draw_curve
from vtr_ray.report.live import Display, comparing
from vtr_ray.schedule import Schedule
from vtr_ray.store import default_uri, ui_command
from vtr_ray.tracking import Tracker
from vtr_ray.tuning.directory import SEARCH, Settings, read_ledger, record_results, write_json
from vtr_ray.tuning.run import Found, Search, run_search

HOME = "VTR_RAY_HOME"
DRAWN = ("FastV", "PDrop", "VTW", "P-Sigmoid")  # of the compared strategies


@dataclass(frozen=True)
class RunOptions:
    """Where results go. out: None is a new folder under `home()`, or with `resume` the newest one."""

    out: Path | None = None
    resume: bool = False
    compare: bool = True
    ui_port: int | None = None


def home() -> Path:
    """Where runs and the MLflow store go by default: `VTR_RAY_HOME`, else the current directory.

    Inside a Ray job that is a copy that Ray deletes, so there it is `~/vtr_ray`.
    """
    if named := os.environ.get(HOME):
        return Path(named).expanduser().absolute()
    return Path.home() / "vtr_ray" if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ else Path.cwd()


def run_directory(run: RunOptions, command: str) -> Path:
    """The directory that the options name, absolute. Raises InputError: nothing to resume."""
    if run.out is not None:
        return run.out.absolute()
    root = home() / "runs"
    if run.resume:
        begun = {path.parent for depth in ("", "*/") for path in root.glob(f"{command}-*/{depth}{SEARCH}")}
        runs = {root / path.relative_to(root).parts[0] for path in begun}
        if not runs:
            raise InputError(f"no run to resume under {root}; name its directory with --out")
        return max(runs, key=_age)
    return root / time.strftime(f"{command}-%Y%m%d-%H%M%S")


def claimed(path: Path) -> Path:
    """A new directory of that name; where others began in the same second, of the name and a number."""
    for chosen in numbered(path):
        try:
            chosen.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise InputError(
                f"cannot make the run directory {chosen}: {error.strerror}; name one with --out"
            ) from None
        return chosen
    raise AssertionError


def numbered(path: Path) -> Iterator[Path]:
    """That path, then the same name with a number: 2, 3, ..."""
    yield path
    for number in itertools.count(2):
        yield path.with_name(f"{path.name}-{number}")


def _age(run: Path) -> tuple[str, int]:
    """Sorts directories that `claimed` made: by their second, then by their number."""
    rest = run.name.partition("-")[2]
    stamp, number = rest[:15], rest[16:]
    return stamp, int(number) if number.isdigit() else 1


class SearchJob:
    """One call of a search command. What a user can have wrong fails here, before Ray starts.

    ```
    job = SearchJob("gsearch", "G-Search", model, data, pool_options, run, console)
    with job.tracker(out) as tracker, connected():
        with job.open() as pool:
            job.check_right(pool, Needed())
            found = job.search(search, pool, out, parameters, seed, tracker)
            rows = job.compare(pool, {"G-Search": found.schedule, ...})
        job.record(found, cost, rows, left_out=left_out)
        tracker.notify()
        job.show(rows, left_out)
    job.say_found(found, cost)
    job.say_claims(rows, "a larger --budget")
    ```

    out: the run directory of the whole command, absolute. uri: of MLflow. test: None where there are no
    held-out samples, or nothing is compared.

    Raises:
        InputError: nothing to resume, a busy port, samples that cannot be read.
    """

    def __init__(
        self,
        command: str,
        title: str,
        model: ModelOptions,
        data: DataOptions,
        pool: PoolOptions,
        run: RunOptions,
        console: Console,
        check: Callable[[Path], None] | None = None,
        check_samples: Callable[[int], object] | None = None,
        convention: Convention = "paper",
    ) -> None:
        """`check`: refuses a run directory, before samples are read; `check_samples` too few of them.

        convention: of the FLOPs that the job's lines and tables show.
        """
        self.command, self.title, self.model = command, title, model
        self.run, self.console, self.convention = run, console, convention
        self._said = ""
        self._began, self._pool, self._data = time.monotonic(), pool, data
        self.out = run_directory(run, command)
        if check is not None:
            check(self.out)
        self.uri = default_uri(home())
        self._ui = ui_command(self.uri, run.ui_port)
        self.samples = data.search_samples(model)
        self.test = data.test_samples(model) if run.compare else None
        if run.compare:
            check_comparable((self.test or self.samples).set, "leave the table out with --no-compare")
        if check_samples is not None:
            check_samples(len(self.samples.set))
        self._say_skipped()
        self._claimed = run.out is None and not run.resume
        if self._claimed:  # last: what fails before it leaves nothing behind
            self.out = claimed(self.out)

    def tracker(self, out: Path, name: str | None = None) -> Tracker:
        """Mirrors `out` into MLflow. Open it before Ray: a store is created while Ray starts."""
        return Tracker(out, self.uri, name=name, warn=lambda text: self.console.print(text, soft_wrap=True))

    def open(self) -> EvaluatorPool:
        """The actors with the search samples, of which they may skip some. Ray must be connected.

        Where the model's own answers are the labels, they are written first, of both sample sets.
        """
        self.samples = with_labels(self.samples, self.model, self._pool, self.out, self.say)
        if self.test is not None:
            self.test = with_labels(self.test, self.model, self._pool, self.out, self.say)
        pool = self._pool.open(self.model, self.samples, self.out.name, say=self.say)
        self.samples = evaluated(self.samples, pool)
        return pool

    def mean_cost(self, pool: Any) -> MeanCost:
        """Return what counts costs of schedules, the means over the pool's samples."""
        return MeanCost(load_config(self.model.path), pool.call("token_counts"))

    def check_right(self, pool: EvaluatorPool, needed: Needed) -> None:
        """Refuse a search that could show nothing, because no reduction is right too rarely.

        As many batches are evaluated without reduction as it takes to know; a resumed search that has trials
        was checked when it began.

        Raises:
            InputError: too few samples are right, or have no answer because logits are not numbers.
        """
        searches = [file.parent for pattern in (SEARCH, f"*/{SEARCH}") for file in self.out.glob(pattern)]
        if self.run.resume and any(read_ledger(path) for path in searches):
            return
        try:
            outcomes = pool.evaluate(strategies.none(pool.num_layers), enough=needed.enough)
        except (RayTaskError, TooManyLosses):
            return  # the search's own trial meets it again, is repeated, and may fail without the others
        lacking = needed.lacking(outcomes, pool.num_samples)
        if lacking is None:
            return
        if (problem := too_many_without_answer(outcomes)) is not None:
            line = f"no reduction: {problem}; where float16 overflows, use --dtype bfloat16 or float32"
        else:
            answers = partial(pool.call, "answers")
            line = refusal(lacking, self.samples.set.samples, outcomes, answers)
        if self._claimed:
            with suppress(OSError):
                self.out.rmdir()
        raise InputError(line)

    def cost(self, pool: Any) -> Callable[[Schedule], dict[str, float]]:
        """What stands beside a schedule, means over the samples: memory cost, TFLOPs by both conventions."""
        return partial(_cost, self.mean_cost(pool))

    def search(
        self,
        search: Search,
        pool: Any,
        out: Path,
        parameters: Mapping[str, Any],
        seed: int,
        tracker: Tracker | None,
        *,
        resume: bool | None = None,
        columns: Sequence[str] = ("layer", "rate"),
        cost: Callable[[Schedule], Mapping[str, float]] | None = None,
        save: bool = True,
    ) -> Found:
        """Runs a fresh search to its end in the run directory `out`, shown live.

        parameters: of the search, JSON values; the model's are added. resume: default: as the options say.
        columns: what of a trial is shown: "layer", "rate" or fields of the ledger ("k"); of the last one also
        the best trial's. cost: default `self.cost(pool)`. save: of `run_search`.
        """
        settings = Settings(
            command=self.command,
            parameters={
                "model": self.model.model,
                "dtype": self.model.dtype,
                "attn": self.model.attn,
                "max_pixels": self.model.max_pixels,
                "revision": revision_of(self.model.path),
                **({"frames": self.model.frames} if any(one.is_video for one in self.samples.set) else {}),
                **self._data.parameters,
                **parameters,
            },
            seed=seed,
            samples=self.samples.set.fingerprint,
        )
        cost = cost or self.cost(pool)
        flops = TFLOPS[self.convention]
        unit = flops_unit([cost(strategies.none(pool.num_layers))[flops]])
        words = (
            f"{unit.name}: {convention_words(self.convention)}; they and memory costs are means over the "
            "samples' prompts."
        )
        if words != self._said:  # once for all searches of the job
            self.say(words)
            self._said = words
        score = "E" if self.labels == "given" else "E (agreement)"
        with Display(self.console, columns, flops, unit, score) as display:
            return run_search(
                search,
                pool,
                out,
                settings,
                resume=self.run.resume if resume is None else resume,
                on_trial=display,
                tracker=tracker,
                cost=cost,
                save=save,
                found=self.provenance(pool),
            )

    def provenance(self, pool: Any) -> dict[str, Any]:
        """What a schedule that this search finds says of where it was found, but for its E."""
        return provenance(self.command, self.model.model, pool.vision_tokens, self.samples.set)

    @property
    def labels(self) -> str:
        """ "given", or "self": E is agreement with the model's own answers."""
        return self._data.labels

    def compare(
        self, pool: EvaluatorPool, schedules: Mapping[str, Schedule], found: Mapping[str, str] | None = None
    ) -> list[Row]:
        """Rows on the held-out samples, no reduction first; [] where nothing is to be compared.

        found: by name, the found schedule that one stands beside; None: the first of `schedules`.
        The search's pool is closed first; without held-out samples it is the one that measures.
        """
        first, *others = schedules
        found = dict.fromkeys(others, first) if found is None else found
        if not self.run.compare:
            return []
        if self.test is None:
            self.console.print("No held-out samples (--test FILE.json): compared on the search samples.")
            return self._compared(pool, schedules, found)
        pool.close()
        with self._pool.open(self.model, self.test, self.out.name, say=self.say) as held_out:
            self.test = evaluated(self.test, held_out)
            return self._compared(held_out, schedules, found)

    def _compared(self, pool: Any, schedules: Mapping[str, Schedule], found: Mapping[str, str]) -> list[Row]:
        with comparing(self.console, self.labels) as on_row:
            return compare_schedules(pool, schedules, on_row=on_row, found=found)

    def record(
        self,
        found: Found,
        cost: Callable[[Schedule], Mapping[str, float]],
        rows: Sequence[Row],
        metrics: Mapping[str, float] | None = None,
        artifacts: Iterable[Path] = (),
        left_out: Mapping[str, str] | None = None,
    ) -> None:
        """Figure and table of one search on disk, and named for MLflow.

        rows: no reduction, the found schedule, others; or none. metrics, artifacts: further ones. left_out:
        of the rivals, why.
        """
        none = strategies.none(found.schedule.num_layers)
        curves = {self.title: found.schedule}
        curves |= {row.name: row.schedule for row in rows[2:] if row.name in DRAWN}
        files = [draw_curve(curves, found.path / "keeping_rate.png", "Keeping rate by layer")]
        values = {
            "memory_cost": cost(found.schedule)["memory_cost"],
            "tflops": cost(found.schedule)["tflops"],
            "tflops_executed": cost(found.schedule)["tflops_executed"],
            "tflops_no_reduction": cost(none)["tflops"],
            **(metrics or {}),
        }
        if rows:
            table = {
                "samples": self.compared_on,
                "labels": self.labels,
                "found": rows[1].name,
                "left_out": dict(left_out or {}),
                "prefill_not_told_apart": untold({row.name: row.cost.prefill for row in rows}),
                "rows": [row.to_dict() for row in rows],
            }
            write_json(found.path / "comparison.json", table)
            files.append(found.path / "comparison.json")
            timed = {"prefill_ms": rows[1].cost.prefill, "prefill_ms_no_reduction": rows[0].cost.prefill}
            values |= {name: 1000 * one.median for name, one in timed.items() if one is not None}
            score = score_name(self.labels)
            values |= {f"{score}/{row.name}": row.accuracy for row in rows}
            for row in rows:
                if row.interval is not None:
                    ends = zip(("low", "high"), row.interval, strict=True)
                    values |= {f"{score}/{row.name}_{end}": value for end, value in ends}
        record_results(found.path, values, [*files, *artifacts])

    @property
    def compared_on(self) -> int:
        """How many samples the comparison has."""
        return len((self.test or self.samples).set)

    def show(self, rows: Sequence[Row], left_out: Mapping[str, str]) -> None:
        """Prints the comparison. left_out: of the rivals, why."""
        if rows:
            self.console.print(self._table(rows))
            self.say(*comparison_lines(rows, self.title, left_out))
            self.console.print(sources_table(rows, self.labels))

    def _table(self, rows: Sequence[Row]) -> Table:
        return comparison_table(
            rows, self.compared_on, found=self.title, convention=self.convention, labels=self.labels
        )

    def say_found(self, found: Found, cost: Callable[[Schedule], Mapping[str, float]]) -> None:
        """The line that sums up one search, and where its files are."""
        before = "" if found.score_before is None else f" (no reduction: {found.score_before:.4f})"
        meaning = "" if self.labels == "given" else f" ({AGREEMENT})"
        score = "" if found.score is None else f", E {found.score:.4f}{before}{meaning}"
        none, flops = strategies.none(found.schedule.num_layers), TFLOPS[self.convention]
        own, whole = cost(found.schedule), cost(none)
        unit = flops_unit([whole[flops]])
        self.say(
            f"Found: memory cost {own['memory_cost']:.3f}, {unit.show(own[flops])} {unit.name} "
            f"({convention_words(self.convention)}, search samples; no reduction: {unit.show(whole[flops])})"
            f"{score}, in "
            f"{self.minutes:.1f} minutes.",
            f"Schedule:   {found.path / 'schedule.json'}",
            f"Figure:     {found.path / 'keeping_rate.png'}",
        )

    def say_claims(
        self, rows: Sequence[Row], advice: str, margin: float | None = None, allowed: str = ""
    ) -> None:
        """Say in words whether accuracy was kept, and what was gained over the controls.

        advice: what makes this search lose less. margin: the loss that `allowed`, an option, allows.
        """
        if rows:
            if self.test is None:
                self.say("On the samples of the search itself, which flatter what was found on them:")
            self.say(*found_lines(rows, advice, MARGIN if margin is None else margin, allowed))

    def say_mlflow(self, *runs: str) -> None:
        """The line that opens the MLflow UI. runs: the names of the job's runs."""
        self.say(f"MLflow run: {', '.join(runs)}; open the UI with", f"  {self._ui}")

    @property
    def minutes(self) -> float:
        """Since the command began."""
        return (time.monotonic() - self._began) / 60

    def say(self, *lines: str) -> None:
        """Prints lines as they are."""
        for line in lines:
            self.console.print(line, soft_wrap=True, highlight=False)

    def _say_skipped(self) -> None:
        for one in (samples.set for samples in (self.samples, self.test) if samples is not None):
            if one.skipped:
                self.say(skipped_line(one.where, one.skipped))


def _cost(mean: MeanCost, schedule: Schedule) -> dict[str, float]:
    return {
        "memory_cost": mean.memory_cost(schedule),
        "tflops": mean.tflops(schedule),
        "tflops_executed": mean.tflops(schedule, "executed"),
    }
