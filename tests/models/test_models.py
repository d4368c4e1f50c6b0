from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from vtr_ray.errors import InputError
from vtr_ray.models import embed, encode_images, family_of, load_model


def inputs_for(processor: Any, prompts: list[str]) -> Any:
    images = [Image.new("RGB", (16, 16), (40 * i, 255 - 40 * i, 90)) for i in range(len(prompts))]
    text = [
        processor.apply_chat_template(
            [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": prompt}]}],
            add_generation_prompt=True,
        )
        for prompt in prompts
    ]
    return processor(images=images, text=text, padding=True, return_tensors="pt")


def test_a_directory_loads_offline_and_generates(
    tiny_llava_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # it read the environment already
    model, processor = load_model(str(tiny_llava_dir), device="cpu")
    assert not model.training and model.dtype == torch.float32
    inputs = inputs_for(processor, ["what color is the circle ?", "red ?"])
    assert (inputs["input_ids"] == family_of(model).vision_token_id(model.config)).sum(1).tolist() == [16, 16]
    tokens = model.generate(**inputs, max_new_tokens=2, do_sample=False)
    assert tokens.shape[0] == 2


def test_embeddings_from_kept_features_give_the_same_logits(tiny_llava_dir: Path) -> None:
    model, processor = load_model(str(tiny_llava_dir), device="cpu")
    inputs = inputs_for(processor, ["what color is the circle ?", "red ?"])
    with torch.no_grad():
        features = encode_images(model, inputs)
        embeddings = embed(model, inputs["input_ids"], features)
        reused = model(inputs_embeds=embeddings, attention_mask=inputs["attention_mask"]).logits
        assert torch.equal(reused, model(**inputs).logits)
    assert [tuple(feature.shape) for feature in features] == [(16, 32), (16, 32)]
    with pytest.raises(InputError, match="32 vision placeholders but 16 vision features"):
        embed(model, inputs["input_ids"], features[:1])


def test_half_precision_is_computed_in_float32_on_a_cpu_unless_asked(
    tiny_llava_dir: Path, tmp_path: Path
) -> None:
    model, processor = load_model(str(tiny_llava_dir), device="cpu")
    model.half().save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    assert load_model(str(tmp_path), device="cpu")[0].dtype == torch.float32
    assert load_model(str(tmp_path), device="cpu", dtype="float16")[0].dtype == torch.float16


def test_mistakes_are_one_line(tiny_llava_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # it read the environment already
    with pytest.raises(InputError, match=r"No config\.json in"):
        load_model(str(tmp_path))
    with pytest.raises(InputError, match="Cannot load a model from 'no-such/model'") as caught:
        load_model("no-such/model", device="cpu")
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="dtype is 'int8'"):
        load_model(str(tiny_llava_dir), dtype="int8", device="cpu")
    with pytest.raises(InputError, match="Device 'nowhere'"):
        load_model(str(tiny_llava_dir), device="nowhere")
    with pytest.raises(InputError, match="nothing"):
        load_model(str(tiny_llava_dir), attn="nothing", device="cpu")


def test_families_that_are_not_supported_are_named(tiny_llava_dir: Path, tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    other = tmp_path / "other"
    shutil.copytree(tiny_llava_dir, other)
    config = json.loads((other / "config.json").read_text())
    config["architectures"] = ["MllamaForConditionalGeneration"]
    (other / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"Mllama.* not supported; .*LlavaForConditionalGeneration"):
        load_model(str(other), device="cpu")
    llama = LlamaForCausalLM(
        LlamaConfig(
            hidden_size=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=8, intermediate_size=8
        )
    )
    with pytest.raises(InputError, match="LlamaForCausalLM is not supported"):
        family_of(llama)


def test_language_models_that_are_not_known_are_named(llava_factory: Any) -> None:
    gemma = llava_factory(text="gemma", num_hidden_layers=1, head_dim=8)
    with pytest.raises(InputError, match="with a gemma language model is not supported"):
        family_of(gemma)
