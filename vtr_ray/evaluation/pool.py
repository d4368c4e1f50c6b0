"""A pool of Ray actors, each holding an evaluator; from outside it looks like one evaluator."""

from __future__ import annotations

import itertools
import logging
import math
import uuid
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import ray
from ray.exceptions import RayActorError, RayTaskError

from vtr_ray.errors import InputError, Stopped
from vtr_ray.evaluation import dealing
from vtr_ray.evaluation.crew import RETRIES, Holder, RayCrew, mistake, tags_of
from vtr_ray.evaluation.dealing import Enough
from vtr_ray.evaluation.outcome import Outcome
from vtr_ray.evaluation.speeds import Speeds
from vtr_ray.schedule import Schedule

logger = logging.getLogger(__name__)

_MEMORY = "most likely for want of memory: use a smaller batch or fewer actors"


class PoolClient:
    """The pool as seen from any process of its cluster: finds the actors by name. Pickles."""

    def __init__(self, names: Sequence[str], namespace: str, known: Mapping[str, Any] | None = None) -> None:
        self.names = tuple(names)
        self.namespace = namespace
        self._handles: list[Any] | None = None
        self._known: dict[str, Any] = dict(known or {})
        self._crew: RayCrew | None = None
        self._speeds = Speeds(len(self.names))
        self._notices: list[str] = []

    def __reduce__(self) -> tuple[type[PoolClient], tuple[tuple[str, ...], str, dict[str, Any]]]:
        return PoolClient, (self.names, self.namespace, self._known)

    @property
    def actors(self) -> list[Any]:
        """Ray's handles of the actors."""
        if self._handles is None:
            self._handles = [ray.get_actor(name, namespace=self.namespace) for name in self.names]
        return self._handles

    @property
    def search(self) -> str:
        """The name that the actors share, in metrics that of their search."""
        return tags_of(self.names[0])["search"]

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
        """Call a method of the evaluator in one actor, or read its attribute: the first, unless it is away.

        Raises InputError where the evaluator or its factory does.
        """
        return _get(self._answering().get.remote(name, *args, **kwargs))

    def share(self, name: str) -> list[Any]:
        """Call a method of the evaluator in every actor at once, with the actor's number and their count.

        Gives the results in the order of the actors; one whose process ends starts anew and is asked again.
        """
        parts = len(self.names)
        return list(_get([actor.get.remote(name, part, parts) for part, actor in enumerate(self.actors)]))

    def _answering(self) -> Any:
        """The first actor; where it does not answer within a second, whichever answers first."""
        asked = {self.actors[0].place.remote(): self.actors[0]}
        ready, _ = ray.wait(list(asked), timeout=1.0)
        if not ready:
            asked |= {actor.place.remote(): actor for actor in self.actors[1:]}
            ready, _ = ray.wait(list(asked))
        return asked[ready[0]]

    def evaluate(
        self,
        schedule: Schedule,
        batches: Sequence[int] | None = None,
        enough: Enough | None = None,
        on_outcomes: Callable[[list[Outcome]], None] | None = None,
    ) -> list[Outcome]:
        """Outcomes of the samples in `batches` (None: all), in the order one evaluator gives them.

        Batches are dealt by measured speed (`vtr_ray.evaluation.dealing`); those of an actor whose process
        ends go on in the others at once.

        enough: asked whenever batches are done, with the outcomes of all batches before the first that is
        not, so that they do not depend on who was quick, and the number of the other samples (of all, so
        without `batches`). When it says yes, no more are dealt and the outcomes so far are returned.
        on_outcomes: takes outcomes as soon as their batches are done, in any order, each once.
        Raises InputError where the evaluator does, Stopped when processes end again and again, or when
        none has lived for a quarter of an hour.
        """
        chosen = list(range(self.num_batches)) if batches is None else list(batches)
        if self._crew is None:
            self._crew = RayCrew(self.actors)
        told: set[int] = set()

        def tell(done: Mapping[int, list[Outcome]]) -> None:
            new = [batch for batch in done if batch not in told]
            told.update(new)
            if on_outcomes is not None and new:
                on_outcomes([outcome for batch in new for outcome in done[batch]])

        def asked(deal: dealing.Deal) -> bool:
            tell(deal.done)
            return enough is not None and self._has(enough, deal)

        try:
            done = dealing.evaluate(self._speeds, self._crew.begin(schedule), chosen, asked)
        except dealing.TooManyLosses as error:
            raise dealing.TooManyLosses(f"{error}; {_MEMORY}") from None
        finally:
            self.heard(self._crew.warnings)
            self._crew.warnings = []
        tell(done)
        return [outcome for batch in chosen for outcome in done.get(batch, ())]

    def heard(self, notices: Sequence[str]) -> None:
        """Keep what actors warned of, for `take_notices`."""
        self._notices += notices

    def take_notices(self) -> list[str]:
        """What was heard since the last call."""
        notices, self._notices = self._notices, []
        return notices

    def _has(self, enough: Enough, deal: dealing.Deal) -> bool:
        first = itertools.takewhile(deal.done.__contains__, itertools.count())
        outcomes = [outcome for batch in first for outcome in deal.done[batch]]
        return enough(outcomes, self.num_samples - len(outcomes))

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
    killed restarts; meanwhile the others do its work. Pickled, the pool becomes a `PoolClient`.
    What actors warn of is said here, each line once.

    factory: picklable, no arguments; called once in every actor (and again after a restart).
    actors: how many; whole batches are dealt to them.
    cpus, gpus: what each actor holds; `gpus` may be a fraction. torch gets `cpus` threads, at least one.
    name: start of the actors' names, and the search in metrics; a unique part is appended, so searches on
        one cluster never collide.
    wait_for_nodes: seconds to wait for a growing cluster; 0 refuses at once what its nodes cannot hold.
    placement_timeout: seconds to wait for room that others hold.
    say: takes a line that an actor warned of; default: the log of this process.

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
        say: Callable[[str], object] = logger.warning,
    ) -> None:
        if actors < 1:
            raise InputError(f"the pool needs at least one evaluator actor, not {actors}")
        check_shares(cpus, gpus)
        if not wait_for_nodes:
            _check_fits(actors, cpus, gpus)
        unique = uuid.uuid4().hex[:12]
        super().__init__([f"{name}-{unique}-{i}" for i in range(actors)], ray.get_runtime_context().namespace)
        self._say, self._said = say, set[str]()
        holder = ray.remote(Holder)
        pickled = ray.cloudpickle.dumps(factory)
        self._handles = [
            holder.options(
                name=actor, num_cpus=cpus, num_gpus=gpus, max_restarts=-1, max_task_retries=RETRIES
            ).remote(pickled, max(1, int(cpus)), gpus)
            for actor in self.names
        ]
        try:
            self._await_room(cpus, gpus, max(wait_for_nodes, placement_timeout))
            # All build at once; the first error is the one that counts.
            counts = _get([actor.get.remote("num_batches") for actor in self._handles])
            self._known["num_batches"] = counts[0]
            for notices in _get([actor.warned.remote() for actor in self._handles]):
                self.heard(notices)  # of samples that are skipped
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

    def heard(self, notices: Sequence[str]) -> None:
        """Say what actors warned of, unless it was said before."""
        for line in notices:
            if line not in self._said:
                self._said.add(line)
                self._say(line)

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


def check_shares(cpus: float, gpus: float) -> None:
    """Refuse what no actor can hold: Ray shares one GPU out, but no GPU beside a whole one."""
    if not (0 <= cpus < math.inf and 0 <= gpus < math.inf):
        raise InputError(f"an evaluator actor cannot hold {cpus:g} CPUs and {gpus:g} GPUs; give 0 or more")
    if gpus > 1 and gpus != int(gpus):
        raise InputError(
            f"an evaluator actor cannot hold {gpus:g} GPUs; give a whole number, or a part of one GPU"
        )


def _get(refs: Any) -> Any:
    """`ray.get` that gives a user's mistake back as the one line it is."""
    try:
        return ray.get(refs)
    except RayTaskError as error:
        raise mistake(error) from None
    except RayActorError as error:
        raise Stopped(f"an evaluator process ended again and again; {_MEMORY}") from error


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
