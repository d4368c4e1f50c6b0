"""Greedy decoding of a batch: the arg-max and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vtr_ray.evaluation.batches import Tensors
from vtr_ray.models import CACHE, cache_of


def arg_max(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Arg-max [rows, places] of logits [rows, places, vocabulary], the first of equals.

    Also where there is none because a logit is NaN: bool [rows, places].
    """
    values, tokens = logits.max(-1)  # NaN wins over every number
    return tokens, values.isnan()


def greedy(
    model: Any,
    batch: Tensors,
    end_tokens: Tensor,
    limits: list[int],
    first: Any = None,
    drafts: Sequence[Sequence[int]] | None = None,
) -> list[list[int] | None]:
    """Tokens that greedy decoding yields for each row, the end token not among them.

    None for a row whose logits turn NaN before it ends. What the other rows or the drafts do changes nothing.

    The same as `model.generate(do_sample=False)` row by row, less the checkpoint's own generation defaults:
    a repetition penalty, say, would not agree with what one forward pass decides. Ends when every row has
    written an end token (int64 [number]) or has reached its limit of new tokens.

    first: what the model gave for the batch's prompts, with a cache; None: it is called.
    drafts: tokens that each row may well write. One pass tells how many of them greedy decoding writes, and
        the steps go on from there. Not for layers with a window that the sequence exceeds: it would count
        the rest of the drafts.
    """
    output = model(**batch.inputs, use_cache=True, logits_to_keep=1) if first is None else first
    cache = cache_of(output)
    longest, ends = max(limits), set(end_tokens.tolist())
    token, bad = arg_max(output.logits[:, -1:])
    written = [[row[0]] for row in token.tolist()]
    lost = set(bad.any(1).nonzero().flatten().tolist())  # rows whose next token is unknown
    mask, position = batch.mask, batch.positions[..., -1:]

    def ended(row: list[int], limit: int) -> bool:
        return len(row) >= limit or any(number in ends for number in row)

    def left() -> list[int]:
        """Rows that go on."""
        return [
            number
            for number, (row, limit) in enumerate(zip(written, limits, strict=True))
            if number not in lost and not ended(row, limit)
        ]

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
        more, unknown = arg_max(logits)
        guesses, spoiled = torch.cat([token, more], dim=1), unknown.any(1, keepdim=True)
        # A NaN reaches back: what is masked has weight 0, and NaN times 0 is NaN. Such rows go step by step.
        accepted = ((guesses[:, :-1] == fed) & real & ~spoiled).long().cumprod(1)
        number = accepted.sum(1, keepdim=True)
        mask = torch.cat([mask[:, :-width], accepted.to(mask.dtype)], dim=1)
        position, token = position + number, guesses.gather(1, number)
        written = [row[: most + 1] for row, (most,) in zip(guesses.tolist(), number.tolist(), strict=True)]
        if bool(spoiled.any()):
            for layer in cache.layers:
                for held in (layer.keys, layer.values):
                    held[..., -width:, :].nan_to_num_()
    while going := left():
        position = position + 1
        token, bad = arg_max(call(token, position, mask.new_ones(len(mask), 1)))
        for row, (new,) in zip(written, token.tolist(), strict=True):
            row.append(new)
        unsure = bad.flatten().tolist()
        lost.update(row for row in going if unsure[row])
    answers: list[list[int] | None] = []
    for place, (tokens, most) in enumerate(zip(written, limits, strict=True)):
        if place in lost:
            answers.append(None)
            continue
        stop = next((count for count, new in enumerate(tokens) if new in ends), len(tokens))
        answers.append(tokens[: min(stop, most)])
    return answers
