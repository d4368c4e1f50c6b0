"""Cached decoding, generate(), and what they refuse."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_equations import GRADUAL, IMAGE, LAYERS, SCHEDULES, Sample, batch

from vtr_ray import strategies
from vtr_ray.errors import InputError
from vtr_ray.models import CACHE, cache_of
from vtr_ray.reduction import reduce_vision_tokens
from vtr_ray.schedule import Schedule

PROMPTS = [Sample(11, 4, 1, 5), Sample(12, 2, 2, 7), Sample(13, 9, 0, 3), Sample(14, 1, 1, 1)]
GREEDY = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False, "suppress_tokens": [IMAGE]}


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
@pytest.mark.parametrize("name", SCHEDULES)
def test_cached_decoding_equals_full_recomputation(
    llava_factory: Callable[..., Any], name: str, attn: str
) -> None:
    """Four generated tokens against the masked oracle run over prompt and answer at full length."""
    schedule, model = SCHEDULES[name], llava_factory(attn=attn)
    inputs, _ = batch(PROMPTS, "left")
    with torch.no_grad(), reduce_vision_tokens(model, schedule) as reduction:
        out = model.generate(**inputs, **GREEDY, return_dict_in_generate=True, output_logits=True)
    steps = torch.stack(out.logits, dim=1)
    answers = out.sequences[:, inputs["input_ids"].shape[1] :]
    for row, prompt in enumerate(PROMPTS):
        whole = Sample(0, 0, 0, 0)
        whole.ids = torch.cat([prompt.ids, answers[row]])
        whole.pixels = prompt.pixels
        whole.prompt = torch.arange(len(whole.ids)) < len(prompt.ids)
        expected = whole.oracle(model, schedule)
        kept = reduction.kept[-1][row]
        assert kept[kept >= 0].tolist() == expected.kept[-1]
        n = len(prompt.ids)
        torch.testing.assert_close(steps[row], expected.logits[n - 1 : n + 3], atol=1e-4, rtol=1e-4)


def test_each_layers_cache_holds_text_and_its_kept_tokens(tiny_llava: Any) -> None:
    sample = PROMPTS[0]
    with reduce_vision_tokens(tiny_llava, GRADUAL):
        out = tiny_llava.generate(
            input_ids=sample.ids[None], pixel_values=sample.pixels, return_dict_in_generate=True, **GREEDY
        )
    held = [layer.keys.shape[2] for layer in cache_of(out).layers]
    assert held == [9 + n + 3 for n in GRADUAL.counts(16)]


@pytest.mark.parametrize("name", ["gradual", "pdrop"])
def test_generate_in_a_batch_equals_one_by_one_and_from_embeddings(tiny_llava: Any, name: str) -> None:
    from vtr_ray.models import embed, encode_images

    inputs, _ = batch(PROMPTS, "left")
    ids = inputs["input_ids"]
    embeddings = embed(tiny_llava, ids, encode_images(tiny_llava, inputs))
    with torch.no_grad(), reduce_vision_tokens(tiny_llava, SCHEDULES[name], vision_mask=ids == IMAGE):
        answers = tiny_llava.generate(
            inputs_embeds=embeddings, attention_mask=inputs["attention_mask"], **GREEDY
        )
    with torch.no_grad(), reduce_vision_tokens(tiny_llava, SCHEDULES[name]):
        for row, prompt in enumerate(PROMPTS):
            pixels = {} if prompt.pixels is None else {"pixel_values": prompt.pixels}
            alone = tiny_llava.generate(input_ids=prompt.ids[None], **pixels, **GREEDY)
            assert alone[0, len(prompt.ids) :].tolist() == answers[row].tolist()


def test_a_manual_loop_decodes_after_right_padding(tiny_llava: Any) -> None:
    """The cache of a right-padded plain forward, continued token by token with a mask that has a hole."""
    inputs, _ = batch(PROMPTS, "right")
    mask = inputs["attention_mask"]
    new = torch.tensor([[7], [8], [9], [10]])
    with torch.no_grad(), reduce_vision_tokens(tiny_llava, GRADUAL):
        out = tiny_llava(**inputs, use_cache=True)
        step = tiny_llava(
            input_ids=new,
            attention_mask=torch.cat([mask, torch.ones(4, 1, dtype=torch.long)], dim=1),
            position_ids=mask.sum(1, keepdim=True),
            **{CACHE: cache_of(out)},
        ).logits[:, -1]
    for row, prompt in enumerate(PROMPTS):
        whole = Sample(0, 0, 0, 0)
        whole.ids = torch.cat([prompt.ids, new[row]])
        whole.pixels = prompt.pixels
        whole.prompt = torch.arange(len(whole.ids)) < len(prompt.ids)
        torch.testing.assert_close(
            step[row], whole.oracle(tiny_llava, GRADUAL).logits[-1], atol=1e-4, rtol=1e-4
        )


def test_prompt_mask_covers_the_prompt_of_every_returned_sequence(tiny_llava: Any) -> None:
    inputs, prompt = batch([Sample(21, 2, 1, 6, 3), Sample(22, 4, 1, 4, 3)], "left")
    with reduce_vision_tokens(tiny_llava, GRADUAL, prompt_mask=prompt) as reduction:
        tiny_llava.generate(**inputs, max_new_tokens=2, do_sample=True, num_return_sequences=3)
        several = reduction.kept[-1]
        tiny_llava(**inputs)
        assert torch.equal(several, reduction.kept[-1].repeat_interleave(3, 0))


def test_what_cannot_be_followed_is_refused(tiny_llava: Any) -> None:
    from transformers import GenerationConfig, StaticCache

    inputs, _ = batch(PROMPTS, "left")
    width = inputs["input_ids"].shape[1]
    model = tiny_llava
    outside = cache_of(model(**inputs, use_cache=True))
    with reduce_vision_tokens(model, GRADUAL):
        for options, match in (
            ({"assistant_model": model}, "its own assistant"),
            ({"cache_implementation": "static"}, "cache_implementation='static'"),
            ({"prefill_chunk_size": 4}, "prefill_chunk_size"),
            ({"guidance_scale": 1.5}, "guidance_scale"),
        ):
            with pytest.raises(NotImplementedError, match=match):
                model.generate(**inputs, **GREEDY, **options)
        with pytest.raises(NotImplementedError, match="DynamicCache, not StaticCache"):
            model(**inputs, **{CACHE: StaticCache(model.config.text_config, max_cache_len=64)})
        inside = cache_of(model(**inputs, use_cache=True))
        two = torch.tensor([[7, IMAGE]] * 4)
        with pytest.raises(NotImplementedError, match="Images onto a filled cache"):
            model(input_ids=two, **{CACHE: inside})
        with pytest.raises(InputError, match="decode step needs"):
            model(
                input_ids=two[:, :1],
                **{CACHE: inside},
                attention_mask=torch.ones(4, width, dtype=torch.long),
            )
        with pytest.raises(InputError, match="not filled under this reduction"):
            model(input_ids=two[:, :1], **{CACHE: outside})
        ends = Sample(1, 3, 1, 0)
        with pytest.raises(InputError, match="ends with its image"):
            model.generate(input_ids=ends.ids[None], pixel_values=ends.pixels, **GREEDY)
    model.generation_config.prefill_chunk_size = 4
    with reduce_vision_tokens(model, GRADUAL):
        for given in ({}, {"generation_config": GenerationConfig(max_new_tokens=2)}):  # which fills its gaps
            with pytest.raises(NotImplementedError, match="prefill_chunk_size"):
                model.generate(**inputs, **({} if given else GREEDY), **given)
    model.generation_config.prefill_chunk_size = None
    with reduce_vision_tokens(model, strategies.none(LAYERS)):
        model.generate(**inputs, **GREEDY)  # nothing is reduced: nothing is refused


def test_beams_asked_for_by_the_models_own_configuration(tiny_llava: Any) -> None:
    """A configuration that a call gives leaves to the model's own what it does not say."""
    from transformers import GenerationConfig

    inputs, prompt = batch(PROMPTS, "left")
    tiny_llava.generation_config.num_beams = 2
    with torch.no_grad(), reduce_vision_tokens(tiny_llava, GRADUAL, prompt_mask=prompt) as reduction:
        tiny_llava.generate(**inputs, generation_config=GenerationConfig(max_new_tokens=2))
        assert reduction.kept[-1].shape[0] == 2 * len(PROMPTS)


