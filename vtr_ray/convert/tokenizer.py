"""The original tokenizers, some of them code of their checkpoint, as one native fast tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers

from vtr_ray.convert.layout import read_json
from vtr_ray.errors import InputError

START, END, CONTEXT, VIDEO = "<img>", "</img>", "<IMG_CONTEXT>", "<video>"
_SENTENCEPIECE, _VOCABULARY, _MERGES, _FAST = "tokenizer.model", "vocab.json", "merges.txt", "tokenizer.json"
_NAMES, _BEGIN = ("bos_token", "eos_token", "unk_token", "pad_token"), "add_bos_token"
_SENTENCEPIECE_TOKENS: dict[str, Any] = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "pad_token": "</s>",
    "add_bos_token": True,
}
_QWEN_TOKENS: dict[str, Any] = {
    "bos_token": None,
    "eos_token": "<|endoftext|>",
    "unk_token": None,
    "pad_token": "<|endoftext|>",
    "add_bos_token": False,
}


def build_tokenizer(folder: Path) -> Any:
    """The tokenizer of an original checkpoint: every token keeps its id, added ones included.

    Reads InternLM2's, Llama's and Phi-3's `tokenizer.model`, Qwen2's `vocab.json` and `merges.txt`, or a
    `tokenizer.json`. It has the attributes that `InternVLProcessor` asks for; of these only `<video>` may be
    new: the processor replaces it, so no model ever sees its id.

    Raises InputError: no tokenizer there, one that cannot be converted exactly, or no image tokens in it.
    """
    from transformers import PreTrainedTokenizerFast

    settings = read_json(folder, "tokenizer_config.json") or {}
    added = _added_tokens(folder, settings)
    if (folder / _SENTENCEPIECE).is_file():
        core, defaults = _from_sentencepiece(folder / _SENTENCEPIECE, settings, added), _SENTENCEPIECE_TOKENS
    elif (folder / _VOCABULARY).is_file() and (folder / _MERGES).is_file():
        core, defaults = _from_qwen2(folder), _QWEN_TOKENS
    elif (folder / _FAST).is_file():
        # It says itself what goes before a text.
        core, defaults = _from_file(folder / _FAST), dict.fromkeys((*_NAMES, *settings.keys() & {_BEGIN}))
    else:
        raise InputError(
            f"No tokenizer in {folder}: neither {_SENTENCEPIECE} nor {_VOCABULARY} and {_MERGES}."
        )
    core.add_tokens([added[index] for index in sorted(added)])
    for index, token in added.items():
        if core.token_to_id(token.content) != index:
            raise InputError(
                f"{token.content} has id {index} in {folder}, but its vocabulary puts it at "
                f"{core.token_to_id(token.content)}; download the tokenizer files again."
            )
    for text in (START, END, CONTEXT):
        if core.token_to_id(text) is None:
            raise InputError(f"The tokenizer in {folder} has no {text}; added_tokens.json is missing.")
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        **{name: _text(settings.get(name, default)) for name, default in defaults.items()},
        extra_special_tokens={
            "start_image_token": START,
            "end_image_token": END,
            "context_image_token": CONTEXT,
            "video_token": VIDEO,
        },
        model_max_length=settings.get("model_max_length"),
        model_input_names=["input_ids", "attention_mask"],
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def _text(value: Any) -> Any:
    """A special token's text: configurations write it as a string or with its settings."""
    return value.get("content") if isinstance(value, dict) else value


def _added_tokens(folder: Path, settings: dict[str, Any]) -> dict[int, AddedToken]:
    """Tokens beside the vocabulary proper, by id."""
    try:
        named = read_json(folder, "added_tokens.json") or {}
        added = {
            int(index): AddedToken(text, normalized=False, special=True) for text, index in named.items()
        }
        # The settings also say how a token treats the spaces around it.
        for index, token in settings.get("added_tokens_decoder", {}).items():
            added[int(index)] = AddedToken(**token)
    except (AttributeError, TypeError, ValueError) as error:
        raise InputError(f"The added tokens in {folder} cannot be read: {error}") from None
    return added


