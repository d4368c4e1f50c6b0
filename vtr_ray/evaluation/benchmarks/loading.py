"""Benchmarks loaded: their documents, and the same as samples that an actor reads by itself."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from PIL import Image

from vtr_ray.embedded import TASKS_FOLDER
from vtr_ray.errors import InputError, first_line
from vtr_ray.evaluation.benchmarks import judges
from vtr_ray.evaluation.benchmarks.catalogue import Benchmark
from vtr_ray.evaluation.images import as_rgb, whole_images_only
from vtr_ray.evaluation.samples import FRAMES, Sample, SampleSet, Video
from vtr_ray.evaluation.suites import (
    answer_limits,
    check_kind,
    images_of,
    load_task,
    load_tree,
    spread_documents,
    task_names,
    video_of,
    visuals_of,
)
from vtr_ray.evaluation.video import open_video

MAX_NEW_TOKENS = 1024  # as lmms-eval's own models take it where a task does not say


@dataclass(frozen=True)
class DocumentPictures:
    """The images of one document, as its task gives them; it may have none. Pickles."""

    include: str | None
    task: str
    document: int

    def pictures(self) -> list[Image.Image]:
        """All of them, decoded, RGB."""
        task = load_task(self.include, self.task)
        with whole_images_only():  # datasets decodes on access
            visuals = images_of(task.doc_to_visual, task.eval_docs[self.document])
        return [as_rgb(visual) for visual in visuals]


@dataclass(frozen=True)
class Documents:
    """The chosen documents of one task.

    numbers: their places in the task's data, ascending. units, strata: by number, where it has any.
    """

    task: str
    numbers: tuple[int, ...]
    units: Mapping[int, Hashable] = field(default_factory=dict)
    strata: Mapping[int, Hashable] = field(default_factory=dict)


@dataclass(frozen=True)
class Chosen:
    """A benchmark as a command asks for it. Ray pickles it.

    include: folder of the task's YAML; None: lmms-eval's own. limit: documents of each task at most, evenly
    spread, question groups whole; None: all. frames: read of a video.
    """

    benchmark: Benchmark
    include: str | None
    limit: int | None = None
    frames: int = FRAMES

    @cached_property
    def tree(self) -> Any:
        """lmms-eval's own tasks by name, groups as it nests them."""
        with judges.without_key(self.benchmark.task):
            return load_tree(self.include, self.benchmark.task)

    def __reduce__(self) -> tuple[type[Chosen], tuple[Any, ...]]:
        return Chosen, (self.benchmark, self.include, self.limit, self.frames)  # the rest does not pickle

    @property
    def note(self) -> str:
        """What is said of it before anything runs; "": nothing."""
        return judges.note(self.benchmark.task) or self.benchmark.note

    @cached_property
    def tasks(self) -> dict[str, Any]:
        """lmms-eval's own tasks, without the groups."""
        return dict(_leaves(self.tree))

    @cached_property
    def documents(self) -> dict[str, Documents]:
        """The chosen documents, by task."""
        return {name: self._documents(name, task) for name, task in self.tasks.items()}

    @cached_property
    def samples(self) -> tuple[Sample, ...]:
        """The chosen documents with ids `task/document`, which generate and are not judged."""
        return tuple(
            _sample(self.include, name, self.tasks[name], number, self.frames)
            for name, documents in self.documents.items()
            for number in documents.numbers
        )

    def _documents(self, name: str, task: Any) -> Documents:
        numbers = judges.answerable(name, task)
        unit, stratum = self.benchmark.unit, self.benchmark.stratum
        docs = task.eval_docs_no_media
        strata = {} if stratum is None else {number: stratum(docs[number]) for number in numbers}
        if unit is None:
            places = spread_documents(len(numbers), self.limit)
            return Documents(name, tuple(numbers[place] for place in places), {}, strata)
        units = {number: unit(docs[number]) for number in numbers}
        names = list(dict.fromkeys(units.values()))
        count = len(names)
        if self.limit is not None and numbers:
            count = max(1, self.limit * len(names) // len(numbers))
        kept = {names[place] for place in spread_documents(len(names), count)}
        return Documents(name, tuple(one for one in numbers if units[one] in kept), units, strata)


def choose(
    benchmarks: Sequence[Benchmark],
    include: Path | None = None,
    limit: int | None = None,
    frames: int = FRAMES,
) -> tuple[list[Chosen], dict[str, str]]:
    """Those whose data is here, loaded; and of the others why not, by task.

    Tasks of `include` come before what ships, and that before lmms-eval's own.

    Raises:
        InputError: no such folder.
    """
    folders = [str(folder.absolute()) for folder in (include, TASKS_FOLDER) if folder is not None]
    known = {folder: set(task_names(folder, groups=True)) for folder in folders}
    chosen: list[Chosen] = []
    missing: dict[str, str] = {}
    for benchmark in benchmarks:
        where = next((folder for folder in folders if benchmark.task in known[folder]), None)
        one = Chosen(benchmark, where, limit, frames)
        try:
            for name, task in one.tasks.items():
                check_task(name, task)
            if not any(documents.numbers for documents in one.documents.values()):
                raise InputError(f"task {benchmark.task} has no documents that can be judged here")
        except InputError as error:
            missing[benchmark.task] = str(error)
        else:
            chosen.append(one)
    return chosen, missing


def load_samples(chosen: Sequence[Chosen]) -> SampleSet:
    """The samples of several benchmarks."""
    samples = tuple(sample for one in chosen for sample in one.samples)
    return SampleSet(samples, where=", ".join(one.benchmark.task for one in chosen))


def _context(task: Any, document: int) -> str:
    """The text that lmms-eval would send to a model for a document."""
    shots = task.config.num_fewshot or 0
    context = task.fewshot_context(task.eval_docs_no_media[document], shots)
    if not isinstance(context, str):
        raise InputError(f"task {task.config.task}: document {document} has {type(context).__name__} as text")
    return context


def _sample(include: str | None, name: str, task: Any, document: int, frames: int) -> Sample:
    """A document as a sample that generates what the task's settings say."""
    return Sample(
        f"{name}/{document}",
        name,
        _shown(include, name, task, document, frames),
        _context(task, document),
        (_target(task, document),),
        exact=False,
        document=document,
        **answer_limits(task.config.generation_kwargs or {}, MAX_NEW_TOKENS),
    )


def _shown(include: str | None, name: str, task: Any, document: int, frames: int) -> Video | DocumentPictures:
    """What a document shows: images are not read before their turn, a video is only named by its task."""
    video = video_of(visuals_of(task.doc_to_visual, task.eval_docs[document])) if _has_videos(task) else None
    return DocumentPictures(include, name, document) if video is None else open_video(video, frames)


def _target(task: Any, document: int) -> str:
    """The right answer as text; of several the first. "": the task does not say."""
    try:
        target = task.doc_to_target(task.eval_docs_no_media[document])
    except Exception:  # a task's own function, which its metric may not need
        return ""
    return str(target[0] if isinstance(target, list | tuple) and target else target)


def check_task(name: str, task: Any) -> None:
    """Refuse what this package cannot ask or judge.

    Raises:
        InputError: no images, another kind of answer, sampled answers, a submission server.
    """
    check_kind(task, name)
    generation = task.config.generation_kwargs or {}
    beams, sampled = int(generation.get("num_beams") or 1), bool(generation.get("do_sample"))
    if beams > 1 or sampled:
        raise InputError(
            f"task {name} asks for {'beam search' if beams > 1 else 'sampled answers'}; answers are decoded "
            "greedily here: set num_beams: 1 and do_sample: false in a YAML of your own (--include-path)"
        )
    if (task.config.repeats or 1) != 1:
        raise InputError(f"task {name} asks each question {task.config.repeats} times; greedy answers repeat")
    judges.check(name, task)


@lru_cache(maxsize=64)
def _kind(task: Any) -> bool:
    for document in range(len(task.eval_docs)):
        visuals = visuals_of(task.doc_to_visual, task.eval_docs[document])
        if visuals:
            return video_of(visuals) is not None
    return False


def _has_videos(task: Any) -> bool:
    """Whether the first document of a task that shows anything shows a video."""
    try:
        return _kind(task)
    except InputError:
        raise
    except Exception as error:  # a task's own function raises whatever it meets
        raise InputError(f"task {task.config.task}: its images cannot be read: {first_line(error)}") from None


def _leaves(tree: Mapping[Any, Any]) -> Iterator[tuple[str, Any]]:
    for name, one in tree.items():
        if isinstance(one, Mapping):
            yield from _leaves(one)
        else:
            yield str(name), one
