"""DeCo and TokenPacker against slow loops; saved, loaded, reduced, generated with, counted."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tiny_llava import make_llava, make_processor
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from vtr_ray import Schedule, strategies
from vtr_ray.efficiency import count_flops
from vtr_ray.errors import InputError
from vtr_ray.models import encode_images, load_config, load_model
from vtr_ray.models.projectors import projector_flops, set_projector, tokens_per_image
from vtr_ray.models.projectors.llava import LlavaForConditionalGeneration, fit_processor
from vtr_ray.reduction import reduce_vision_tokens

GRID, WIDTH, TOKENS = 4, 32, 4  # the tiny LLaVA: 16 px, patch 4
NAMES = ("deco", "tokenpacker")


def projected(
    name: str, tokens: int = TOKENS, levels: Any = -2, heads: int | None = None, **text: Any
) -> Any:
    config = make_llava(**text).config
    config.vision_feature_layer = levels
    set_projector(config, name, tokens, heads)
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration._from_config(config, attn_implementation=text.get("attn", "sdpa"))
    with torch.no_grad():
        for parameter in model.model.multi_modal_projector.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.25 + (parameter.ndim == 1))
    return model.eval()


def saved(folder: Path, name: str, **options: Any) -> Any:
    model, processor = projected(name, **options), make_processor()
    fit_processor(processor, model.config)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return model


def inputs_for(processor: Any, images: int = 1, text: str = "what color is the circle ?") -> Any:
    pictures = [Image.new("RGB", (16, 16), (40 * i, 255 - 40 * i, 90)) for i in range(images)]
    for i, picture in enumerate(pictures):
        picture.paste((200, 10 * i, 0), (2 + i, 3, 9, 12))
    return processor(
        images=pictures, text=["USER: <image> " + text] * images, padding=True, return_tensors="pt"
    )


def linear(vector: Tensor, layer: Any) -> Tensor:
    out = torch.stack([(row * vector).sum() for row in layer.weight])
    return out if layer.bias is None else out + layer.bias


def mlp(vector: Tensor, layers: Any) -> Tensor:
    return linear(F.gelu(linear(vector, layers[0])), layers[2])


@pytest.mark.parametrize("tokens", [1, 4, 16])
def test_deco_is_the_mean_of_each_cell_then_the_two_layers(tokens: int) -> None:
    module = projected("deco", tokens).model.multi_modal_projector
    features = torch.randn(2, GRID * GRID, WIDTH)
    side = math.isqrt(tokens)
    cell = GRID // side
    with torch.no_grad():
        out = module(features)
        assert out.shape == (2, tokens, WIDTH)
        for image in range(2):
            for token in range(tokens):
                row, column = divmod(token, side)
                total = torch.zeros(WIDTH)
                for y in range(row * cell, (row + 1) * cell):
                    for x in range(column * cell, (column + 1) * cell):
                        total += features[image, y * GRID + x]
                expected = mlp(total / cell**2, [module.linear_1, None, module.linear_2])
                torch.testing.assert_close(out[image, token], expected, atol=1e-4, rtol=1e-4)


def test_deco_takes_llavas_own_weights() -> None:
    model, deco = make_llava(), projected("deco")
    assert {name: w.shape for name, w in deco.state_dict().items()} == {
        name: w.shape for name, w in model.state_dict().items()
    }
    deco.load_state_dict(model.state_dict())
    same = projected("deco", tokens=16)  # one patch a token: LLaVA itself
    same.load_state_dict(model.state_dict())
    pixels = torch.randn(1, 3, 16, 16)
    with torch.no_grad():
        ours, theirs = (encode_images(m, {"pixel_values": pixels})[0] for m in (same, model))
        pooled = encode_images(deco, {"pixel_values": pixels})[0]
    torch.testing.assert_close(ours, theirs)
    assert pooled.shape == (4, WIDTH)


def bilinear(grid: Tensor, row: int, column: int, scale: int) -> Tensor:
    """Point (row, column) of a grid [side, side, width] shrunk by `scale`, pixel centres at halves."""
    side = grid.shape[0]
    out = torch.zeros(grid.shape[2])
    y, x = (row + 0.5) * scale - 0.5, (column + 0.5) * scale - 0.5
    for near_y in (math.floor(y), math.floor(y) + 1):
        for near_x in (math.floor(x), math.floor(x) + 1):
            weight = (1 - abs(y - near_y)) * (1 - abs(x - near_x))
            if weight > 0:
                out += weight * grid[min(max(near_y, 0), side - 1), min(max(near_x, 0), side - 1)]
    return out


@pytest.mark.parametrize(
    ("tokens", "levels", "heads"), [(4, -2, None), (4, [0, 1, 2], 4), (1, [1, -1], 2), (16, -1, 8)]
)
def test_a_tokenpacker_token_attends_to_its_own_region(tokens: int, levels: Any, heads: int | None) -> None:
    """Region by region, head by head, patch by patch."""
    module = projected("tokenpacker", tokens, levels, heads).model.multi_modal_projector
    count = 1 if isinstance(levels, int) else len(levels)
    features = torch.randn(2, GRID * GRID, WIDTH * count)
    side = math.isqrt(tokens)
    cell, used = GRID // side, heads or 1
    head = WIDTH // used
    with torch.no_grad():
        out = module(features)
        assert out.shape == (2, tokens, WIDTH)
        for image in range(2):
            last = features[image, :, -WIDTH:].view(GRID, GRID, WIDTH)
            for token in range(tokens):
                row, column = divmod(token, side)
                query = linear(
                    module.query_norm(linear(bilinear(last, row, column, cell), module.query)), module.q_proj
                )
                patches = [
                    features[image, y * GRID + x]
                    for y in range(row * cell, (row + 1) * cell)
                    for x in range(column * cell, (column + 1) * cell)
                ]
                keys = [linear(module.key_norm(mlp(p, module.key)), module.k_proj) for p in patches]
                values = [linear(module.value_norm(mlp(p, module.value)), module.v_proj) for p in patches]
                seen = []
                for h in range(used):
                    part = slice(h * head, (h + 1) * head)
                    weights = torch.tensor([float(query[part] @ k[part]) / head**0.5 for k in keys]).softmax(
                        0
                    )
                    seen.append(sum(w * v[part] for w, v in zip(weights, values, strict=True)))
                expected = mlp(linear(torch.cat(seen), module.o_proj), module.mlp)
                torch.testing.assert_close(out[image, token], expected, atol=1e-3, rtol=1e-3)


def test_a_region_never_sees_another() -> None:
    module = projected("tokenpacker").model.multi_modal_projector
    features = torch.randn(1, GRID * GRID, WIDTH)
    other = features.clone()
    other[0, 0] += 1.0  # the first patch belongs to the first token
    with torch.no_grad():
        changed = (module(features) - module(other)).abs().amax(-1)[0] > 1e-6
    assert changed.tolist() == [True, False, False, False]


@pytest.mark.parametrize("levels", [-2, [0, -1]])
@pytest.mark.parametrize("name", NAMES)
def test_saved_and_loaded_it_is_the_same_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, levels: Any
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    model = saved(tmp_path, name, levels=levels)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architectures"] == ["LlavaForConditionalGeneration"] and "auto_map" not in config
    assert (config["vtr_ray_projector"], config["image_seq_length"]) == ({"name": name, "tokens": 4}, 4)
    loaded, processor = load_model(str(tmp_path), device="cpu")
    inputs = inputs_for(processor, 2)
    assert (inputs["input_ids"] == model.config.image_token_id).sum(1).tolist() == [TOKENS, TOKENS]
    with torch.no_grad():
        assert torch.equal(loaded(**inputs).logits, model(**inputs).logits)
        assert [tuple(f.shape) for f in encode_images(loaded, inputs)] == [(TOKENS, WIDTH)] * 2
    again = tmp_path / "again"
    loaded.save_pretrained(again)
    processor.save_pretrained(again)
    with torch.no_grad():
        assert torch.equal(load_model(str(again), device="cpu")[0](**inputs).logits, loaded(**inputs).logits)


@pytest.mark.parametrize("name", NAMES)
def test_reduction_and_decoding_work_on_top(tmp_path: Path, name: str) -> None:
    saved(tmp_path, name, levels=[0, -1])
    model, processor = load_model(str(tmp_path), device="cpu")
    inputs = inputs_for(processor, 2)
    schedule = Schedule.from_rates([1, 1, 0.5, 0.5, 0.25])
    with torch.no_grad(), reduce_vision_tokens(model, schedule) as reduction:
        tokens = model.generate(**inputs, max_new_tokens=3, do_sample=False)
        kept = [layer.shape[1] for layer in reduction.kept]
        logits = model(**inputs).logits
    assert kept == [4, 4, 2, 2, 1] and tokens.shape[0] == 2
    assert torch.equal(tokens[:, inputs["input_ids"].shape[1]], logits[:, -1].argmax(-1))
    with torch.no_grad(), reduce_vision_tokens(model, strategies.none(5)):
        untouched = model(**inputs).logits
    assert torch.equal(untouched, model(**inputs).logits)


@pytest.mark.parametrize("heads", [None, 4])
@pytest.mark.parametrize("levels", [-2, [0, 1, -1]])
@pytest.mark.parametrize("name", [*NAMES, None])
@pytest.mark.parametrize("tokens", [4, 16])
def test_the_projectors_flops_are_what_torch_counts(
    name: str | None, tokens: int, levels: Any, heads: int | None
) -> None:
    if name is None:
        model = make_llava()
        model.config.vision_feature_layer = levels
        model = type(model)(model.config)
    else:
        model = projected(name, tokens, levels, heads if name == "tokenpacker" else None)
    assert tokens_per_image(model.config) == (16 if name is None else tokens)
    count = 1 if isinstance(levels, int) else len(levels)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.model.multi_modal_projector(torch.randn(3, GRID * GRID, WIDTH * count))
    assert projector_flops(model.config, images=3) == counter.get_total_flops()
    assert projector_flops(model.config, images=0) == 0


@pytest.mark.parametrize("name", NAMES)
def test_a_whole_reduced_forward_is_what_torch_counts(name: str) -> None:
    model = projected(name, attn="eager")
    ids = torch.tensor([[5] * 4 + [3] * TOKENS * 2 + [6] * 7])
    schedule = strategies.fastv(5)
    with torch.no_grad(), reduce_vision_tokens(model, schedule), FlopCounterMode(display=False) as counter:
        model(input_ids=ids, pixel_values=torch.randn(2, 3, 16, 16))
    flops = count_flops(model.config, schedule, 2 * TOKENS, 11, convention="executed", instruction_tokens=7)
    assert flops.total == counter.get_total_flops()


@pytest.mark.parametrize(
    ("name", "levels", "tera"), [("tokenpacker", [12, 16, 22, 23], 3.27), ("deco", -2, 3.26)]
)
def test_the_papers_table_2_within_a_hundredth(name: str, levels: Any, tera: float) -> None:
    """LLaVA-1.5-7B at 144 tokens; what the paper counts of these two projectors it does not say."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

    vision = CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        image_size=336,
        patch_size=14,
    )
    text = LlamaConfig(hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, vocab_size=32000)
    config = LlavaConfig(vision_config=vision, text_config=text, vision_feature_layer=levels)
    set_projector(config, name, 144)
    assert config.image_seq_length == 144
    flops = count_flops(config, strategies.none(32), 144, 75)
    assert flops.total / 1e12 == pytest.approx(tera, rel=0.01)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"name": "deco", "tokens": 5}, "tokens is 5; with 4 x 4 patches use one of: 1, 4, 16"),
        ({"name": "deco", "tokens": 9}, "tokens is 9; with 4 x 4 patches use one of: 1, 4, 16"),
        ({"name": "deco", "tokens": 64}, "tokens is 64; with 4 x 4"),
        ({"name": "deco", "tokens": 0}, "tokens is 0: .*greater than"),
        ({"name": "deco", "tokens": "4"}, "tokens is '4'"),
        ({"name": "qformer", "tokens": 4}, "name is 'qformer': .*'deco' or 'tokenpacker'"),
        ({"name": "deco"}, "tokens.*required"),
        ({"name": "deco", "tokens": 4, "pool": 2}, "pool is 2"),
        ({"name": "deco", "tokens": 4, "heads": 2}, "heads is for tokenpacker"),
        ({"name": "tokenpacker", "tokens": 4, "heads": 5}, "heads is 5; use a divisor of .* 32"),
        ("deco", "vtr_ray_projector is 'deco'"),
    ],
)
def test_settings_that_are_none_are_one_line(tmp_path: Path, raw: Any, message: str) -> None:
    saved(tmp_path, "deco")
    config = json.loads((tmp_path / "config.json").read_text())
    config["vtr_ray_projector"] = raw
    (tmp_path / "config.json").write_text(json.dumps(config))
    for load in (load_config, load_model):
        with pytest.raises(InputError, match=message) as caught:
            load(str(tmp_path))
        assert "\n" not in str(caught.value)


