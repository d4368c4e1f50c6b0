"""What a schedule costs: FLOPs and bytes counted, time measured. Memory cost: `Schedule.memory_cost`."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vtr_ray.efficiency.configs import read_config, shapes
    from vtr_ray.efficiency.flops import Flops, LayerFlops, count_flops
    from vtr_ray.efficiency.latency import prefill_times
    from vtr_ray.efficiency.mean_cost import MeanCost
    from vtr_ray.efficiency.memory import count_parameters, kv_bytes
    from vtr_ray.efficiency.times import Latency
    from vtr_ray.efficiency.vision import vision_tokens_of
    from vtr_ray.efficiency.workloads import Picture

__all__ = [
    "Flops",
    "Latency",
    "LayerFlops",
    "MeanCost",
    "Picture",
    "count_flops",
    "count_parameters",
    "kv_bytes",
    "prefill_times",
    "read_config",
    "shapes",
    "vision_tokens_of",
]

_HOMES = {
    "Flops": "flops",
    "Latency": "times",
    "LayerFlops": "flops",
    "MeanCost": "mean_cost",
    "Picture": "workloads",
    "count_flops": "flops",
    "count_parameters": "memory",
    "kv_bytes": "memory",
    "prefill_times": "latency",
    "read_config": "configs",
    "shapes": "configs",
    "vision_tokens_of": "vision",
}


def __getattr__(name: str) -> Any:
    # Lazy, so that reports, which show units and times alone, do not pay for torch.
    if name in _HOMES:
        return getattr(import_module(f"vtr_ray.efficiency.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'vtr_ray.efficiency' has no attribute {name!r}")
