"""The oracle: one sample at full length, removed tokens masked out of attention from their layer on.

Written from the definition alone, slow and obvious: its own layer loop, the whole attention matrix, Python
sorts. Shares no code with the package but the Schedule's numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear, silu


@dataclass
class Result:
    logits: Tensor  # [seq, vocabulary], rows of removed tokens are meaningless
    kept: list[list[int]]  # per layer, vision indices 0..N-1
    alive: list[Tensor]  # per layer, bool [seq]


def full_embeddings(model: Any, input_ids: Tensor, pixel_values: Tensor | None) -> Tensor:
    rows = [model.get_input_embeddings().weight[token] for token in input_ids]
    if pixel_values is not None:
        features = model.get_image_features(pixel_values=pixel_values, return_dict=True).pooler_output
        features = [feature for image in features for feature in image]
        places = [i for i, token in enumerate(input_ids.tolist()) if token == model.config.image_token_id]
        assert len(places) == len(features)
        for place, feature in zip(places, features, strict=True):
            rows[place] = feature
    return torch.stack(rows)


def run(
    model: Any,
    embeddings: Tensor,
    vision: Tensor,
    schedule: Any,
    prompt: Tensor | None = None,
    draw: Any = None,
) -> Result:
    """One sample without padding: embeddings [seq, width], vision and prompt bool [seq].

    draw: for a random ranking, the order of the vision indices, best first.
    """
    decoder = model.model.language_model
    config = decoder.config
    seq = embeddings.shape[0]
    places = [i for i in range(seq) if vision[i]]
    prompt_places = [i for i in range(seq) if prompt is None or prompt[i]]
    last_vision = places[-1] if places else -1
    instruction = []
    for i in range(last_vision + 1, seq):
        if i not in prompt_places:
            break
        instruction.append(i)
    rank_rows = instruction or [prompt_places[-1]]
    counts = schedule.counts(len(places))
    alive = torch.ones(seq, dtype=torch.bool)
    hidden = embeddings
    probabilities: Tensor | None = None
    result = Result(hidden, [], [])
    for number, layer in enumerate(decoder.layers):
        held = [i for i in places if alive[i]]
        if counts[number] < len(held):
            if schedule.ranking == "instruction":
                scores = {i: probabilities[:, rank_rows, i].mean().item() for i in held}
            elif schedule.ranking == "last_token":
                scores = {i: probabilities[:, rank_rows[-1], i].mean().item() for i in held}
            elif schedule.ranking == "next_layer":
                ahead = attention(layer, config, hidden, positions(alive, schedule), alive)[0]
                scores = {i: ahead[:, rank_rows[-1], i].mean().item() for i in held}
            else:
                scores = {i: -float(draw.index(places.index(i))) for i in held}
            best = sorted(held, key=lambda i: (-scores[i], i))[: counts[number]]
            for i in held:
                alive[i] = i in best
        probabilities, attended = attention(layer, config, hidden, positions(alive, schedule), alive)
        hidden = hidden + linear(attended, layer.self_attn.o_proj.weight, layer.self_attn.o_proj.bias)
        x = norm(hidden, layer.post_attention_layernorm.weight, config.rms_norm_eps)
        gated = silu(linear(x, layer.mlp.gate_proj.weight)) * linear(x, layer.mlp.up_proj.weight)
        hidden = hidden + linear(gated, layer.mlp.down_proj.weight)
        result.kept.append([places.index(i) for i in places if alive[i]])
        result.alive.append(alive.clone())
    result.logits = linear(norm(hidden, decoder.norm.weight, config.rms_norm_eps), model.lm_head.weight)
    return result


def positions(alive: Tensor, schedule: Any) -> Tensor:
    if schedule.positions == "renumber":
        return (alive.long().cumsum(0) - 1).clamp(min=0)
    return torch.arange(len(alive))


def attention(layer: Any, config: Any, hidden: Tensor, where: Tensor, alive: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities [heads, seq, seq] and attended values [seq, width] (before the output projection)."""
    block = layer.self_attn
    seq, heads, groups = len(hidden), config.num_attention_heads, config.num_key_value_heads
    size = block.head_dim
    x = norm(hidden, layer.input_layernorm.weight, config.rms_norm_eps)
    query = linear(x, block.q_proj.weight, block.q_proj.bias).view(seq, heads, size)
    key = linear(x, block.k_proj.weight, block.k_proj.bias).view(seq, groups, size)
    value = linear(x, block.v_proj.weight, block.v_proj.bias).view(seq, groups, size)
    query, key = rotate(query, where, config), rotate(key, where, config)
    later = torch.arange(seq)[None, :] > torch.arange(seq)[:, None]
    # A removed row may see itself, so that it has something to see; nobody reads it.
    hidden_keys = later | (~alive[None, :] & ~torch.eye(seq, dtype=torch.bool))
    probabilities, attended = [], []
    for head in range(heads):
        group = head // (heads // groups)
        products = query[:, head] @ key[:, group].T / math.sqrt(size)
        row = torch.softmax(products.masked_fill(hidden_keys, float("-inf")), dim=-1)
        probabilities.append(row)
        attended.append(row @ value[:, group])
    return torch.stack(probabilities), torch.cat(attended, dim=-1)


def rotate(states: Tensor, where: Tensor, config: Any) -> Tensor:
    half = states.shape[-1] // 2
    theta = config.rope_parameters["rope_theta"]
    angle = where[:, None].float() * torch.tensor([theta ** (-2 * i / (2 * half)) for i in range(half)])
    cos, sin = angle.cos()[:, None], angle.sin()[:, None]
    first, second = states[..., :half], states[..., half:]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def norm(hidden: Tensor, weight: Tensor, eps: float) -> Tensor:
    return hidden / (hidden.pow(2).mean(-1, keepdim=True) + eps).sqrt() * weight
