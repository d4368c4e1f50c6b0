"""Trials through Ray Tune: a Searcher that asks and tells, a Trainable that calls the pool."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import ray

# Tune reads these when it is imported or in each run. One process per trial, with loggers, costs 1.7 s.
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # Ctrl-C is ours
os.environ.setdefault("TUNE_PRINT_ALL_TRIAL_ERRORS", "0")
os.environ.setdefault("TUNE_WARN_THRESHOLD_S", "60")  # a proposal may take a second on a busy machine
os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "3600")  # the ledger restores, not Tune's snapshots
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # else verbose=0 still prints a table

from ray import tune
from ray.tune.search import Searcher

from vtr_ray.errors import InputError, Stopped
from vtr_ray.evaluation.dealing import TooManyLosses
from vtr_ray.evaluation.early import EarlyStop
from vtr_ray.evaluation.outcome import Outcome, effectiveness, too_many_without_answer, without_answer
from vtr_ray.evaluation.pool import PoolClient
from vtr_ray.schedule import Schedule

_TRIAL_RETRIES = 3
# What an error is to the search: a user's mistake, the end of its work, or this trial's alone.
_ERRORS = {"input": InputError, "stopped": Stopped, "trial": RuntimeError}


class Trial(Protocol):
    """What a search asks for: see `vtr_ray.search`."""

    @property
    def id(self) -> int: ...  # noqa: D102
    @property
    def schedule(self) -> Schedule: ...  # noqa: D102


@dataclass(frozen=True)
class Terms:
    """How a trial is to be evaluated.

    threshold: E below which it may be stopped; None: to the end. paired: each sample's score is wanted.
    """

    threshold: float | None = None
    paired: bool = False


@dataclass(frozen=True)
class Measured:
    """What an evaluation gave.

    score: E; None where it was stopped. scores: of each sample, by id, where they were wanted.
    ceiling: of a stopped one: E is at most this. share: of all samples, how many were evaluated.
    without_answer: ids of the samples that counted as wrong because the model had no answer.
    """

    score: float | None
    scores: dict[str, float] | None = None
    ceiling: float | None = None
    share: float = 1.0
    without_answer: tuple[str, ...] = ()


class Source(Protocol):
    """Where trials come from and results go. Called in the driver, by one thread."""

    def next(self) -> Trial | None:
        """The next trial; None: nothing now."""

    @property
    def exhausted(self) -> bool:
        """Whether there will be no more trials."""

    def terms(self, trial: Trial) -> Terms:
        """How to evaluate the trial that `next` gave."""

    def done(self, trial: Trial, result: Measured | None, seconds: float, error: Exception | None) -> None:
        """Take a result, or why there is none: InputError and Stopped are not the trial's fault."""

    def heard(self, notices: Sequence[str]) -> None:
        """Take what actors warned of."""


class AskTell(Searcher):  # type: ignore[misc]
    """Tune's view of a `Source`. How many trials run at once is the source's decision."""

    def __init__(self, source: Source) -> None:
        super().__init__(metric="E", mode="max")
        self._source = source
        self._running: dict[str, Trial] = {}

    def suggest(self, trial_id: str) -> Any:
        """The next trial's config; None: nothing now."""
        trial = self._source.next()
        if trial is None:
            return Searcher.FINISHED if self._source.exhausted else None
        self._running[trial_id] = trial
        terms = self._source.terms(trial)
        return {
            "trial": trial.id,
            "schedule": json.dumps(trial.schedule.to_dict()),
            "threshold": terms.threshold,
            "paired": terms.paired,
        }

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Hand the result on."""
        trial = self._running.pop(trial_id)
        if error or not result or "seconds" not in result:
            self._source.done(trial, None, 0.0, RuntimeError("the trial's process ended again and again"))
            return
        self._source.heard(json.loads(result["notices"]))
        if result["error"] is not None:
            reason = _ERRORS[result["kind"]](result["error"])
            self._source.done(trial, None, result["seconds"], reason)
        else:
            found = json.loads(result["found"])
            measured = Measured(**{**found, "without_answer": tuple(found["without_answer"])})
            self._source.done(trial, measured, result["seconds"], None)

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its searcher for a restore that is never asked for

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the ledger restores."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the ledger restores."""


