"""Prompts and targets as a checkpoint's own processor writes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vtr_ray.errors import InputError
from vtr_ray.evaluation.video import Clip, Seen

FALLBACK = "USER: {place}\n{question} ASSISTANT:"
"""LLaVA-1.5's prompt, for processors without a chat template."""

PLACE = "<image>"


def check_video(processor: Any) -> None:
    """Raise InputError where the model takes no videos: its processor does not, or its chat template."""
    name = type(processor).__name__.removesuffix("Processor")
    if getattr(processor, "video_processor", None) is None:
        raise InputError(f"{name} takes no videos; give samples with images, or a model that takes videos")
    if str(processor.video_token) not in prompt_text(processor, "?", video=True):
        raise InputError(f"the chat template of this {name} writes no {processor.video_token} for a video")


def prompt_text(processor: Any, question: str, video: bool = False, images: int = 1) -> str:
    """The prompt of one question about images or a video, with one placeholder each.

    Images stand before the question, or where it says `<image>` as often as there are images.
    """
    if _template(processor) is None:
        place = processor.video_token if video else "\n".join([PLACE] * images)
        return FALLBACK.format(place=place, question=question)
    return _render(processor, [_user(question, video, images)], add_generation_prompt=True)


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
    turns = [_user(question, video), {"role": "assistant", "content": [{"type": "text", "text": answer}]}]
    whole = _render(processor, turns, add_generation_prompt=False)
    rest = whole.removeprefix(prompt)
    return rest[: rest.index(answer)] if len(rest) < len(whole) and answer in rest else ""


def prompt_length(processor: Any, text: str) -> int:
    """Tokens of a prompt, the placeholder of its image or video counted once."""
    return len(processor.tokenizer(text, add_special_tokens=_adds_specials(processor, text))["input_ids"])


def encode(processor: Any, seen: Sequence[Seen], texts: Sequence[str]) -> Any:
    """The processor's inputs, a prompt and its images or its video a row, padded; one placeholder a token.

    All rows have images or all have videos: some processors put both under one name.
    """
    options: dict[str, Any] = {
        "text": list(texts),
        "padding": True,
        "add_special_tokens": _adds_specials(processor, texts[0]),
        "return_tensors": "pt",
    }
    clips = [one for one in seen if isinstance(one, Clip)]
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


def _user(question: str, video: bool, images: int = 1) -> dict[str, Any]:
    kind, count = ("video", 1) if video else ("image", images)
    texts = question.split(PLACE)
    if video or len(texts) - 1 != count:
        content = [{"type": kind}] * count + [{"type": "text", "text": "".join(texts)}]
        return {"role": "user", "content": content}
    content = [{"type": "text", "text": texts[0]}]
    for text in texts[1:]:
        content += [{"type": kind}, {"type": "text", "text": text}]
    return {"role": "user", "content": [part for part in content if part.get("text") != ""]}


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
