"""Prompts and targets as a checkpoint's own processor writes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL import Image

FALLBACK = "USER: <image>\n{question} ASSISTANT:"
"""LLaVA-1.5's prompt, for processors without a chat template."""


def prompt_text(processor: Any, question: str) -> str:
    """The prompt of one question about one image, the image's placeholder in it once."""
    if _template(processor) is None:
        return FALLBACK.format(question=question)
    return _render(processor, [_user(question)], add_generation_prompt=True)


def target_ids(processor: Any, question: str, answer: str) -> list[int]:
    """Tokens of `answer` as the model would write it after the prompt, without the end token.

    Where the chat template puts something between prompt and answer (a space, often), it counts as part of
    the answer.
    """
    prompt = prompt_text(processor, question)
    text = prompt + _lead(processor, question, answer, prompt) + answer
    tokenizer = processor.tokenizer
    before: list[int] = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    whole: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    if whole[: len(before)] == before:
        return whole[len(before) :]
    # Prompt and answer merge into one token at their border; generation never sees that token.
    alone: list[int] = tokenizer(text[len(prompt) :], add_special_tokens=False)["input_ids"]
    return alone


def _lead(processor: Any, question: str, answer: str, prompt: str) -> str:
    if _template(processor) is None:
        return " "
    turns = [_user(question), {"role": "assistant", "content": [{"type": "text", "text": answer}]}]
    whole = _render(processor, turns, add_generation_prompt=False)
    rest = whole.removeprefix(prompt)
    return rest[: rest.index(answer)] if len(rest) < len(whole) and answer in rest else ""


def prompt_length(processor: Any, text: str) -> int:
    """Tokens of a prompt, the image's placeholder counted once."""
    return len(processor.tokenizer(text, add_special_tokens=_adds_specials(processor, text))["input_ids"])


def encode(processor: Any, images: Sequence[Image.Image], texts: Sequence[str]) -> Any:
    """The processor's inputs, one image and one prompt a row, padded; one placeholder per vision token."""
    specials = _adds_specials(processor, texts[0])
    nested = [[image] for image in images]  # some processors take a flat list for one row's
    return processor(
        images=nested, text=list(texts), padding=True, add_special_tokens=specials, return_tensors="pt"
    )


def _adds_specials(processor: Any, text: str) -> bool:
    # A template may write the begin token itself; the tokenizer would write it again.
    begin = processor.tokenizer.bos_token
    return begin is None or not text.startswith(begin)


def _user(question: str) -> dict[str, Any]:
    return {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}


def _template(processor: Any) -> str | None:
    own = getattr(processor, "chat_template", None)
    template: str | None = own or getattr(processor.tokenizer, "chat_template", None)
    return template


def _render(processor: Any, turns: list[dict[str, Any]], add_generation_prompt: bool) -> str:
    text: str = processor.apply_chat_template(
        turns,
        chat_template=_template(processor),
        add_generation_prompt=add_generation_prompt,
        tokenize=False,
    )
    return text
