"""Hooks come and go; labels, gradients, masks and mistakes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import masked_oracle as oracle
import pytest
import torch
from test_equations import GRADUAL, IMAGE, LAYERS, RAGGED, SCHEDULES, Sample, batch
from transformers.modeling_utils import AttentionInterface

from vtr_ray import strategies
from vtr_ray.errors import InputError
from vtr_ray.reduction import Unsupported, reduce_vision_tokens
from vtr_ray.schedule import Schedule


def traces(model: Any) -> tuple[Any, ...]:
    """Everything a context could leave behind."""
    return (
        sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules()),
        set(AttentionInterface._global_mapping),
        [id(layer.self_attn.config) for layer in model.model.language_model.layers],
        "generate" in model.__dict__,
        model.config._attn_implementation,
    )


def test_nothing_is_left_behind_also_after_errors(tiny_llava: Any) -> None:
    inputs, _ = batch(RAGGED, "left")
    untouched = tiny_llava(**inputs).logits  # transformers puts hooks of its own on the first call
    before = traces(tiny_llava)
    with reduce_vision_tokens(tiny_llava, GRADUAL):
        tiny_llava(**inputs)
        assert traces(tiny_llava) != before
    assert traces(tiny_llava) == before

    def fail(*_: Any) -> None:
        raise RuntimeError("inside")

    layers = tiny_llava.model.language_model.layers
    # while armed to read the scores, after reading them, and in a shortened layer
    for place in (layers[1].self_attn.q_proj, layers[1].self_attn.o_proj, layers[2].mlp):
        handle = place.register_forward_pre_hook(fail)
        with pytest.raises(RuntimeError, match="inside"), reduce_vision_tokens(tiny_llava, GRADUAL):
            tiny_llava(**inputs)
        handle.remove()
        assert traces(tiny_llava) == before
    # an error inside the context that the user handles: the next call is right
    with reduce_vision_tokens(tiny_llava, GRADUAL) as reduction:
        expected = tiny_llava(**inputs).logits
        armed = layers[1].self_attn.q_proj.register_forward_pre_hook(fail)
        with pytest.raises(RuntimeError):
            tiny_llava(**inputs)
        armed.remove()
        assert torch.equal(tiny_llava(**inputs).logits, expected)
        assert reduction.positions.shape == expected.shape[:2]
    assert traces(tiny_llava) == before
    assert torch.equal(tiny_llava(**inputs).logits, untouched)


def test_importing_patches_nothing() -> None:
    """With the package imported and no context open, transformers' tables hold transformers' functions."""
    from transformers.masking_utils import AttentionMaskInterface

    for table in (AttentionInterface._global_mapping, AttentionMaskInterface._global_mapping):
        assert table and all(entry.__module__.startswith("transformers.") for entry in table.values())


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", ["gradual", "pdrop", "to none", "vtw"])
def test_loss_is_the_masked_models_on_the_surviving_positions(tiny_llava: Any, name: str, side: str) -> None:
    """Labels everywhere: survivors predict the label at the next input position, also of a removed token."""
    inputs, prompt = batch(RAGGED, side)
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    with torch.no_grad(), reduce_vision_tokens(tiny_llava, SCHEDULES[name], prompt_mask=prompt):
        loss = tiny_llava(**inputs, labels=labels).loss
        assert torch.equal(tiny_llava(**inputs, labels=labels)[0], loss)
        as_tuple = tiny_llava(**inputs, labels=labels, return_dict=False)
        summed = tiny_llava(**inputs, labels=labels, num_items_in_batch=10).loss
    losses = []
    for sample in RAGGED:
        expected = sample.oracle(tiny_llava, SCHEDULES[name])
        survivors = expected.alive[-1].nonzero().squeeze(1)
        survivors = survivors[survivors + 1 < len(sample.ids)]
        log_probabilities = expected.logits.log_softmax(-1)
        losses += (-log_probabilities[survivors, sample.ids[survivors + 1]]).tolist()
    assert float(loss) == pytest.approx(sum(losses) / len(losses), abs=1e-4)
    assert float(summed) == pytest.approx(sum(losses) / 10, abs=1e-3)
    assert torch.equal(as_tuple[0], loss) and as_tuple[1].dim() == 3


def test_loss_without_reduction_is_the_untouched_loss(tiny_llava: Any) -> None:
    inputs, prompt = batch(RAGGED, "left")
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    text = {"input_ids": torch.tensor([[5, 6, 7, 8]]), "labels": torch.tensor([[5, 6, 7, 8]])}
    with torch.no_grad():
        plain, plain_text = tiny_llava(**inputs, labels=labels).loss, tiny_llava(**text).loss
        with reduce_vision_tokens(tiny_llava, strategies.none(LAYERS), prompt_mask=prompt):
            assert torch.equal(tiny_llava(**inputs, labels=labels).loss, plain)
        with reduce_vision_tokens(tiny_llava, GRADUAL):
            torch.testing.assert_close(tiny_llava(**text).loss, plain_text)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_are_the_masked_oracles(tiny_llava: Any, side: str, checkpointing: bool) -> None:
    """Train mode: the gradient of every parameter, through kept tokens only, equals the oracle's."""
    samples = [RAGGED[0], RAGGED[2], RAGGED[3]]
    inputs, prompt = batch(samples, side)
    labels = inputs["input_ids"].masked_fill((inputs["attention_mask"] == 0) | prompt, -100)
    model = tiny_llava.train()
    if checkpointing:
        model.activation_checkpointing_enable()
    with reduce_vision_tokens(model, GRADUAL, prompt_mask=prompt):
        model(**inputs, labels=labels).loss.backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    terms = []
    for sample in samples:
        embeddings = oracle.full_embeddings(model, sample.ids, sample.pixels)
        expected = oracle.run(model, embeddings, sample.ids == IMAGE, GRADUAL, sample.prompt)
        for place in range(len(sample.ids) - 1):
            if not sample.prompt[place + 1]:
                terms.append(-expected.logits[place].log_softmax(-1)[sample.ids[place + 1]])
    torch.stack(terms).mean().backward()
    wanted = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert wanted.keys() <= found.keys()
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-4, rtol=1e-3, msg=name)


