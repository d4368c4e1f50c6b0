"""A pool of Ray actors, each holding an evaluator; from outside it looks like one evaluator."""

from __future__ import annotations

import math
import os
import sys
import uuid
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

import ray
from ray.exceptions import RayActorError, RayTaskError

from vtr_ray.errors import InputError
from vtr_ray.evaluation.outcome import Outcome
from vtr_ray.schedule import Schedule

# How often one shard is given again to an actor whose process ended. Killed actors always restart; this only
# keeps samples that end every process (not enough memory) from being tried for ever.
_RETRIES = 10


class _Holder:
    """The actor: builds its evaluator on first use, so that an error of the factory is an ordinary error."""

    def __init__(self, factory: bytes, threads: int, gpus: float) -> None:
        self._factory = factory
        self._threads = threads
        self._gpus = gpus
        self._evaluator: Any = None

    def place(self) -> int:
        """Process id, once the actor has found room."""
        return os.getpid()

    def get(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """An attribute of the evaluator, or the result of calling its method."""
        attribute = getattr(self._built(), name)
        return attribute(*args, **kwargs) if callable(attribute) else attribute

    def evaluate(self, schedule: Schedule, batches: list[int]) -> list[list[Outcome]]:
        """Outcomes per batch: only whole batches merge again in their order."""
        evaluator = self._built()
        return [list(evaluator.evaluate(schedule, [batch])) for batch in batches]

    def _built(self) -> Any:
        if self._evaluator is None:
            # Before the factory is unpickled: that may import torch, whose OpenMP reads this once.
            os.environ["OMP_NUM_THREADS"] = str(self._threads)
            if not self._gpus:
                os.environ["CUDA_VISIBLE_DEVICES"] = ""  # Ray shows all GPUs to an actor that holds none
            factory = ray.cloudpickle.loads(self._factory)
            if "torch" in sys.modules:
                sys.modules["torch"].set_num_threads(self._threads)
            self._evaluator = factory()
            if "torch" in sys.modules:
                sys.modules["torch"].set_num_threads(self._threads)
        return self._evaluator


class PoolClient:
    """The pool as seen from any process of its cluster: finds the actors by name. Pickles."""

    def __init__(self, names: Sequence[str], namespace: str) -> None:
        self.names = tuple(names)
        self.namespace = namespace
        self._handles: list[Any] | None = None
        self._known: dict[str, Any] = {}

    def __reduce__(self) -> tuple[type[PoolClient], tuple[tuple[str, ...], str]]:
        return PoolClient, (self.names, self.namespace)

    @property
    def actors(self) -> list[Any]:
        """Ray's handles of the actors."""
        if self._handles is None:
            self._handles = [ray.get_actor(name, namespace=self.namespace) for name in self.names]
        return self._handles

    @property
    def num_batches(self) -> int:
        """Number of batches that the whole sample list forms."""
        return int(self._fixed("num_batches"))

    @property
    def num_samples(self) -> int:
        """Number of readable samples."""
        return int(self._fixed("num_samples"))

    @property
    def num_layers(self) -> int:
        """Number of decoder layers `L`."""
        return int(self._fixed("num_layers"))

    @property
    def vision_tokens(self) -> int:
        """Vision tokens `N` of a sample (median)."""
        return int(self._fixed("vision_tokens"))

    def describe(self) -> Any:
        """What the evaluator says about itself."""
        return self.call("describe")

    def call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Call a method of the evaluator in the first actor, or read its attribute.

        Raises InputError where the evaluator or its factory does.
        """
        return _get(self.actors[0].get.remote(name, *args, **kwargs))

    def evaluate(self, schedule: Schedule, batches: Sequence[int] | None = None) -> list[Outcome]:
        """Outcomes of the samples in `batches` (None: all), in the order one evaluator gives them.

        Batch `b` always goes to actor `b mod actors`, so that what an actor keeps per batch stays useful.
        Raises InputError where the evaluator does, RuntimeError when an actor's process ends again and again.
        """
        chosen = list(range(self.num_batches)) if batches is None else list(batches)
        shards = [[batch for batch in chosen if batch % len(self.names) == i] for i in range(len(self.names))]
        busy = [(actor, shard) for actor, shard in zip(self.actors, shards, strict=True) if shard]
        parts = _get([actor.evaluate.remote(schedule, shard) for actor, shard in busy])
        by_batch = {
            batch: outcomes
            for (_, shard), part in zip(busy, parts, strict=True)
            for batch, outcomes in zip(shard, part, strict=True)
        }
        return [outcome for batch in chosen for outcome in by_batch[batch]]

    def pids(self) -> list[int]:
        """Process ids of the actors."""
        return [int(pid) for pid in _get([actor.place.remote() for actor in self.actors])]

    def _fixed(self, name: str) -> Any:
        if name not in self._known:
            self._known[name] = self.call(name)
        return self._known[name]


class EvaluatorPool(PoolClient):
    """Starts the actors and ends them; a context manager.

    Each actor builds its own evaluator from `factory`, so models do not travel. An actor whose process is
    killed restarts and its shard is evaluated again. Pickled, the pool becomes a `PoolClient`.

    factory: picklable, no arguments; called once in every actor (and again after a restart).
    actors: how many; whole batches are sharded over them.
    cpus, gpus: what each actor holds; `gpus` may be a fraction. torch gets `cpus` threads, at least one.
    name: start of the actors' names; a unique part is appended, so searches on one cluster never collide.
    wait_for_nodes: seconds to wait for a growing cluster; 0 refuses at once what its nodes cannot hold.
    placement_timeout: seconds to wait for room that others hold.

    Raises InputError: more than the cluster has, no room in time, or an InputError of the factory.
    """

    def __init__(
        self,
        factory: Callable[[], Any],
        actors: int = 1,
        cpus: float = 1.0,
        gpus: float = 0.0,
        name: str = "evaluator",
        *,
        wait_for_nodes: float = 0.0,
        placement_timeout: float = 180.0,
    ) -> None:
        if actors < 1:
            raise InputError(f"the pool needs at least one evaluator actor, not {actors}")
        if cpus < 0 or gpus < 0:
            raise InputError(
                f"an evaluator actor cannot hold {cpus:g} CPUs and {gpus:g} GPUs; give 0 or more"
            )
        if not wait_for_nodes:
            _check_fits(actors, cpus, gpus)
        unique = uuid.uuid4().hex[:12]
        super().__init__([f"{name}-{unique}-{i}" for i in range(actors)], ray.get_runtime_context().namespace)
        holder = ray.remote(_Holder)
        pickled = ray.cloudpickle.dumps(factory)
        self._handles = [
            holder.options(
                name=actor, num_cpus=cpus, num_gpus=gpus, max_restarts=-1, max_task_retries=_RETRIES
            ).remote(pickled, max(1, int(cpus)), gpus)
            for actor in self.names
        ]
        try:
            self._await_room(cpus, gpus, max(wait_for_nodes, placement_timeout))
            # All build at once; the first error is the one that counts.
            _get([actor.get.remote("num_batches") for actor in self._handles])
        except BaseException:
            self.close()
            raise

    def _await_room(self, cpus: float, gpus: float, timeout: float) -> None:
        waiting = [actor.place.remote() for actor in self.actors]
        placed, missing = ray.wait(waiting, num_returns=len(waiting), timeout=timeout)
        if missing:
            raise InputError(
                f"{len(missing)} of {len(waiting)} evaluator actors ({cpus:g} CPUs, {gpus:g} GPUs each) "
                f"found no room in the Ray cluster within {timeout:.0f} s; end what holds it or ask for less"
            )
        _get(placed)

    def close(self) -> None:
        """End the actors. Safe to call twice."""
        handles, self._handles = self._handles or [], []
        if not ray.is_initialized():
            return
        for actor in handles:
            ray.kill(actor, no_restart=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _get(refs: Any) -> Any:
    """`ray.get` that gives a user's mistake back as the one line it is."""
    try:
        return ray.get(refs)
    except RayTaskError as error:
        if isinstance(error.cause, InputError):
            raise InputError(str(error.cause)) from None
        raise
    except RayActorError as error:
        raise RuntimeError(
            "an evaluator process ended again and again on the same samples, most likely for want of memory: "
            "use a smaller batch or fewer actors"
        ) from error


def _check_fits(actors: int, cpus: float, gpus: float) -> None:
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    room = sum(_room(node, cpus, gpus) for node in nodes)
    if room < actors:
        total = [sum(node.get(kind, 0) for node in nodes) for kind in ("CPU", "GPU")]
        raise InputError(
            f"{actors} evaluator actors of {cpus:g} CPUs and {gpus:g} GPUs each do not fit: the Ray cluster "
            f"has {total[0]:g} CPUs and {total[1]:g} GPUs on {len(nodes)} node(s); ask for less"
        )


def _room(node: dict[str, float], cpus: float, gpus: float) -> float:
    """How many actors an empty node holds; a fraction of a GPU never spans two."""
    by_cpu = math.floor(node.get("CPU", 0) / cpus + 1e-9) if cpus else math.inf
    if not gpus:
        return by_cpu
    count = node.get("GPU", 0)
    by_gpu = count * math.floor(1 / gpus + 1e-9) if gpus < 1 else math.floor(count / gpus + 1e-9)
    return min(by_cpu, by_gpu)
