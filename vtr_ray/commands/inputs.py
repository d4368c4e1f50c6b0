"""What commands share: which model, which samples, how many actors."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import ray

from vtr_ray import embedded
from vtr_ray.errors import InputError
from vtr_ray.evaluation.documents import find_documents, load_documents
from vtr_ray.evaluation.evaluator import Evaluator, EvaluatorSpec
from vtr_ray.evaluation.labels import LIMIT, Labels, labelled, unlabelled
from vtr_ray.evaluation.llava import load_llava
from vtr_ray.evaluation.plain import check_answers, load_unanswered
from vtr_ray.evaluation.pool import EvaluatorPool, check_shares
from vtr_ray.evaluation.prefix_cache import parse_size
from vtr_ray.evaluation.samples import FRAMES, SampleSet, Skipped
from vtr_ray.evaluation.suites import load_tasks
from vtr_ray.models import fetch_model, load_config
from vtr_ray.reduction import DecodeReduction
from vtr_ray.tuning.cluster import fair_share, on_every_node

WAIT = "VTR_RAY_WAIT_FOR_NODES"

DEFAULT_CACHE = "4GiB"


@dataclass(frozen=True)
class ModelOptions:
    """The options of every command that runs a model."""

    model: str = embedded.NAME
    dtype: str = "auto"
    attn: str = "sdpa"
    batch: int = 16
    max_pixels: int | None = None
    cache: str = DEFAULT_CACHE
    frames: int = FRAMES

    def __post_init__(self) -> None:
        parse_size(self.cache)  # a mistake must fail before anything starts

    @property
    def embedded(self) -> bool:
        """Whether it is the embedded model or a variant of it: `embedded:deco`."""
        return embedded.names(self.model)

    @property
    def path(self) -> str:
        """What `load_model` takes."""
        return embedded.checkpoint(self.model)

    def num_layers(self) -> int:
        """Decoder layers, from the configuration alone: a wrong path fails before Ray starts."""
        layers: int = load_config(self.path).get_text_config(decoder=True).num_hidden_layers
        return layers


@dataclass(frozen=True)
class Samples:
    """A sample set, and how an actor loads it itself: Ray cannot restart an actor with large arguments.

    label_tokens: tokens of a label at most, where the model's own answers are the targets; None: the samples
    have answers. labels: these targets, once they are written (`commands.labelling`); `set` then has them.
    """

    set: SampleSet
    load: Callable[[], SampleSet]
    label_tokens: int | None = None
    labels: Labels | None = None

    def loader(self) -> Callable[[], SampleSet]:
        """What an actor calls; labels travel through Ray's object store, and Ray must be connected."""
        if self.labels is None:
            return self.load
        return partial(labelled, self.load, partial(ray.get, ray.put(self.labels)))


def evaluated(samples: Samples, pool: EvaluatorPool) -> Samples:
    """Return the samples without those that the pool's evaluators skipped: what its outcomes are of."""
    if pool.num_samples == len(samples.set):
        return samples
    reasons = pool.describe()["samples"]["skipped"]
    kept = tuple(sample for sample in samples.set if sample.id not in reasons)
    skipped = tuple(Skipped(name, reason) for name, reason in reasons.items())
    return replace(samples, set=replace(samples.set, samples=kept, skipped=skipped))


@dataclass(frozen=True)
class PoolOptions:
    """How many evaluator actors, and what each holds; None: an even share of the machine or cluster."""

    actors: int = 1
    cpus: float | None = None
    gpus: float | None = None

    def __post_init__(self) -> None:
        check_shares(self.cpus or 0, self.gpus or 0)  # a mistake must fail before anything starts

    def open(
        self,
        model: ModelOptions,
        samples: Samples,
        name: str,
        decode: DecodeReduction | None = None,
        *,
        say: Callable[[str], object],
        kind: type[Evaluator] = Evaluator,
    ) -> EvaluatorPool:
        """Starts the actors, after one download of the model per node. Ray must be connected.

        decode: answers are written under it. say: takes a line that an actor warned of. kind: of evaluator.
        """
        cpus, gpus = fair_share(self.actors)
        cpus = cpus if self.cpus is None else self.cpus
        gpus = gpus if self.gpus is None else self.gpus
        there = Path(model.path).exists()
        if not there:
            on_every_node(partial(fetch_model, model.path), gpus=gpus > 0)
        factory = EvaluatorSpec(
            model=str(Path(model.path).absolute()) if there else model.path,  # actors run elsewhere
            samples=samples.loader(),
            batch_size=model.batch,
            dtype=model.dtype,
            attn=model.attn,
            device="split" if gpus > 1 else "auto",
            max_pixels=model.max_pixels,
            cache=parse_size(model.cache),
            decode=decode,
            kind=kind,
        ).build
        return EvaluatorPool(
            factory,
            actors=self.actors,
            cpus=cpus,
            gpus=gpus,
            name=name,
            wait_for_nodes=_wait_for_nodes(),
            say=say,
        )


