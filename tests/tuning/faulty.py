"""Evaluators with a fault: from a moment on that a file marks, or under some schedules, or in one process."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tuning_toys as toys

from vtr_ray.evaluation.outcome import NOT_A_NUMBER, Outcome
from vtr_ray.schedule import Schedule

if TYPE_CHECKING:
    from vtr_ray.evaluation.evaluator import EvaluatorSpec
    from vtr_ray.evaluation.samples import SampleSet


class Faulty(toys.Analytic):
    """Once the flag is there: out of memory without room for two, or killed by more than two samples."""

    def __init__(self, kind: str, flag: Path, seconds: float, batch: int, room: int) -> None:
        super().__init__(seconds, batch)
        self.kind, self.flag, self.room = kind, flag, room

    def evaluate(self, schedule: Schedule, batches: list[int] | None = None) -> list[Outcome]:
        if self.flag.exists() and batches == [0]:
            if self.kind == "memory" and self.room < 2:
                import torch

                raise torch.OutOfMemoryError("out of memory at one sample at a time (batch 0); give more")
            if self.kind == "killed" and len(self.batches[0]) > 2:
                os.kill(os.getpid(), signal.SIGKILL)
        return super().evaluate(schedule, batches)


@dataclass
class MakeFaulty:
    """Factory of `Faulty`; pickles."""

    kind: str
    flag: Path
    batch: int = 3
    room: int = 1

    def __call__(self) -> Faulty:
        return Faulty(self.kind, self.flag, 0.02, self.batch, self.room)


def overflows(schedule: Schedule) -> bool:
    return schedule.rates[-1] == 0.0


class Overflowing(toys.Analytic):
    """One sample has no answer under some schedules."""

    def __init__(self, samples: int) -> None:
        super().__init__(samples=samples)

    def evaluate(self, schedule: Schedule, batches: list[int] | None = None) -> list[Outcome]:
        return [
            Outcome("s10", 0.0, error=NOT_A_NUMBER)
            if outcome.sample_id == "s10" and overflows(schedule)
            else outcome
            for outcome in super().evaluate(schedule, batches)
        ]


@dataclass
class MakeOverflowing:
    """Factory of `Overflowing`; pickles."""

    samples: int

    def __call__(self) -> Overflowing:
        return Overflowing(self.samples)


class Straggler(toys.Analytic):
    """Notes who is dealt a batch."""

    def __init__(self, folder: Path, seconds: float) -> None:
        super().__init__(seconds, batch=1, samples=24)
        self.folder = folder

    def evaluate(self, schedule: Schedule, batches: list[int] | None = None) -> list[Outcome]:
        with (self.folder / "dealt").open("a") as file:
            file.write(f"{os.getpid()}\n" * len(batches or ()))
        return super().evaluate(schedule, batches)


@dataclass
class MakeStraggler:
    """Factory of `Straggler`; pickles. The first process that asks is five times slower than the others."""

    folder: Path

    def __call__(self) -> Straggler:
        try:
            with (self.folder / "slow").open("x") as file:
                file.write(str(os.getpid()))
        except FileExistsError:
            return Straggler(self.folder, 0.05)
        return Straggler(self.folder, 0.25)


@dataclass
class FullDisk:
    """Factory of a real evaluator whose prefixes have only the disk, and there no room; pickles."""

    spec: EvaluatorSpec
    folder: str

    def __call__(self) -> Any:
        import resource
        import tempfile

        from vtr_ray.evaluation.evaluator import Evaluator
        from vtr_ray.evaluation.tiers import Tiers

        Tiers._host_has = lambda self, size: False  # type: ignore[method-assign]
        Evaluator.cached_bytes = property(lambda self: self.prefixes.tiers.bytes)  # type: ignore[attr-defined]
        tempfile.tempdir = self.folder
        # Of this process alone: what it writes beyond is refused as a full disk refuses it.
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
        return self.spec.build()


def questions(count: int) -> SampleSet:
    """Some of the embedded model's own."""
    import pyarrow.parquet

    from vtr_ray import embedded
    from vtr_ray.evaluation.samples import Sample, SampleSet

    table = pyarrow.parquet.read_table(embedded.TASKS_FOLDER / "data" / "scenes_search.parquet")
    return SampleSet(
        tuple(
            Sample(f"q{number}", "scenes", row["image"]["bytes"], row["question"], (row["answer"],))
            for number, row in enumerate(table.slice(0, count).to_pylist())
        )
    )


def llava_entries(folder: Path, count: int) -> list[dict[str, Any]]:
    """The same as LLaVA-format entries, their images written to a folder."""
    entries = []
    for sample in questions(count):
        assert isinstance(sample.image, bytes)
        (folder / f"{sample.id}.png").write_bytes(sample.image)
        turns = [("human", f"<image>\n{sample.question}"), ("gpt", sample.answers[0])]
        said = [{"from": who, "value": words} for who, words in turns]
        entries.append({"id": sample.id, "image": f"{sample.id}.png", "conversations": said})
    return entries


def node_and_count(folder: Path, seconds: float = 0.0) -> str:
    """The node it runs on; every call leaves a file behind, and then takes its time."""
    import tempfile

    import ray

    node = ray.get_runtime_context().get_node_id()
    tempfile.mkstemp(prefix=node, dir=folder)
    time.sleep(seconds)
    return str(node)


def end() -> None:
    """What want of memory does."""
    os.kill(os.getpid(), signal.SIGKILL)


def devices() -> str:
    return os.environ.get("CUDA_VISIBLE_DEVICES", "unset")


class Devices(toys.Analytic):
    """Says which GPUs Ray gave its process."""

    def devices(self) -> str:
        return devices()
