"""transformers' own LLaVA with the projector that its configuration names."""

from __future__ import annotations

from typing import Any

import transformers

from vtr_ray.models.projectors.modules import build_projector
from vtr_ray.models.projectors.settings import patch_grid, projector_settings


class LlavaForConditionalGeneration(transformers.LlavaForConditionalGeneration):  # type: ignore[misc]
    """LLaVA whose projector is the configuration's `vtr_ray_projector`; without one, LLaVA itself.

    It has its parent's name because that name goes into config.json, chooses the loss and maps weights: what
    it saves is a LLaVA with other tensors under `multi_modal_projector`, and needs no code of its own.
    """

    def __init__(self, config: Any) -> None:
        settings = projector_settings(config)
        super().__init__(config)
        if settings is not None:
            self.model.multi_modal_projector = build_projector(config, settings)
            self.post_init()


def fit_processor(processor: Any, config: Any) -> None:
    """Make one image's placeholders as many as the projector's tokens.

    LLaVA's processor counts `(height / patch) * (width / patch)`: a token is as good as a larger patch, and
    what the processor saves holds without this.
    """
    settings = projector_settings(config)
    if settings is not None:
        processor.patch_size = config.vision_config.patch_size * (patch_grid(config) // settings.side)
