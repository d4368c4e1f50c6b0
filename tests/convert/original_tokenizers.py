"""Tiny tokenizers in the files of the original checkpoints, and what the original classes made of a text."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sentencepiece
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

LINES = [
    "What is the colour of the circle in the picture?",
    "How many  red squares are there, and what is their total area?",
    "Answer the question using a single word or phrase.\nIs the circle left of the square?",
    "The area is 12.5 of 144; the rest is background.",
    "  leading spaces, tabs\tand\nlines",
]
IMAGE_TOKENS = ["<img>", "</img>", "<IMG_CONTEXT>", "<quad>", "</quad>", "<ref>", "</ref>", "<box>", "</box>"]
QWEN2_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)

Encode = Callable[[str], list[int]]


def _added(text: str, rstrip: bool = False) -> dict[str, Any]:
    return {
        "content": text,
        "lstrip": False,
        "normalized": False,
        "rstrip": rstrip,
        "single_word": False,
        "special": True,
    }


def _train(vocabulary: int, symbols: list[str], **options: Any) -> bytes:
    model = io.BytesIO()
    defaults = {
        "byte_fallback": True,
        "remove_extra_whitespaces": False,
        "normalization_rule_name": "identity",
    }
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES * 3),
        model_writer=model,
        model_type="bpe",
        vocab_size=vocabulary,
        user_defined_symbols=symbols,
        hard_vocab_limit=False,
        minloglevel=2,
        **{**defaults, **options},
    )
    return model.getvalue()


def _segments(added: dict[str, Any], encode: Callable[[str, bool], list[int]], begin: list[int]) -> Encode:
    """What a slow tokenizer does: added tokens are cut out first, sentencepiece sees what is between."""
    by_text = {token["content"]: (int(index), token) for index, token in added.items()}
    pattern = re.compile("(" + "|".join(re.escape(text) for text in by_text) + ")")

    def whole(text: str) -> list[int]:
        ids, first = list(begin), True
        parts = pattern.split(text)
        for index, part in enumerate(parts):
            if part in by_text:
                ids.append(by_text[part][0])
                if by_text[part][1]["rstrip"] and index + 1 < len(parts):
                    parts[index + 1] = parts[index + 1].lstrip()
            elif part:
                ids += encode(part, first)
            first = first and not part
        return ids

    return whole


def internlm2(folder: Path, **options: Any) -> tuple[int, Encode]:
    """`InternLM2Tokenizer`: sentencepiece whose unused pieces got names, then the image tokens.

    options: of sentencepiece's trainer. Gives the vocabulary's size and what the original class encodes.
    """
    unused = [f"[UNUSED_TOKEN_{index}]" for index in range(140, 147)]
    (folder / "tokenizer.model").write_bytes(_train(400, unused, **{"add_dummy_prefix": False, **options}))
    model = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    names = [
        "<|plugin|>",
        "<|interpreter|>",
        "<|action_end|>",
        "<|action_start|>",
        "<|im_end|>",
        "<|im_start|>",
    ]
    added = {str(index): _added(text) for index, text in enumerate(["<unk>", "<s>", "</s>"])}
    for piece, name in zip(unused[1:], names, strict=True):
        added[str(model.piece_to_id(piece))] = _added(name)
    size = model.get_piece_size()
    image = {text: size + index for index, text in enumerate(IMAGE_TOKENS)}
    added |= {str(index): _added(text) for text, index in image.items()}
    (folder / "added_tokens.json").write_text(json.dumps(image))
    settings = {
        "added_tokens_decoder": added,
        "auto_map": {"AutoTokenizer": ["tokenization_internlm2.InternLM2Tokenizer", None]},
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "</s>",
        "unk_token": "<unk>",
        "clean_up_tokenization_spaces": False,
        "model_max_length": 8192,
        "tokenizer_class": "InternLM2Tokenizer",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "tokenization_internlm2.py").write_text("raise RuntimeError('code of a checkpoint ran')\n")
    return size + len(image), _segments(added, lambda text, first: model.encode(text), [1])


def phi3(folder: Path) -> tuple[int, Encode]:
    """`LlamaTokenizer` of Phi-3: a space before the text's start only, tokens that swallow what follows."""
    (folder / "tokenizer.model").write_bytes(_train(380, ["§"], add_dummy_prefix=True))
    model = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    size = model.get_piece_size()
    names = ["<|endoftext|>", "<|assistant|>", "<|system|>", "<|end|>", "<|user|>", *IMAGE_TOKENS]
    added = {str(index): _added(text) for index, text in enumerate(["<unk>", "<s>", "</s>"])}
    for index, name in enumerate(names):
        added[str(size + index)] = _added(name, rstrip=name.startswith("<|") and name != "<|endoftext|>")
    (folder / "added_tokens.json").write_text(
        json.dumps({name: size + index for index, name in enumerate(names)})
    )
    settings = {
        "add_bos_token": True,
        "added_tokens_decoder": added,
        "bos_token": _added("<s>"),
        "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
        "unk_token": "<unk>",
        "legacy": False,
        "model_max_length": 131072,
        "tokenizer_class": "LlamaTokenizer",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))

    def encode(text: str, first: bool) -> list[int]:
        # The class puts the space before the text's start itself; behind a marker sentencepiece adds none.
        ids: list[int] = model.encode("§" + (" " if first else "") + text)
        return ids[ids.index(model.piece_to_id("§")) + 1 :]

    return size + len(names), _segments(added, encode, [1])


def qwen2(folder: Path) -> tuple[int, Encode]:
    """`Qwen2Tokenizer`: byte-level BPE in two files."""
    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizers.NFC()
    trained.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2_WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trained.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trained.train_from_iterator(LINES * 3, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet))
    trained.model.save(str(folder))
    size = trained.get_vocab_size()
    names = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *IMAGE_TOKENS]
    added = {str(size + index): _added(name) for index, name in enumerate(names)}
    (folder / "added_tokens.json").write_text(
        json.dumps({name: size + index for index, name in enumerate(names)})
    )
    settings = {
        "add_prefix_space": False,
        "added_tokens_decoder": added,
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "unk_token": None,
        "model_max_length": 8192,
        "tokenizer_class": "Qwen2Tokenizer",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return size + len(names), _segments(added, lambda text, first: trained.encode(text).ids, [])


WRITERS = {"1B": qwen2, "2B": internlm2, "4B": phi3, "8B": internlm2, "26B": internlm2}
"""Which of the five has which tokenizer."""
