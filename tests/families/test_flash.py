"""FlashAttention's calls, masks and packing as transformers makes them, onto a kernel written out in torch.

The real kernels need a GPU; what reduction owes them is the 2D mask, no position_ids and no gaps, which is
what runs here.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any

import native_oracle as oracle
import pytest
import torch
import transformers.modeling_flash_attention_utils as flash
from test_matrix import GREEDY, NEW, gradual, kept_of, samples
from torch import Tensor
from toys import TOYS, Sample, inputs_of, model_of, prompts_of

from vtr_ray.reduction import Unsupported, reduce_vision_tokens
from vtr_ray.schedule import Schedule

pytestmark = pytest.mark.families
NAMES = ("llava", "internvl-phi3", "qwen2.5-vl", "qwen3-vl")


def attend(q: Tensor, k: Tensor, v: Tensor, scale: float | None, causal: bool) -> Tensor:
    """[length, heads, size]; causality is aligned to the last key, as in flash-attn 2.1 and later."""
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    products = torch.einsum("qhd,khd->hqk", q, k) * (scale or 1 / math.sqrt(q.shape[-1]))
    if causal:
        later = torch.ones(q.shape[0], k.shape[0], dtype=torch.bool).triu(1 + k.shape[0] - q.shape[0])
        products = products.masked_fill(later, float("-inf"))
    return torch.einsum("hqk,khd->qhd", products.softmax(-1), v)


def whole(
    q: Tensor, k: Tensor, v: Tensor, dropout_p: float = 0.0, softmax_scale: Any = None, causal: bool = False
) -> Tensor:
    return torch.stack([attend(*rows, softmax_scale, causal) for rows in zip(q, k, v, strict=True)])


def ragged(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float = 0.0,
    softmax_scale: Any = None,
    causal: bool = False,
) -> Tensor:
    rows = []
    for row in range(len(cu_seqlens_q) - 1):
        queries = slice(int(cu_seqlens_q[row]), int(cu_seqlens_q[row + 1]))
        keys = slice(int(cu_seqlens_k[row]), int(cu_seqlens_k[row + 1]))
        rows.append(attend(q[queries], k[keys], v[keys], softmax_scale, causal))
    return torch.cat(rows)


@pytest.fixture(autouse=True)
def kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(flash, "_loaded_implementation", "flash_attention_2")
    monkeypatch.setattr(flash, "_flash_fn", whole)
    monkeypatch.setattr(flash, "_flash_varlen_fn", ragged)
    monkeypatch.setattr(flash, "_pad_fn", flash._pad_input)
    monkeypatch.setattr(flash, "_unpad_fn", flash._unpad_input)
    monkeypatch.setattr(flash, "_process_flash_kwargs_fn", flash._lazy_define_process_function(ragged))
    yield


def flashing(name: str) -> Any:
    """The language model alone on FlashAttention: the tower's own is no business of reduction's."""
    model = copy.deepcopy(model_of(name, "sdpa"))
    model.config.get_text_config(decoder=True)._attn_implementation_internal = "flash_attention_2"
    attention = oracle.decoder_of(model).layers[0].self_attn
    assert attention.config._attn_implementation == "flash_attention_2"
    return model


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", ["one", "ragged"])
def test_flash(name: str, size: str) -> None:
    vision = "two" if TOYS[name].video is None else "video"
    model, what = flashing(name), gradual(name)
    for answered in (True, False):
        batch = samples(name, vision, size, answered)
        inputs = inputs_of(list(batch), model)
        width = inputs["input_ids"].shape[1]
        with (
            torch.no_grad(),
            reduce_vision_tokens(
                model, what, prompt_mask=prompts_of(list(batch)) if answered else None
            ) as reduction,
        ):
            if answered:
                logits = model(**inputs).logits
            else:
                out = model.generate(**inputs, **GREEDY)
        for row, sample in enumerate(batch):
            n = len(sample.prompt_ids)
            if not answered:
                sample = sample.with_answer(out.sequences[row, width:].tolist())
            eager = model_of(name, "eager")
            wanted = oracle.run(eager, inputs_of([sample], eager), sample.vision, what, sample.prompt)
            assert kept_of(reduction, row) == wanted.kept
            if answered:
                positions = reduction.positions[row]
                own = positions - (width - len(sample.ids))
                real = (own >= 0) & (positions >= 0)
                found, expected = logits[row][real], wanted.logits[own[real]]
            else:
                found = torch.stack([step[row] for step in out.logits])
                expected = wanted.logits[n - 1 : n - 1 + NEW]
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_a_window_that_hides_something_is_refused() -> None:
    """FlashAttention counts its window in slots, of which removed tokens have none."""
    model, sample = flashing("llava-window"), Sample("llava-window", 1, 4, 2, 5)
    what = Schedule.from_rates([1, 1, 0.5, 0.5, 0])
    with pytest.raises(Unsupported, match="sliding window of 24"), reduce_vision_tokens(model, what):
        model(**inputs_of([sample], model))