def _wait_for_nodes() -> float:
    """Seconds; a cluster that grows says in its nodes' environment how long to wait for more of them."""
    said = os.environ.get(WAIT, "0")
    try:
        seconds = float(said)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < math.inf:
        raise InputError(
            f"{WAIT} is {said!r}; set the seconds to wait for a growing cluster's nodes, or unset it"
        )
    return seconds


@dataclass(frozen=True)
class DataOptions:
    """Samples for search and comparison: LLaVA-format files or lmms-eval tasks, `NAME` or `NAME:LIMIT`.

    None of both: the embedded model's own splits. include: folder of a user's task YAMLs. score: the tasks'
    metric that counts.

    labels: "given" with the samples, or "self": the untouched model's own greedy answers, cut after
    `label_tokens` tokens. Samples then need no answers, and may be a folder of images or a list of images and
    questions. question: of those that have none of their own.
    """

    samples: Path | None = None
    images: Path | None = None
    test: Path | None = None
    test_images: Path | None = None
    tasks: tuple[str, ...] = ()
    test_tasks: tuple[str, ...] = ()
    include: Path | None = None
    score: str | None = None
    labels: str = "given"
    label_tokens: int = LIMIT
    question: str | None = None

    def __post_init__(self) -> None:
        if self.labels not in ("given", "self"):
            raise InputError(f"--labels is {self.labels!r}; use given or self")
        if self.label_tokens < 1:
            raise InputError(f"--label-tokens is {self.label_tokens}; a label has at least one token")
        if self.question is not None and (self.labels != "self" or not (self.samples or self.test)):
            raise InputError(
                "--question is for samples without questions; give --samples FOLDER --labels self with it"
            )
        if self.labels == "self" and self.score is not None:
            raise InputError("--score and --labels self both say what is right; give one of them")

    @property
    def parameters(self) -> dict[str, Any]:
        """What the settings of a search say of its labels: nothing where they are given."""
        if self.labels == "given":
            return {}
        return {"labels": self.labels, "label_tokens": self.label_tokens}

    def search_samples(self, model: ModelOptions) -> Samples:
        """The search split: a LLaVA-format file, tasks, or the embedded one."""
        return self._read(model, self.samples, self.images, self.tasks, embedded.search_tasks, "")

    def test_samples(self, model: ModelOptions) -> Samples | None:
        """The held-out samples, or None where a user's own model or tasks come without."""
        own = self.test is not None or bool(self.test_tasks)
        if not own and (self.tasks or not model.embedded):
            return None
        return self._read(model, self.test, self.test_images, self.test_tasks, embedded.test_tasks, "test-")

    def _read(
        self,
        model: ModelOptions,
        file: Path | None,
        images: Path | None,
        tasks: tuple[str, ...],
        ours: Callable[[], list[str]],
        kind: str,
    ) -> Samples:
        name = "--test" if kind else "--samples"
        if file is not None and tasks:
            raise InputError(f"{file} and task {tasks[0]} both name samples; give a file or tasks")
        if not (self.tasks or self.test_tasks) and (self.include, self.score) != (None, None):
            raise InputError("--include-path and --score are for lmms-eval tasks; name one with --task")
        if file is not None:
            folder = None if images is None else images.absolute()
            if self.labels == "self":
                return self._loaded(
                    partial(load_unanswered, file.absolute(), folder, model.frames, self.question)
                )
            check_answers(file)
            return self._loaded(partial(load_llava, file.absolute(), folder, model.frames))
        if tasks:
            return self._loaded(
                partial(load_documents, find_documents(tasks, self.include), self.score, model.frames)
            )
        if not model.embedded:
            raise InputError(
                f"a model of your own needs samples: give {name} FILE.json and --images DIR, or "
                f"--{kind}task NAME"
            )
        return self._loaded(partial(load_tasks, ours(), embedded.TASKS_FOLDER))

    def _loaded(self, load: Callable[[], SampleSet]) -> Samples:
        if self.labels == "given":
            return Samples(load(), load)
        load = partial(unlabelled, load, self.label_tokens)
        return Samples(load(), load, self.label_tokens)
