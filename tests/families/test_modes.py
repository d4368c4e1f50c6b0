"""Decoding modes against the native oracle or against plain greedy decoding; what is refused, and how."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import native_oracle as oracle
import pytest
import torch
from toys import IMAGE, TOYS, VIDEO, Sample, inputs_of, model_of

from vtr_ray.errors import InputError
from vtr_ray.models import CACHE, cache_of
from vtr_ray.reduction import Unsupported, reduce_vision_tokens
from vtr_ray.schedule import Schedule

pytestmark = pytest.mark.families
GRADUAL = Schedule.from_rates([1, 1, 0.7, 0.4, 0.13])
GEMMA = Schedule.from_rates([1] * 6 + [0.6, 0.2])
PLAIN = {"do_sample": False, "suppress_tokens": [IMAGE, VIDEO, 2], "return_dict_in_generate": True}


def schedule_of(name: str) -> Schedule:
    return GEMMA if name == "gemma3" else GRADUAL  # its first layer that may lose tokens is the seventh


def prompts(name: str) -> list[Sample]:
    return [Sample(name, 1, 4, 1, 5), Sample(name, 2, 2, 2, 3), Sample(name, 3, 9, 0, 3)]


def of(name: str, sample: Sample, answer: list[int], schedule: Schedule) -> torch.Tensor:
    """The oracle's log-probabilities [seq, vocabulary] of prompt and answer; only the prompt ranks."""
    whole, model = sample.with_answer(answer), model_of(name, "eager")
    result = oracle.run(model, inputs_of([whole], model), whole.vision, schedule, whole.prompt)
    return result.logits.log_softmax(-1)


