"""Evaluators with a fault that a file switches on: the flag is there or not."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import tuning_toys as toys

from vtr_ray.errors import InputError
from vtr_ray.evaluation.outcome import Outcome
from vtr_ray.schedule import Schedule


class Faulty(toys.Analytic):
    """Fails as a real evaluator does, at the last batch."""

    def __init__(self, kind: str, flag: Path, seconds: float) -> None:
        super().__init__(seconds)
        self.kind, self.flag = kind, flag

    def evaluate(self, schedule: Schedule, batches: list[int] | None = None) -> list[Outcome]:
        if self.flag.exists() and batches == [self.num_batches - 1]:
            if self.kind == "not a number":
                raise InputError("the logits of 1 samples (s10) are NaN; load the model in float32")
            if self.kind == "memory":
                import torch

                raise torch.OutOfMemoryError("out of memory at one sample at a time (batch 3); shrink it")
            if self.kind == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
        return super().evaluate(schedule, batches)


@dataclass
class MakeFaulty:
    """Factory of `Faulty`; pickles."""

    kind: str
    flag: Path
    seconds: float = 0.02

    def __call__(self) -> Faulty:
        return Faulty(self.kind, self.flag, self.seconds)


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
