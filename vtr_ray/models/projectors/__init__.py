"""Prompt-agnostic reducers as LLaVA projectors: fewer vision tokens before the language model sees them."""

from vtr_ray.models.projectors.settings import (
    ProjectorSettings,
    projector_flops,
    projector_settings,
    set_projector,
    tokens_per_image,
)

__all__ = [
    "ProjectorSettings",
    "projector_flops",
    "projector_settings",
    "set_projector",
    "tokens_per_image",
]
