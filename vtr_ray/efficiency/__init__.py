"""What a schedule costs: FLOPs counted, prefill time measured. Its memory cost is `Schedule.memory_cost`."""

from vtr_ray.efficiency.flops import Flops, count_flops
from vtr_ray.efficiency.latency import Latency, prefill_times

__all__ = ["Flops", "Latency", "count_flops", "prefill_times"]
