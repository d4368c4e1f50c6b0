from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from tiny_families import LAYERS, Case, cases, tiny_config, tiny_model
from torch.utils.flop_counter import FlopCounterMode

from vtr_ray import strategies
from vtr_ray.efficiency import Picture, count_flops, read_config
from vtr_ray.efficiency.inputs import dummy_inputs
from vtr_ray.errors import InputError
from vtr_ray.models import family_of
from vtr_ray.reduction import reduce_vision_tokens
from vtr_ray.schedule import Schedule

TEXT = 11

# TFLOPs of the paper's Tables 6 and 8: none, VTW, PDrop as the paper ran it, FastV 50 % and 87.5 %.
PAPER = {
    "llava-1.5-7b": (9.18, 5.19, 4.95, 5.47, 2.74),
    "internvl2-1b": (4.62, 3.73, 3.88, 3.91, 3.43),
    "internvl2-2b": (8.10, 5.50, 5.93, 5.85, 4.26),
    "internvl2-4b": (13.97, 8.72, 8.35, 9.01, 5.48),
    "internvl2-8b": (24.10, 13.71, 13.13, 14.58, 7.71),
}


@pytest.mark.parametrize("row", range(5), ids=["none", "vtw", "pdrop", "fastv50", "fastv87.5"])
@pytest.mark.parametrize("name", PAPER)
def test_the_papers_tables(name: str, row: int) -> None:
    config = read_config(name)
    layers = config.get_text_config(decoder=True).num_hidden_layers
    schedule = (
        strategies.none(layers),
        strategies.vtw(layers),
        strategies.pyramid_drop(layers, layers=(8, 16, 24)),
        strategies.fastv(layers, drop=0.5),
        strategies.fastv(layers, drop=0.875),
    )[row]
    tokens = 576 if name.startswith("llava") else 1280
    flops = count_flops(config, schedule, vision_tokens=tokens, text_tokens=75, convention="paper")
    assert flops.total / 1e12 == pytest.approx(PAPER[name][row], rel=0.0036)
    assert flops.macs * 2 == flops.total
    assert flops.scoring == 0


# The paper's larger models (Table 6), which its rule was not fitted to.
@pytest.mark.parametrize(
    ("name", "tokens", "tera"), [("llava-1.5-13b", 576, 17.44), ("internvl2-26b", 1280, 111.45)]
)
def test_larger_models(name: str, tokens: int, tera: float) -> None:
    config = read_config(name)
    layers = config.get_text_config(decoder=True).num_hidden_layers
    flops = count_flops(config, strategies.none(layers), tokens, 75)
    assert flops.total / 1e12 == pytest.approx(tera, rel=0.0036)


def test_a_large_model_is_counted_without_building_it(monkeypatch: pytest.MonkeyPatch) -> None:
    config = read_config("internvl2-26b")
    monkeypatch.setattr(torch.nn.Module, "__init__", lambda *_, **__: pytest.fail("a module was built"))
    monkeypatch.setattr(torch, "empty", lambda *_, **__: pytest.fail("a tensor was made"))
    assert count_flops(config, strategies.fastv(48), 1280, 75, convention="executed").total > 1e13


def test_the_parts_add_up() -> None:
    flops = count_flops(read_config("llava-1.5-7b"), strategies.vtw(32), 576, 75, convention="executed")
    assert flops.total == pytest.approx(
        flops.encoder + flops.projector + flops.linear + flops.attention + flops.scoring + flops.head
    )
    assert sum(flops.per_layer) == pytest.approx(flops.linear + flops.attention + flops.scoring)
    assert len(flops.per_layer) == 32
    full, text = flops.per_layer[0], flops.per_layer[-1]
    assert full / text > 651 / 75  # 651 tokens against 75, and attention grows with the square


@cache
def model_of(family: str, text: str) -> Any:
    return tiny_model(tiny_config(family, text))


def counted_by_torch(model: Any, inputs: dict[str, Any]) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(**inputs)
    return counter.get_total_flops()


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
def test_executed_is_what_torch_counts(case: Case) -> None:
    """The real forward of every family, eager attention, encoder included."""
    model = model_of(case.family, case.text)
    inputs = dummy_inputs(model.config, case.tokens, TEXT, images=case.pictures)
    flops = count_flops(
        model.config, strategies.none(LAYERS), case.tokens, TEXT, "executed", images=case.pictures
    )
    assert flops.total == counted_by_torch(model, inputs)