class EvaluateSchedule(tune.Trainable):  # type: ignore[misc]
    """One trial: one schedule through the pool. The process is used again for the next trial."""

    def setup(self, config: dict[str, Any], pool: PoolClient) -> None:
        """Keep the pool's names; the models stay where they are."""
        self._config = config
        self._pool = pool

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next trial."""
        self._config = new_config
        return True

    def step(self) -> dict[str, Any]:
        """Evaluate. An error is a result, so that the process lives on."""
        started = time.perf_counter()
        found, error, kind = Measured(None), None, ""
        try:
            schedule = Schedule.from_dict(json.loads(self._config["schedule"]))
            found = measure(self._pool, schedule, Terms(self._config["threshold"], self._config["paired"]))
        except Exception as caught:
            error, kind = one_line(caught), _kind(caught)
        return {
            "E": found.score,
            "found": json.dumps(asdict(found)),  # a string: Tune flattens dicts
            "notices": json.dumps(self._pool.take_notices()),
            "error": error,
            "kind": kind,
            "seconds": time.perf_counter() - started,
            "done": True,
        }

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing to keep between trials."""


class TooFewAnswers(RuntimeError):
    """The model has no answer to so many samples that E says nothing of the schedule."""


def measure(pool: Any, schedule: Schedule, terms: Terms) -> Measured:
    """Evaluate a schedule with a pool, or as much of it as `terms` ask for.

    Raises TooFewAnswers where E would say nothing.
    """
    if terms.threshold is None:
        outcomes: list[Outcome] = pool.evaluate(schedule)
    else:
        early, total = EarlyStop(terms.threshold), pool.num_samples
        outcomes = pool.evaluate(schedule, enough=early)
        if len(outcomes) == total:  # nobody asked after the last batch
            early(outcomes, 0)
        if early.ceiling is not None:
            return Measured(None, None, early.ceiling, len(outcomes) / total)
    if (problem := too_many_without_answer(outcomes)) is not None:
        raise TooFewAnswers(
            f"{problem}; where float16 overflows, start another search with --dtype bfloat16 or float32"
        )
    scores = {outcome.sample_id: outcome.score for outcome in outcomes} if terms.paired else None
    return Measured(effectiveness(outcomes), scores, without_answer=without_answer(outcomes))


def run_trials(source: Source, pool: PoolClient) -> None:
    """Run all trials of `source` as Tune trials; returns when it is exhausted. Ray must be running."""
    folder = tempfile.mkdtemp(prefix="vtr_ray_tune_")
    # A trial waits for the pool and needs no CPU. Tune refuses to ask for nothing, and a cluster that others
    # started has no resource of ours, so take a ten-thousandth of the one that every node has: its address.
    resources = tune.PlacementGroupFactory([{"CPU": 0, _driver_node(): 0.0001}])
    trainable = tune.with_resources(tune.with_parameters(EvaluateSchedule, pool=pool), resources)
    tuner = tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=AskTell(source),
            num_samples=-1,
            reuse_actors=True,
            trial_name_creator=_name,
            trial_dirname_creator=_name,
        ),
        run_config=tune.RunConfig(
            name="search",
            storage_path=folder,
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=_TRIAL_RETRIES),
        ),
    )
    try:
        tuner.fit()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def one_line(error: BaseException) -> str:
    """What an error says, without the traceback of the process that it comes from."""
    cause = getattr(error, "cause", None) or error
    lines = [line.strip() for line in str(cause).strip().splitlines() if line.strip()]
    text = lines[-1] if lines else ""
    plain = isinstance(cause, InputError | Stopped | TooFewAnswers)
    return text if plain else f"{type(cause).__name__}: {text}"


def _kind(error: Exception) -> str:
    if isinstance(error, InputError):
        return "input"
    return "stopped" if isinstance(error, Stopped) and not isinstance(error, TooManyLosses) else "trial"


def _name(trial: Any) -> str:
    return str(trial.trial_id)


def _driver_node() -> str:
    """The resource that names the driver's node, where trials are to run."""
    here = ray.get_runtime_context().get_node_id()
    node = next(node for node in ray.nodes() if node["NodeID"] == here)
    names: list[str] = [name for name in node["Resources"] if name.startswith("node:")]
    return next(name for name in names if name != "node:__internal_head__")
