from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from original_checkpoints import PARAMETERS, REAL, original_shapes

from vtr_ray.convert.layout import INTERNLM2, Layout
from vtr_ray.convert.mapping import Mapping, SplitGroups
from vtr_ray.convert.weights import check_coverage, native_shapes
from vtr_ray.errors import InputError


def split_row_by_row(fused: torch.Tensor, heads: int, groups: int, size: int) -> list[torch.Tensor]:
    """Group after group: its query heads, its key head, its value head; a head's rows lie together."""
    queries, keys, values = [], [], []
    row = 0
    for _group in range(groups):
        for _head in range(heads // groups):
            for _ in range(size):
                queries.append(fused[row])
                row += 1
        for _ in range(size):
            keys.append(fused[row])
            row += 1
        for _ in range(size):
            values.append(fused[row])
            row += 1
    assert row == len(fused)
    return [torch.stack(queries), torch.stack(keys), torch.stack(values)]


@pytest.mark.parametrize(
    ("heads", "groups", "size"), [(16, 8, 4), (32, 8, 2), (48, 8, 2), (6, 1, 3), (4, 4, 2)]
)
@pytest.mark.parametrize("shape", ["weight", "bias"])
def test_wqkv_splits_into_its_groups(heads: int, groups: int, size: int, shape: str) -> None:
    rows = (heads + 2 * groups) * size
    fused = torch.arange(rows * 3.0).view(rows, 3) if shape == "weight" else torch.arange(float(rows))
    text = SimpleNamespace(num_attention_heads=heads, num_key_value_heads=groups, head_dim=size)
    config = SimpleNamespace(get_text_config=lambda decoder: text)
    parts = SplitGroups().convert({"wqkv": [fused]}, ["wqkv"], ["q", "k", "v"], config=config)
    for name, expected in zip("qkv", split_row_by_row(fused, heads, groups, size), strict=True):
        assert torch.equal(parts[name], expected)
        assert parts[name].is_contiguous()


def test_wqkv_that_does_not_divide_is_refused() -> None:
    text = SimpleNamespace(num_attention_heads=4, num_key_value_heads=2, head_dim=4)
    config = SimpleNamespace(get_text_config=lambda decoder: text)
    for rows in (31, 24, 40):
        with pytest.raises(RuntimeError):
            SplitGroups().convert({"wqkv": [torch.zeros(rows, 3)]}, ["wqkv"], ["q", "k", "v"], config=config)


def converted(raw: dict[str, Any], tied: bool = False) -> tuple[Any, Mapping]:
    layout = Layout.model_validate(raw)
    config = layout.native(image_token_id=7, tied=tied, dtype="bfloat16")
    return config, Mapping(config, internlm2=layout.architecture == INTERNLM2)


def on_meta(raw: dict[str, Any]) -> dict[str, torch.Tensor]:
    return {
        name: torch.empty(shape, dtype=torch.bfloat16, device="meta")
        for name, shape in original_shapes(raw).items()
    }


@pytest.mark.parametrize("size", REAL)
def test_every_tensor_of_the_real_checkpoints_has_its_place(size: str) -> None:
    config, mapping = converted(REAL[size])
    native: dict[str, tuple[int, ...]] = {}
    for name, tensor in on_meta(REAL[size]).items():
        for target, part in mapping.convert(name, tensor).items():
            assert target not in native, f"{name} and another tensor both give {target}"
            native[target] = tuple(part.shape)
    assert native == {name: tuple(shape) for name, shape in native_shapes(config).items()}
    count = sum(torch.Size(shape).numel() for shape in native.values())
    assert count == pytest.approx(PARAMETERS[size], rel=0.01)
    assert check_coverage(on_meta(REAL[size]), mapping, config) == 2 * count


def test_a_tied_head_is_in_neither_layout() -> None:
    raw = {**REAL["1B"], "llm_config": {**REAL["1B"]["llm_config"], "tie_word_embeddings": True}}
    config, mapping = converted(raw, tied=True)
    tensors = on_meta(raw)
    assert "language_model.lm_head.weight" not in tensors
    check_coverage(tensors, mapping, config)
    assert config.tie_word_embeddings and config.text_config.tie_word_embeddings
    untied, mapping = converted(REAL["1B"])
    assert not untied.tie_word_embeddings and not untied.text_config.tie_word_embeddings
    with pytest.raises(InputError, match=r"no tensor for lm_head\.weight"):
        check_coverage(tensors, mapping, untied)


def test_missing_and_unexpected_tensors_are_named() -> None:
    config, mapping = converted(REAL["2B"])
    tensors = on_meta(REAL["2B"])
    for i in range(5):
        del tensors[f"language_model.model.layers.{i}.feed_forward.w2.weight"]
    tensors["language_model.model.layers.0.lora_A.weight"] = torch.empty(2, 2, device="meta")
    with pytest.raises(InputError) as caught:
        check_coverage(tensors, mapping, config)
    assert "model.language_model.layers.0.mlp.down_proj.weight" in str(caught.value)
    assert "and 2 more" in str(caught.value)
    assert "unexpected language_model.model.layers.0.lora_A.weight" in str(caught.value)


@pytest.mark.parametrize("name", ["attention.wqkv", "attention.wo"])
def test_wrong_shapes_are_named(name: str) -> None:
    config, mapping = converted(REAL["2B"])
    tensors = on_meta(REAL["2B"])
    wrong = f"language_model.model.layers.1.{name}.weight"
    tensors[wrong] = torch.empty(4097, 2048, device="meta")
    with pytest.raises(InputError, match=r"layers\.1\.attention\.\w+\.weight \(4097, 2048\)"):
        check_coverage(tensors, mapping, config)


def test_nothing_is_left_behind_in_transformers() -> None:
    from transformers.conversion_mapping import USER_REGISTERED_MAPPINGS, get_checkpoint_conversion_mapping

    before = repr(get_checkpoint_conversion_mapping("internvl"))
    config, mapping = converted(REAL["2B"])
    check_coverage(on_meta(REAL["2B"]), mapping, config)
    assert repr(get_checkpoint_conversion_mapping("internvl")) == before
    assert not {"internvl", "internvl_chat"} & USER_REGISTERED_MAPPINGS


def test_numbers_that_decide_what_is_computed() -> None:
    config, _ = converted(REAL["26B"])
    text, vision = config.text_config, config.vision_config
    assert (text.model_type, text.attention_bias, text.head_dim) == ("llama", False, 128)
    assert text.rope_parameters["rope_type"] == "dynamic" and text.rope_parameters["factor"] == 2.0
    assert text.rope_parameters["rope_theta"] == 1000000
    assert (vision.norm_type, vision.use_qk_norm, vision.attention_bias) == ("rms_norm", True, False)
    assert (config.vision_feature_layer, config.image_seq_length, config.downsample_ratio) == (-1, 256, 0.5)
    phi, _ = converted(REAL["4B"])
    rope = phi.text_config.rope_parameters
    assert (rope["rope_type"], rope["original_max_position_embeddings"]) == ("longrope", 4096)
    assert len(rope["short_factor"]) == 48
    qwen, _ = converted(REAL["1B"])
    assert set(qwen.text_config.layer_types) == {"full_attention"}
