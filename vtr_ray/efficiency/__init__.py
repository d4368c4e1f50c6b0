"""What a schedule costs: FLOPs and bytes counted, time measured. Memory cost: `Schedule.memory_cost`."""

from vtr_ray.efficiency.configs import read_config, shapes
from vtr_ray.efficiency.flops import Flops, LayerFlops, count_flops
from vtr_ray.efficiency.latency import Latency, prefill_times
from vtr_ray.efficiency.mean_cost import MeanCost
from vtr_ray.efficiency.memory import count_parameters, kv_bytes
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
