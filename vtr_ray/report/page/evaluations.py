"""Evaluation runs as the page reads them: `evaluation.json` and `samples.json`, checked."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from vtr_ray.errors import InputError
from vtr_ray.report.comparison import NO_REDUCTION
from vtr_ray.report.controls import RANDOM_TOKENS, control_in, controlled
from vtr_ray.schedule import Ranking, Schedule

EVALUATION, SAMPLES = "evaluation.json", "samples.json"
AVERAGE = "average"


def _schedule(content: Any) -> Schedule:
    return content if isinstance(content, Schedule) else Schedule.from_dict(content)


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, allow_inf_nan=False, arbitrary_types_allowed=True)


class Benchmark(_Part):
    """A task of a suite. documents: how many were asked. note: what a reader must know of it."""

    title: str
    group: str = ""
    metric: str = ""
    documents: int | None = None
    note: str = ""


class Measured(_Part):
    """A value in [0, 1], with its interval where one is known. figures: what the task itself reports."""

    value: float
    low: float | None = None
    high: float | None = None
    figures: dict[str, float] = {}


class Strategy(_Part):
    """One row of an evaluation. search: the run directory that found the schedule, where one did.

    tflops: by the paper's convention. counted_samples: how many it is the mean over; None: the median one's.
    """

    schedule: Annotated[Schedule, BeforeValidator(_schedule)]
    search: str | None = None
    memory_cost: float
    tflops: float
    counted_samples: int | None = None
    prefill_ms: float | None
    decode_ms: float | None
    average: Measured
    benchmarks: dict[str, Measured]


class Difference(_Part):
    """`first` minus `second` on one benchmark or the average, in [-1, 1], paired by document."""

    first: str
    second: str
    benchmark: str
    difference: float
    low: float
    high: float
    p: float | None
    test: str
    significant: bool

    def turned(self) -> Difference:
        """`second` minus `first`."""
        return self.model_copy(
            update={
                "first": self.second,
                "second": self.first,
                "difference": -self.difference,
                "low": -self.high,
                "high": -self.low,
            }
        )


class Evaluation(_Part):
    """A suite's results for several strategies on one model.

    missing: tasks left out, and why. found: the strategy that a search found, where that made the table:
    controls whose names do not say so stand beside it.
    """

    kind: Literal["evaluation"]
    version: Literal[1]
    id: str
    created: float
    model: str
    suite: str
    layers: int
    vision_tokens: int
    benchmarks: dict[str, Benchmark]
    missing: dict[str, str] = {}
    strategies: Annotated[dict[str, Strategy], Field(min_length=1)]
    pairs: list[Difference] = []
    prefill_not_told_apart: dict[str, list[str]] = {}
    found: str | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Evaluation:
        for name, strategy in self.strategies.items():
            if strategy.schedule.num_layers != self.layers:
                raise ValueError(f"{name} has {strategy.schedule.num_layers} layers, the model {self.layers}")
            if unknown := strategy.benchmarks.keys() - self.benchmarks.keys():
                raise ValueError(f"{name} has a result of the unknown benchmark {min(unknown)}")
        return self

    def control(self, name: str) -> str | None:
        """Which control a strategy is, such as `random tokens`; None: it stands for itself."""
        drawn = self.strategies[name].schedule.ranking == Ranking.RANDOM
        return control_in(name) or (RANDOM_TOKENS if drawn else None)

    def controlled(self, name: str) -> str:
        """The strategy that a control stands beside; "": not known."""
        return controlled(name) or self.found or ""

    def difference(self, name: str, benchmark: str = AVERAGE, to: str = NO_REDUCTION) -> Difference | None:
        """`name` minus `to`, whichever way round it was recorded; None: it was not."""
        for pair in self.pairs:
            if pair.benchmark == benchmark and (pair.first, pair.second) == (name, to):
                return pair
            if pair.benchmark == benchmark and (pair.first, pair.second) == (to, name):
                return pair.turned()
        return None


class Answer(_Part):
    """What a strategy made of one sample. kept: at each layer, the vision tokens still alive, ascending."""

    answer: str
    score: float
    kept: list[list[int]]

    def lifetimes(self, tokens: int) -> list[int]:
        """For each vision token, the last layer that has it (0: none)."""
        last = [0] * tokens
        for layer, alive in enumerate(self.kept, start=1):
            for token in alive:
                last[token] = layer
        return last


class Sample(_Part):
    """One question. grid: (height, width) of the tokens over the image; None: tokens have no one grid."""

    task: str
    document: int
    question: str
    target: str
    image: Annotated[str, Field(pattern=r"^data:image/(png|jpeg|webp|gif);base64,[A-Za-z0-9+/=]+$")]
    tokens: Annotated[int, Field(ge=1)]
    grid: tuple[int, int] | None
    strategies: Annotated[dict[str, Answer], Field(min_length=1)]

    @model_validator(mode="after")
    def _consistent(self) -> Sample:
        if self.grid is not None and self.grid[0] * self.grid[1] != self.tokens:
            raise ValueError(f"a grid of {self.grid[0]} x {self.grid[1]} does not hold {self.tokens} tokens")
        for name, answer in self.strategies.items():
            alive = set(range(self.tokens))
            for layer, kept in enumerate(answer.kept, start=1):
                if not alive.issuperset(kept):
                    raise ValueError(f"{name}: layer {layer} keeps tokens that were gone before")
                alive = set(kept)
        return self


class _Samples(_Part):
    samples: list[Sample]


_Model = TypeVar("_Model", bound=_Part)


def read_evaluation(run: Path) -> Evaluation:
    """The results in an evaluation's run directory. Raises InputError where they cannot be read."""
    return _read(run / EVALUATION, Evaluation)


def read_samples(run: Path) -> Sequence[Sample]:
    """The chosen samples of an evaluation; none where it has none. Raises InputError on a bad file."""
    return _read(run / SAMPLES, _Samples).samples if (run / SAMPLES).is_file() else []


def _read(file: Path, model: type[_Model]) -> _Model:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{file} cannot be read as JSON ({error}); run the evaluation again") from None
    try:
        return model.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(step) for step in first["loc"])
        said = first["msg"].removeprefix("Value error, ")
        raise InputError(f"{file}: {f'{where}: ' if where else ''}{said}; run the evaluation again") from None
