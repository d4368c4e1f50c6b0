"""The key-value cache by its name in transformers: `cache` from 5.24 on, before that `past_key_values`."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from transformers.masking_utils import create_causal_mask

CACHE = "cache" if "cache" in inspect.signature(create_causal_mask).parameters else "past_key_values"
"""The keyword under which models and their layers take a cache."""


def given_cache(inputs: Mapping[str, Any]) -> Any:
    """The cache among a call's arguments, or None. Models that have the new name still take the old."""
    return next((inputs[name] for name in ("cache", "past_key_values") if inputs.get(name) is not None), None)


def cache_of(output: Any) -> Any:
    """The cache that a model's output holds, or None."""
    return output.cache if hasattr(output, "cache") else output.past_key_values
