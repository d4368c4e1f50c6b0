"""Scores of all vision tokens at every layer of an untouched forward: for studies, not for speed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vtr_ray.models import family_of
from vtr_ray.reduction.kinds import layer_kinds
from vtr_ray.reduction.layout import whole
from vtr_ray.reduction.prompt import read_prompt
from vtr_ray.reduction.scoring import attention_scores, ranking_rows, rows_of
from vtr_ray.reduction.tap import AttentionTap
from vtr_ray.schedule import Ranking


@torch.no_grad()
def layer_scores(
    model: Any,
    inputs: Mapping[str, Any],
    vision_mask: Tensor,
    prompt_mask: Tensor | None = None,
    ranking: Ranking = Ranking.INSTRUCTION,
) -> list[list[Tensor]]:
    """What every layer's ranking rows pay each vision token: the scores that Sort & Reduce would rank by.

    Args:
        model: of a supported family, all its layers attending through transformers' attention interface.
        inputs: the call's keyword arguments, `attention_mask` among them.
        vision_mask, prompt_mask: bool [batch, seq], as `reduce_vision_tokens` takes them.
        ranking: whose rows; `INSTRUCTION` or `LAST_TOKEN`.

    Returns:
        By layer and sample float32 [N_s], in the order of the vision tokens. A layer with a sliding window
        gives 0 to what its rows do not see.
    """
    family = family_of(model)
    layout = whole(read_prompt(vision_mask, inputs["attention_mask"], prompt_mask), generating=False)
    kinds = layer_kinds(family.decoder_of(model).config)
    rows, weights = ranking_rows(layout, ranking)
    found: list[list[Tensor]] = []

    def read(query: Tensor, key: Tensor, scaling: float) -> None:
        scores = attention_scores(
            rows_of(query, rows), key, scaling, layout, rows, weights, kinds[len(found)].window
        )
        found.append([row[seen] for row, seen in zip(scores, layout.vision, strict=True)])

    tap = AttentionTap(read)
    try:
        for layer in family.layers_of(model):  # they run in this order
            tap.arm(layer.self_attn)
        model(**inputs, use_cache=False, logits_to_keep=1)
    finally:
        tap.close()
    return found
