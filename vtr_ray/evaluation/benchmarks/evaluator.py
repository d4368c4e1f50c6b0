"""The evaluator of benchmarks: everything generates, batches hold one task's documents, few are kept."""

from __future__ import annotations

import base64
import io
import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from PIL import Image

from vtr_ray.evaluation import prompts
from vtr_ray.evaluation.batches import Tensors, form_batches, read_sample
from vtr_ray.evaluation.benchmarks.content import content_digest
from vtr_ray.evaluation.evaluator import Evaluator
from vtr_ray.evaluation.outcome import Outcome
from vtr_ray.evaluation.samples import NOTHING, Sample, SampleSet
from vtr_ray.evaluation.suites import spread_documents
from vtr_ray.evaluation.tokens import Refused
from vtr_ray.evaluation.video import Clip, Seen
from vtr_ray.reduction import reduce_vision_tokens
from vtr_ray.schedule import Schedule

logger = logging.getLogger(__name__)

_COUNTED = 64  # samples whose images are read to tell how many tokens a sample has
_SHOWN = 448  # pixels a side, at most, of an image in a report
_ONE_GRID = ("llava", "gemma3")  # families that scale an image to one square of tokens


class BenchmarkEvaluator(Evaluator):
    """Answers to a benchmark's documents under any schedule.

    Batches hold documents of one task and are formed by the length of their text, so that what a document
    answers does not depend on what else is asked, and no image is read before its turn. Encoded images are
    kept for the schedules that follow, as far as `cache` goes; the states that trials share are not.

    Every document is answered: one that shows nothing, or what the processor refuses, from its text alone,
    as lmms-eval's own models do. What is refused is named in a warning.
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
        self._kinds: dict[int, str] = {}  # by sample: what it shows the model, once that was read
        self._read: dict[int, Seen] = {}  # of the samples whose turn it is

    def _answerable(self, samples: SampleSet) -> SampleSet:
        self._answers = [[] for _ in samples]
        return samples

    def _prompt_lengths(self) -> list[int]:
        # An image's tokens are unknown before it is read, and documents of one task have similar images.
        return [
            prompts.prompt_length(
                self.processor, prompts.prompt_text(self.processor, one.question, one.is_video)
            )
            for one in self.samples
        ]

    def _formed(self) -> list[tuple[int, ...]]:
        sources = [sample.source for sample in self.samples]
        return form_batches(self._exact, self._lengths, self.batch_size, sources=sources)

    def token_counts(self) -> list[tuple[int, int]]:
        """Vision and text tokens of the prompts of at most 64 samples, spread over all, in their order."""
        if not self._counts:
            places = spread_documents(len(self.samples), _COUNTED)
            self._counts = [self._count(self.samples.samples[place]) for place in places]
        return list(self._counts)

    def _count(self, sample: Sample) -> tuple[int, int]:
        try:
            return self._counter.count(sample)
        except Refused:  # it is asked by its text alone
            return self._counter.count(replace(sample, image=NOTHING))

    def _outcomes(self, part: tuple[int, ...], schedule: Schedule) -> list[Outcome]:
        """Of a batch, those that show images, those that show a video and those that show nothing apart."""
        for index in part:
            self._look(index)
        found: dict[int, Outcome] = {}
        left = list(part)
        while left:
            group = tuple(index for index in left if self._kinds[index] == self._kinds[left[0]])
            try:
                found |= zip(group, super()._outcomes(group, schedule), strict=True)
            except Refused:
                if not self._take_away(group):
                    raise
            left = [index for index in left if index not in found]
        self._read.clear()
        return [found[index] for index in part]

    def _look(self, index: int) -> None:
        """Read what a sample shows, before its first batch: only then is it known."""
        if index not in self._kinds:
            sample = self.samples.samples[index]
            self._read[index] = read_sample(sample, self._max_pixels)
            self._kinds[index] = sample.kind if self._read[index] != [] else ""

    def _seen(self, part: tuple[int, ...]) -> list[Seen]:
        return [self._shown(index) for index in part]

    def _shown(self, index: int) -> Seen:
        if self._kinds[index] == "":
            return []
        if index not in self._read:
            self._read[index] = read_sample(self.samples.samples[index], self._max_pixels)
        return self._read[index]

    def _take_away(self, group: tuple[int, ...]) -> bool:
        """Take from the samples that the processor refuses what they show; False: it refuses none alone."""
        refused = False
        for index in group:
            try:
                self._build((index,))
            except Refused as error:
                name = self.samples.samples[index].id
                logger.warning("%s is answered from its text alone: %s", name, error)
                self._kinds[index], refused = "", True
        return refused

    def _batch(self, part: tuple[int, ...], whole: bool = True) -> Tensors:
        batch = super()._batch(part, whole)
        while len(self._tensors) > 1 and sum(one.bytes for one in self._tensors.values()) > self._keep:
            self._tensors.pop(next(other for other in self._tensors if other != part))
        return batch

    def contents(self, part: int, parts: int) -> dict[str, str]:
        """Digests of what the samples show, by id: of every `parts`-th sample from the one at `part` on."""
        return {one.id: content_digest(one.image) for one in self.samples.samples[part::parts]}

    def numerics(self) -> str:
        """The precision and the kind of device that answer: "float32 on cpu"."""
        return f"{str(self.model.dtype).removeprefix('torch.')} on {self.model.device.type}"

    def batches(self) -> list[list[str]]:
        """Of each batch the ids of its samples."""
        return [[self.samples.samples[index].id for part in parts for index in part] for parts in self._parts]

    def alive(self, sample_id: str, schedules: Sequence[Schedule]) -> dict[str, Any]:
        """Which vision tokens of a sample live at each layer, for pictures of it. JSON.

        Gives `tokens` (how many vision tokens it has), `grid` (their rows and columns where they are one
        square image, else None), `kept` (per schedule and layer the indices, ascending) and `image`, its
        first image or frame as a data URI of a PNG (None: it shows nothing).
        """
        index = next(place for place, one in enumerate(self.samples) if one.id == sample_id)
        self._look(index)
        try:
            batch = self._build((index,))
        except Refused:
            self._kinds[index] = ""
            batch = self._build((index,))
        batch, kept = batch.map(lambda tensor: tensor.to(self.model.device)), []
        for schedule in schedules:
            with (
                torch.inference_mode(),
                reduce_vision_tokens(self.model, schedule, batch.prompt, batch.vision) as reduction,
            ):
                self.model(**batch.inputs, use_cache=False, logits_to_keep=1)
                kept.append([layer[0][layer[0] >= 0].tolist() for layer in reduction.kept])
        tokens, side = int(batch.vision.sum()), math.isqrt(int(batch.vision.sum()))
        seen = self._shown(index)
        self._read.clear()
        first = Image.fromarray(seen.pixels[0]) if isinstance(seen, Clip) else (*seen, None)[0]
        # Where rows of tokens are rows of the image: one image, all of its tokens from one square grid.
        square = isinstance(seen, list) and len(seen) == 1 and side * side == tokens
        square = square and self.model.config.model_type in _ONE_GRID
        return {
            "tokens": tokens,
            "grid": [side, side] if square else None,
            "kept": kept,
            "image": None if first is None else _data_uri(first),
        }


def _data_uri(image: Image.Image) -> str:
    image = image.copy()  # a thumbnail is made in place
    image.thumbnail((_SHOWN, _SHOWN))
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