@pytest.mark.parametrize("name", TOYS)
def test_beams(name: str) -> None:
    """Rows change places after every token; each beam's score is the oracle's sum of log-probabilities."""
    schedule = schedule_of(name)
    batch, model = prompts(name), model_of(name, "sdpa")
    inputs = inputs_of(batch, model)
    options = {"num_beams": 3, "num_return_sequences": 2, "length_penalty": 0.0, "max_new_tokens": 4, **PLAIN}
    with torch.no_grad(), reduce_vision_tokens(model, schedule):
        out = model.generate(**inputs, **options, output_scores=True)
    answers = out.sequences[:, inputs["input_ids"].shape[1] :]
    assert len({tuple(answer) for answer in answers[:2].tolist()}) == 2
    for row, answer in enumerate(answers.tolist()):
        sample = batch[row // 2]
        expected, n = of(name, sample, answer, schedule), len(sample.prompt_ids)
        score = sum(float(expected[n - 1 + i, token]) for i, token in enumerate(answer))
        assert float(out.sequences_scores[row]) == pytest.approx(score, abs=1e-3)


@pytest.mark.parametrize("name", TOYS)
def test_candidates(name: str) -> None:
    """Prompt look-up and an assistant propose tokens, some are taken back: greedy decoding all the same."""
    schedule, model = schedule_of(name), model_of(name, "sdpa")
    inputs = inputs_of(prompts(name)[1:2], model)
    assistant = copy.deepcopy(model)
    for parameter in assistant.lm_head.parameters():
        parameter.data += 0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
    options = {"max_new_tokens": 12, **PLAIN}
    lengths: list[int] = []
    counter = model.register_forward_hook(lambda _, args, output: lengths.append(output.logits.shape[1]))
    with torch.no_grad(), reduce_vision_tokens(model, schedule) as reduction:
        plain = model.generate(**inputs, **options).sequences
        kept = [layer.tolist() for layer in reduction.kept]
        ran = 0
        for candidates in ({"prompt_lookup_num_tokens": 3}, {"assistant_model": assistant}):
            lengths.clear()
            assert torch.equal(model.generate(**inputs, **options, **candidates).sequences, plain)
            assert max(lengths) > 1  # some proposed
            assert [layer.tolist() for layer in reduction.kept] == kept
            ran += sum(lengths)
        assert ran > 24  # some taken back
        counter.remove()
        with pytest.raises(Unsupported, match="its own assistant"):
            model.generate(**inputs, **options, assistant_model=model)


@pytest.mark.parametrize("name", TOYS)
def test_a_cache_is_used_over_turns(name: str) -> None:
    """A second question, several tokens, goes onto the first turn's cache; the first's choice stays."""
    schedule = schedule_of(name)
    batch, model = prompts(name), model_of(name, "sdpa")
    inputs = inputs_of(batch, model)
    width = inputs["input_ids"].shape[1]
    question = torch.tensor([[20, 21, 22], [30, 31, 32], [40, 41, 42]])
    with torch.no_grad(), reduce_vision_tokens(model, schedule):
        first = model.generate(**inputs, max_new_tokens=3, min_new_tokens=3, **PLAIN)
        ids = torch.cat([first.sequences, question], dim=1)
        mask = torch.cat([inputs["attention_mask"], torch.ones(3, 6, dtype=torch.long)], dim=1)
        second = model.generate(
            input_ids=ids,
            attention_mask=mask,
            **{CACHE: cache_of(first)},
            max_new_tokens=2,
            min_new_tokens=2,
            output_logits=True,
            **PLAIN,
        )
    steps = torch.stack(second.logits, dim=1).log_softmax(-1)
    for row, sample in enumerate(batch):
        expected = of(name, sample, second.sequences[row, width:].tolist(), schedule)
        n = len(sample.prompt_ids) + 6
        torch.testing.assert_close(steps[row], expected[n - 1 : n + 1], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", TOYS)
def test_without_a_cache_the_answer_never_ranks(name: str) -> None:
    model = model_of(name, "sdpa")
    inputs = inputs_of(prompts(name), model)
    options = {"max_new_tokens": 4, "min_new_tokens": 4, "output_logits": True, **PLAIN}
    with torch.no_grad(), reduce_vision_tokens(model, schedule_of(name)):
        cached = model.generate(**inputs, **options)
        anew = model.generate(**inputs, **options, use_cache=False)
    assert torch.equal(cached.sequences, anew.sequences)
    torch.testing.assert_close(torch.stack(cached.logits), torch.stack(anew.logits), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["llava", "qwen3-vl"])
def test_a_cropped_cache(name: str) -> None:
    """Answer and question tokens may be taken back; the image's may not: layers hold different ones.

    Of one kind of positions each: cropping knows a layer by its layout alone, and transformers itself crops
    no layer past its sliding window.
    """
    sample = Sample(name, 1, 4, 1, 5)
    model, ids = model_of(name, "sdpa"), sample.prompt_ids[None]
    inputs = inputs_of([sample], model)
    with torch.no_grad(), reduce_vision_tokens(model, GRADUAL):
        cache = cache_of(model(**inputs, use_cache=True))
        cache.crop(-2)
        again = model(input_ids=ids[:, -2:], **{CACHE: cache}, use_cache=True)
        step = model(input_ids=torch.tensor([[20]]), **{CACHE: cache}).logits[0, -1]
        cache.crop(-8)  # the step, five question tokens, the wrapper, and a vision token
        with pytest.raises(Unsupported, match="cropped into its prompt's vision tokens"):
            model(input_ids=ids[:, -1:], **{CACHE: cache})
    expected, n = of(name, sample, [20], GRADUAL), len(sample.prompt_ids)
    torch.testing.assert_close(again.logits[0].log_softmax(-1), expected[n - 2 : n], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(step.log_softmax(-1), expected[-1], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["qwen3-vl", "gemma3-early", "smolvlm"])
def test_offloaded_layers(name: str, tmp_path: Path) -> None:
    """Weights on the CPU and on disk, fetched layer by layer.

    What a fetched layer could get wrong differs with deep-stacked features, with two kinds of layers and of
    rotary tables, and with where the decoder lies; these three have them.
    """
    from accelerate import dispatch_model

    batch, model = prompts(name), model_of(name, "sdpa")
    inputs = inputs_of(batch, model)
    split = copy.deepcopy(model)
    decoder = oracle.decoder_of(split)
    path = next(path for path, module in split.named_modules() if module is decoder)
    places = {f"model.{part}": "cpu" for part, _ in split.model.named_children() if f"model.{part}" != path}
    places |= {f"{path}.{part}": "cpu" for part, _ in decoder.named_children() if part != "layers"}
    places |= {f"{path}.layers.{i}": "disk" if i % 2 else "cpu" for i in range(len(decoder.layers))}
    places |= {"lm_head": "cpu", f"{path}.norm": "disk"}
    split = dispatch_model(split, places, main_device="cpu", offload_dir=tmp_path, force_hooks=True)
    pdrop = Schedule.from_rates(GRADUAL.rates, ranking="next_layer")
    for schedule in (GRADUAL, pdrop):
        logits = []
        for run in (model, split):
            with torch.no_grad(), reduce_vision_tokens(run, schedule):
                logits.append(run.generate(**inputs, max_new_tokens=2, output_logits=True, **PLAIN).logits)
        torch.testing.assert_close(logits[0], logits[1], atol=1e-5, rtol=1e-5)


def test_what_is_refused() -> None:
    model = copy.deepcopy(model_of("llava", "sdpa"))
    sample = Sample("llava", 1, 4, 1, 5)
    inputs: dict[str, Any] = inputs_of([sample], model)
    with torch.no_grad(), reduce_vision_tokens(model, GRADUAL):
        for options, match in (
            ({"cache_implementation": "static"}, "cache_implementation='static'"),
            ({"prefill_chunk_size": 8}, "prefill_chunk_size"),
        ):
            with pytest.raises(Unsupported, match=match):
                model.generate(**inputs, max_new_tokens=2, **options)
        cache = cache_of(model(**inputs, use_cache=True))
        with pytest.raises(Unsupported, match="Images onto a filled cache"):
            model(input_ids=sample.ids[None], **{CACHE: cache})
        with pytest.raises(Unsupported, match="Several embeddings onto a filled cache"):
            model(inputs_embeds=torch.zeros(1, 2, 32), **{CACHE: cache})
        with pytest.raises(Unsupported, match="labels onto a filled cache"):
            model(input_ids=torch.tensor([[7]]), labels=torch.tensor([[7]]), **{CACHE: cache})
        with pytest.raises(InputError, match="holds 1 samples, the call 2"):
            model(input_ids=torch.tensor([[7], [8]]), **{CACHE: cache})
    with (
        pytest.raises(Unsupported, match="compiled model"),
        reduce_vision_tokens(torch.compile(model), GRADUAL),
    ):
        pass
    model.compile()
    with pytest.raises(Unsupported, match="compiled model"), reduce_vision_tokens(model, GRADUAL):
        pass
    grid = Schedule.from_rates(GRADUAL.rates, positions="renumber")
    with (
        pytest.raises(Unsupported, match="time, height and width"),
        reduce_vision_tokens(model_of("qwen2-vl", "sdpa"), grid),
    ):
        pass


def test_gemma_3_generates_as_its_checkpoints_ask() -> None:
    """Their generation_config says "hybrid", which generate() turns into its dynamic cache."""
    model, batch = copy.deepcopy(model_of("gemma3", "sdpa")), prompts("gemma3")
    inputs = inputs_of(batch, model)
    with torch.no_grad(), reduce_vision_tokens(model, GEMMA):
        expected = model.generate(**inputs, max_new_tokens=3, **PLAIN)
        model.generation_config.cache_implementation = "hybrid"
        found = model.generate(**inputs, max_new_tokens=3, **PLAIN)
        assert torch.equal(found.sequences, expected.sequences)
        assert [layer.keys.shape for layer in cache_of(found).layers] == [
            layer.keys.shape for layer in cache_of(expected).layers
        ]
        for static in ("static", "sliding_window", "hybrid_chunked", "offloaded_hybrid"):
            with pytest.raises(Unsupported, match="cache_implementation"):
                model.generate(**inputs, max_new_tokens=3, cache_implementation=static)
