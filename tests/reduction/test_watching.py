"""Every layer's scores are the eager model's attention matrix, averaged."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from PIL import Image

from vtr_ray import embedded
from vtr_ray.evaluation import prompts
from vtr_ray.models import load_model
from vtr_ray.reduction.watching import layer_scores
from vtr_ray.schedule import Ranking


@pytest.mark.parametrize("ranking", [Ranking.INSTRUCTION, Ranking.LAST_TOKEN])
def test_scores_of_every_layer_are_means_of_the_attention_matrix(ranking: Ranking) -> None:
    model, processor = load_model(embedded.checkpoint("embedded"), attn="sdpa", device="cpu")
    eager, _ = load_model(embedded.checkpoint("embedded"), attn="eager", device="cpu")
    images = [[Image.new("RGB", (96, 96), colour)] for colour in ("red", "blue")]
    texts = [prompts.prompt_text(processor, text) for text in ("what color is it ?", "is it red ?")]
    inputs: Any = prompts.encode(processor, images, texts)
    vision = inputs["input_ids"] == model.config.image_token_id
    found = layer_scores(model, dict(inputs), vision, ranking=ranking)
    with torch.no_grad():
        attentions = eager(**inputs, output_attentions=True, use_cache=False).attentions
    assert len(found) == len(attentions) == 12
    for layer, weights in zip(found, attentions, strict=True):
        for sample, scores in enumerate(layer):
            last_vision = int(vision[sample].nonzero().max())
            rows = range(last_vision + 1, weights.shape[-1])
            if ranking is Ranking.LAST_TOKEN:
                rows = rows[-1:]
            expected = weights[sample][:, list(rows)].mean((0, 1))[vision[sample]]
            torch.testing.assert_close(scores, expected, atol=1e-6, rtol=1e-5)
    assert model.config._attn_implementation == "sdpa"
