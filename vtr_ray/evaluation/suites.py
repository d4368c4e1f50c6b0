"""lmms-eval tasks as samples, judged by the task's own `process_results`."""

from __future__ import annotations

import hashlib
import inspect
import io
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any

from PIL import Image

from vtr_ray.errors import InputError, first_line
from vtr_ray.evaluation.images import as_rgb, whole_images_only
from vtr_ray.evaluation.outcome import Outcome
from vtr_ray.evaluation.samples import FRAMES, Sample, SampleSet, Skipped, Video
from vtr_ray.evaluation.video import open_video, read_video, video_digest

DEFAULT_MAX_NEW_TOKENS = 128


@dataclass(frozen=True)
class TaskJudge:
    """Judges an answer to one document as its task does: `process_results` after the task's filters.

    Pickles: it names the document, and each process loads the task when it first judges.
    include: folder of task YAMLs; None: lmms-eval's own tasks. metric: the one that is the score.
    """

    include: str | None
    task: str
    document: int
    metric: str

    def __call__(self, answer: str) -> float:
        """Score in [0, 1]. Raises InputError where the task's metric is something else."""
        task = load_task(self.include, self.task)
        return _as_score(_results(task, self.document, answer), self.metric, self.task)

    def names(self) -> tuple[str, str]:
        """Task and metric."""
        return self.task, self.metric


def task_names(include: str | Path | None, groups: bool = False) -> list[str]:
    """Names of the tasks under a folder; None: lmms-eval's own (3.5 s). groups: of groups, too."""
    manager = _manager(None if include is None else str(include))
    return list(manager.task_index if groups else manager.all_subtasks)


def load_tasks(
    names: Sequence[str],
    include: str | Path | None = None,
    *,
    score: str | None = None,
    limit: int | None = None,
    frames: int = FRAMES,
) -> SampleSet:
    """The documents of lmms-eval tasks as samples with ids `task/document`.

    A task's YAML says `metadata: {score: METRIC, exact_answer: true | false}`: which per-document metric is
    the score, and whether exact match of the text of `doc_to_target` decides it in one forward pass. Without
    `score` the task's only metric counts; without `exact_answer` the sample generates.

    include: folder of task YAMLs; None: lmms-eval's own. score: overrides the YAML's. limit: at most so many
    documents of each task, evenly spread over it and always the same. frames: read of a video (a document
    whose `doc_to_visual` gives its path), spread evenly over it.
    Raises InputError: unknown task, missing data, no images, a metric that is unclear or no score of one
    answer, too many unreadable documents.
    """
    where = None if include is None else str(include)
    return SampleSet.joined([_load(where, name, score, limit, frames) for name in names])


def _load(include: str | None, name: str, score: str | None, limit: int | None, frames: int) -> SampleSet:
    task = load_task(include, name)
    check_kind(task, name)
    metadata = task_metadata(task)
    metric = score or metadata.get("score") or _only_metric(task, name)
    exact = bool(metadata.get("exact_answer", False))
    limits = answer_limits(task.config.generation_kwargs or {}, DEFAULT_MAX_NEW_TOKENS)
    common: dict[str, Any] = {"source": name, "exact": exact, **limits}
    samples: list[Sample] = []
    skipped: list[Skipped] = []
    for index in spread_documents(len(task.eval_docs), limit):
        identity = f"{name}/{index}"
        judge = TaskJudge(include, name, index, metric)
        try:
            question, answers, image = _read(task, index, frames)
            digest = video_digest(image) if isinstance(image, Video) else hashlib.sha256(image).hexdigest()
            right = judge(answers[0]) if exact else 1.0
        except InputError:
            raise
        except Exception as error:  # a task's own functions and decoders raise whatever they meet
            skipped.append(Skipped(identity, f"{type(error).__name__}: {error}"))
            continue
        if right != 1:
            raise InputError(
                f"{identity}: the task says exact_answer, but its {metric} of the right answer "
                f"{answers[0]!r} is {right}; correct doc_to_target or the metadata"
            )
        if not samples and not exact:
            _check_judge(judge, answers[0])
        samples.append(
            Sample(identity, image=image, question=question, answers=answers, judge=judge, digest=digest,
                   document=index, **common)
        )  # fmt: skip
    return SampleSet(tuple(samples), tuple(skipped), where=name)