def _from_sentencepiece(path: Path, settings: dict[str, Any], added: dict[int, AddedToken]) -> Tokenizer:
    """A sentencepiece BPE model as Llama's fast tokenizer."""
    from transformers import LlamaTokenizer
    from transformers.tokenization_utils_base import generate_merges

    try:
        model = _sentencepiece_format().ModelProto.FromString(path.read_bytes())
    except Exception as error:  # protobuf's classes for errors depend on its implementation
        raise InputError(f"Cannot read {path}: {error}") from None
    if model.trainer_spec.model_type != 2:
        raise InputError(f"{path} is not a BPE model of sentencepiece; no InternVL2 has another.")
    # InternLM2 gave unused pieces new names in the tokenizer's settings.
    pieces = [
        added[index].content if index in added else piece.piece for index, piece in enumerate(model.pieces)
    ]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    # Neither control nor user-defined pieces come out of merges.
    whole = {pieces[index] for index, piece in enumerate(model.pieces) if piece.type != 1} | {
        token.content for token in added.values()
    }
    spaces = bool(model.normalizer_spec.add_dummy_prefix and settings.get("add_prefix_space") is not False)
    # Sentencepiece saw each stretch between special tokens alone, and put a space before it; Llama's later
    # code puts one before the text's start only.
    each = not settings.get("tokenizer_class", "").startswith("Llama") or bool(settings.get("legacy", True))
    core: Tokenizer = LlamaTokenizer(
        vocab=vocabulary,
        merges=generate_merges(vocabulary, skip_tokens=whole),
        add_prefix_space=spaces and not each,
        legacy=False,
    ).backend_tokenizer
    core.model.byte_fallback = model.trainer_spec.byte_fallback
    core.model.unk_token = pieces[model.trainer_spec.unk_id]
    steps = _normalizers(model.normalizer_spec)
    if spaces and each:
        steps.append(normalizers.Prepend("▁"))
        core.decoder = decoders.Sequence([core.decoder, decoders.Strip(" ", left=1)])
    if steps:
        core.normalizer = normalizers.Sequence(steps)
    core.add_tokens(
        [
            AddedToken(piece.piece, normalized=False, special=False)
            for index, piece in enumerate(model.pieces)
            if piece.type == 4 and index not in added
        ]
    )
    return core


def _normalizers(spec: Any) -> list[Any]:
    """What sentencepiece does to a text before it looks for pieces."""
    steps: list[Any] = []
    if spec.precompiled_charsmap:
        steps.append(normalizers.Precompiled(spec.precompiled_charsmap))
    if spec.remove_extra_whitespaces:
        steps += [
            normalizers.Replace(Regex(r"\A +| +\z"), ""),
            normalizers.Replace(Regex(" {2,}"), " "),
        ]
    return steps


def _sentencepiece_format() -> Any:
    """The protobuf module of sentencepiece models."""
    from transformers.convert_slow_tokenizer import import_protobuf

    try:
        return import_protobuf()
    except Exception:
        # Sentencepiece's own may need a later protobuf than others here allow; transformers has one too.
        from transformers.utils import sentencepiece_model_pb2_new

        return sentencepiece_model_pb2_new


def _from_qwen2(folder: Path) -> Tokenizer:
    from transformers import Qwen2Tokenizer

    try:
        core: Tokenizer = Qwen2Tokenizer(
            vocab=str(folder / _VOCABULARY), merges=str(folder / _MERGES), unk_token=None, pad_token=None
        ).backend_tokenizer
    except Exception as error:  # the tokenizers library raises plain Exception
        raise InputError(f"Cannot read {_VOCABULARY} and {_MERGES} in {folder}: {error}") from None
    return core


def _from_file(path: Path) -> Tokenizer:
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the tokenizers library raises plain Exception
        raise InputError(f"Cannot read {path}: {error}") from None