def test_answer_tokens_never_rank(tiny_llava: Any) -> None:
    """The same prompt with another answer keeps the same tokens with prompt_mask, and others without."""
    first, second = Sample(31, 2, 1, 4, 5), Sample(31, 2, 1, 4, 5)
    second.ids = torch.cat([first.ids[:-5], torch.tensor([60, 61, 62, 63, 59])])
    sharp = Schedule.from_rates([1, 1, 0.5, 0.3, 0.2])
    kept = {}
    for masked in (True, False):
        for sample in (first, second):
            mask = sample.prompt[None] if masked else None
            with torch.no_grad(), reduce_vision_tokens(tiny_llava, sharp, prompt_mask=mask) as reduction:
                tiny_llava(input_ids=sample.ids[None], pixel_values=sample.pixels)
            kept[masked, sample is first] = [layer.tolist() for layer in reduction.kept]
    assert kept[True, True] == kept[True, False]
    assert kept[False, True] != kept[False, False]
    assert kept[True, True] != kept[False, True]


def test_of_several_turns_the_first_ranks(tiny_llava: Any) -> None:
    sample = Sample(32, 2, 1, 10)
    first = torch.tensor([True] * 22 + [False] * 6)  # text, image, four instruction tokens
    both = first.clone()
    both[-3:] = True  # the second question
    kept = []
    for mask in (first, both):
        with torch.no_grad(), reduce_vision_tokens(tiny_llava, GRADUAL, prompt_mask=mask[None]) as reduction:
            tiny_llava(input_ids=sample.ids[None], pixel_values=sample.pixels)
        kept.append([layer.tolist() for layer in reduction.kept])
    assert kept[0] == kept[1]


