"""One forward pass under a schedule: a prefill that cuts, or a decode step that attends to what was kept."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from vtr_ray.models import CACHE
from vtr_ray.reduction.kinds import Kind, layer_kinds
from vtr_ray.reduction.layout import Layout, cut, on_device, take, whole
from vtr_ray.reduction.masks import decode_mask, prefill_mask
from vtr_ray.reduction.prefix import Prefix
from vtr_ray.reduction.prompt import Prompt
from vtr_ray.reduction.refusals import Unsupported
from vtr_ray.reduction.scoring import (
    attention_scores,
    next_layer_scores,
    random_order,
    ranking_rows,
    rows_of,
)
from vtr_ray.schedule import Ranking, Schedule

Options = dict[str, Any]
_ATTENDED = (Ranking.INSTRUCTION, Ranking.LAST_TOKEN)


class Prefill:
    """A prefill: which layers cut to what, the current layout, and every layer's for the decode steps.

    Args:
        schedule: what to keep.
        prompt: the batch's prompts.
        decoder: the language model, for its configuration and rotary embedding.
        generating: whether `generate()` runs, which reads the last slot.
        keep: the call's `logits_to_keep`.
        blocks: int64 [batch, seq], numbers of blocks that see themselves in both directions, -1 outside.
        copies: rows that each prompt became; they keep the same tokens, so that beams may change rows.
        capture: the layer (from 0) that is ranked for, whether this schedule cuts before it or not.

    Raises:
        Unsupported: a cut before any layer whose ranking rows see all vision tokens.
    """

    def __init__(
        self,
        schedule: Schedule,
        prompt: Prompt,
        decoder: Any,
        generating: bool,
        keep: int | Tensor = 0,
        blocks: Tensor | None = None,
        copies: int = 1,
        capture: int | None = None,
    ) -> None:
        self.schedule = schedule
        self.decoder = decoder
        self.keep = keep
        self.blocks = blocks
        self.copies = copies
        self.length = prompt.length  # input positions in the cache of an untouched layer
        self.kinds = layer_kinds(decoder.config)
        self.layout: Layout = whole(prompt, generating)
        self.first = self.layout
        self.shortened = False
        self.cuts = _plan(schedule, prompt.num_vision)
        self.layouts: list[Layout | None] = [None] * schedule.num_layers  # None: untouched
        self.cache: Any = None
        self.entered = 0  # the layer that runs
        self.reading = 0  # the layer whose scores come next
        self.capture = capture
        self.resumed = self.ending = False  # ending: the layer to come has been entered
        self._sources = self._find_sources() if schedule.ranking in _ATTENDED else {}
        self.tapped = {source for sources in self._sources.values() for source in sources}
        self._scores: dict[int, Tensor] = {}  # by layer, on the current layout
        self._options: dict[Kind, Options] = {}  # of the current layout

    @property
    def idle(self) -> bool:
        """Whether the pass leaves every layer as it is."""
        return self.ending or (not self.cuts and self.capture is None and not self.resumed)

    def resume(self, prefix: Prefix) -> None:
        """Go on where `prefix` was taken, instead of at the first layer."""
        self.resumed, self.shortened = True, prefix.shortened
        self.first, self.layout = prefix.first, prefix.layout
        self.layouts[: prefix.layer - 1] = prefix.layouts
        self.blocks = prefix.blocks
        if prefix.scores is not None:
            earlier = {source for source in self.tapped if source < prefix.layer - 1}
            # What ranks for the cut before this layer ranks for all later ones that look back beyond it.
            self._scores = dict.fromkeys(earlier, prefix.scores)

    def taken(self, states: Tensor) -> Prefix:
        """The state entering the layer to capture, before any cut there; `options` are still to come.

        states: [batch, length, width], the layer's input.
        """
        assert self.capture is not None
        ranked = self.schedule.ranking in _ATTENDED and any(self.layout.counts)
        held = [] if self.cache is None else self.cache.layers[: self.capture]
        return Prefix(
            layer=self.capture + 1,
            schedule=self.schedule,
            states=states,
            scores=self._attended(self.capture) if ranked else None,
            first=self.first,
            layout=self.layout,
            layouts=self.layouts[: self.capture],
            shortened=self.shortened,
            blocks=self.blocks,
            held=[(layer.keys, layer.values) for layer in held],
        )

    def _ranks(self, layer: int, counts: list[int]) -> list[bool]:
        """Samples of which the cut before the layer (from 0) has to choose, rather than keep all or none."""
        earlier = [i for i in self.cuts if i < layer]
        before = self.cuts[max(earlier)] if earlier else self.first.counts
        return [0 < n < had for n, had in zip(counts, before, strict=True)]

    def _find_sources(self) -> dict[int, list[int]]:
        """Per cut that chooses, the layer that scores each sample: the last whose rows see all its tokens."""
        found: dict[int, list[int]] = {}
        wanted = {layer: self._ranks(layer, counts) for layer, counts in self.cuts.items()}
        if self.capture is not None:
            wanted.setdefault(self.capture, [False] * len(self.first.counts))
        for layer, chooses in wanted.items():
            if not any(chooses) and layer != self.capture:
                continue
            found[layer] = []
            for span, needed in zip(self.first.prompt.spans, chooses, strict=True):
                seeing = [j for j in range(layer) if (self.kinds[j].window or span) >= span]
                if needed and not seeing:
                    raise Unsupported(
                        f"Layers 1 to {layer} have a sliding window of {self.kinds[0].window} tokens, but "
                        f"from the first vision token to the question's end there are {span}: none can rank "
                        f"for a cut before layer {layer + 1}; cut deeper, or give fewer tokens."
                    )
                found[layer].append(seeing[-1] if seeing else layer - 1)
        return found

    @torch.no_grad()
    def read(self, query: Tensor, key: Tensor, scaling: float) -> None:
        """Score from the rotated query [batch, heads, length, head_dim] and key of a layer before a cut."""
        rows, weights = ranking_rows(self.layout, self.schedule.ranking)
        self._scores[self.reading] = attention_scores(
            rows_of(query, rows), key, scaling, self.layout, rows, weights, self.kinds[self.reading].window
        )

    def enter(self, index: int, layer: Any, hidden_states: Tensor, options: Options) -> Tensor:
        """Before layer `index` (from 0): cut if planned; replace, in place, what depends on the length.

        Returns:
            The hidden states the layer runs on, [batch, length, width].
        """
        self.cache = options.get(CACHE, self.cache)
        hidden_states = hidden_states.to(device_of(layer, hidden_states))
        if hidden_states.device != self.layout.index.device:
            self._move(hidden_states.device)
        if index in self.cuts:
            hidden_states = self._cut(index, layer, hidden_states, options)
        if self.shortened:
            self.layouts[index] = self.layout
            kind = self.kinds[index]
            if kind not in self._options:
                self._options[kind] = self._replaced(kind, hidden_states, options)
            options.update(self._options[kind])
        elif self.resumed:
            kind = self.kinds[index]
            if kind not in self._options:
                self._options[kind] = {"attention_mask": self._mask(kind, hidden_states)}
            options.update(self._options[kind])
        return hidden_states

    def crop(self, length: int) -> None:
        """Follow a cache whose last tokens were taken back: `length` input positions are left.

        Raises:
            Unsupported: layers would not lose the same tokens.
        """
        gone = self.length - length
        if gone <= 0:
            return
        last = self.first.index[:, self.length - gone : self.length]
        for layout in self.layouts:
            if layout is not None and not torch.equal(layout.index[:, -gone:].to(last.device), last):
                raise Unsupported(
                    "The cache was cropped into its prompt's vision tokens; start from an empty one."
                )
        cropped = {id(layout): layout.cropped(gone) for layout in self.layouts if layout is not None}
        self.layouts = [None if layout is None else cropped[id(layout)] for layout in self.layouts]
        self.length = length

    def _move(self, device: torch.device) -> None:
        """Go on where the coming layer is."""
        self.layout = self.layout.to(device)
        self.blocks = None if self.blocks is None else self.blocks.to(device)
        self._scores = {index: scores.to(device) for index, scores in self._scores.items()}
        self._options = {}

    def deepen(self, hidden_states: Tensor, places: Tensor, features: Tensor) -> Tensor:
        """Add vision features [tokens of the batch, width] to the kept ones' slots of a layer's output.

        places: bool [batch, seq], the input positions that the features belong to, in reading order.
        """
        index = self.layout.index.clamp(min=0)
        places = places.to(index.device)
        order = (places.flatten().cumsum(0) - 1).view_as(places).gather(1, index).clamp(min=0)
        held = places.gather(1, index) & (self.layout.index >= 0)
        added = features.to(hidden_states).index_select(0, order.flatten()).view_as(hidden_states)
        return hidden_states + added * held.unsqueeze(-1)

    def _cut(self, index: int, layer: Any, hidden_states: Tensor, options: Options) -> Tensor:
        counts = self.cuts[index]
        scores = None
        if any(self._ranks(index, counts)):
            if self.schedule.ranking is Ranking.RANDOM:
                scores = self._random.to(hidden_states.device).gather(1, self.layout.index.clamp(min=0))
            elif self.schedule.ranking is Ranking.NEXT_LAYER:
                tables = self._rotary(self.kinds[index], hidden_states, options)
                scores = next_layer_scores(layer, hidden_states, tables, self.layout)
            else:
                scores = self._attended(index)
        if scores is not None and self.copies > 1:
            scores = scores[:: self.copies].repeat_interleave(self.copies, 0)
        slots, self.layout = cut(self.layout, scores, counts)
        self.shortened = True
        self._options = {}
        later = {source for i, sources in self._sources.items() if i > index for source in sources}
        self._scores = {i: known.gather(1, slots) for i, known in self._scores.items() if i in later}
        return take(hidden_states, slots)

    def _attended(self, index: int) -> Tensor:
        """Each sample's scores from the layer that ranks for it."""
        sources = self._sources[index]
        scores = self._scores[sources[0]]
        for source in set(sources) - {sources[0]}:
            own = on_device([int(i == source) for i in sources], scores) == 1
            scores = torch.where(own.unsqueeze(1), self._scores[source], scores)
        return scores

    @cached_property
    def _random(self) -> Tensor:
        return random_order(self.schedule, self.first.prompt)

    def _replaced(self, kind: Kind, hidden_states: Tensor, options: Options) -> Options:
        return {
            "attention_mask": self._mask(kind, hidden_states),
            "position_embeddings": self._rotary(kind, hidden_states, options),
            # Gapped position_ids would be taken for packed sequences; the tables above say it all.
            "position_ids": None,
        }

    def _mask(self, kind: Kind, hidden_states: Tensor) -> Any:
        attn = self.decoder.config._attn_implementation
        return prefill_mask(attn, self.layout, kind.window, self.blocks, hidden_states.dtype)

    def _rotary(self, kind: Kind, hidden_states: Tensor, options: Options) -> tuple[Tensor, Tensor]:
        """Rotary tables of the current layout, from the model's own options for a layer of that kind."""
        if self.shortened and self.schedule.positions == "renumber":
            positions = self.layout.renumbered(options["position_ids"].to(self.layout.index.device))
            return rotary_tables(self.decoder, kind, hidden_states, positions)
        places = self.layout.index.clamp(min=0)
        cos, sin = (table.to(places.device) for table in options["position_embeddings"])
        return take(cos, places), take(sin, places)


