"""Sort & Reduce on a live model."""

from vtr_ray.reduction.context import Reduction, reduce_vision_tokens

__all__ = ["Reduction", "reduce_vision_tokens"]
