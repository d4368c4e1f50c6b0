"""A configuration of any supported family from sizes alone: the one builder of the tests' tiny families."""

from __future__ import annotations

from typing import Any

_TOWERS = {
    "llava": "clip_vision_model",
    "llava_next": "clip_vision_model",
    "llava_onevision": "siglip_vision_model",
    "internvl": "internvl_vision",
    "idefics3": "idefics3_vision",
    "smolvlm": "smolvlm_vision",
    "gemma3": "siglip_vision_model",
}  # Qwen's have one kind of tower and of language model each


def config_of(family: str, text: str, words: dict[str, Any], tower: dict[str, Any], **options: Any) -> Any:
    """family, text: `model_type`s. words, tower: of the language model and of the encoder."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    if family in _TOWERS:
        words, tower = {"model_type": text, **words}, {"model_type": _TOWERS[family], **tower}
    return CONFIG_MAPPING[family](text_config=words, vision_config=tower, **options)
