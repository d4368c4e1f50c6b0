from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, GenerationConfig

from vtr_ray.convert import convert

SYSTEM = (
    "你是由上海人工智能实验室联合商汤科技开发的书生多模态大模型，英文名叫InternVL, "
    "是一个有用无害的人工智能助手。"
)
TURNS: list[dict[str, Any]] = [
    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "How many?"}]},
    {"role": "assistant", "content": [{"type": "text", "text": "two"}]},
    {"role": "user", "content": "Sure?"},
]
CHATML = (
    "<|im_start|>system\n{system}<|im_end|><|im_start|>user\n{image}\nHow many?<|im_end|>"
    "<|im_start|>assistant\ntwo<|im_end|><|im_start|>user\nSure?<|im_end|><|im_start|>assistant\n"
)
PHI3 = (
    "<|system|>\n{system}<|end|><|user|>\n{image}\nHow many?<|end|>"
    "<|assistant|>\ntwo<|end|><|user|>\nSure?<|end|><|assistant|>\n"
)


@pytest.mark.parametrize(("size", "prompt"), [("1B", CHATML), ("2B", CHATML), ("4B", PHI3)])
def test_prompts_are_the_originals(original: Callable[..., Any], size: str, prompt: str) -> None:
    source = original(size)
    processor = AutoProcessor.from_pretrained(convert(source.path).path, local_files_only=True)
    text = processor.apply_chat_template(TURNS, add_generation_prompt=True)
    assert text == prompt.format(system=SYSTEM, image="<IMG_CONTEXT>")
    inputs = processor(images=[Image.new("RGB", (16, 48))], text=[text], return_tensors="pt")
    tokens = "<IMG_CONTEXT>" * 4 * 4  # three tiles and a thumbnail, four vision tokens each
    assert inputs["input_ids"][0].tolist() == source.encode(
        prompt.format(system=SYSTEM, image=f"<img>{tokens}</img>")
    )
    assert set(inputs) == {"input_ids", "attention_mask", "pixel_values"}
    own = processor.apply_chat_template([{"role": "system", "content": "Be brief."}, TURNS[0]])
    assert SYSTEM not in own and "Be brief." in own


def test_a_video_is_named_frames(original: Callable[..., Any]) -> None:
    processor = AutoProcessor.from_pretrained(convert(original("2B").path).path, local_files_only=True)
    turn = {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "What?"}]}
    text = processor.apply_chat_template([turn])
    assert "<|im_start|>user\n<video>\nWhat?" in text
    video = np.zeros((2, 20, 30, 3), dtype=np.uint8)
    inputs = processor(videos=[video], text=[text], return_tensors="pt")
    frame = "<img>" + 4 * "<IMG_CONTEXT>" + "</img>"
    assert f"Frame1: {frame}\nFrame2: {frame}\nWhat?" in processor.decode(inputs["input_ids"][0])
    assert inputs["pixel_values"].shape == (2, 3, 16, 16)


def test_tiles_are_the_originals(original: Callable[..., Any]) -> None:
    """Row by row, then the thumbnail; bicubic, ImageNet's mean and deviation."""
    processor = AutoProcessor.from_pretrained(convert(original("1B").path).path, local_files_only=True)
    smooth = Image.fromarray(np.random.default_rng(1).integers(0, 256, (3, 4, 3), dtype=np.uint8))
    image = smooth.resize((96, 64), Image.Resampling.BICUBIC)
    got = processor(images=[image], text=["<IMG_CONTEXT>"], return_tensors="pt")["pixel_values"]
    canvas = image.resize((48, 32), Image.Resampling.BICUBIC)
    tiles = [canvas.crop((left, top, left + 16, top + 16)) for top in (0, 16) for left in (0, 16, 32)] + [
        image.resize((16, 16), Image.Resampling.BICUBIC)
    ]
    mean, deviation = (torch.tensor(v).view(3, 1, 1) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    expected = torch.stack(
        [(torch.from_numpy(np.array(tile)).permute(2, 0, 1) / 255 - mean) / deviation for tile in tiles]
    )
    assert got.shape == expected.shape == (7, 3, 16, 16)
    assert (got - expected).abs().max() < 0.05  # a grey level or two: another library rounds


@pytest.mark.parametrize(("size", "end"), [("1B", "<|im_end|>"), ("2B", "<|im_end|>"), ("4B", "<|end|>")])
def test_answers_end_where_the_originals_do(original: Callable[..., Any], size: str, end: str) -> None:
    source = original(size)
    (source.path / "generation_config.json").write_text(json.dumps({"eos_token_id": [9, 11]}))
    done = convert(source.path)
    config = GenerationConfig.from_pretrained(done.path)
    assert config.eos_token_id == [source.encode(end)[-1], 9, 11, source.config["llm_config"]["eos_token_id"]]
