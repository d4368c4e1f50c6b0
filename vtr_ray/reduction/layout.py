"""Which input positions a layer still holds, and where they lie in its shorter sequence."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from vtr_ray.reduction.prompt import Prompt, compact


@dataclass(frozen=True)
class Layout:
    """The tokens of the layers between two cuts, in the input's order; padding goes with the first cut.

    Attributes:
        prompt: the batch's prompts.
        index: int64 [batch, length], input position per slot, -1 at fillers.
        rows: int64 [batch, rows], slots of the ranking rows.
        last: int64 [batch, 1], slot of the last prompt token.
        counts: kept vision tokens per sample.
        dense: no fillers and no padding.
        causal: a plain causal mask is right for every real token: fillers, if any, come last.
        right: fillers come first, so that the last slot is every sample's last token.
    """

    prompt: Prompt
    index: Tensor
    rows: Tensor
    last: Tensor
    counts: list[int]
    dense: bool
    causal: bool
    right: bool

    @property
    def length(self) -> int:
        """Slots per sample."""
        return self.index.shape[1]

    @cached_property
    def valid(self) -> Tensor:
        """bool [batch, length]: False at fillers and padding."""
        if not self.prompt.padded:
            return self.index >= 0
        return self.prompt.valid.gather(1, self.index.clamp(min=0)) & (self.index >= 0)

    @cached_property
    def vision(self) -> Tensor:
        """bool [batch, length]: True at vision tokens."""
        return self.prompt.vision.gather(1, self.index.clamp(min=0)) & (self.index >= 0)

    def kept(self) -> Tensor:
        """int64 [batch, max kept]: kept vision indices of each sample, ascending, -1 as padding."""
        slots = compact(self.vision, max(self.counts, default=0), right=False)
        ordinals = self.prompt.ordinals.gather(1, self.index.clamp(min=0))
        return torch.where(slots >= 0, ordinals.gather(1, slots.clamp(min=0)), -1)

    @cached_property
    def removed(self) -> Tensor:
        """int64 [batch, 1]: vision tokens of each sample that are gone."""
        gone = [n - kept for n, kept in zip(self.prompt.num_vision, self.counts, strict=True)]
        return on_device(gone, self.index).unsqueeze(1)

    def cropped(self, slots: int) -> Layout:
        """The same without its last `slots` slots, which every layer loses alike."""
        return replace(self, index=self.index[:, :-slots])

    def to(self, device: torch.device) -> Layout:
        """The same on another device."""
        moved = {name: getattr(self, name).to(device) for name in ("index", "rows", "last")}
        return replace(self, prompt=self.prompt.to(device), **moved)

    def renumbered(self, position_ids: Tensor) -> Tensor:
        """Rotary positions [batch, length] with the gaps closed, from the input's [batch or 1, seq]."""
        places = self.index.clamp(min=0)
        before = self.prompt.valid.long().cumsum(1).gather(1, places)
        gaps = before - self.valid.long().cumsum(1)
        return position_ids.expand(places.shape[0], -1).gather(1, places) - gaps


def whole(prompt: Prompt, generating: bool) -> Layout:
    """The input as it came, before any cut."""
    batch, seq = prompt.valid.shape
    return Layout(
        prompt=prompt,
        index=torch.arange(seq, device=prompt.valid.device).expand(batch, seq),
        rows=prompt.rows,
        last=prompt.last,
        counts=prompt.num_vision,
        dense=not prompt.padded,
        causal=not prompt.padded,
        right=generating or prompt.last_column_valid,
    )


def cut(layout: Layout, scores: Tensor | None, counts: list[int]) -> tuple[Tensor, Layout]:
    """Keep each sample's best vision tokens and all of its text.

    Args:
        layout: before the cut.
        scores: float32 [batch, length], higher is kept, ties to the earlier; None where all counts are 0 or
            unchanged.
        counts: vision tokens to keep, per sample.

    Returns:
        Slots of the old layout to take, int64 [batch, new length], fillers 0; and the new layout.
    """
    prompt, vision = layout.prompt, layout.vision
    limit = on_device(counts, vision).unsqueeze(1)
    if scores is None:
        keep = layout.valid & (~vision | (limit > 0))
    else:
        order = scores.masked_fill(~vision, -1.0).sort(dim=1, descending=True, stable=True).indices
        place = torch.arange(vision.shape[1], device=vision.device).expand_as(order)
        rank = torch.empty_like(order).scatter_(1, order, place)
        keep = layout.valid & (~vision | (rank < limit))
    totals = [text + kept for text, kept in zip(prompt.num_text, counts, strict=True)]
    length = max(totals)
    dense = min(totals) == length
    slots = compact(keep, length, layout.right)
    # A row's new slot; a removed row (a prompt that ends with its image) hands over to the token before it.
    moved = keep.long().cumsum(1) - 1
    if layout.right:
        moved = moved + (length - moved[:, -1:] - 1)
    taken = slots.clamp(min=0)
    return taken, Layout(
        prompt=prompt,
        index=layout.index.gather(1, taken).masked_fill(slots < 0, -1),
        rows=moved.gather(1, layout.rows).clamp(min=0),
        last=moved.gather(1, layout.last).clamp(min=0),
        counts=counts,
        dense=dense,
        causal=dense or not layout.right,
        right=layout.right,
    )


def on_device(numbers: list[int], like: Tensor) -> Tensor:
    """int64 on the device of `like`, without waiting for that device."""
    return torch.tensor(numbers).to(like.device, non_blocking=True)


def take(states: Tensor, slots: Tensor) -> Tensor:
    """Rows of [batch or 1, seq, width] at `slots` [batch, length]: [batch, length, width]. Differentiable."""
    batch, length = slots.shape
    if states.shape[0] != 1:
        slots = slots + torch.arange(batch, device=slots.device).unsqueeze(1) * states.shape[1]
    # index_select copies whole rows; gather would walk single elements.
    return states.reshape(-1, states.shape[-1]).index_select(0, slots.reshape(-1)).view(batch, length, -1)
