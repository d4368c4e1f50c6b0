"""What a batch's prompts hold: vision tokens, padding, rows that rank. Read once, with one host sync."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vtr_ray.errors import InputError


@dataclass(frozen=True)
class Prompt:
    """A batch's prompts, all tensors on the model's device.

    Attributes:
        valid: bool [batch, seq], False at padding.
        vision: bool [batch, seq], True at vision tokens.
        rows: int64 [batch, rows], input positions of the instruction tokens, repeated to fill the batch.
        weights: float32 [batch, rows], each sample's rows sum to 1; 0 at the repeats.
        last: int64 [batch, 1], input position of the last prompt token.
        num_vision: vision tokens per sample.
        num_text: other tokens per sample, padding not counted.
        spans: input positions from the first vision token to the last row that ranks, both included.
        ends_with_vision: whether some sample has vision tokens and no instruction token.
        padded: whether there is any padding.
        last_column_valid: whether no sample ends in padding.
    """

    valid: Tensor
    vision: Tensor
    rows: Tensor
    weights: Tensor
    last: Tensor
    num_vision: list[int]
    num_text: list[int]
    spans: list[int]
    ends_with_vision: bool
    padded: bool
    last_column_valid: bool

    @property
    def length(self) -> int:
        """Input positions, padding included."""
        return self.valid.shape[1]

    @property
    def ordinals(self) -> Tensor:
        """int64 [batch, seq]: a vision token's index among its sample's (meaningless at other tokens)."""
        return self.vision.long().cumsum(1) - 1

    def to(self, device: torch.device) -> Prompt:
        """The same on another device."""
        moved = {
            name: getattr(self, name).to(device) for name in ("valid", "vision", "rows", "weights", "last")
        }
        return replace(self, **moved)


def read_prompt(vision: Tensor, attention_mask: Tensor | None, prompt_mask: Tensor | None) -> Prompt:
    """Find the instruction tokens: the prompt's text after its last vision token, up to the answer.

    Where a sample has none, its last prompt token ranks.

    Args:
        vision: bool [batch, seq].
        attention_mask: [batch, seq], 0 at padding, or None.
        prompt_mask: bool [batch, seq], True at prompt tokens, or None: all input is prompt.

    Raises:
        InputError: a vision token outside the prompt, or vision tokens without a prompt.
    """
    seq = vision.shape[1]
    valid = torch.ones_like(vision) if attention_mask is None else attention_mask != 0
    vision = vision & valid
    prompt = valid if prompt_mask is None else valid & prompt_mask
    place = torch.arange(seq, device=vision.device).expand_as(vision)
    after = place > torch.where(vision, place, -1).amax(1, keepdim=True)
    if prompt_mask is not None:
        answer = torch.where(valid & ~prompt & after, place, seq).amin(1, keepdim=True)
        prompt = prompt & (place < answer)  # of several turns, the first
    instruction = prompt & after & ~vision
    found = instruction.sum(1, keepdim=True)
    last = torch.where(prompt, place, -1).amax(1, keepdim=True)
    instruction = instruction | ((found == 0) & (place == last))
    outside = (vision & ~prompt).any(1, keepdim=True)
    first = torch.where(vision, place, seq).amin(1, keepdim=True)
    number = vision.sum(1, keepdim=True)
    summary = torch.cat(
        [number, valid.sum(1, keepdim=True), found, last, outside, valid[:, -1:], last - first + 1], dim=1
    ).tolist()  # the one host sync of a reduced prefill
    for sample, (n, _, _, end, stray, _, _) in enumerate(summary):
        if n and (end < 0 or stray):
            raise InputError(
                f"Sample {sample} of the batch has vision tokens outside its prompt, which nothing can rank: "
                "prompt_mask must be True up to the last vision token's question."
            )
    num_rows = max(1, max(row[2] for row in summary))
    rows = compact(instruction, num_rows, right=False)
    real = rows >= 0
    last = last.clamp(min=0)
    return Prompt(
        valid=valid,
        vision=vision,
        rows=torch.where(real, rows, last),
        weights=real.float() / real.sum(1, keepdim=True).clamp(min=1),
        last=last,
        num_vision=[row[0] for row in summary],
        num_text=[row[1] - row[0] for row in summary],
        spans=[row[6] for row in summary],
        ends_with_vision=any(row[0] and not row[2] for row in summary),
        padded=any(row[1] < seq for row in summary),
        last_column_valid=all(row[5] for row in summary),
    )


def compact(mask: Tensor, length: int, right: bool) -> Tensor:
    """Positions of the True entries of each row in order, -1 elsewhere.

    Args:
        mask: bool [batch, seq], at most `length` True entries in a row.
        length: width of the result.
        right: fillers come first instead of last.

    Returns:
        int64 [batch, length].
    """
    slot = mask.long().cumsum(1) - 1
    if right:
        slot = slot + (length - slot[:, -1:] - 1)
    slot = torch.where(mask, slot, length)  # the rest lands in one spare column
    place = torch.arange(mask.shape[1], device=mask.device).expand_as(slot)
    filled = torch.full((mask.shape[0], length + 1), -1, dtype=torch.long, device=mask.device)
    return filled.scatter_(1, slot, place)[:, :length]
