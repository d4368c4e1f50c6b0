"""Attention masks of shortened layers, made by transformers' own mask functions.

Kept tokens stay in the input's order, so causality over slots is causality over input positions. Windows and
blocks go by input positions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from vtr_ray.reduction.layout import Layout


def prefill_mask(
    attn: str, layout: Layout, window: int | None, blocks: Tensor | None, dtype: torch.dtype
) -> Any:
    """Mask of a prefill layer as its kernel takes it (SDPA, eager: [batch, 1, length, length]).

    None where the kernel's causal flag is exact.

    Args:
        attn: attention implementation.
        layout: the layer's tokens.
        window: the layer's sliding window, or None.
        blocks: int64 [batch, seq], input positions of one number above -1 see each other; or None.
        dtype: of the hidden states.
    """
    if window is not None and window >= layout.prompt.length:
        window = None
    if blocks is not None:
        blocks = blocks.gather(1, layout.index.clamp(min=0)).masked_fill(layout.index < 0, -1)
    sees = _sees(layout.index, window, blocks)
    valid = None if layout.causal else layout.valid
    return _mask(attn, layout.index, layout.length, layout.length, sees, valid, dtype)


def decode_mask(
    attn: str,
    layout: Layout,
    prompt: int,
    window: int | None,
    cached: int | None,
    tail: Tensor | None,
    steps: int,
    new: int,
    dtype: torch.dtype,
) -> Any:
    """Mask of `new` tokens onto a filled cache (SDPA, eager: [batch, 1, new, keys]).

    None where every cached key is seen.

    Args:
        attn: attention implementation.
        layout: the layer's cached prompt.
        prompt: input positions that it stands for.
        window: the layer's sliding window, or None.
        cached: the most tokens that its cache hands on besides the new ones; None: all.
        tail: bool [batch, steps], the later tokens that are real, or None: all.
        steps: tokens after the prompt so far, the new ones included.
        new: tokens of this call.
        dtype: of the hidden states.
    """
    batch = layout.index.shape[0]
    if window is not None and window >= prompt + steps:
        window = None
    if layout.dense and tail is None and window is None and new == 1:
        return None
    place = torch.arange(prompt, prompt + steps, device=layout.index.device).expand(batch, -1)
    index = torch.cat([layout.index, place], dim=1)
    real = layout.valid.new_ones(batch, steps) if tail is None else tail
    valid = torch.cat([layout.valid, real], dim=1)
    keys = index.shape[1] if cached is None else min(index.shape[1] - new, cached) + new
    index, valid = index[:, -keys:], valid[:, -keys:]
    return _mask(attn, index, new, keys, _sees(index, window, None), valid, dtype)


def block_numbers(marks: Tensor) -> Tensor:
    """Number of the run of 1s that each place is in, -1 outside; both int64 [batch, seq]."""
    inside = marks == 1
    starts = inside.clone()
    starts[:, 1:] &= ~inside[:, :-1]
    return torch.where(inside, starts.long().cumsum(1) - 1, -1)


def _sees(index: Tensor, window: int | None, blocks: Tensor | None) -> Callable[..., Tensor] | None:
    """Which keys a query sees, beyond plain causality (None: all before it), as transformers asks for it."""
    if window is None and blocks is None:
        return None

    def sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        seen = key <= query
        if blocks is not None:
            own = blocks[batch, query]
            seen = seen | ((own == blocks[batch, key]) & (own >= 0))
        if window is not None:
            seen = seen & (index[batch, query] - index[batch, key] < window)
        return seen

    return sees


def _causal(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
    return key <= query


def _mask(
    attn: str,
    like: Tensor,
    queries: int,
    keys: int,
    sees: Callable[..., Tensor] | None,
    valid: Tensor | None,
    dtype: torch.dtype,
) -> Any:
    return ALL_MASK_ATTENTION_FUNCTIONS[attn](
        batch_size=like.shape[0],
        q_length=queries,
        kv_length=keys,
        q_offset=keys - queries,
        kv_offset=0,
        mask_function=sees or _causal,
        attention_mask=valid,
        allow_is_causal_skip=valid is None and sees is None,
        dtype=dtype,
        device=like.device,
    )