def answer_limits(generation: Mapping[str, Any], default: int) -> dict[str, Any]:
    """Where a task's generation settings end an answer, as `Sample` takes it. default: tokens at most."""
    until, most = generation.get("until") or (), generation.get("max_new_tokens")
    return {
        "max_new_tokens": default if most is None else int(most),
        "until": (until,) if isinstance(until, str) else tuple(until),
    }


def spread_documents(total: int, limit: int | None) -> list[int]:
    """`limit` indices evenly spread over `total` documents, ascending; None, or no fewer: all of them."""
    count = total if limit is None else min(limit, total)
    return [place * total // count for place in range(count)]


def task_metrics(name: str, include: str | Path | None = None) -> list[str]:
    """Names of a task's metrics. Raises InputError: unknown task, missing data."""
    return list(load_task(None if include is None else str(include), name).aggregation())


def visuals_of(doc_to_visual: Callable[[Any], Any], document: Any) -> list[Any]:
    """Return what a task shows of a document; [] where it says None, [] or [None]."""
    given = doc_to_visual(document)
    listed = given if isinstance(given, list | tuple) else [given]
    return [visual for visual in listed if visual is not None]


def images_of(doc_to_visual: Callable[[Any], Any], document: Any) -> list[Any]:
    """Return the images that a task shows of a document. Raises InputError where it shows a video."""
    visuals = visuals_of(doc_to_visual, document)
    if (video := video_of(visuals)) is not None:
        raise InputError(f"it shows the video {video}, others of its task images; ask for them apart")
    return visuals


def video_of(visuals: Sequence[Any]) -> Path | None:
    """Return the video among what a task shows of a document, as lmms-eval names it; None: there is none."""
    return next((Path(visual) for visual in visuals if isinstance(visual, str | Path)), None)


def check_kind(task: Any, name: str) -> None:
    """Raise InputError for a task without images, or of another kind of answer."""
    if task.config.doc_to_visual is None:
        raise InputError(f"task {name} has no images (no doc_to_visual); name one that asks about images")
    if task.OUTPUT_TYPE != "generate_until":
        raise InputError(
            f"task {name} is judged by {task.OUTPUT_TYPE}, not by an answer; name one of output_type "
            "generate_until"
        )


def _check_judge(judge: TaskJudge, answer: str) -> None:
    """A task that cannot judge one answer should fail now, not in the first trial."""
    try:
        judge(answer)
    except InputError:
        raise
    except Exception as error:  # a task's own functions raise whatever they meet
        raise InputError(
            f"task {judge.task} cannot judge an answer by itself ({type(error).__name__}: {error}); name one "
            "whose process_results gives each answer a score"
        ) from None


def _read(task: Any, index: int, frames: int) -> tuple[str, tuple[str, ...], bytes | Video]:
    with whole_images_only():  # datasets decodes on access
        document = task.eval_docs[index]
        question = task.doc_to_text(document)
        if not isinstance(question, str) or not question.strip():
            raise ValueError("empty question")
        target = task.doc_to_target(document)
        answers = tuple(str(one) for one in target) if isinstance(target, list | tuple) else (str(target),)
        visuals = visuals_of(task.doc_to_visual, document)
        if len(visuals) != 1:
            raise ValueError(f"{len(visuals)} images or videos; exactly one is supported")
        return question.strip(), answers, _seen(visuals[0], frames)


def _seen(visual: Any, frames: int) -> bytes | Video:
    if isinstance(visual, str | Path):  # as lmms-eval names videos
        video = open_video(Path(visual), frames)
        read_video(video)
        return video
    if isinstance(visual, Image.Image):
        file = io.BytesIO()
        as_rgb(visual).save(file, "PNG", compress_level=1)
        return file.getvalue()
    raise TypeError(f"doc_to_visual gave a {type(visual).__name__}; an image or a video's path is supported")


def figure_tasks(samples: Iterable[Sample]) -> list[str]:
    """Tasks among the samples that say more of a whole set than means of single answers: `task_figures`."""
    judges = {
        sample.source: sample.judge for sample in samples if isinstance(sample.judge, TaskJudge)
    }  # one of each task
    return [name for name, judge in judges.items() if _aggregations(load_task(judge.include, judge.task))]


def with_answers(load: Callable[[], SampleSet]) -> SampleSet:
    """The samples that `load` gives, those of `figure_tasks` generating: judged as before, but answered."""
    samples = load()
    tasks = figure_tasks(samples)
    answered = tuple(
        replace(sample, exact=False, judge=None) if sample.exact and sample.source in tasks else sample
        for sample in samples
    )
    return replace(samples, samples=answered)


def _aggregations(task: Any) -> list[str]:
    """Metrics of a task that are no plain mean. Those that take `args` write submission files."""
    from lmms_eval.api.metrics import mean

    return [
        metric
        for metric, aggregate in task.aggregation().items()
        if aggregate is not mean and "args" not in inspect.signature(aggregate).parameters
    ]


def task_figures(samples: Iterable[Sample], outcomes: Iterable[Outcome]) -> dict[str, dict[str, float]]:
    """Set-level figures, task by task: every metric of the task through its own aggregation (F1, ...).

    These are for reports and never E. They need each sample's answer: outcomes of an evaluator that
    generates for all samples. Raises ValueError where an answer is missing.
    """
    answers: Mapping[str, str | None] = {outcome.sample_id: outcome.answer for outcome in outcomes}
    collected: dict[tuple[str | None, str], list[tuple[int, dict[str, Any]]]] = {}
    for sample in samples:
        if not isinstance(sample.judge, TaskJudge) or sample.id not in answers:
            continue
        answer = answers[sample.id]
        if answer is None:
            raise ValueError(f"sample {sample.id} has no answer; evaluate with teacher_forcing=False")
        task = load_task(sample.judge.include, sample.judge.task)
        results = _results(task, sample.document, answer)
        collected.setdefault((sample.judge.include, sample.judge.task), []).append((sample.document, results))
    figures: dict[str, dict[str, float]] = {}
    for (include, name), results_by_document in collected.items():
        ordered = [results for _, results in sorted(results_by_document, key=lambda pair: pair[0])]
        figures[name] = {
            metric: float(aggregate([results[metric] for results in ordered if metric in results]))
            for metric, aggregate in load_task(include, name).aggregation().items()
            # Those that take `args` write submission files.
            if "args" not in inspect.signature(aggregate).parameters
            and any(metric in results for results in ordered)
        }
    return figures


def _results(task: Any, document: int, answer: str) -> dict[str, Any]:
    """What `process_results` says of one answer after the task's first filters."""
    doc = task.eval_docs_no_media[document]
    return process_results(task, doc, filtered(task._filters[0].filters, doc, answer))


def filtered(filters: Iterable[Any], doc: Any, answer: str) -> Any:
    """An answer to a document after lmms-eval's filters.

    `task.apply_filters` would pair answers with documents from index 0 on, whichever document this is.
    """
    responses: Any = [[answer]]
    for one in filters:
        responses = one.apply(responses, [doc])
    return next(iter(responses))


def process_results(task: Any, doc: Any, response: Any) -> dict[str, Any]:
    """By metric, what a task says of one filtered answer.

    Undecorated: the decorated `process_results` repeats an exception for ten seconds.
    """
    results: dict[str, Any] = type(task).process_results.__wrapped__(task, doc, [response])
    return results


def _as_score(results: dict[str, Any], metric: str, task: str) -> float:
    if metric not in results:
        raise InputError(f"task {task} gives no metric {metric!r}; it gives: {', '.join(sorted(results))}")
    value = results[metric]
    if isinstance(value, Mapping):  # what an aggregation needs, the score among it
        value = value.get("score")
    try:
        score = float(value)
    except (TypeError, ValueError):
        raise InputError(f"task {task}: metric {metric!r} is {value!r}, not one number per sample") from None
    if not 0 <= score <= 1:
        raise InputError(f"task {task}: metric {metric!r} gives {score}; a score must be in [0, 1]")
    return score


def task_metadata(task: Any) -> dict[str, Any]:
    """What the task's YAML says under `metadata`, in one mapping."""
    metadata = task.config.metadata or {}
    parts = metadata if isinstance(metadata, list) else [metadata]
    return {key: value for part in parts if isinstance(part, Mapping) for key, value in part.items()}


def _only_metric(task: Any, name: str) -> str:
    metrics = list(task.aggregation())
    if len(metrics) != 1:
        raise InputError(
            f"task {name} has the metrics {', '.join(metrics)}; say which is the score "
            "(--score METRIC, or metadata: {score: ...} in its YAML)"
        )
    return str(metrics[0])


def _manager(include: str | None) -> Any:
    if include is None:
        return _default_manager()
    if not Path(include).is_dir():
        raise InputError(f"task folder {include} does not exist; name a folder of lmms-eval task YAMLs")
    _import_lmms_eval()
    from lmms_eval.tasks import TaskManager

    return TaskManager(include_path=include, include_defaults=False)


@lru_cache(maxsize=1)
def _default_manager() -> Any:
    _import_lmms_eval()
    from lmms_eval.tasks import TaskManager

    return TaskManager()


def _import_lmms_eval() -> None:
    """Import it, and undo what that does to the process: no more warnings, truncated images let through."""
    with whole_images_only(), warnings.catch_warnings():
        import lmms_eval.tasks  # noqa: F401
        from loguru import logger
    logger.disable("lmms_eval.caching")  # tells the terminal on which disk a cache lies


@lru_cache(maxsize=64)
def load_task(include: str | None, name: str) -> Any:
    """lmms-eval's own object of a task; include: folder of its YAML, None: lmms-eval's own.

    Raises:
        InputError: no such task or folder, a group's name, data that is not here.
    """
    manager = _manager(include)
    if name not in manager.all_subtasks:
        raise InputError(_unknown(manager, name))
    return _loaded(manager, name)[name]


@lru_cache(maxsize=64)
def load_tree(include: str | None, name: str) -> dict[Any, Any]:
    """Tasks of a group by name, groups as lmms-eval nests them; of a task: itself.

    Raises:
        InputError: as `load_task`.
    """
    manager = _manager(include)
    if name in manager.all_subtasks:
        return {name: load_task(include, name)}
    if name not in manager.task_index:
        raise InputError(_unknown(manager, name))
    return _loaded(manager, name)


def _loaded(manager: Any, name: str) -> dict[Any, Any]:
    _check_data(manager, name)
    import datasets
    from tenacity import RetryError

    bars = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        tree: dict[Any, Any] = manager.load_task_or_group(name)
        return tree
    except RetryError as error:
        cause = error.last_attempt.exception()
        raise InputError(f"task {name}: its data cannot be loaded: {cause}") from error
    except Exception as error:  # a task's YAML and its module raise whatever they meet
        why = f"{type(error).__name__}: {first_line(error)}"
        raise InputError(f"task {name} cannot be loaded: {why}") from error
    finally:
        if bars:
            datasets.enable_progress_bars()


def _unknown(manager: Any, name: str) -> str:
    if name in manager.task_index:
        return f"{name!r} is a group of tasks; name the tasks in it, one by one"
    names = manager.all_subtasks
    known = ", ".join(get_close_matches(name, names, 5, 0.5) or names[:20])
    return f"unknown task {name!r}; known are: {known}{', ...' * (len(names) > 20)}"


def _check_data(manager: Any, name: str) -> None:
    """Raise InputError for data that is not here: lmms-eval would look for it five times in eight seconds."""
    from lmms_eval.utils import load_yaml_config

    place = manager.task_index[name]["yaml_path"]
    if place == -1:  # a tag: tasks that say so themselves
        parts = manager.task_index[name]["task"]
        config: dict[str, Any] = {}
    else:
        config = load_yaml_config(place, mode="simple")
        parts = config.get("task")
    if isinstance(parts, list):
        for part in parts:
            if isinstance(part, str) and part in manager.task_index:
                _check_data(manager, part)
        return
    path = config.get("dataset_path")
    if path not in {"parquet", "json", "csv", "arrow"}:
        if isinstance(path, str) and not Path(path).exists():
            _check_hub(path, name)
        return
    files = (config.get("dataset_kwargs") or {}).get("data_files") or {}
    for value in files.values() if isinstance(files, Mapping) else [files]:
        for file in value if isinstance(value, list) else [value]:
            if "*" not in file and "://" not in file and not (Path(place).parent / file).is_file():
                raise InputError(f"task {name}: data file {file} named in {place} does not exist")


@lru_cache(maxsize=64)
def _check_hub(path: str, name: str) -> None:
    """Refuse a hub data set that is neither here nor to be had now, and name what fetches it."""
    from huggingface_hub import HfApi, constants

    cached = Path(constants.HF_HUB_CACHE) / f"datasets--{path.replace('/', '--')}" / "snapshots"
    if cached.is_dir():
        return
    try:
        HfApi().dataset_info(path, timeout=10)
    except Exception as error:  # whatever its transport raises
        raise InputError(
            f"task {name}: its data is not on this machine and the hub does not give it "
            f"({first_line(error)}); fetch it with: hf download --repo-type dataset {path}"
        ) from None
