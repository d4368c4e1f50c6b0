from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import original_tokenizers as originals
import pytest
from transformers import AutoTokenizer, InternVLConfig

from vtr_ray.convert.tokenizer import build_tokenizer

TEXTS = [
    "What is the colour of the circle?",
    "two  spaces, a tab\t, lines\n\nand 中文 and é",
    "<|im_start|>user\nIs it 12.5?<|im_end|><|im_start|>assistant\n",
    "<|user|>\n<img><IMG_CONTEXT><IMG_CONTEXT></img>\n Where?<|end|><|assistant|>\n",
    "<ref>circle</ref> <box>[[1, 2]]</box>",
    "[UNUSED_TOKEN_140] is a piece of its own",
]
WRITERS = {
    "internlm2": originals.internlm2,
    "internlm2 with a dummy prefix": lambda folder: originals.internlm2(folder, add_dummy_prefix=True),
    "internlm2 with normal spaces": lambda folder: originals.internlm2(folder, remove_extra_whitespaces=True),
    "internlm2 with normal characters": lambda folder: originals.internlm2(
        folder, normalization_rule_name="nmt_nfkc"
    ),
    "internlm2 without bytes": lambda folder: originals.internlm2(folder, byte_fallback=False),
    "phi3": originals.phi3,
    "qwen2": originals.qwen2,
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_text_gives_the_originals_ids(name: str, tmp_path: Path) -> None:
    source, saved = tmp_path / "source", tmp_path / "saved"
    source.mkdir()
    size, encode = WRITERS[name](source)
    built = build_tokenizer(source)
    built.save_pretrained(saved)
    InternVLConfig().save_pretrained(saved)  # what AutoTokenizer goes by
    loaded = AutoTokenizer.from_pretrained(saved, local_files_only=True)
    # Sentencepiece normalizes around a user-defined piece too; no prompt has one.
    for text in TEXTS[: None if name in ("internlm2", "phi3", "qwen2") else -1]:
        expected = encode(text)
        for tokenizer in (built, loaded):
            assert tokenizer(text)["input_ids"] == expected, text
            specials = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
            begin = 1 if tokenizer.bos_token_id is not None and expected[0] == tokenizer.bos_token_id else 0
            if name in ("internlm2", "qwen2"):  # the others add spaces, or swallow them
                assert tokenizer.decode(expected[begin:], **specials) == text
    assert loaded("a")["input_ids"] == encode("a")
    assert set(loaded("a")) == {"input_ids", "attention_mask"}
    assert loaded.padding_side == "left"
    assert loaded.video_token_id == size  # the only new one, behind all that the model knows
    assert loaded.decode(encode("circle<IMG_CONTEXT>"), skip_special_tokens=True).strip() == "circle"


@pytest.mark.parametrize("name", ["internlm2", "phi3", "qwen2"])
def test_named_tokens(name: str, tmp_path: Path) -> None:
    writer: Callable[..., tuple[int, originals.Encode]] = WRITERS[name]
    size, encode = writer(tmp_path)
    tokenizer = build_tokenizer(tmp_path)
    assert tokenizer.start_image_token_id == encode("<img>")[-1]
    assert tokenizer.end_image_token_id == encode("</img>")[-1]
    assert tokenizer.context_image_token_id == encode("<IMG_CONTEXT>")[-1]
    assert tokenizer.eos_token == {"internlm2": "</s>", "phi3": "<|endoftext|>", "qwen2": "<|im_end|>"}[name]
    assert tokenizer.bos_token == {"internlm2": "<s>", "phi3": "<s>", "qwen2": None}[name]
    assert tokenizer.pad_token_id is not None and tokenizer.pad_token_id < size


def test_a_tokenizer_file_alone_will_do(tmp_path: Path) -> None:
    _, encode = originals.internlm2(tmp_path)
    build_tokenizer(tmp_path).save_pretrained(tmp_path / "saved")
    (tmp_path / "tokenizer.model").unlink()
    (tmp_path / "saved" / "tokenizer.json").rename(tmp_path / "tokenizer.json")
    tokenizer = build_tokenizer(tmp_path)
    for text in TEXTS:
        assert tokenizer(text)["input_ids"] == encode(text)
