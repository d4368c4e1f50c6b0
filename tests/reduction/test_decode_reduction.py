"""Decoding with eviction = full recomputation with the evicted keys masked from that step on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import eviction_oracle
import masked_oracle
import pytest
import torch
from test_decoding import PROMPTS
from test_equations import GRADUAL, IMAGE, LAYERS, SCHEDULES, Sample, batch

from vtr_ray import strategies
from vtr_ray.errors import InputError
from vtr_ray.models import CACHE, cache_of
from vtr_ray.reduction import DecodeReduction, reduce_vision_tokens
from vtr_ray.schedule import Schedule

NEW = 7
GREEDY = {
    "max_new_tokens": NEW,
    "min_new_tokens": NEW,
    "do_sample": False,
    "suppress_tokens": [IMAGE],
    "return_dict_in_generate": True,
    "output_logits": True,
}
NONE = strategies.none(LAYERS)
CASES = {
    "nothing cut before": (NONE, DecodeReduction(2, 0.5)),
    "after a schedule": (GRADUAL, DecodeReduction(2, 0.5)),
    "every token, from layer 2": (NONE, DecodeReduction(1, 0.7, first_layer=2)),
    "to none": (SCHEDULES["held"], DecodeReduction(3, 0.0, first_layer=4)),
    "random, then attention": (SCHEDULES["random"], DecodeReduction(4, 0.3)),
}


def whole(prompt: Sample, answer: torch.Tensor) -> Sample:
    sample = Sample(0, 0, 0, 0)
    sample.ids = torch.cat([prompt.ids, answer])
    sample.pixels = prompt.pixels
    sample.prompt = torch.arange(len(sample.ids)) < len(prompt.ids)
    return sample


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
@pytest.mark.parametrize("name", CASES)
def test_eviction_equals_masking_from_that_step_on(
    llava_factory: Callable[..., Any], name: str, attn: str
) -> None:
    """A ragged left-padded batch, one sample without an image, against the oracle one by one."""
    schedule, settings = CASES[name]
    model = llava_factory(attn=attn)
    inputs, _ = batch(PROMPTS, "left")
    with torch.no_grad(), reduce_vision_tokens(model, schedule, decode=settings) as reduction:
        out = model.generate(**inputs, **GREEDY)
    steps = torch.stack(out.logits, dim=1)
    width = inputs["input_ids"].shape[1]
    answers = out.sequences[:, width:]
    lengths = torch.zeros(len(PROMPTS), LAYERS, dtype=torch.long)
    for row, prompt in enumerate(PROMPTS):
        sample = whole(prompt, answers[row])
        kept = sample.oracle(model, schedule).alive
        with torch.no_grad():
            logits, left = eviction_oracle.run(
                model,
                masked_oracle.full_embeddings(model, sample.ids, sample.pixels)[:-1],
                (sample.ids == IMAGE)[:-1],
                len(prompt.ids),
                [alive[:-1] for alive in kept],
                settings.every,
                settings.keep,
                settings.first_layer,
            )
        n = len(prompt.ids)
        torch.testing.assert_close(steps[row], logits[n - 1 : n - 1 + NEW], atol=1e-4, rtol=1e-4)
        assert [[i for i in layer[row].tolist() if i >= 0] for layer in reduction.kept] == left
        if prompt.pixels is not None:
            assert len(left[-1]) < schedule.counts(int((prompt.ids == IMAGE).sum()))[-1]
        lengths[row] = torch.tensor([n - int((prompt.ids == IMAGE).sum()) + len(layer) for layer in left])
    for index, layer in enumerate(cache_of(out).layers):
        untouched = schedule.rates[index] == 1 and index < settings.first_layer - 1
        held = width if untouched else int(lengths[:, index].max())
        assert layer.keys.shape[2] == layer.values.shape[2] == held + NEW - 1


def test_keeping_all_changes_no_bit_and_an_answer_shorter_than_a_round_neither(tiny_llava: Any) -> None:
    inputs, _ = batch(PROMPTS, "left")
    for schedule in (NONE, GRADUAL):
        with reduce_vision_tokens(tiny_llava, schedule):
            plain = tiny_llava.generate(**inputs, **GREEDY)
        for settings in (DecodeReduction(2, 1.0), DecodeReduction(NEW, 0.1)):
            with reduce_vision_tokens(tiny_llava, schedule, decode=settings):
                same = tiny_llava.generate(**inputs, **GREEDY)
            assert torch.equal(torch.stack(same.logits), torch.stack(plain.logits))
    with reduce_vision_tokens(tiny_llava, GRADUAL, decode=DecodeReduction(2, 0.3)):
        other = tiny_llava.generate(**inputs, **GREEDY)
    assert not torch.equal(torch.stack(other.logits), torch.stack(plain.logits))


def test_two_caches_are_reduced_apart(tiny_llava: Any) -> None:
    """Two answers written in turn, a token each, are those written one after the other."""
    inputs, _ = batch(PROMPTS[:1], "left")
    others, _ = batch(PROMPTS[3:], "left")

    def start(given: dict[str, Any]) -> list[Any]:
        out = tiny_llava(**given, use_cache=True)
        return [cache_of(out), out.logits[:, -1:]]

    def go_on(state: list[Any]) -> None:
        out = tiny_llava(input_ids=state[1].argmax(-1), **{CACHE: state[0]}, use_cache=True)
        state[1] = out.logits[:, -1:]

    finals = []
    for together in (True, False):
        with torch.no_grad(), reduce_vision_tokens(tiny_llava, GRADUAL, decode=DecodeReduction(2, 0.4)):
            if together:
                states = [start(inputs), start(others)]
                for _ in range(5):
                    for state in states:
                        go_on(state)
            else:
                states = []
                for given in (inputs, others):
                    states.append(start(given))
                    for _ in range(5):
                        go_on(states[-1])
        finals.append([state[1] for state in states])
    for one, other in zip(*finals, strict=True):
        assert torch.equal(one, other)


def test_what_cannot_be_followed_is_refused(llava_factory: Callable[..., Any]) -> None:
    model = llava_factory()
    inputs, _ = batch(PROMPTS, "left")
    settings = DecodeReduction(2, 0.5)
    with reduce_vision_tokens(model, NONE, decode=settings):
        for options, match in (
            ({"num_beams": 2}, "num_beams"),
            ({"prompt_lookup_num_tokens": 2}, "prompt_lookup_num_tokens"),
            ({"use_cache": False}, "use_cache=False"),
            ({"cache_implementation": "static"}, "static"),
        ):
            with pytest.raises(NotImplementedError, match=match):
                model.generate(**inputs, **GREEDY, **options)
        cache = cache_of(model(**inputs, use_cache=True))
        with pytest.raises(NotImplementedError, match="one new token a call"):
            model(input_ids=torch.full((4, 2), 7), **{CACHE: cache})
        cache = cache_of(model(**inputs, use_cache=True))
        model(input_ids=torch.full((4, 1), 7), **{CACHE: cache})
        cache.crop(-1)
        with pytest.raises(NotImplementedError, match="none taken back"):
            model(input_ids=torch.full((4, 1), 7), **{CACHE: cache})
    for values, match in (
        ((0, 0.5), "every is 0"),
        ((2, 1.5), "keep is 1.5"),
        ((2, float("nan")), "keep is nan"),
        ((2, 0.5, 1), "layer 1 must keep"),
    ):
        with pytest.raises(InputError, match=match):
            DecodeReduction(*values)
    for schedule, decode, match in (
        (NONE, DecodeReduction(2, 0.5, first_layer=6), "first_layer is 6"),
        (Schedule.from_rates([1, 1, 0.5, 0.5, 0.5], positions="renumber"), settings, "renumbered"),
    ):
        with pytest.raises(InputError, match=match), reduce_vision_tokens(model, schedule, decode=decode):
            pass
    windowed = llava_factory(text="mistral", sliding_window=30)
    with pytest.raises(NotImplementedError, match="sliding window"):  # noqa: SIM117
        with reduce_vision_tokens(windowed, NONE, decode=settings):
            pass
