"""Configurations to count from: a directory, a `config.json`, a hub id, or the shape of a paper's model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vtr_ray.convert.layout import Layout
from vtr_ray.errors import InputError, first_line

_SHAPES = Path(__file__).parent / "shapes"


def shapes() -> list[str]:
    """Names that need no file: the shapes of the paper's models."""
    return sorted(path.stem for path in _SHAPES.glob("*.json"))


def read_config(source: str) -> Any:
    """A configuration in transformers' native layout. No code of a checkpoint is run.

    Original InternVL2 configurations (`internvl_chat`) are translated; which token stands for an image only
    their tokenizer tells, so the vocabulary's last one does.

    Args:
        source: one of `shapes()`, a checkpoint's directory, a `config.json`, or a hub id.

    Raises:
        InputError: nothing there, not a configuration, or a model type that transformers does not know.
    """
    content = _content(source)
    kind = content.get("model_type")
    if kind == "internvl_chat":
        layout = Layout.parse(content, source)
        text = layout.llm_config
        tied = bool(text.get("tie_word_embeddings", False))
        return layout.native(text["vocab_size"] - 1, tied, layout.torch_dtype)
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
        raise InputError(f"{source}: transformers knows no model type {kind!r}.")
    try:
        return CONFIG_MAPPING[kind].from_dict(content)
    except Exception as error:  # each family validates with exceptions of its own
        raise InputError(f"Cannot read a configuration from {source!r}: {first_line(error)}") from None


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
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"Cannot read a configuration from {source!r}: {first_line(error)}") from None
    if not isinstance(found, dict) or "model_type" not in found:
        raise InputError(f"{path} is no model's configuration: it has no model_type.")
    return found
