"""What commands share: which model, which samples, how many actors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from vtr_ray import embedded
from vtr_ray.errors import InputError
from vtr_ray.evaluation.evaluator import EvaluatorSpec
from vtr_ray.evaluation.llava import load_llava
from vtr_ray.evaluation.pool import EvaluatorPool
from vtr_ray.evaluation.samples import SampleSet
from vtr_ray.evaluation.suites import load_tasks
from vtr_ray.models import load_config
from vtr_ray.tuning.cluster import fair_share


@dataclass(frozen=True)
class ModelOptions:
    """The options of every command that runs a model."""

    model: str = embedded.NAME
    dtype: str = "auto"
    attn: str = "sdpa"
    batch: int = 16
    max_pixels: int | None = None

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
    """A sample set, and how an actor loads it itself: Ray cannot restart an actor with large arguments."""

    set: SampleSet
    load: Callable[[], SampleSet]


@dataclass(frozen=True)
class PoolOptions:
    """How many evaluator actors, and what each holds; None: an even share of the machine or cluster."""

    actors: int = 1
    cpus: float | None = None
    gpus: float | None = None

    def open(self, model: ModelOptions, samples: Samples, name: str) -> EvaluatorPool:
        """Starts the actors. Ray must be connected."""
        cpus, gpus = fair_share(self.actors)
        factory = EvaluatorSpec(
            model=model.path,
            samples=samples.load,
            batch_size=model.batch,
            dtype=model.dtype,
            attn=model.attn,
            max_pixels=model.max_pixels,
        ).build
        return EvaluatorPool(
            factory,
            actors=self.actors,
            cpus=cpus if self.cpus is None else self.cpus,
            gpus=gpus if self.gpus is None else self.gpus,
            name=name,
        )


def search_samples(model: ModelOptions, file: Path | None, images: Path | None) -> Samples:
    """The search split: a LLaVA-format file, or the embedded one."""
    return _samples(model, file, images, embedded.search_tasks, "--samples")


def test_samples(model: ModelOptions, file: Path | None, images: Path | None) -> Samples | None:
    """The held-out samples, or None where a user's own model comes without."""
    if file is None and not model.embedded:
        return None
    return _samples(model, file, images, embedded.test_tasks, "--test")


def _samples(
    model: ModelOptions, file: Path | None, images: Path | None, tasks: Callable[[], list[str]], option: str
) -> Samples:
    if file is not None:
        folder = None if images is None else images.absolute()
        return _loaded(partial(load_llava, file.absolute(), folder))
    if not model.embedded:
        raise InputError(f"a model of your own needs samples: give {option} FILE.json and --images DIR")
    return _loaded(partial(load_tasks, tasks(), embedded.TASKS_FOLDER))


def _loaded(load: Callable[[], SampleSet]) -> Samples:
    return Samples(load(), load)
