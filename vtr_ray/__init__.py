"""Searches how many vision tokens each layer of a multimodal LLM must keep."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vtr_ray import strategies
    from vtr_ray.models import load_model
    from vtr_ray.reduction import reduce_vision_tokens
    from vtr_ray.schedule import Schedule

__all__ = ["Schedule", "load_model", "reduce_vision_tokens", "strategies"]
__version__ = "0.1.0"

_HOMES = {
    "Schedule": "vtr_ray.schedule",
    "load_model": "vtr_ray.models",
    "reduce_vision_tokens": "vtr_ray.reduction",
}


def __getattr__(name: str) -> Any:
    # Lazy, so that `import vtr_ray` does not pay for torch (2.5 s).
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if name == "strategies":
        return import_module("vtr_ray.strategies")
    raise AttributeError(f"module 'vtr_ray' has no attribute {name!r}")