def test_without_text_after_the_image_the_last_prompt_token_ranks(tiny_llava: Any) -> None:
    """One cut: the ranking row is the last vision token's, whether it stays or leaves."""
    sample = Sample(33, 3, 1, 0, 4)
    for keep in (0.3, 0.8):
        schedule = Schedule.from_rates([1, 1, keep, keep, keep])
        expected = sample.oracle(tiny_llava, schedule)
        with (
            torch.no_grad(),
            reduce_vision_tokens(tiny_llava, schedule, prompt_mask=sample.prompt[None]) as reduction,
        ):
            logits = tiny_llava(input_ids=sample.ids[None], pixel_values=sample.pixels).logits
        assert reduction.kept[-1][0].tolist() == expected.kept[-1]
        torch.testing.assert_close(logits[0], expected.logits[expected.alive[-1]], atol=1e-4, rtol=1e-4)


def test_mistakes_are_one_line(tiny_llava: Any) -> None:
    inputs, prompt = batch(RAGGED, "left")
    model = tiny_llava

    def refused(
        match: str, error: type[Exception] = InputError, schedule: Schedule = GRADUAL, **call: Any
    ) -> None:
        masks = {name: call.pop(name) for name in ("prompt_mask", "vision_mask") if name in call}
        with pytest.raises(error, match=match) as caught, reduce_vision_tokens(model, schedule, **masks):
            model(**{**inputs, **call})
        assert "\n" not in str(caught.value)

    refused("has 4 rates but the model has 5", schedule=Schedule.from_rates([1, 1, 0.5, 0.5]))
    refused("has 4 rates but the model has 5", schedule=strategies.none(4))
    refused(r"prompt_mask has shape \[4, 3\]", prompt_mask=prompt[:, :3])
    refused(r"vision_mask has shape \[1, 44\]", vision_mask=inputs["input_ids"][:1] == IMAGE)
    refused("vision tokens outside its prompt", prompt_mask=torch.zeros_like(prompt))
    refused("logits_to_keep must be an integer", logits_to_keep=torch.tensor([1]))
    refused("attention_mask has shape", attention_mask=torch.ones(4, 1, 41, 41, dtype=torch.bool))
    packed = torch.cat([torch.arange(20), torch.arange(21)])[None]
    refused("Packed sequences", NotImplementedError, attention_mask=None, position_ids=packed)
    with reduce_vision_tokens(model, GRADUAL) as reduction:
        with pytest.raises(InputError, match="pass vision_mask"):
            model(inputs_embeds=torch.zeros(1, 4, 32))
        with pytest.raises(InputError, match="has not run"):
            _ = reduction.kept
        with (
            pytest.raises(InputError, match="already under a reduction"),
            reduce_vision_tokens(model, GRADUAL),
        ):
            pass
        with pytest.raises(InputError, match="call the whole model"):
            model.model.language_model(inputs_embeds=torch.zeros(1, 4, 32))


def test_other_attention_implementations_are_refused_only_where_something_is_reduced(
    llava_factory: Callable[..., Any],
) -> None:
    model = llava_factory(attn="flex_attention")
    with pytest.raises(Unsupported, match="'flex_attention'") as caught, reduce_vision_tokens(model, GRADUAL):
        pass
    assert isinstance(caught.value, InputError) and isinstance(caught.value, NotImplementedError)
    with reduce_vision_tokens(model, strategies.none(LAYERS)):
        pass


def test_positions_follow_logits_to_keep(tiny_llava: Any) -> None:
    inputs, _ = batch(RAGGED, "left")
    with torch.no_grad(), reduce_vision_tokens(tiny_llava, GRADUAL) as reduction:
        full, positions = tiny_llava(**inputs).logits, reduction.positions
        last = tiny_llava(**inputs, logits_to_keep=3).logits
        assert torch.equal(reduction.positions, positions[:, -3:])
        tiny_llava.model(**inputs)
        assert torch.equal(reduction.positions, positions)
    with torch.no_grad(), reduce_vision_tokens(tiny_llava, strategies.none(LAYERS)) as reduction:
        tiny_llava(**inputs, logits_to_keep=3)
        assert reduction.positions.tolist() == [list(range(41, 44))] * 4
        tiny_llava(**inputs, logits_to_keep=torch.tensor([1]))
        with pytest.raises(InputError, match="needs an integer logits_to_keep"):
            _ = reduction.positions
    torch.testing.assert_close(last, full[:, -3:])
    assert positions[:, -1].tolist() == [inputs["input_ids"].shape[1] - 1] * 4