def reducible() -> list[Case]:
    """The cases of families and language models that `reduce_vision_tokens` supports."""
    found = []
    for case in cases():
        try:
            family_of(tiny_config(case.family, case.text))
        except InputError:
            continue
        found.append(case)
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    "schedule",
    [
        strategies.fastv(LAYERS),
        strategies.vtw(LAYERS),
        strategies.pyramid_drop(LAYERS, layers=(1, 3, 4)),
        strategies.p_sigmoid(LAYERS, budget=0.4, k=1.0),
        strategies.random(strategies.fastv(LAYERS)),
        Schedule.from_rates([1, 0.5, 0.5, 0.1, 0]),
    ],
    ids=["fastv", "vtw", "pdrop", "p_sigmoid", "random", "to_zero"],
)
@pytest.mark.parametrize("case", reducible(), ids=lambda case: case.name)
def test_executed_under_a_schedule(case: Case, schedule: Schedule) -> None:
    """The real reduced forward: what is removed is not computed, and the ranking is counted."""
    if case.family.startswith("qwen"):  # renumbering has no meaning on a grid of positions
        schedule = replace(schedule, positions="original")
    model = model_of(case.family, case.text)
    inputs = dummy_inputs(model.config, case.tokens, TEXT, images=case.pictures)
    vision = (inputs["input_ids"][0] >= 90).nonzero()
    rows = TEXT if len(vision) == 0 else inputs["input_ids"].shape[1] - 1 - int(vision[-1])
    with reduce_vision_tokens(model, schedule):
        real = counted_by_torch(model, inputs)
    flops = count_flops(
        model.config, schedule, case.tokens, TEXT, "executed", instruction_tokens=rows, images=case.pictures
    )
    assert flops.total == real


@pytest.mark.parametrize("keep", [1, 3])
def test_logits_to_keep(keep: int) -> None:
    model = model_of("llava", "llama")
    inputs = dummy_inputs(model.config, 16, TEXT) | {"logits_to_keep": keep}
    flops = count_flops(model.config, strategies.none(LAYERS), 16, TEXT, "executed", logits_to_keep=keep)
    assert flops.total == counted_by_torch(model, inputs)


def test_without_images_the_tokens_choose_a_resolution() -> None:
    """LLaVA-NeXT: the smallest of its resolutions that gives as many tokens, or several such images."""
    config = tiny_config("llava_next", "mistral")
    none = strategies.none(LAYERS)

    def encoder(tokens: int, images: list[Picture] | None = None) -> float:
        return count_flops(config, none, tokens, TEXT, images=images).encoder

    largest = 16 + 8 * 9
    assert encoder(0) == 0
    assert encoder(largest) == encoder(largest, [Picture(32, 32)])
    assert encoder(largest + 1) == 2 * encoder(52, [Picture(16, 32)])


def test_mistakes_are_one_line() -> None:
    config = read_config("llava-1.5-7b")
    with pytest.raises(InputError, match="has 24 rates but the model has 32"):
        count_flops(config, strategies.none(24), 576, 75)
    with pytest.raises(InputError, match="no whole images of 576"):
        count_flops(config, strategies.none(32), 500, 75)
    with pytest.raises(InputError, match="convention is 'macs'"):
        count_flops(config, strategies.none(32), 576, 75, convention="macs")  # type: ignore[arg-type]
    wide = Picture(16, 40)
    with pytest.raises(InputError, match="give 10 vision tokens, not 9"):
        qwen = tiny_config("qwen2_vl", "qwen2_vl_text")
        count_flops(qwen, strategies.none(LAYERS), 9, TEXT, images=[wide])


def test_what_cannot_be_counted_is_refused_by_name() -> None:
    from transformers import BlipConfig, Gemma2Config, LlavaConfig, PixtralVisionConfig

    with pytest.raises(InputError, match=r"'blip'.*llava_next.*qwen3_vl"):
        count_flops(BlipConfig(), strategies.none(LAYERS), 4, TEXT)
    with pytest.raises(InputError, match="'gemma2'"):
        count_flops(LlavaConfig(text_config=Gemma2Config()), strategies.none(26), 0, TEXT)
    pixtral = LlavaConfig(vision_config=PixtralVisionConfig(image_size=336, patch_size=14))
    with pytest.raises(InputError, match="'pixtral'"):
        count_flops(pixtral, strategies.none(32), 576, TEXT)
