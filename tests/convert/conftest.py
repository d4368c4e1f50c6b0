from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import original_checkpoints as checkpoints
import original_tokenizers as tokenizers
import pytest
from torch import Tensor


@dataclass
class Original:
    """A tiny original checkpoint on disk and what is in it."""

    path: Path
    config: dict[str, Any]
    weights: dict[str, Tensor]
    encode: tokenizers.Encode


@pytest.fixture
def original(tmp_path: Path) -> Callable[..., Original]:
    """Writes a tiny checkpoint in the layout of one of the five; options go into its `llm_config`."""

    def write(size: str, shards: int = 1, top: dict[str, Any] | None = None, **text: Any) -> Original:
        path = tmp_path / f"InternVL2-{size}"
        path.mkdir()
        vocab_size, encode = tokenizers.WRITERS[size](path)
        config = checkpoints.tiny(size, vocab_size, **text) | (top or {})
        weights = checkpoints.random_weights(config)
        checkpoints.save(path, config, weights, shards)
        return Original(path, config, weights, encode)

    return write
