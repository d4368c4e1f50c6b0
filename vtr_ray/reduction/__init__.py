"""Sort & Reduce on a live model."""

from vtr_ray.reduction.context import Reduction, reduce_vision_tokens
from vtr_ray.reduction.decoding import DecodeReduction
from vtr_ray.reduction.refusals import Unsupported

__all__ = ["DecodeReduction", "Reduction", "Unsupported", "reduce_vision_tokens"]
