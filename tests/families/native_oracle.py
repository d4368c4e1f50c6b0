"""The oracle: transformers' own model on one sample at full length, removed tokens masked out of attention.

Every layer gets its whole mask, written down entry by entry from the definition; the scores are read off the
library's full attention matrices; the choice is a Python sort. Positions, rotary tables and deep-stacked
features are what the untouched model makes of them. The package lends the Schedule's numbers and no more.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass
class Result:
    logits: Tensor = field(
        default_factory=lambda: torch.empty(0)
    )  # [seq, vocabulary]; removed rows: no meaning
    kept: list[list[int]] = field(default_factory=list)  # per layer, vision indices 0..N-1
    alive: list[Tensor] = field(default_factory=list)  # per layer, bool [seq]
    lost: list[float] = field(default_factory=list)  # per cut that was forced, share of the best scores' sum


def decoder_of(model: Any) -> Any:
    return model.model.text_model if hasattr(model.model, "text_model") else model.model.language_model


def window_of(layer: Any) -> int | None:
    """Gemma's and Qwen's layers say it themselves; Mistral and Phi-3 have one for all."""
    attention = layer.self_attn
    if hasattr(attention, "sliding_window"):
        return attention.sliding_window
    return getattr(attention.config, "sliding_window", None)


def run(
    model: Any,
    inputs: dict[str, Any],
    vision: Tensor,
    schedule: Any,
    prompt: Tensor | None = None,
    forced: list[list[int]] | None = None,
) -> Result:
    """One sample without padding on a model with eager attention.

    inputs: as the model is called, batch of one. vision, prompt: bool [seq].
    forced: kept vision indices per layer, instead of the best; `lost` says what that costs.
    """
    assert model.config._attn_implementation == "eager"
    decoder = decoder_of(model)
    layers = list(decoder.layers)
    vision = vision.tolist()
    seq = len(vision)
    places = [i for i in range(seq) if vision[i]]
    asked = [i for i in range(seq) if prompt is None or prompt[i]]
    rows = []
    for i in range(places[-1] + 1 if places else 0, seq):
        if i not in asked:
            break
        rows.append(i)
    rows = rows or [asked[-1]]
    counts = schedule.counts(len(places))
    block = [-1] * seq
    if inputs.get("token_type_ids") is not None:
        for i, mark in enumerate(inputs["token_type_ids"][0].tolist()):
            if mark == 1:
                block[i] = block[i - 1] if i and block[i - 1] >= 0 else i
    alive = [True] * seq
    probabilities: list[Tensor] = []
    result = Result()

    def mask(window: int | None, like: Tensor) -> Tensor:
        allowed = torch.zeros(seq, seq, dtype=torch.bool)
        for q in range(seq):
            for k in range(seq):
                seen = k <= q or (block[q] >= 0 and block[q] == block[k])
                near = window is None or q - k < window
                allowed[q, k] = (seen and near and alive[k]) or q == k  # a removed row may see itself
        full = torch.zeros(1, 1, seq, seq, dtype=like.dtype)
        return full.masked_fill(~allowed, torch.finfo(like.dtype).min).to(like.device)

    def tables(options: dict[str, Any], hidden: Tensor) -> Any:
        if schedule.positions == "original":
            return options["position_embeddings"]
        where = (torch.tensor(alive).long().cumsum(0) - 1).clamp(min=0)
        return decoder.rotary_emb(hidden, position_ids=where[None].to(hidden.device))

    def before(number: int, layer: Any, args: Any, options: dict[str, Any]) -> Any:
        held = [i for i in places if alive[i]]
        if counts[number] < len(held):
            best: list[int] = []
            if counts[number] > 0:
                scores = rank(number, layer, args[0], options)
                best = sorted(held, key=lambda i: (-scores[i], i))[: counts[number]]
            if forced is not None:
                given = [places[index] for index in forced[number]]
                if best:
                    most = sum(scores[i] for i in best)
                    result.lost.append(1.0 - sum(scores[i] for i in given) / most)
                best = given
            for i in held:
                alive[i] = i in best
        result.kept.append([places.index(i) for i in places if alive[i]])
        result.alive.append(torch.tensor(alive))
        changed = {
            "attention_mask": mask(window_of(layer), args[0]),
            "position_embeddings": tables(options, args[0]),
        }
        return args, {**options, **changed}

    def rank(number: int, layer: Any, hidden: Tensor, options: dict[str, Any]) -> Any:
        if schedule.ranking == "next_layer":
            _, ahead = layer.self_attn.forward(
                layer.input_layernorm(hidden),
                position_embeddings=tables(options, hidden),
                attention_mask=mask(None, hidden),
            )
            return ahead[0].float().mean(0)[rows[-1]].tolist()
        span = rows[-1] - places[0] + 1 if places else 0
        for j in reversed(range(number)):
            window = window_of(layers[j])
            if window is None or all(row - i < window for row in rows for i in places):
                matrix = probabilities[j][0].float().mean(0)
                chosen = rows if schedule.ranking == "instruction" else rows[-1:]
                return matrix[chosen].mean(0).tolist()
        raise AssertionError(f"no layer sees {span} tokens")

    def after(attention: Any, args: Any, output: Any) -> None:
        probabilities.append(output[1].detach())

    handles = []
    for number, layer in enumerate(layers):
        handles.append(
            layer.register_forward_pre_hook(
                lambda own, args, options, number=number: before(number, own, args, options), with_kwargs=True
            )
        )
        handles.append(layer.self_attn.register_forward_hook(after))
    try:
        with torch.no_grad():
            result.logits = model(**inputs, use_cache=False).logits[0]
    finally:
        for handle in handles:
            handle.remove()
    return result
