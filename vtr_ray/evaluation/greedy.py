"""Greedy decoding of a batch: the arg-max and nothing else."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vtr_ray.evaluation.batches import Tensors


class NotANumber(ArithmeticError):
    """Logits of some rows of a batch are NaN: `rows` says which."""

    def __init__(self, rows: list[int]) -> None:
        super().__init__(f"logits of rows {rows} are NaN")
        self.rows = rows


def arg_max(logits: Tensor, ignored: Tensor | None = None) -> Tensor:
    """Arg-max [rows, places] of logits [rows, places, vocabulary], the first of equals.

    Raises NotANumber where a logit is NaN, places that are `ignored` (bool [rows, places]) left out.
    """
    values, tokens = logits.max(-1)  # NaN wins over every number
    bad = values.isnan()
    if ignored is not None:
        bad = bad & ~ignored
    if bool(bad.any()):
        raise NotANumber(bad.any(1).nonzero().flatten().tolist())
    return tokens


def greedy(model: Any, batch: Tensors, end_tokens: Tensor, limits: list[int]) -> list[list[int]]:
    """Tokens that greedy decoding yields for each row, the end token not among them.

    The same as `model.generate(do_sample=False)` row by row, less the checkpoint's own generation defaults:
    a repetition penalty, say, would not agree with what one forward pass decides. Ends when every row has
    written an end token (int64 [number]) or has reached its limit of new tokens.
    Raises NotANumber.
    """
    output = model(**batch.inputs, use_cache=True, logits_to_keep=1)
    cache = output.past_key_values
    rows, prompt = batch.mask.shape
    longest = max(limits)
    mask = torch.cat([batch.mask, batch.mask.new_ones(rows, longest)], dim=1)
    position = batch.positions[..., -1:]
    limit = torch.tensor(limits, device=mask.device)
    ended = torch.zeros(rows, dtype=torch.bool, device=mask.device)
    written: list[Tensor] = []
    for step in range(1, longest + 1):
        token = arg_max(output.logits[:, -1:])[:, 0]
        written.append(token)
        ended |= torch.isin(token, end_tokens) | (limit <= step)
        if step == longest or bool(ended.all()):
            break
        position = position + 1
        output = model(
            input_ids=token[:, None],
            attention_mask=mask[:, : prompt + step],
            position_ids=position,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
    ends = set(end_tokens.tolist())
    answers = []
    for tokens, most in zip(torch.stack(written, 1).tolist(), limits, strict=True):
        stop = next((place for place, token in enumerate(tokens) if token in ends), len(tokens))
        answers.append(tokens[: min(stop, most)])
    return answers
