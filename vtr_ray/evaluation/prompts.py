"""Prompts and targets as a checkpoint's own processor writes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vtr_ray.errors import InputError
from vtr_ray.evaluation.video import Clip, Seen

FALLBACK = "USER: {question} ASSISTANT:"
"""LLaVA-1.5's prompt, for processors without a chat template."""

PLACE = "<image>"

_PLACEHOLDERS = ("image_token", "video_token", "boi_token")  # attributes; Gemma 3's processor counts the last


def check_video(processor: Any) -> None:
    """Raise InputError where the model takes no videos: its processor does not, or its chat template."""
    name = type(processor).__name__.removesuffix("Processor")
    if getattr(processor, "video_processor", None) is None:
        raise InputError(f"{name} takes no videos; give samples with images, or a model that takes videos")
    if str(processor.video_token) not in prompt_text(processor, "?", video=True):
        raise InputError(f"the chat template of this {name} writes no {processor.video_token} for a video")


def placeholders(processor: Any) -> list[str]:
    """Return the texts that the processor reads as an image or a video, wherever they stand."""
    owners = (processor, processor.tokenizer)
    found = {getattr(owner, name, None) for owner in owners for name in _PLACEHOLDERS}
    return sorted(text for text in found if isinstance(text, str) and text)


def prompt_text(processor: Any, question: str, video: bool = False, images: int = 1) -> str:
    """The prompt of one question about images or a video, with one placeholder each; about neither, of none.

    Images stand before the question, or where it says `<image>` as often as there are images. Any other
    `<image>`, and whatever else the processor reads as an image or a video, is taken out of the question.
    """
    turn = _user(processor, question, video, images)
    if _template(processor) is not None:
        return _render(processor, [turn], add_generation_prompt=True)
    marks = {"video": getattr(processor, "video_token", ""), "image": PLACE}
    parts = [part["text"] if part["type"] == "text" else marks[part["type"]] for part in turn["content"]]
    inside = not video and question.count(PLACE) == images
    return FALLBACK.format(question=("" if inside else "\n").join(parts))


def target_ids(processor: Any, question: str, answer: str, video: bool = False) -> list[int]:
    """Tokens of `answer` as the model would write it after the prompt, without the end token.

    Where the chat template puts something between prompt and answer (a space, often), it counts as part of
    the answer.
    """
    prompt = prompt_text(processor, question, video)
    text = prompt + _lead(processor, question, answer, prompt, video) + answer
    tokenizer = processor.tokenizer
    before: list[int] = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    whole: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    if whole[: len(before)] == before:
        return whole[len(before) :]
    # Prompt and answer merge into one token at their border; generation never sees that token.
    alone: list[int] = tokenizer(text[len(prompt) :], add_special_tokens=False)["input_ids"]
    return alone


def _lead(processor: Any, question: str, answer: str, prompt: str, video: bool) -> str:
    if _template(processor) is None:
        return " "
    turns = [
        _user(processor, question, video),
        {"role": "assistant", "content": [{"type": "text", "text": answer}]},
    ]
    whole = _render(processor, turns, add_generation_prompt=False)
    rest = whole.removeprefix(prompt)
    return rest[: rest.index(answer)] if len(rest) < len(whole) and answer in rest else ""


def prompt_length(processor: Any, text: str) -> int:
    """Tokens of a prompt's text as it stands, the placeholder of its image or video counted once."""
    return len(prompt_ids(processor, text))


def prompt_ids(processor: Any, text: str) -> list[int]:
    """Tokens of a prompt's text as it stands, before the processor repeats any placeholder."""
    specials = _adds_specials(processor, text)
    ids: list[int] = processor.tokenizer(text, add_special_tokens=specials)["input_ids"]
    return ids


def encode(processor: Any, seen: Sequence[Seen], texts: Sequence[str]) -> Any:
    """The processor's inputs, a prompt and its images or its video a row, padded; one placeholder a token.

    All rows have images, or all have videos, or none has either: some processors put both under one name,
    and some take no row without an image among others.
    """
    options: dict[str, Any] = {
        "text": list(texts),
        "padding": True,
        "add_special_tokens": _adds_specials(processor, texts[0]),
        "return_tensors": "pt",
    }
    clips = [one for one in seen if isinstance(one, Clip)]
    if not any(isinstance(one, Clip) or one for one in seen):
        return processor(**options)
    if not clips:
        return processor(images=list(seen), **options)  # nested: some take a flat list for one row's
    # The frames are chosen already. Processors write into what they are given, hence the copies.
    metadata = [{**clip.metadata, "frames_indices": list(clip.metadata["frames_indices"])} for clip in clips]
    videos = [clip.pixels for clip in clips]
    return processor(videos=videos, video_metadata=metadata, do_sample_frames=False, **options)


def _adds_specials(processor: Any, text: str) -> bool:
    # A template may write the begin token itself; the tokenizer would write it again.
    begin = processor.tokenizer.bos_token
    return begin is None or not text.startswith(begin)


def _user(processor: Any, question: str, video: bool, images: int = 1) -> dict[str, Any]:
    kind, count = ("video", 1) if video else ("image", images)
    texts = question.split(PLACE)
    inside = not video and len(texts) - 1 == count
    plain = [_without(placeholders(processor), text) for text in (texts if inside else [question])]
    content: list[dict[str, Any]] = [] if inside else [{"type": kind}] * count
    for number, text in enumerate(plain):
        content += [{"type": kind}] if number else []
        content += [{"type": "text", "text": text}] if text or not inside else []
    return {"role": "user", "content": content}


def _without(marks: Sequence[str], text: str) -> str:
    """The text without any of the marks, those included that come together when one between is gone."""
    while any(mark in text for mark in (PLACE, *marks)):
        for mark in (PLACE, *marks):
            text = text.replace(mark, "")
    return text


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
