"""One forward pass under a schedule: a prefill that cuts, or a decode step that attends to what was kept."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vtr_ray.reduction.layout import Layout, cut, take, whole
from vtr_ray.reduction.masks import decode_mask, prefill_mask
from vtr_ray.reduction.prompt import Prompt
from vtr_ray.reduction.scoring import (
    attention_scores,
    next_layer_scores,
    random_scores,
    ranking_rows,
    rows_of,
)
from vtr_ray.schedule import Ranking, Schedule

Options = dict[str, Any]


class Prefill:
    """A prefill: which layers cut to what, the current layout, and every layer's for the decode steps.

    Args:
        schedule: what to keep.
        prompt: the batch's prompts.
        decoder: the language model, for its attention implementation and rotary embedding.
        generating: whether `generate()` runs, which reads the last slot.
        keep: the call's `logits_to_keep`.
    """

    def __init__(
        self, schedule: Schedule, prompt: Prompt, decoder: Any, generating: bool, keep: int | Tensor = 0
    ) -> None:
        self.schedule = schedule
        self.decoder = decoder
        self.keep = keep
        self.layout: Layout = whole(prompt, generating)
        self.first = self.layout
        self.cuts = _plan(schedule, prompt.num_vision)
        self.layouts: list[Layout | None] = [None] * schedule.num_layers  # None: untouched
        self.cache: Any = None
        self._scores: Tensor | None = None
        self._options: Options = {}
        attended = schedule.ranking in (Ranking.INSTRUCTION, Ranking.LAST_TOKEN)
        self.tapped = {i - 1 for i, counts in self.cuts.items() if attended and self._ranks(i, counts)}

    def _ranks(self, layer: int, counts: list[int]) -> bool:
        """Whether the cut before the layer (from 0) has to choose, rather than keep all or none."""
        earlier = [i for i in self.cuts if i < layer]
        before = self.cuts[max(earlier)] if earlier else self.first.counts
        return any(0 < n < had for n, had in zip(counts, before, strict=True))

    @torch.no_grad()
    def read(self, query: Tensor, key: Tensor, scaling: float) -> None:
        """Score from the rotated query [batch, heads, length, head_dim] and key of the layer before a cut."""
        rows, weights = ranking_rows(self.layout, self.schedule.ranking)
        self._scores = attention_scores(rows_of(query, rows), key, scaling, self.layout, rows, weights)

    def enter(self, index: int, layer: Any, hidden_states: Tensor, options: Options) -> Tensor:
        """Before layer `index` (from 0): cut if planned; replace, in place, what depends on the length.

        Returns:
            The hidden states the layer runs on, [batch, length, width].
        """
        self.cache = options.get("past_key_values", self.cache)
        if index in self.cuts:
            hidden_states = self._cut(index, layer, hidden_states, options)
        if self.layout is not self.first:
            self.layouts[index] = self.layout
            options.update(self._options)
        return hidden_states

    def _cut(self, index: int, layer: Any, hidden_states: Tensor, options: Options) -> Tensor:
        counts = self.cuts[index]
        scores = None
        if self._ranks(index, counts):
            if self.schedule.ranking is Ranking.RANDOM:
                scores = random_scores(self.schedule, self.layout)
            elif self.schedule.ranking is Ranking.NEXT_LAYER:
                current = self._options or options
                scores = next_layer_scores(layer, hidden_states, current["position_embeddings"], self.layout)
            else:
                scores, self._scores = self._scores, None
                assert scores is not None
        slots, self.layout = cut(self.layout, scores, counts)
        hidden_states = take(hidden_states, slots)
        attn = self.decoder.config._attn_implementation
        self._options = {
            "attention_mask": prefill_mask(attn, self.layout, hidden_states.dtype),
            "position_embeddings": self._rotary(hidden_states, options),
            # Gapped position_ids would be taken for packed sequences; the tables above say it all.
            "position_ids": None,
        }
        return hidden_states

    def _rotary(self, hidden_states: Tensor, options: Options) -> tuple[Tensor, Tensor]:
        if self.schedule.positions == "renumber":
            positions = self.layout.renumbered(options["position_ids"])
            return self.decoder.rotary_emb(hidden_states, position_ids=positions)  # type: ignore[no-any-return]
        places = self.layout.index.clamp(min=0)
        cos, sin = options["position_embeddings"]
        return take(cos, places), take(sin, places)


class Decode:
    """A decode step of one token: layers after the first cut see their own cache's mask and positions."""

    def __init__(self, prefill: Prefill, cache: Any, attention_mask: Tensor | None) -> None:
        self.prefill = prefill
        prompt_length = prefill.first.length
        self.steps = cache.get_seq_length() + 1 - prompt_length
        self._tail: Tensor | None = None
        if attention_mask is not None:
            tail = attention_mask[:, prompt_length:] != 0
            self._tail = None if bool(tail.all()) else tail
        self._known: dict[int, Options] = {}

    def enter(self, index: int, layer: Any, hidden_states: Tensor, options: Options) -> Tensor:
        """Before layer `index` (from 0): replace what depends on the cache's length, in place."""
        layout = self.prefill.layouts[index]
        if layout is not None:
            if id(layout) not in self._known:
                self._known[id(layout)] = self._options(layout, hidden_states, options)
            options.update(self._known[id(layout)])
        return hidden_states

    def _options(self, layout: Layout, hidden_states: Tensor, options: Options) -> Options:
        decoder = self.prefill.decoder
        attn = decoder.config._attn_implementation
        mask = decode_mask(attn, layout, self._tail, self.steps, hidden_states.dtype)
        replaced: Options = {"attention_mask": mask, "position_ids": None}
        if self.prefill.schedule.positions == "renumber":
            positions = options["position_ids"] - layout.removed()
            replaced["position_embeddings"] = decoder.rotary_emb(hidden_states, position_ids=positions)
        return replaced


def _plan(schedule: Schedule, num_vision: list[int]) -> dict[int, list[int]]:
    """Layers (from 0) before which some sample loses vision tokens, with the counts to keep."""
    by_n = {n: schedule.counts(n) for n in set(num_vision)}
    plan: dict[int, list[int]] = {}
    before = num_vision
    for index, rate in enumerate(schedule.rates):
        if index and rate == schedule.rates[index - 1]:
            continue
        counts = [by_n[n][index] for n in num_vision]
        if counts != before:
            plan[index] = before = counts
    return plan


@torch.no_grad()
def kept_by_layer(first: Layout, layouts: list[Layout | None]) -> list[Tensor]:
    """Per layer, kept vision indices int64 [batch, max n_i], ascending, -1 as padding."""
    known: dict[int, Tensor] = {}
    result = []
    for layout in layouts:
        held = first if layout is None else layout
        if id(held) not in known:
            known[id(held)] = held.kept()
        result.append(known[id(held)])
    return result
