"""Sort & Reduce on a live model."""

from vtr_ray.reduction.context import Reduction, reduce_vision_tokens
from vtr_ray.reduction.refusals import Unsupported

__all__ = ["Reduction", "Unsupported", "reduce_vision_tokens"]