def test_a_window_that_hides_vision_tokens_from_every_ranking_row_is_refused(
    llava_factory: Callable[..., Any],
) -> None:
    """All of Mistral's layers have the window: none can rank once it is shorter than image and question."""
    sample = Sample(1, 4, 1, 5)  # 21 tokens from the first vision token on
    inputs = {"input_ids": sample.ids[None], "pixel_values": sample.pixels}
    for window, refused in ((21, False), (20, True)):
        model = llava_factory(text="mistral", sliding_window=window)
        with torch.no_grad(), reduce_vision_tokens(model, GRADUAL):
            if refused:
                with pytest.raises(NotImplementedError, match="sliding window of 20 tokens"):
                    model(**inputs)
            else:
                model(**inputs)
        with torch.no_grad(), reduce_vision_tokens(model, strategies.vtw(LAYERS)):
            model(**inputs)  # nothing to rank


def test_text_alone_decodes_untouched(tiny_llava: Any) -> None:
    sample = Sample(5, 6, 0, 0)
    options = {"output_logits": True, "return_dict_in_generate": True, **GREEDY}
    with reduce_vision_tokens(tiny_llava, Schedule.from_rates([1, 1, 0, 0, 0])):
        inside = tiny_llava.generate(input_ids=sample.ids[None], **options)
    outside = tiny_llava.generate(input_ids=sample.ids[None], **options)
    assert torch.equal(torch.stack(inside.logits), torch.stack(outside.logits))


