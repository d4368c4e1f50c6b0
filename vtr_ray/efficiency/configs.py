"""Configurations to count from: a directory, a `config.json`, a hub id, or the shape of a paper's model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vtr_ray.errors import InputError, first_line

_SHAPES = Path(__file__).parent / "shapes"


def shapes() -> list[str]:
    """Names that need no file: the shapes of the paper's models."""
    return sorted(path.stem for path in _SHAPES.glob("*.json"))


def read_config(source: str) -> Any:
    """A configuration in transformers' native layout. No code of a checkpoint is run.

    Original InternVL2 configurations (`internvl_chat`) are translated. That is for counting and for random
    weights of the same shape: rotary settings are left at their defaults.

    Args:
        source: one of `shapes()`, a checkpoint's directory, a `config.json`, or a hub id.

    Raises:
        InputError: nothing there, not a configuration, or a model type that transformers does not know.
    """
    content = _content(source)
    kind = content.get("model_type")
    if kind == "internvl_chat":
        return _from_internvl_chat(content, source)
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    if kind not in CONFIG_MAPPING:
        raise InputError(f"{source}: transformers knows no model type {kind!r}.")
    return CONFIG_MAPPING[kind].from_dict(content)


def _content(source: str) -> dict[str, Any]:
    if source in shapes():
        return dict(json.loads((_SHAPES / f"{source}.json").read_text(encoding="utf-8")))
    path = Path(source)
    if path.is_dir():
        path = path / "config.json"
        if not path.is_file():
            raise InputError(f"No config.json in {source}; give a checkpoint's directory or a hub id.")
    try:
        if path.is_file():
            found = json.loads(path.read_text(encoding="utf-8"))
        else:
            from transformers import PreTrainedConfig

            found, _ = PreTrainedConfig.get_config_dict(source)
    except (OSError, ValueError) as error:
        raise InputError(f"Cannot read a configuration from {source!r}: {first_line(error)}") from None
    if not isinstance(found, dict) or "model_type" not in found:
        raise InputError(f"{path} is no model's configuration: it has no model_type.")
    return found


# The language models of InternVL2, by the class their configurations name.
_LANGUAGE_MODELS = {
    "InternLM2ForCausalLM": "llama",
    "LlamaForCausalLM": "llama",
    "Phi3ForCausalLM": "phi3",
    "Qwen2ForCausalLM": "qwen2",
}
_TEXT_KEYS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "vocab_size",
    "max_position_embeddings",
)


def _from_internvl_chat(content: Mapping[str, Any], source: str) -> Any:
    from transformers import InternVLConfig, InternVLVisionConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    try:
        text, vision = content["llm_config"], content["vision_config"]
        name = text["architectures"][0]
        if name not in _LANGUAGE_MODELS:
            raise InputError(
                f"{source}: InternVL with a {name} cannot be counted; known: {', '.join(_LANGUAGE_MODELS)}."
            )
        tied = bool(text.get("tie_word_embeddings", False))
        text_config = CONFIG_MAPPING[_LANGUAGE_MODELS[name]](
            **{key: text[key] for key in _TEXT_KEYS if key in text}, tie_word_embeddings=tied
        )
        vision_config = InternVLVisionConfig(
            hidden_size=vision["hidden_size"],
            intermediate_size=vision["intermediate_size"],
            num_hidden_layers=vision["num_hidden_layers"],
            num_attention_heads=vision["num_attention_heads"],
            image_size=content.get("force_image_size") or vision["image_size"],
            patch_size=vision["patch_size"],
            attention_bias=vision.get("qkv_bias", False),
            use_qk_norm=vision.get("qk_normalization", False),
            norm_type=vision.get("norm_type", "layer_norm"),
        )
    except KeyError as error:
        raise InputError(f"{source}: this internvl_chat configuration lacks {error}.") from None
    return InternVLConfig(
        text_config=text_config,
        vision_config=vision_config,
        downsample_ratio=content.get("downsample_ratio", 0.5),
        vision_feature_layer=content.get("select_layer", -1),
        image_token_id=text["vocab_size"] - 1,
        tie_word_embeddings=tied,
        architectures=["InternVLForConditionalGeneration"],
    )
