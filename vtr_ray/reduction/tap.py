"""Reading a layer's own rotated queries and keys while its attention runs, whatever its kernel."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterable
from itertools import count
from typing import Any

from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, AttentionInterface

_numbers = count()


class AttentionTap:
    """Calls `read(query, key, scaling)` in the next attention call of an armed module, then its own kernel.

    An armed module's `config` is swapped for a copy that names this tap as the attention implementation;
    the call swaps it back first. So the model's configuration, its masks and other layers never see the tap.
    """

    def __init__(self, read: Callable[[Tensor, Tensor, float], None]) -> None:
        self._read = read
        self._name = f"vtr_ray_tap_{next(_numbers)}"
        self._original: dict[nn.Module, Any] = {}  # the armed modules
        self._copies: dict[int, tuple[Any, Any]] = {}
        AttentionInterface.register(self._name, self._attend)

    def arm(self, attention: Any) -> None:
        """Read the next call of this attention module."""
        own = attention.config
        if id(own) not in self._copies:
            tapped = copy.copy(own)
            tapped._attn_implementation_internal = self._name
            self._copies[id(own)] = (own, tapped)
        self._original[attention] = own
        attention.config = self._copies[id(own)][1]

    def disarm(self, attentions: Iterable[nn.Module] | None = None) -> None:
        """Give armed modules (default: all) their configuration back."""
        for attention in list(self._original if attentions is None else attentions):
            attention.config = self._original.pop(attention)

    def close(self) -> None:
        """Disarm, and take the name out of transformers' table."""
        self.disarm()
        AttentionInterface._global_mapping.pop(self._name, None)

    def _attend(
        self,
        module: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        **options: Any,
    ) -> Any:
        self.disarm([module])
        self._read(query, key, options["scaling"])
        attn = module.config._attn_implementation
        if attn == "eager":  # not in the table: each modeling file has its own
            kernel = sys.modules[type(module).__module__].eager_attention_forward
        else:
            kernel = ALL_ATTENTION_FUNCTIONS[attn]
        return kernel(module, query, key, value, attention_mask, **options)
