"""The last layer's last rows: where only their logits are wanted, the others give keys and values."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from vtr_ray.models import CACHE
from vtr_ray.reduction.scoring import keys_and_values


def ends_early(layer: Any, index: int, states: Tensor, options: dict[str, Any], keep: int, attn: str) -> bool:
    """Whether `last_rows` may stand for the last layer: its caches and its kernel's masks are plain ones.

    Args:
        layer, index, states, options: as `last_rows` takes them.
        keep: rows whose output is wanted; 0: all.
        attn: attention implementation.
    """
    cache = options[CACHE]
    slides = cache is not None and cache.layers[index].is_sliding
    held, tables = next(layer.parameters()), options["position_embeddings"][0]
    here = held.device == states.device == tables.device  # else accelerate moves them when it is called
    return 0 < keep < states.shape[1] and attn in ("sdpa", "eager") and not slides and here


def last_rows(layer: Any, index: int, states: Tensor, options: dict[str, Any], keep: int) -> Tensor:
    """The last `keep` rows of a decoder layer's output, [batch, keep, width].

    The rows before give their keys and values; the layer itself then runs as in a decode step of `keep`
    tokens, and the cache holds afterwards what it would hold anyway.

    Args:
        layer: the last decoder layer.
        index: its number, from 0.
        states: [batch, length, width] entering it.
        options: what it is called with, of that length; SDPA's or eager masks.
        keep: less than `length`.
    """
    length, cache = states.shape[1], options[CACHE]
    cache = DynamicCache() if cache is None else cache
    cos, sin = options["position_embeddings"]
    cache.update(*keys_and_values(layer, states[:, :-keep], (cos[:, :-keep], sin[:, :-keep])), index)
    own = {
        "position_embeddings": (cos[:, -keep:], sin[:, -keep:]),
        "attention_mask": _rows(options["attention_mask"], length, keep, states),
        "position_ids": None,
        CACHE: cache,
    }
    rows: Tensor = layer(states[:, -keep:], **{**options, **own})
    return rows


def _rows(mask: Tensor | None, length: int, keep: int, like: Tensor) -> Tensor | None:
    """The mask's last rows, [batch or 1, 1, keep, length]; None: the causal one, which a kernel would align
    to the first key.
    """
    if mask is not None:
        return mask[:, :, -keep:]
    if keep == 1:
        return None
    seen = torch.ones(keep, length, dtype=torch.bool, device=like.device).tril(length - keep)
    added = torch.zeros(keep, length, dtype=like.dtype, device=like.device)
    return added.masked_fill_(~seen, torch.finfo(like.dtype).min)[None, None]
