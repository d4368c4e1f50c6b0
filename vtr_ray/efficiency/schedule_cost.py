"""What a schedule costs on an evaluator's samples, as tables and files have it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vtr_ray.efficiency.times import Latency


@dataclass(frozen=True)
class ScheduleCost:
    """Costs of one schedule; FLOPs with the encoder, at batch 1.

    memory_cost: kept vision tokens over all, mean over layers and samples. tflops: by the paper's convention.
    tflops_executed: of what runs in a prefill. samples: how many these are the mean over. prefill, decode:
    seconds of the language model; None: not timed.
    """

    memory_cost: float
    tflops: float
    tflops_executed: float
    samples: int
    prefill: Latency | None = None
    decode: Latency | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON: times in milliseconds, None where nothing was timed."""
        return {
            "memory_cost": self.memory_cost,
            "tflops": self.tflops,
            "tflops_executed": self.tflops_executed,
            "counted_samples": self.samples,
            **_times("prefill_ms", self.prefill),
            **_times("decode_ms", self.decode),
        }


def _times(name: str, latency: Latency | None) -> dict[str, Any]:
    if latency is None:
        return {name: None}
    quartiles = [1e3 * one for one in latency.quartiles]
    return {name: 1e3 * latency.median, f"{name}_quartiles": quartiles}