def test_a_pipeline_runs_reduced(tiny_llava_dir: Path) -> None:
    """The library's own pipeline, which calls generate(), gives what generate() gives."""
    from PIL import Image
    from transformers import pipeline

    from vtr_ray.models import load_model

    model, processor = load_model(str(tiny_llava_dir), device="cpu")
    image = Image.new("RGB", (16, 16), (200, 30, 90))
    content = [{"type": "image", "image": image}, {"type": "text", "text": "what color is the circle ?"}]
    message = [{"role": "user", "content": content}]
    runner = pipeline("image-text-to-text", model=model, processor=processor)
    with reduce_vision_tokens(model, strategies.vtw(LAYERS)) as reduction:
        answer = runner(text=message, max_new_tokens=4, do_sample=False, return_full_text=False)
        assert [layer.shape[1] for layer in reduction.kept] == [16, 16, 0, 0, 0]
        text = processor.apply_chat_template(message, add_generation_prompt=True)
        inputs = processor(images=[image], text=[text], return_tensors="pt")
        tokens = model.generate(**inputs, max_new_tokens=4, do_sample=False)
    expected = processor.decode(tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert answer[0]["generated_text"].split() == expected.split()


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
def test_half_precision_runs_and_ranks_in_float32(llava_factory: Callable[..., Any], attn: str) -> None:
    model = llava_factory(attn=attn).bfloat16()
    inputs, _ = batch(PROMPTS, "left")
    inputs["pixel_values"] = inputs["pixel_values"].bfloat16()
    with reduce_vision_tokens(model, GRADUAL) as reduction:
        out = model.generate(**inputs, **GREEDY, output_logits=True, return_dict_in_generate=True)
        assert torch.stack(out.logits).isfinite().all()
        assert [layer.shape[1] for layer in reduction.kept] == GRADUAL.counts(32)
