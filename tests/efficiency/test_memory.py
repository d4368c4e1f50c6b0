from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_families import LAYERS, Case, cases, tiny_config, tiny_model
from transformers import AutoConfig

from vtr_ray import strategies
from vtr_ray.efficiency import count_parameters, kv_bytes, read_config, shapes
from vtr_ray.efficiency.inputs import dummy_inputs
from vtr_ray.errors import InputError
from vtr_ray.models import cache_of
from vtr_ray.reduction import reduce_vision_tokens

TEXT = 11
FULL = [case for case in cases() if case.tokens >= 4 and not (case.pictures and len(case.pictures) > 1)]


def cached(model: Any, inputs: dict[str, Any]) -> list[int]:
    with torch.no_grad():
        cache = cache_of(model(**inputs, use_cache=True))
    return [layer.keys.nbytes + layer.values.nbytes for layer in cache.layers]


@pytest.mark.parametrize("case", FULL, ids=lambda case: case.name)
def test_cache_and_parameters_are_the_models_own(case: Case) -> None:
    """Gemma's sliding layers keep less than the sequence: 15 or 19 tokens, window 20."""
    config = tiny_config(case.family, case.text)
    model = tiny_model(config)
    inputs = dummy_inputs(config, case.tokens, TEXT, images=case.pictures)
    assert cached(model, inputs) == kv_bytes(config, strategies.none(LAYERS), case.tokens, TEXT, 4)
    assert count_parameters(config) == sum(parameter.numel() for parameter in model.parameters())


def test_cache_under_a_schedule() -> None:
    config = tiny_config("llava", "llama")
    schedule = strategies.p_sigmoid(LAYERS, budget=0.4, k=1.0)
    model = tiny_model(config)
    with reduce_vision_tokens(model, schedule):
        found = cached(model, dummy_inputs(config, 16, TEXT))
    assert found == kv_bytes(config, schedule, 16, TEXT, 4)
    assert found[-1] < found[0]


@pytest.mark.parametrize(("family", "text"), [("gemma3", "gemma3_text"), ("llava", "mistral")])
def test_a_long_sequence_fills_the_window(family: str, text: str) -> None:
    config = tiny_config(family, text)
    config.text_config.sliding_window = 20
    assert cached(tiny_model(config), dummy_inputs(config, 16, 30)) == kv_bytes(
        config, strategies.none(LAYERS), 16, 30, 4
    )


# The paper's Table 8, in 10^9; its LLaVA figure is the language model's alone.
@pytest.mark.parametrize(
    ("name", "billions"),
    [("internvl2-1b", 0.94), ("internvl2-2b", 2.21), ("internvl2-4b", 4.15), ("internvl2-8b", 8.08)],
)
def test_parameters_of_the_papers_models(name: str, billions: float) -> None:
    assert count_parameters(read_config(name)) / 1e9 == pytest.approx(billions, abs=0.006)


def test_a_configuration_by_name_directory_and_file(tmp_path: Path) -> None:
    config = tiny_config("internvl", "qwen2")
    config.save_pretrained(tmp_path)
    oracle = AutoConfig.from_pretrained(tmp_path).to_dict()
    for source in (tmp_path, tmp_path / "config.json"):
        found = read_config(str(source)).to_dict()
        assert {**found, "_name_or_path": ""} == {**oracle, "_name_or_path": ""}
    assert {"llava-1.5-7b", "internvl2-8b"} <= set(shapes())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No config.json"),
        ("{", "Cannot read"),
        ("[]", "no model_type"),
        ('{"model_type": "nothing_known"}', "no model type 'nothing_known'"),
        ('{"model_type": "internvl_chat"}', "vision_config in .*: Field required"),
    ],
)
def test_what_is_no_configuration(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(InputError, match=message):
        read_config(str(tmp_path))


def test_an_internvl_of_another_language_model(tmp_path: Path) -> None:
    shape = {"model_type": "internvl_chat", "vision_config": {}, "llm_config": {"architectures": ["XForLM"]}}
    (tmp_path / "config.json").write_text(json.dumps(shape))
    with pytest.raises(InputError, match="XForLM"):
        read_config(str(tmp_path))
