"""Attention masks of shortened layers, made by transformers' own mask functions.

Kept tokens stay in the input's order, so causality over slots is causality over original positions.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, causal_mask_function

from vtr_ray.reduction.layout import Layout


def prefill_mask(attn: str, layout: Layout, dtype: torch.dtype) -> Tensor | None:
    """Mask [batch, 1, length, length] of a prefill layer, or None where the kernel's causal flag is exact."""
    return _mask(
        attn, layout.index, layout.length, layout.length, None if layout.causal else layout.valid, dtype
    )


def decode_mask(
    attn: str, layout: Layout, tail: Tensor | None, steps: int, dtype: torch.dtype
) -> Tensor | None:
    """Mask [batch, 1, 1, length + steps] of one decode step, or None where every cached key is seen.

    Args:
        attn: attention implementation.
        layout: the layer's cached prompt.
        tail: bool [batch, steps], the decoded tokens that are real, or None: all.
        steps: decoded tokens so far, this one included.
        dtype: of the hidden states.
    """
    if layout.dense and tail is None:
        return None
    decoded = layout.valid.new_ones(layout.valid.shape[0], steps) if tail is None else tail
    seen = torch.cat([layout.valid, decoded], dim=1)
    return _mask(attn, layout.index, 1, seen.shape[1], seen, dtype)


def _mask(
    attn: str, like: Tensor, queries: int, keys: int, valid: Tensor | None, dtype: torch.dtype
) -> Tensor | None:
    mask: Tensor | None = ALL_MASK_ATTENTION_FUNCTIONS[attn](
        batch_size=like.shape[0],
        q_length=queries,
        kv_length=keys,
        q_offset=keys - queries,
        kv_offset=0,
        mask_function=causal_mask_function,
        attention_mask=valid,
        allow_is_causal_skip=valid is None,
        dtype=dtype,
        device=like.device,
    )
    return mask