def test_an_encoder_without_a_class_token() -> None:
    from transformers import LlavaConfig, SiglipVisionConfig

    vision = SiglipVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=18,
        patch_size=4,
    )
    options = {
        "vision_config": vision,
        "text_config": make_llava().config.text_config,
        "image_token_index": 3,
    }
    config = LlavaConfig(**options, vision_feature_select_strategy="default")
    assert tokens_per_image(config) == 15  # a patch is lost
    with pytest.raises(InputError, match="set vision_feature_select_strategy to 'full'"):
        set_projector(config, "deco", 4)
    config = LlavaConfig(**options, vision_feature_select_strategy="full")
    assert tokens_per_image(config) == 16
    set_projector(config, "deco", 4)
    model = LlavaForConditionalGeneration(config).eval()
    ids = torch.tensor([[5, *[3] * 4, 6]])
    with torch.no_grad():
        assert model(input_ids=ids, pixel_values=torch.randn(1, 3, 18, 18)).logits.shape[1] == 6
    processor = make_processor()
    fit_processor(processor, config)
    assert (18 // processor.patch_size) ** 2 == 4


def test_weights_of_another_projector_are_refused(tmp_path: Path) -> None:
    saved(tmp_path, "deco")
    config = json.loads((tmp_path / "config.json").read_text())
    config["vtr_ray_projector"] = {"name": "tokenpacker", "tokens": 4}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="was saved with another projector"):
        load_model(str(tmp_path), device="cpu")


def test_what_cannot_be_projected_is_one_line(llava_factory: Callable[..., Any]) -> None:
    config = llava_factory().config
    with pytest.raises(InputError, match="use one of: 1, 4, 16"):
        set_projector(config, "deco", 7)
    assert getattr(config, "vtr_ray_projector", None) is None and config.image_seq_length == 16
    config.vision_feature_select_strategy = "full"
    with pytest.raises(InputError, match="set vision_feature_select_strategy to 'default'"):
        set_projector(config, "deco", 4)
    assert tokens_per_image(config) == 17
    config.vision_config.model_type = "pixtral"
    with pytest.raises(InputError, match=r"needs one of: clip_vision_model, .* is a 'pixtral'"):
        set_projector(config, "deco", 4)
    text = config.get_text_config(decoder=True)
    with pytest.raises(InputError, match="is for LLaVA, not for 'llama'"):
        set_projector(text, "deco", 4)
