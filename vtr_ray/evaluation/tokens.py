"""Vision and text tokens of samples' prompts, and which samples a model cannot be asked about."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from vtr_ray.errors import InputError, first_line
from vtr_ray.evaluation import prompts
from vtr_ray.evaluation.samples import Sample
from vtr_ray.evaluation.video import Seen, Size, blank, seen_size
from vtr_ray.models import family_of


class Refused(InputError):
    """A sample that the model cannot be asked about; the message says why."""


class TokenCounter:
    """Counts the tokens of samples' prompts by the sizes of what they show, without decoding it.

    A processor decides by the size how many vision tokens an image or a video has, and which text tokens it
    puts around and between them: it is asked once for each size, with black images.
    """

    def __init__(self, model: Any, processor: Any, max_pixels: int | None = None) -> None:
        self._model, self._processor, self._max_pixels = model, processor, max_pixels
        self._known: dict[Size, tuple[int, int, int] | Refused] = {}

    def count(self, sample: Sample) -> tuple[int, int]:
        """Return vision and text tokens of a sample's prompt: all input ids are one or the other.

        Raises:
            Refused: the processor refuses an image or a video of that size; a token in the question that
                only vision may have.
        """
        size = seen_size(sample.image, self._max_pixels)
        images = 1 if sample.is_video else len(size)
        text = prompts.prompt_text(self._processor, sample.question, sample.is_video, images)
        ids = prompts.prompt_ids(self._processor, text)
        marks = self.vision_tokens(ids)
        if size not in self._known:
            self._known[size] = self._asked(size, text, len(ids), marks)
        known = self._known[size]
        if isinstance(known, Refused):
            raise known
        vision, more, own_marks = known
        if marks != own_marks:
            raise Refused("its question holds a placeholder of images or videos")
        return vision, len(ids) + more

    def vision_tokens(self, ids: Sequence[int]) -> int:
        """Return how many of the ids are vision tokens' placeholders."""
        tokens = torch.tensor(ids, dtype=torch.int64)
        return int(family_of(self._model).is_vision(self._model.config, tokens).sum())

    def _asked(self, size: Size, text: str, length: int, marks: int) -> tuple[int, int, int] | Refused:
        """Of that size: vision tokens, text tokens beyond those of the text, placeholders in the text."""
        seen = blank(size) if size else []
        try:
            ids = prompts.encode(self._processor, [seen], [text])["input_ids"][0].tolist()
        except MemoryError:
            raise
        except Exception as error:  # a processor raises whatever it meets
            return refusal(self._processor, [seen], error)
        vision = self.vision_tokens(ids)
        return vision, len(ids) - vision - length, marks


def refusal(processor: Any, seen: Sequence[Seen], error: Exception) -> Refused:
    """Return why a processor refuses what samples show, in one line."""
    shown = _described(seen[0]) if len(seen) == 1 else f"{len(seen)} samples"
    return Refused(f"{type(processor).__name__} refuses {shown}: {first_line(error)}")


def _described(seen: Seen) -> str:
    if not isinstance(seen, list):
        frames, height, width = seen.pixels.shape[:3]
        return f"its video of {frames} frames of {width} x {height} pixels"
    sizes = ", ".join(f"{image.width} x {image.height}" for image in seen)
    return f"its image of {sizes} pixels" if len(seen) == 1 else f"its images of {sizes or 'no'} pixels"
