"""The whole command: a tiny original checkpoint in, its native model computes what the original computed."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from original_model import OriginalModel
from PIL import Image
from safetensors import safe_open
from transformers import AutoProcessor, InternVLForConditionalGeneration

from vtr_ray.cli import main
from vtr_ray.convert import checkpoint, convert, weights
from vtr_ray.errors import InputError

Make = Callable[..., Any]


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stop:
        main(["convert", *arguments])
    assert isinstance(stop.value.code, int)
    return stop.value.code


def load(path: Path) -> tuple[Any, Any]:
    """Model and processor as any user loads them; every tensor of the file is used, none is made up."""
    model, report = InternVLForConditionalGeneration.from_pretrained(
        path, dtype=torch.float32, output_loading_info=True, local_files_only=True
    )
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return model.eval(), AutoProcessor.from_pretrained(path, local_files_only=True)


def picture(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def question(processor: Any, image: Image.Image) -> Any:
    turns = [
        {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "How many red squares?"}]},
    ]
    text = processor.apply_chat_template(turns, add_generation_prompt=True)
    return processor(images=[image], text=[text], return_tensors="pt")


CASES = [
    ("1B", {}, {}),
    ("1B", {"tie_word_embeddings": True}, {}),
    ("2B", {"max_position_embeddings": 24}, {}),  # dynamic scaling at work
    ("2B", {"bias": True}, {"select_layer": -2}),
    ("4B", {"max_position_embeddings": 512, "original_max_position_embeddings": 24}, {}),  # long factors
    ("4B", {"max_position_embeddings": 512, "original_max_position_embeddings": 256}, {}),  # short factors
    ("8B", {}, {"dynamic_image_size": False}),
    ("26B", {}, {}),
]


@pytest.mark.parametrize(("size", "text", "top"), CASES)
def test_logits_are_the_originals(
    original: Make, size: str, text: dict[str, Any], top: dict[str, Any]
) -> None:
    source = original(size, shards=2, top=top, **text)
    assert run(str(source.path)) == 0
    model, processor = load(source.path.with_name(f"{source.path.name}-native"))
    inputs = question(processor, picture(40, 20))
    assert len(inputs["pixel_values"]) == (1 if "dynamic_image_size" in top else 3)  # two tiles, a thumbnail
    expected = OriginalModel(source.config, source.weights).logits(
        inputs["input_ids"][0], inputs["pixel_values"], processor.image_token_id
    )
    with torch.no_grad():
        logits = model(**inputs).logits[0].double()
    assert expected.std() > 0.3
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)


def test_the_comparison_can_fail(original: Make) -> None:
    """Small errors in the reference are far above its tolerance."""
    source = original("2B")
    _, processor = load(convert(source.path).path)
    inputs = question(processor, picture(40, 20))
    ids, tiles, context = inputs["input_ids"][0], inputs["pixel_values"], processor.image_token_id
    right = OriginalModel(source.config, source.weights).logits(ids, tiles, context)
    text = source.config["llm_config"]
    for change in ({"rope_theta": 900000}, {"rms_norm_eps": 1e-3}):
        wrong = source.config | {"llm_config": text | change}
        assert (right - OriginalModel(wrong, source.weights).logits(ids, tiles, context)).abs().max() > 1e-3
    turned = OriginalModel(source.config, source.weights).logits(ids, tiles.transpose(-1, -2), context)
    assert (right - turned).abs().max() > 1e-3


def test_what_is_printed_and_written(original: Make, capsys: pytest.CaptureFixture[str]) -> None:
    source = original("2B")
    before = sorted(path.name for path in source.path.iterdir())
    assert run(str(source.path)) == 0
    out = source.path.with_name("InternVL2-2B-native")
    printed = capsys.readouterr().out
    assert f"Wrote {out}" in printed and f"{len(source.weights)} tensors" in printed
    assert f"vtr-ray gsearch --model {out}" in printed
    assert sorted(path.name for path in source.path.iterdir()) == before
    assert sorted(path.name for path in out.parent.iterdir()) == ["InternVL2-2B", "InternVL2-2B-native"]
    config = json.loads((out / "config.json").read_text())
    assert config["architectures"] == ["InternVLForConditionalGeneration"]
    assert config["model_type"] == "internvl"
    assert "auto_map" not in json.dumps(config)
    assert not list(out.glob("*.py"))


def test_trailing_slash_and_out(original: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    source = original("1B")
    monkeypatch.chdir(source.path)
    assert convert(Path()).path == source.path.with_name("InternVL2-1B-native")
    (source.path.parent / "there").mkdir()
    before = os.umask(0o022)
    assert convert(source.path, Path("../there")).path.resolve() == source.path.parent / "there"
    os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in (source.path.parent / "there").iterdir()} == {0o644}


def test_weights_keep_their_dtype_and_go_into_shards(
    original: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    source = original("8B")
    halves = {name: tensor.bfloat16() for name, tensor in source.weights.items()}
    (source.path / "model.safetensors").unlink()
    torch.save(halves, source.path / "pytorch_model.bin")
    monkeypatch.setattr(checkpoint, "write_weights", limited(60_000))
    done = convert(source.path)
    assert len(done.weights) > 2
    assert done.weights[0] == f"model-00001-of-{len(done.weights):05d}.safetensors"
    assert done.size == sum(2 * tensor.numel() for tensor in halves.values())
    index = json.loads((done.path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == done.size
    for name in done.weights:
        assert (done.path / name).stat().st_size < 60_000 + 10_000
        with safe_open(done.path / name, framework="pt") as opened:
            assert {opened.get_tensor(key).dtype for key in opened.keys()} == {torch.bfloat16}  # noqa: SIM118
    model, _ = load(done.path)
    assert json.loads((done.path / "config.json").read_text())["dtype"] == "bfloat16"
    expected = halves["language_model.model.tok_embeddings.weight"].float()
    assert torch.equal(model.get_input_embeddings().weight, expected)


def limited(shard_bytes: int) -> Callable[..., list[str]]:
    def write(*arguments: Any) -> list[str]:
        return weights.write_weights(*arguments, shard_bytes=shard_bytes)

    return write


def test_old_and_sharded_bin_files(original: Make) -> None:
    source = original("1B")
    (source.path / "model.safetensors").unlink()
    names = list(source.weights)
    where = {}
    for index, part in enumerate((names[::2], names[1::2])):
        file = f"pytorch_model-{index + 1:05d}-of-00002.bin"
        tensors = {name: source.weights[name] for name in part}
        torch.save(tensors, source.path / file, _use_new_zipfile_serialization=index == 0)
        where |= dict.fromkeys(part, file)
    (source.path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": where}))
    model, _ = load(convert(source.path).path)
    head = source.weights["language_model.lm_head.weight"]
    assert torch.equal(model.lm_head.weight, head)


class Evil:
    def __reduce__(self) -> Any:
        return (print, ("code of a checkpoint ran",))


def damage(source: Any, what: str) -> None:
    path = source.path
    config = json.loads((path / "config.json").read_text())
    tensors = dict(source.weights)
    single = path / "model.safetensors"
    if what == "no config":
        (path / "config.json").unlink()
    elif what == "broken config":
        (path / "config.json").write_text("{")
    elif what in SETTINGS:
        change = SETTINGS[what]
        text = config["llm_config"] | change.get("llm_config", {})
        (path / "config.json").write_text(json.dumps(config | change | {"llm_config": text}))
    elif what == "no weights":
        single.unlink()
    elif what == "missing shard":
        shards = {name: f"model-0000{i % 2 + 1}-of-00002.safetensors" for i, name in enumerate(tensors)}
        (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
        shutil.copy(single, path / "model-00001-of-00002.safetensors")
    elif what == "truncated":
        single.write_bytes(single.read_bytes()[:-100])
    elif what == "evil pickle":
        single.unlink()
        torch.save({"mlp1.0.weight": Evil()}, path / "pytorch_model.bin")
    elif what == "missing tensor":
        tensors.pop("mlp1.3.bias")
        weights.save_file(tensors, single)
    elif what == "unexpected tensor":
        tensors["vision_model.head.weight"] = torch.zeros(2)
        weights.save_file(tensors, single)
    elif what == "no tokenizer":
        (path / "tokenizer.model").unlink()
    elif what == "no image tokens":
        settings = json.loads((path / "tokenizer_config.json").read_text())
        settings["added_tokens_decoder"] = {
            index: token
            for index, token in settings["added_tokens_decoder"].items()
            if token["content"].startswith("<|")
        }
        (path / "tokenizer_config.json").write_text(json.dumps(settings))
        (path / "added_tokens.json").unlink()
    elif what == "broken tokenizer":
        (path / "tokenizer.model").write_bytes(b"\x00nothing")
    elif what == "ids with a hole":
        (path / "added_tokens.json").write_text(json.dumps({"<late>": 4000}))


SETTINGS: dict[str, dict[str, Any]] = {
    "another model": {"model_type": "llava"},
    "native already": {"model_type": "internvl"},
    "another language model": {"llm_config": {"architectures": ["MambaForCausalLM"]}},
    "pixel shuffle v1": {"ps_version": "v1"},
    "unknown template": {"template": "vicuna"},
    "no sizes": {"llm_config": {"hidden_size": None}},
    "uneven heads": {"llm_config": {"num_key_value_heads": 3}},
    "other shapes": {"llm_config": {"intermediate_size": 52}},
    "pad token out of range": {"llm_config": {"pad_token_id": 4000}},
    "unknown activation": {"llm_config": {"hidden_act": "swoosh"}},
    "no thumbnail": {"use_thumbnail": False},
}
MISTAKES = {
    "no config": r"No config\.json",
    "broken config": r"Cannot read .*config\.json",
    "another model": "holds a llava checkpoint",
    "native already": "native layout already",
    "another language model": "MambaForCausalLM",
    "pixel shuffle v1": "ps_version v1",
    "unknown template": "'vicuna' is not known; known: Hermes-2",
    "no sizes": "llm_config in .* lacks hidden_size",
    "uneven heads": "wqkv",
    "pad token out of range": "Padding_idx",
    "unknown activation": "swoosh",
    "other shapes": r"feed_forward\.w1\.weight",
    "no thumbnail": "thumbnail",
    "no weights": "No weights in",
    "missing shard": r"lacks model-00002-of-00002\.safetensors",
    "truncated": r"Cannot read .*model\.safetensors",
    "evil pickle": r"Cannot read .*pytorch_model\.bin",
    "missing tensor": r"no tensor for model\.multi_modal_projector\.linear_2\.bias",
    "unexpected tensor": r"unexpected vision_model\.head\.weight",
    "no tokenizer": "No tokenizer in",
    "no image tokens": "has no <img>",
    "broken tokenizer": r"Cannot read .*tokenizer\.model",
    "ids with a hole": "<late> has id 4000",
}


@pytest.mark.parametrize("what", MISTAKES)
def test_a_mistake_is_one_line_and_leaves_nothing(
    original: Make, capsys: pytest.CaptureFixture[str], what: str
) -> None:
    source = original("2B")
    damage(source, what)
    assert run(str(source.path)) == 2
    captured = capsys.readouterr()
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1, lines
    assert re.search(MISTAKES[what], lines[0]), lines[0]
    assert "code of a checkpoint ran" not in captured.out
    assert [path.name for path in source.path.parent.iterdir()] == ["InternVL2-2B"]


def test_output_in_use_is_refused_before_anything_is_read(
    original: Make, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    source = original("1B")
    used = tmp_path / "used"
    used.mkdir()
    (used / "notes.txt").write_text("mine")
    assert run(str(source.path), "--out", str(used)) == 2
    assert "not empty" in capsys.readouterr().err
    assert [path.name for path in used.iterdir()] == ["notes.txt"]
    assert run(str(source.path), "--out", str(source.path)) == 2
    assert run(str(tmp_path / "gone")) == 2
    assert "is no directory" in capsys.readouterr().err


def test_an_interrupted_conversion_leaves_nothing(original: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    source = original("1B")

    def interrupt(*arguments: Any) -> list[str]:
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "write_weights", interrupt)
    with pytest.raises(KeyboardInterrupt):
        convert(source.path)
    assert [path.name for path in source.path.parent.iterdir()] == ["InternVL2-1B"]


def test_a_full_disk_is_said_before_it_is_full(original: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    source = original("1B")
    usage = shutil.disk_usage(source.path)._replace(free=1000)
    monkeypatch.setattr(weights.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(InputError, match=r"take 0\.0 GB"):
        convert(source.path)
    assert [path.name for path in source.path.parent.iterdir()] == ["InternVL2-1B"]
