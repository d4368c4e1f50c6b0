"""What the studies share: their options, one call of the command, runs that are named."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from vtr_ray import embedded
from vtr_ray.commands.inputs import DataOptions, ModelOptions, PoolOptions
from vtr_ray.commands.named import Given, given_schedule
from vtr_ray.errors import InputError
from vtr_ray.studies.tradeoff import DROPS
from vtr_ray.tuning.directory import SEARCH, Settings, read_settings


@dataclass(frozen=True)
class StudyOptions:
    """What a study needs besides a model.

    runs: of searches, for studies that compare them or need what one found; for times schedule files too.
    count: samples whose scores are read. suite, limit: of benchmarks, where accuracies are compared; no suite
    is `Job.suite`'s. iterations: of each P-Sigmoid search, after 10 initial points. drops: of FastV, whose
    FLOPs P-Sigmoid is given. steps, tuning_steps: of trainings from the start and from the shipped weights.
    repeats: of timings. timed_batch: samples of a timed prefill; the paper's is one. force: also uses what
    was found on another model than the one that it is used on, or before its weights changed.
    """

    runs: tuple[Path, ...] = ()
    count: int = 60
    suite: tuple[str, ...] = ()
    limit: int | None = None
    iterations: int = 15
    seed: int = 0
    drops: tuple[float, ...] = DROPS
    steps: int = 400
    tuning_steps: int = 100
    repeats: int = 15
    timed_batch: int = 1
    force: bool = False


@dataclass(frozen=True)
class Job:
    """One call of the command."""

    model: ModelOptions
    data: DataOptions
    options: StudyOptions
    pool: PoolOptions
    folder: Path
    console: Console

    def suite(self, moving: bool = False) -> tuple[str, ...]:
        """The benchmarks: those asked for, else the paper's or the embedded ones; moving: of videos."""
        if self.options.suite:
            return self.options.suite
        if moving:
            return (f"vtr_{embedded.VIDEO_TASKS[0]}",) if self.model.embedded else ("video",)
        return ("embedded",) if self.model.embedded else ("paper",)

    def given(self, run: Path, model: str | None = None) -> Given:
        """What a run found, to be used on a model; default: the study's. Raises InputError: another's."""
        return given_schedule(run, model or self.model.model, self.options.force)

    def say(self, line: str) -> None:
        """Prints a line as it is."""
        self.console.print(line, soft_wrap=True, highlight=False, markup=False)


def settings_of(run: Path, command: str) -> Settings:
    """A run's settings. Raises InputError: another command's, or no run."""
    settings = read_settings(run) if (run / SEARCH).is_file() else None
    if settings is None or settings.command != command:
        raise InputError(f"{run} is no run of vtr-ray {command}; name such runs")
    return settings
