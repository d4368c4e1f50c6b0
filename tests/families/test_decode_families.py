"""Decode-time reduction on every family: a ragged batch under SDPA = its samples one by one under eager."""

from __future__ import annotations

import pytest
import torch
from test_matrix import GREEDY, gradual, kept_of, layers_of, samples
from toys import TOYS, inputs_of, model_of

from vtr_ray.models import cache_of
from vtr_ray.reduction import DecodeReduction, Unsupported, reduce_vision_tokens
from vtr_ray.schedule import Schedule

pytestmark = pytest.mark.families
WINDOWED = ("llava-window", "gemma3", "gemma3-early")
NEW = 6
OPTIONS = {**GREEDY, "max_new_tokens": NEW, "min_new_tokens": NEW}
SETTINGS = DecodeReduction(2, 0.5)


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("name", [name for name in TOYS if name not in WINDOWED])
def test_a_batch_drops_what_its_samples_drop(name: str, cut: bool) -> None:
    what = gradual(name) if cut else Schedule.from_rates([1.0] * layers_of(name))
    batch = samples(name, "one", "ragged", False)
    model, slow = model_of(name, "sdpa"), model_of(name, "eager")
    with torch.no_grad(), reduce_vision_tokens(model, what, decode=SETTINGS) as reduction:
        out = model.generate(**inputs_of(list(batch), model), **OPTIONS)
    together = torch.stack(out.logits, dim=1)
    held = [layer.keys.shape[2] for layer in cache_of(out).layers]
    texts = [int((~sample.vision).sum()) for sample in batch]
    lengths = []
    for row, sample in enumerate(batch):
        kept = kept_of(reduction, row)
        with torch.no_grad(), reduce_vision_tokens(slow, what, decode=SETTINGS) as alone:
            single = slow.generate(**inputs_of([sample], slow), **OPTIONS)
        assert kept == kept_of(alone, 0)
        torch.testing.assert_close(together[row], torch.stack(single.logits, dim=1)[0], atol=1e-4, rtol=1e-4)
        left = what.counts(int(sample.vision.sum()))
        for _ in range((NEW - 2) // SETTINGS.every):
            left = [n if index < 2 else int(n / 2 + 0.5) for index, n in enumerate(left)]
        assert [len(layer) for layer in kept] == left
        lengths.append([texts[row] + n for n in left])
    assert held[2:] == [max(of_layer) + NEW - 1 for of_layer in zip(*lengths, strict=True)][2:]


@pytest.mark.parametrize("name", WINDOWED)
def test_windows_are_refused(name: str) -> None:
    what = Schedule.from_rates([1.0] * layers_of(name))
    with (
        pytest.raises(Unsupported, match="sliding window"),
        reduce_vision_tokens(model_of(name, "sdpa"), what, decode=SETTINGS),
    ):
        pass
