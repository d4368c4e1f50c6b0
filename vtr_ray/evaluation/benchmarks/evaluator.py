"""The evaluator of benchmarks: everything generates, batches hold one task's documents, few are kept."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from functools import cached_property
from statistics import median_low
from typing import Any

import torch
from PIL import Image

from vtr_ray.evaluation import prompts
from vtr_ray.evaluation.batches import Tensors, form_batches
from vtr_ray.evaluation.evaluator import Evaluator
from vtr_ray.evaluation.samples import SampleSet
from vtr_ray.evaluation.suites import spread_documents
from vtr_ray.evaluation.video import read
from vtr_ray.reduction import reduce_vision_tokens
from vtr_ray.schedule import Schedule

_COUNTED = 64  # samples whose images are read to tell how many tokens a sample has
_SHOWN = 448  # pixels a side, at most, of an image in a report
_ONE_GRID = ("llava", "gemma3")  # families that scale an image to one square of tokens


class BenchmarkEvaluator(Evaluator):
    """Answers to a benchmark's documents under any schedule.

    Batches hold documents of one task and are formed by the length of their text, so that what a document
    answers does not depend on what else is asked, and no image is read before its turn. Encoded images are
    kept for the schedules that follow, as far as `cache` goes; the states that trials share are not.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        samples: SampleSet,
        batch_size: int = 32,
        *,
        cache: int,
        **others: Any,
    ) -> None:
        others["teacher_forcing"] = False
        super().__init__(model, processor, samples, batch_size, cache=0, **others)
        self._keep = cache

    def _prompt_lengths(self) -> list[int]:
        return [
            prompts.prompt_length(
                self.processor, prompts.prompt_text(self.processor, one.question, one.is_video)
            )
            for one in self.samples
        ]

    def _formed(self) -> list[tuple[int, ...]]:
        sources = [sample.source for sample in self.samples]
        return form_batches(self._exact, self._lengths, self.batch_size, sources=sources)

    @cached_property
    def _counts(self) -> list[tuple[int, int]]:
        places = spread_documents(len(self.samples), _COUNTED)
        return self._counted([self.samples.samples[place] for place in places])

    @property
    def text_tokens(self) -> int:
        """Text tokens of a sample's prompt, the (lower) median over all samples."""
        return median_low(self._lengths)

    def _batch(self, part: tuple[int, ...], whole: bool = True) -> Tensors:
        batch = super()._batch(part, whole)
        while len(self._tensors) > 1 and sum(one.bytes for one in self._tensors.values()) > self._keep:
            self._tensors.pop(next(other for other in self._tensors if other != part))
        return batch

    def batches(self) -> list[list[str]]:
        """Of each batch the ids of its samples."""
        return [[self.samples.samples[index].id for part in parts for index in part] for parts in self._parts]

    def alive(self, sample_id: str, schedules: Sequence[Schedule]) -> dict[str, Any]:
        """Which vision tokens of a sample live at each layer, for pictures of it. JSON.

        Gives `tokens` (how many vision tokens it has), `grid` (their rows and columns where they are one
        square image, else None), `kept` (per schedule and layer the indices, ascending) and `image`, its
        first image or frame as a data URI of a PNG.
        """
        sample = next(one for one in self.samples if one.id == sample_id)
        batch, kept = self._alone(sample), []
        for schedule in schedules:
            with (
                torch.inference_mode(),
                reduce_vision_tokens(self.model, schedule, batch.prompt, batch.vision) as reduction,
            ):
                self.model(**batch.inputs, use_cache=False, logits_to_keep=1)
                kept.append([layer[0][layer[0] >= 0].tolist() for layer in reduction.kept])
        tokens, side = int(batch.vision.sum()), math.isqrt(int(batch.vision.sum()))
        seen = read(sample.image, self._max_pixels)
        first = seen[0] if isinstance(seen, list) else Image.fromarray(seen.pixels[0])
        # Where rows of tokens are rows of the image: one image, all of its tokens from one square grid.
        square = isinstance(seen, list) and len(seen) == 1 and side * side == tokens
        square = square and self.model.config.model_type in _ONE_GRID
        return {
            "tokens": tokens,
            "grid": [side, side] if square else None,
            "kept": kept,
            "image": _data_uri(first),
        }


def _data_uri(image: Image.Image) -> str:
    image = image.convert("RGB")
    image.thumbnail((_SHOWN, _SHOWN))
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
