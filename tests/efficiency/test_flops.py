from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from vtr_ray import strategies
from vtr_ray.efficiency import count_flops
from vtr_ray.errors import InputError
from vtr_ray.reduction import reduce_vision_tokens
from vtr_ray.schedule import Schedule


def llava_7b() -> Any:
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

    return LlavaConfig(
        text_config=LlamaConfig(
            hidden_size=4096,
            intermediate_size=11008,
            num_hidden_layers=32,
            num_attention_heads=32,
            vocab_size=32000,
        ),
        vision_config=CLIPVisionConfig(
            hidden_size=1024,
            intermediate_size=4096,
            num_hidden_layers=24,
            num_attention_heads=16,
            image_size=336,
            patch_size=14,
        ),
    )


# TFLOPs of the paper's Table 8, LLaVA-1.5-7B.
@pytest.mark.parametrize(
    ("schedule", "tera"),
    [
        (strategies.none(32), 9.18),
        (strategies.vtw(32), 5.19),
        (strategies.pyramid_drop(32), 4.95),
        (strategies.fastv(32, drop=0.5), 5.47),
        (strategies.fastv(32, drop=0.875), 2.74),
    ],
)
def test_the_papers_table(schedule: Schedule, tera: float) -> None:
    flops = count_flops(llava_7b(), schedule, vision_tokens=576, text_tokens=75, convention="paper")
    assert flops.total / 1e12 == pytest.approx(tera, rel=0.0036)
    assert flops.scoring == 0


@pytest.mark.parametrize("images", [0, 1, 2])
@pytest.mark.parametrize("text", ["llama", "qwen2"])
@pytest.mark.parametrize(
    "schedule",
    [
        strategies.none(5),
        strategies.fastv(5),
        strategies.vtw(5),
        strategies.pyramid_drop(5, layers=(1, 3, 4)),
        strategies.p_sigmoid(5, budget=0.4, k=1.0),
        strategies.random(strategies.fastv(5)),
        Schedule.from_rates([1, 0.5, 0.5, 0.1, 0]),
    ],
)
def test_executed_is_what_torch_counts(
    llava_factory: Callable[..., Any], schedule: Schedule, text: str, images: int
) -> None:
    """The real reduced forward, eager attention, encoder included; 4 of 11 text tokens precede the images."""
    model = llava_factory(text=text, attn="eager", num_hidden_layers=5, num_key_value_heads=1)
    ids = torch.tensor([[5] * 4 + [3] * 16 * images + [6] * 7])
    inputs = {"pixel_values": torch.randn(images, 3, 16, 16)} if images else {}
    with torch.no_grad(), reduce_vision_tokens(model, schedule), FlopCounterMode(display=False) as counter:
        model(input_ids=ids, **inputs)
    flops = count_flops(
        model.config,
        schedule,
        vision_tokens=16 * images,
        text_tokens=11,
        convention="executed",
        instruction_tokens=7,
    )
    assert flops.total == counter.get_total_flops()


def test_mistakes_are_one_line() -> None:
    config = llava_7b()
    with pytest.raises(InputError, match="has 24 rates but the model has 32"):
        count_flops(config, strategies.none(24), 576, 75)
    with pytest.raises(InputError, match="no whole images of 576"):
        count_flops(config, strategies.none(32), 500, 75)
    with pytest.raises(InputError, match="convention is 'macs'"):
        count_flops(config, strategies.none(32), 576, 75, convention="macs")  # type: ignore[arg-type]
