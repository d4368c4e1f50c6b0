"""Greedy decoding of a batch: the arg-max and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vtr_ray.evaluation.batches import Tensors
from vtr_ray.models import CACHE, cache_of


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


def greedy(
    model: Any,
    batch: Tensors,
    end_tokens: Tensor,
    limits: list[int],
    first: Any = None,
    drafts: Sequence[Sequence[int]] | None = None,
) -> list[list[int]]:
    """Tokens that greedy decoding yields for each row, the end token not among them.

    The same as `model.generate(do_sample=False)` row by row, less the checkpoint's own generation defaults:
    a repetition penalty, say, would not agree with what one forward pass decides. Ends when every row has
    written an end token (int64 [number]) or has reached its limit of new tokens.

    first: what the model gave for the batch's prompts, with a cache; None: it is called.
    drafts: tokens that each row may well write. One pass tells how many of them greedy decoding writes, and
        the steps go on from there. Not for layers with a window that the sequence exceeds: it would count
        the rest of the drafts.
    Raises NotANumber.
    """
    output = model(**batch.inputs, use_cache=True, logits_to_keep=1) if first is None else first
    cache = cache_of(output)
    longest, ends = max(limits), set(end_tokens.tolist())
    token = arg_max(output.logits[:, -1:])
    written = [[row[0]] for row in token.tolist()]
    mask, position = batch.mask, batch.positions[..., -1:]

    def ended(row: list[int], limit: int) -> bool:
        return len(row) >= limit or any(number in ends for number in row)

    def left() -> bool:
        return not all(ended(row, limit) for row, limit in zip(written, limits, strict=True))

    def call(tokens: Tensor, places: Tensor, seen: Tensor) -> Tensor:
        nonlocal mask
        mask = torch.cat([mask, seen], dim=1)
        logits: Tensor = model(
            input_ids=tokens,
            attention_mask=mask,
            position_ids=places,
            use_cache=True,
            logits_to_keep=tokens.shape[1],
            **{CACHE: cache},
        ).logits
        return logits

    likely = [list(draft)[: longest - 1] for draft in drafts or []]
    width = max(map(len, likely), default=0)
    if width and left():
        padded = [draft + [int(end_tokens[0])] * (width - len(draft)) for draft in likely]
        fed = torch.tensor(padded, device=mask.device)
        steps = torch.arange(1, width + 1, device=mask.device)
        real = torch.tensor([[i < len(draft) for i in range(width)] for draft in likely], device=mask.device)
        logits = call(fed, position + steps, real.to(mask.dtype))
        guesses = torch.cat([token, arg_max(logits, ~real)], dim=1)
        accepted = ((guesses[:, :-1] == fed) & real).long().cumprod(1)
        number = accepted.sum(1, keepdim=True)
        mask = torch.cat([mask[:, :-width], accepted.to(mask.dtype)], dim=1)
        position, token = position + number, guesses.gather(1, number)
        written = [row[: most + 1] for row, (most,) in zip(guesses.tolist(), number.tolist(), strict=True)]
    while left():
        position = position + 1
        token = arg_max(call(token, position, mask.new_ones(len(mask), 1)))
        for row, (new,) in zip(written, token.tolist(), strict=True):
            row.append(new)
    answers = []
    for tokens, most in zip(written, limits, strict=True):
        stop = next((place for place, new in enumerate(tokens) if new in ends), len(tokens))
        answers.append(tokens[: min(stop, most)])
    return answers