class Decode:
    """Tokens onto a filled cache: layers after the first cut see their own cache's mask and positions.

    Args:
        prefill: what filled the cache.
        cache: of every layer, the prompt and the tokens since.
        attention_mask: [batch, prompt and all tokens since, the new ones included], or None: all are real.
        new: tokens of this call.
    """

    def __init__(self, prefill: Prefill, cache: Any, attention_mask: Tensor | None, new: int) -> None:
        self.prefill = prefill
        self.cache = cache
        self.new = new
        self.steps = cache.get_seq_length() + new - prefill.length
        self._tail: Tensor | None = None
        if attention_mask is not None:
            tail = attention_mask[:, prefill.length :] != 0
            self._tail = None if bool(tail.all()) else tail
        self._known: dict[tuple[int, Kind], Options] = {}

    def enter(self, index: int, layer: Any, hidden_states: Tensor, options: Options) -> Tensor:
        """Before layer `index` (from 0): replace what depends on the cache's length, in place."""
        layout = self.prefill.layouts[index]
        if layout is not None:
            kind = self.prefill.kinds[index]
            key = id(layout), kind
            if key not in self._known:
                self._known[key] = self._options(index, layout, kind, hidden_states, options)
            options.update(self._known[key])
        return hidden_states

    def _options(
        self, index: int, layout: Layout, kind: Kind, hidden_states: Tensor, options: Options
    ) -> Options:
        decoder = self.prefill.decoder
        held = self.cache.layers[index]
        mask = decode_mask(
            decoder.config._attn_implementation,
            layout,
            self.prefill.length,
            kind.window,
            held.sliding_window - 1 if held.is_sliding else None,
            None if self._tail is None else self._tail.to(layout.index.device),
            self.steps,
            self.new,
            hidden_states.dtype,
        )
        replaced: Options = {"attention_mask": mask, "position_ids": None}
        if self.prefill.schedule.positions == "renumber":
            positions = options["position_ids"].to(layout.index.device) - layout.removed
            replaced["position_embeddings"] = rotary_tables(decoder, kind, hidden_states, positions)
        return replaced


def rotary_tables(
    decoder: Any, kind: Kind, hidden_states: Tensor, positions: Tensor
) -> tuple[Tensor, Tensor]:
    """A layer kind's rotary tables, each [batch, length, head_dim], at positions [batch, length]."""
    by_kind = {"layer_type": kind.name} if hasattr(decoder.rotary_emb, "layer_types") else {}
    states = hidden_states.to(positions.device)
    cos, sin = decoder.rotary_emb(states, position_ids=positions, **by_kind)
    return cos.to(positions.device), sin.to(positions.device)


def device_of(layer: Any, hidden_states: Tensor) -> torch.device:
    """Where a layer will run: accelerate moves its inputs there only after the hooks of this package."""
    hook = getattr(layer, "_hf_hook", None)
    for one in getattr(hook, "hooks", (hook,)):
        device = getattr(one, "execution_device", None)
        if device is not None:
            return torch.device(device)
    held = next(layer.parameters(), hidden_states).device
    return hidden_states.device if held.type == "meta" else held  # weights to come


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
