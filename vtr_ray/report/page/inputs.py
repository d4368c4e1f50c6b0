"""What a page is made of: evaluations and searches, and one name and look for each strategy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vtr_ray.errors import InputError
from vtr_ray.report.page.comparisons import read_comparison
from vtr_ray.report.page.drawing import UNNAMED, Look, looks
from vtr_ray.report.page.evaluations import EVALUATION, Evaluation, Sample, read_evaluation, read_samples
from vtr_ray.report.page.searches import SearchRun, read_search_run, search_directories
from vtr_ray.schedule import Schedule


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

    schedules: of all strategies but controls, by names that are unique over all runs.
    """

    evaluations: Sequence[EvaluationRun]
    searches: Sequence[SearchRun]
    schedules: dict[str, Schedule] = field(init=False)
    _labels: dict[tuple[str, str], str] = field(init=False, repr=False)  # by run and strategy

    def __post_init__(self) -> None:
        found: dict[str, Schedule] = {}
        labels: dict[tuple[str, str], str] = {}
        for run, name, schedule in self._strategies():
            label = name if found.get(name, schedule) == schedule else f"{name}, {run}"
            found[label], labels[run, name] = schedule, label
        for search in self.searches:
            if search.found is not None and search.found not in found.values():
                label = f"{search.title}, {search.name}" if search.title in found else search.title
                found[label] = search.found
        object.__setattr__(self, "schedules", found)
        object.__setattr__(self, "_labels", labels)

    @property
    def names(self) -> list[str]:
        """Of all runs."""
        runs = [run.name for run in self.evaluations] + [run.name for run in self.searches]
        return list(dict.fromkeys(runs))

    def looks_of(self, run: EvaluationRun) -> dict[str, Look]:
        """The looks of an evaluation's strategies: those of the curves; a control has its strategy's."""
        found: dict[str, Look] = {}
        for name in run.results.strategies:
            base = name if run.results.control(name) is None else run.results.controlled(name)
            label = self._labels.get((run.name, base))
            found[name] = self.looks[label] if label is not None else UNNAMED
        return found

    @property
    def looks(self) -> dict[str, Look]:
        """By the names of `schedules`."""
        return looks(self.schedules)

    def _strategies(self) -> Iterator[tuple[str, str, Schedule]]:
        for run in self.evaluations:
            for name, strategy in run.results.strategies.items():
                if run.results.control(name) is None:
                    yield run.name, name, strategy.schedule


def _comparisons(paths: Sequence[Path], searches: Mapping[Path, SearchRun]) -> Iterator[EvaluationRun]:
    """What searches compared at their end."""
    for path in paths:
        if (results := read_comparison(path)) is not None:
            yield EvaluationRun(path, searches[path].name, results, ())


def read_runs(runs: Sequence[Path]) -> Inputs:
    """Reads run directories, each once; of an evaluation also the searches that it names and that are there.

    A search that no evaluation names brings the comparison that it ended with.

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
    evaluations += _comparisons([path for path in searches if path not in named], searches)
    for path in dict.fromkeys(path for path in named if search_directories(path) == [path]):
        searches.setdefault(path, read_search_run(path))
    return Inputs(evaluations, list(searches.values()))
