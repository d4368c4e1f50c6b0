"""Rankings over families against the native oracle; features computed once against the call with pixels."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import native_oracle as oracle
import pytest
import torch
from test_matrix import gradual, kept_of
from toys import IMAGE, TOYS, VIDEO, Sample, inputs_of, model_of, prompts_of

from vtr_ray.errors import InputError
from vtr_ray.evaluation.batches import Tensors
from vtr_ray.evaluation.greedy import greedy
from vtr_ray.models import encode, family_of, model_inputs
from vtr_ray.reduction import reduce_vision_tokens

pytestmark = pytest.mark.families
GRIDS = ("qwen2-vl", "qwen2.5-vl", "qwen3-vl")


def ragged(name: str) -> list[Sample]:
    videos = int(TOYS[name].video is not None)
    return [
        Sample(name, 1, 4, 1, 5, 1, videos),
        Sample(name, 2, 2, 2, 3, 2),
        Sample(name, 3, 9, 0, 3, 1),
        Sample(name, 4, 1, 0 if videos else 1, 2, 1, videos),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("ranking", ["last_token", "next_layer"])
@pytest.mark.parametrize("name", TOYS)
def test_rankings(name: str, ranking: str) -> None:
    """FastV's row; PDrop's coming layer (fused, normed and partly rotated projections), its positions."""
    batch, model, eager = ragged(name)[:2], model_of(name, "sdpa"), model_of(name, "eager")
    inputs, prompt = inputs_of(batch, model), prompts_of(batch)
    what = replace(gradual(name), ranking=ranking)
    renumbers = ranking == "next_layer" and name not in GRIDS and not name.startswith("gemma3")
    for schedule in (what, replace(what, positions="renumber")) if renumbers else (what,):
        with torch.no_grad(), reduce_vision_tokens(model, schedule, prompt_mask=prompt) as reduction:
            logits = model(**inputs).logits
        for row, sample in enumerate(batch):
            wanted = oracle.run(eager, inputs_of([sample], eager), sample.vision, schedule, sample.prompt)
            assert kept_of(reduction, row) == wanted.kept
            own = reduction.positions[row] - (inputs["input_ids"].shape[1] - len(sample.ids))
            real = (own >= 0) & (reduction.positions[row] >= 0)
            torch.testing.assert_close(logits[row][real], wanted.logits[own[real]], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", TOYS)
def test_features_once(name: str) -> None:
    """The call without pixels is the call with them, reduced or not; and decodes as generate() does."""
    batch, model = ragged(name), model_of(name, "sdpa")
    inputs, what = inputs_of(batch, model), gradual(name)
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    with torch.no_grad():
        features = encode(model, inputs)
        given = model_inputs(model, ids, mask, features)
        torch.testing.assert_close(model(**given).logits, model(**inputs).logits, atol=1e-5, rtol=1e-5)
        vision = family_of(model).is_vision(model.config, ids)
        assert [int(row.sum()) for row in vision] == [int(sample.vision.sum()) for sample in batch]
        tensors = Tensors(given, torch.ones_like(vision), vision, ids)
        assert tensors.map(torch.clone).bytes == tensors.bytes > 0
        with reduce_vision_tokens(model, what) as reduction:
            expected = model(**inputs).logits
            kept = [layer.tolist() for layer in reduction.kept]
            options: dict[str, Any] = {"do_sample": False, "eos_token_id": 2, "max_new_tokens": 4}
            wanted = model.generate(**inputs, **options)[:, ids.shape[1] :].tolist()
        with reduce_vision_tokens(model, what, vision_mask=vision) as reduction:
            torch.testing.assert_close(model(**given).logits, expected, atol=1e-5, rtol=1e-5)
            assert [layer.tolist() for layer in reduction.kept] == kept
            answers = greedy(model, tensors.map(torch.clone), torch.tensor([2]), [4] * len(batch))
    assert answers == [row[: row.index(2)] if 2 in row else row for row in wanted]


def test_missing_features_are_named() -> None:
    for name, missing in (("onevision", "image"), ("qwen3-vl", "video")):
        batch, model = ragged(name)[:1], model_of(name, "sdpa")
        inputs = inputs_of(batch, model)
        ids = inputs["input_ids"]
        with torch.no_grad():
            features = encode(model, inputs)
            fewer = replace(features, outputs={k: v for k, v in features.outputs.items() if k != missing})
            placeholders = int((ids == {"image": IMAGE, "video": VIDEO}[missing]).sum())
            with pytest.raises(InputError, match=f"{placeholders} vision placeholders but 0 vision features"):
                model_inputs(model, ids, torch.ones_like(ids), fewer)


@pytest.mark.parametrize("name", ["qwen3-vl", "gemma3-early", "internvl-phi3"])
def test_gradients_go_through_kept_tokens(name: str) -> None:
    """The loss is the oracle's, and reaches the embeddings of the prompt."""
    sample, model = ragged(name)[1], model_of(name, "sdpa")
    inputs = inputs_of([sample], model)
    labels = sample.ids.masked_fill(sample.prompt, -100)[None]
    with reduce_vision_tokens(model, gradual(name), prompt_mask=sample.prompt[None]):
        loss = model(**inputs, labels=labels).loss
        (gradient,) = torch.autograd.grad(loss, [model.get_input_embeddings().weight])
    with torch.no_grad():
        eager = model_of(name, "eager")
        wanted = oracle.run(eager, inputs_of([sample], eager), sample.vision, gradual(name), sample.prompt)
        start = len(sample.prompt_ids) - 1
        steps = wanted.logits[start:-1].log_softmax(-1)
        expected = -steps.gather(1, sample.ids[start + 1 :, None]).mean()
    assert float(loss.detach()) == pytest.approx(float(expected), abs=1e-4)
    assert gradient.isfinite().all() and bool(gradient[sample.ids[0]].any())
