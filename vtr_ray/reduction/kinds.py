"""What tells the decoder layers of one model apart: how far back they see, which rotary tables they use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Kind:
    """A kind of decoder layer.

    Attributes:
        name: the configuration's layer type; None where all layers are of one.
        window: a query sees the keys less than `window` input positions before it; None: all of them.
    """

    name: str | None
    window: int | None


def layer_kinds(config: Any) -> list[Kind]:
    """The kind of each decoder layer, from the language model's configuration."""
    window = getattr(config, "sliding_window", None)
    types = getattr(config, "layer_types", None)
    if types is None:
        return [Kind(None, window)] * int(config.num_hidden_layers)
    return [Kind(name, window if name == "sliding_attention" else None) for name in types]
