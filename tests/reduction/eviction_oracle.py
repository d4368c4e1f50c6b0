"""The oracle of decode-time reduction: one sample at full length, no cache, evicted keys masked row by row.

Written from the definition alone: every row of every layer picks the keys it may see out of a Python list.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from masked_oracle import norm, rotate
from torch import Tensor
from torch.nn.functional import linear, silu


def run(
    model: Any,
    embeddings: Tensor,
    vision: Tensor,
    prompt: int,
    alive: list[Tensor],
    every: int,
    keep: float,
    first_layer: int,
) -> tuple[Tensor, list[list[int]]]:
    """Logits [seq, vocabulary] and each layer's vision indices that the last row could see.

    embeddings: [seq, width] of prompt and decoded tokens; prompt: its length; alive: per layer bool [seq],
    what the prefill kept.
    """
    decoder = model.model.language_model
    config = decoder.config
    seq, heads, groups = len(embeddings), config.num_attention_heads, config.num_key_value_heads
    places = [i for i in range(seq) if vision[i]]
    hidden, left = embeddings, []
    for number, layer in enumerate(decoder.layers, start=1):
        block = layer.self_attn
        size = block.head_dim
        x = norm(hidden, layer.input_layernorm.weight, config.rms_norm_eps)
        where = torch.arange(seq)
        query = rotate(linear(x, block.q_proj.weight).view(seq, heads, size), where, config)
        key = rotate(linear(x, block.k_proj.weight).view(seq, groups, size), where, config)
        value = linear(x, block.v_proj.weight).view(seq, groups, size)
        held = [i for i in places if alive[number - 1][i]]
        paid: list[dict[int, float]] = []  # by decoded token: vision token -> probability, mean over heads
        rows = []
        for row in range(seq):
            decoded = row - prompt
            if decoded > 0 and decoded % every == 0 and number >= first_layer:
                scores = {i: sum(one[i] for one in paid[-every:]) / every for i in held}
                stay = math.floor(keep * len(held) + 0.5)
                held = sorted(sorted(held, key=lambda i: (-scores[i], i))[:stay])
            keys = [i for i in range(row + 1) if i == row or not vision[i] or i in held]
            attended, mean = [], torch.zeros(len(keys))
            for head in range(heads):
                group = head // (heads // groups)
                products = key[keys, group] @ query[row, head] / math.sqrt(size)
                probabilities = torch.softmax(products, dim=0)
                mean += probabilities / heads
                attended.append(probabilities @ value[keys, group])
            rows.append(torch.cat(attended))
            if decoded >= 0:
                paid.append({i: float(mean[keys.index(i)]) for i in held})
        hidden = hidden + linear(torch.stack(rows), block.o_proj.weight)
        x = norm(hidden, layer.post_attention_layernorm.weight, config.rms_norm_eps)
        gated = silu(linear(x, layer.mlp.gate_proj.weight)) * linear(x, layer.mlp.up_proj.weight)
        hidden = hidden + linear(gated, layer.mlp.down_proj.weight)
        left.append([places.index(i) for i in held])
    return linear(norm(hidden, decoder.norm.weight, config.rms_norm_eps), model.lm_head.weight), left
