"""What a page is made of: evaluations and searches, and one name and look for each strategy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vtr_ray.errors import InputError
from vtr_ray.report.page.drawing import Look, looks
from vtr_ray.report.page.evaluations import EVALUATION, Evaluation, Sample, read_evaluation, read_samples
from vtr_ray.report.page.searches import SearchRun, read_search_run, search_directories
from vtr_ray.schedule import Schedule

_CONTROL = ", random tokens"


@dataclass(frozen=True)
class EvaluationRun:
    """One evaluation with its chosen samples. name: its directory's."""

    path: Path
    name: str
    results: Evaluation
    samples: Sequence[Sample]


@dataclass(frozen=True)
class Inputs:
    """All that is compared.

    schedules: of all strategies but random controls, by names that are unique over all runs.
    """

    evaluations: Sequence[EvaluationRun]
    searches: Sequence[SearchRun]
    schedules: dict[str, Schedule] = field(init=False)

    def __post_init__(self) -> None:
        found: dict[str, Schedule] = {}
        for name, where, schedule in self._named():
            if schedule not in found.values() or found.get(name, schedule) != schedule:
                taken = name in found and found[name] != schedule
                found[f"{name}, {where}" if taken else name] = schedule
        object.__setattr__(self, "schedules", found)

    @property
    def names(self) -> list[str]:
        """Of all runs."""
        return [run.name for run in self.evaluations] + [run.name for run in self.searches]

    def looks_of(self, evaluation: Evaluation) -> dict[str, Look]:
        """The looks of an evaluation's strategies: those of the curves; a control has its strategy's."""
        of_curves = self.looks
        by_schedule = {schedule: of_curves[name] for name, schedule in self.schedules.items()}
        found: dict[str, Look] = {}
        for name, strategy in evaluation.strategies.items():
            base = evaluation.strategies.get(name.removesuffix(_CONTROL))
            look = by_schedule.get((base or strategy).schedule)
            found[name] = look or next(iter(of_curves.values()))
        return found

    @property
    def looks(self) -> dict[str, Look]:
        """By the names of `schedules`."""
        return looks(self.schedules)

    def _named(self) -> Iterator[tuple[str, str, Schedule]]:
        for evaluation in self.evaluations:
            for name, strategy in evaluation.results.strategies.items():
                if not strategy.control:
                    yield name, evaluation.name, strategy.schedule
        for search in self.searches:
            if search.found is not None:
                yield search.title, search.name, search.found


def read_runs(runs: Sequence[Path]) -> Inputs:
    """Reads run directories, each once; of an evaluation also the searches that it names and that are there.

    Raises InputError: a directory that is neither, or whose files are broken.
    """
    evaluations: list[EvaluationRun] = []
    searches: dict[Path, SearchRun] = {}
    named: list[Path] = []
    for run in dict.fromkeys(run.resolve() for run in runs):
        below = search_directories(run) if run.is_dir() else []
        if (run / EVALUATION).is_file():
            found = EvaluationRun(run, run.name, read_evaluation(run), read_samples(run))
            evaluations.append(found)
            named += [Path(one.search).resolve() for one in found.results.strategies.values() if one.search]
        elif not below:
            raise InputError(f"{run} is no run directory (no {EVALUATION}, no search.json); name one that is")
        for path in (path for path in below if path not in searches):
            searches[path] = read_search_run(path, path.relative_to(run.parent).as_posix())
    for path in dict.fromkeys(path for path in named if search_directories(path) == [path]):
        searches.setdefault(path, read_search_run(path))
    return Inputs(evaluations, list(searches.values()))
