"""Scores of vision tokens: attention probabilities of the ranking rows, never a full attention matrix."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers.utils.generic import maybe_autocast

from vtr_ray.reduction.layout import Layout, take
from vtr_ray.reduction.prompt import Prompt
from vtr_ray.schedule import Ranking, Schedule

# Rows are scored in blocks of at most this many probabilities (256 MB in float32).
_BLOCK = 2**26


def ranking_rows(layout: Layout, ranking: Ranking) -> tuple[Tensor, Tensor | None]:
    """Slots of the rows that rank, int64 [batch, rows], and their weights (None: a single row)."""
    if ranking is Ranking.INSTRUCTION:
        return layout.rows, layout.prompt.weights
    return layout.last, None


@torch.no_grad()
def attention_scores(
    query: Tensor,
    key: Tensor,
    scaling: float,
    layout: Layout,
    rows: Tensor,
    weights: Tensor | None,
    window: int | None = None,
) -> Tensor:
    """Attention probability from the ranking rows to every token, mean over heads, weighted mean over rows.

    The softmax runs over all keys a row may see: real tokens at or before it. Computed in float32.

    Args:
        query: rotated queries of the rows, [batch, rows, heads, head_dim].
        key: rotated keys, [batch, key heads, length, head_dim].
        scaling: factor on the products.
        layout: of the keys.
        rows: int64 [batch, rows], the rows' slots.
        weights: float32 [batch, rows], or None for a single row.
        window: rows see the keys less than that many input positions before them; None: all.

    Returns:
        float32 [batch, length].
    """
    batch, num_rows, heads, head_dim = query.shape
    key_heads, length = key.shape[1], key.shape[2]
    transposed = key.float().transpose(2, 3)
    place = torch.arange(length, device=key.device)
    if window is not None and window >= layout.prompt.length:
        window = None
    total: Tensor | None = None
    block = max(1, _BLOCK // max(1, batch * heads * length))
    for start in range(0, num_rows, block):
        part = slice(start, start + block)
        grouped = query[:, part].float().view(batch, -1, key_heads, heads // key_heads, head_dim)
        grouped = grouped.permute(0, 2, 3, 1, 4) * scaling  # [batch, key heads, group, rows, head_dim]
        with in_float32(query):
            products = grouped.flatten(2, 3) @ transposed
        hidden = place > rows[:, part].unsqueeze(-1)  # [batch, rows, length]
        if window is not None:
            where = layout.index.gather(1, rows[:, part]).unsqueeze(-1)
            hidden = hidden | (where - layout.index.unsqueeze(1) >= window)
        if not layout.dense:
            hidden = hidden | ~layout.valid.unsqueeze(1)
        products = products.view(batch, heads, -1, length).masked_fill_(hidden.unsqueeze(1), float("-inf"))
        scores = products.softmax(-1).mean(1)
        with in_float32(query):
            scores = scores.sum(1) if weights is None else (weights[:, part].unsqueeze(1) @ scores).squeeze(1)
        total = scores if total is None else total + scores
    assert total is not None
    return total


def in_float32(like: Tensor) -> AbstractContextManager[Any]:
    """Products of float32 tensors stay in float32, also under autocast on the device of `like`."""
    context: AbstractContextManager[Any] = maybe_autocast(like.device.type, enabled=False)
    return context


def rows_of(query: Tensor, rows: Tensor) -> Tensor:
    """[batch, heads, length, head_dim] at `rows` [batch, rows]: [batch, rows, heads, head_dim]."""
    batch = torch.arange(query.shape[0], device=query.device).unsqueeze(1)
    return query.transpose(1, 2)[batch, rows]


@torch.no_grad()
def next_layer_scores(
    layer: Any, hidden_states: Tensor, cos_sin: tuple[Tensor, Tensor], layout: Layout
) -> Tensor:
    """PDrop's scores: the last prompt token's row with the coming layer's norm and projections.

    A sliding window of that layer is left out, as in PDrop's code: it would hide tokens from the ranking.

    Args:
        layer: the coming decoder layer.
        hidden_states: [batch, length, width] entering it, before the cut.
        cos_sin: rotary tables, each [batch or 1, length, head_dim].
        layout: before the cut.

    Returns:
        float32 [batch, length].
    """
    attention, states = layer.self_attn, layer.input_layernorm(hidden_states)
    key = _project(attention, states, "k").transpose(1, 2)
    query = _project(attention, take(states, layout.last), "q")
    cos, sin = cos_sin
    key = _rotate(key, cos.unsqueeze(1), sin.unsqueeze(1))
    row_cos, row_sin = (take(table, layout.last).unsqueeze(2) for table in (cos, sin))
    query = _rotate(query, row_cos, row_sin)
    return attention_scores(query, key, attention.scaling, layout, layout.last, None)


def keys_and_values(
    layer: Any, hidden_states: Tensor, cos_sin: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """Rotated keys and the values that a decoder layer makes, each [batch, key heads, length, head_dim].

    Args:
        layer: a decoder layer.
        hidden_states: [batch, length, width] entering it.
        cos_sin: rotary tables, each [batch or 1, length, head_dim].
    """
    attention, states = layer.self_attn, layer.input_layernorm(hidden_states)
    key = _project(attention, states, "k").transpose(1, 2)
    cos, sin = cos_sin
    value = _project(attention, states, "v").transpose(1, 2)
    return _rotate(key, cos.unsqueeze(1), sin.unsqueeze(1)), value


def _project(attention: Any, states: Tensor, part: Literal["q", "k", "v"]) -> Tensor:
    """Queries, keys or values, unrotated, of [batch, length, width]: [batch, length, heads, head_dim].

    Modules are called as they are, so that adapters and quantised weights count.
    """
    size = attention.head_dim
    if hasattr(attention, "qkv_proj"):
        heads = attention.config.num_attention_heads * size
        keys = attention.config.num_key_value_heads * size
        fused = attention.qkv_proj(states)
        flat = fused.split([heads, keys, keys], dim=-1)["qkv".index(part)]
    else:
        flat = getattr(attention, f"{part}_proj")(states)
    projected: Tensor = flat.view(*states.shape[:2], -1, size)
    norm = getattr(attention, f"{part}_norm", nn.Identity())
    normed: Tensor = norm(projected)
    return normed


def _rotate(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Half-split rotation of the leading dimensions that the tables cover."""
    size = cos.shape[-1]
    states, rest = states[..., :size], states[..., size:]
    first, second = states.chunk(2, dim=-1)
    rotated = states * cos + torch.cat((-second, first), dim=-1) * sin
    return torch.cat((rotated, rest), dim=-1) if rest.shape[-1] else rotated


def random_order(schedule: Schedule, prompt: Prompt) -> Tensor:
    """Scores that depend on the schedule's seed, the sample's vision tokens' number and their index alone.

    A sample's kept tokens are thus the same in any batch, and nested over layers. float32 [batch, seq].
    """
    drawn: dict[int, Tensor] = {}
    for n in set(prompt.num_vision):
        generator = torch.Generator().manual_seed((schedule.seed * 1_000_003 + n) % 2**63)
        drawn[n] = torch.randperm(n, generator=generator).float()
    table = torch.zeros(len(prompt.num_vision), max(1, *drawn))
    for sample, n in enumerate(prompt.num_vision):
        table[sample, :n] = drawn[n]
    return table.to(prompt.valid.device, non_blocking=True).gather(1, prompt.ordinals.clamp(min=0))
