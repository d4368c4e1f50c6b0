"""E on a live model: holds a model and its samples, gives per-sample outcomes for any schedule."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import median_low
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from vtr_ray.efficiency import count_flops, prefill_times
from vtr_ray.errors import InputError
from vtr_ray.evaluation import prompts
from vtr_ray.evaluation.batches import IGNORED, Tensors, build, form_batches
from vtr_ray.evaluation.greedy import NotANumber, arg_max, greedy
from vtr_ray.evaluation.outcome import Outcome
from vtr_ray.evaluation.samples import Sample, SampleSet, image_size, read_image
from vtr_ray.models import family_of, load_model
from vtr_ray.reduction import reduce_vision_tokens
from vtr_ray.schedule import Schedule
from vtr_ray.withdrawal import FIRST, SAMPLES, THRESHOLD, Withdrawal, find_withdrawal

logger = logging.getLogger(__name__)

MAX_VISION_TOKENS = 1024
_KEEP_SHARE = 0.25  # of the device's free memory, for the tensors of all batches together


class Evaluator:
    """Per-sample outcomes of a model under any schedule.

    Batches are formed once over the whole sample list; a batch's images are encoded and projected when it is
    first evaluated, and kept. A shard is a set of whole batches, so shards merge to the unsharded outcomes
    exactly. Samples judged by exact match take one forward pass: greedy decoding writes the target exactly
    when every target token, end token included, is the arg-max under teacher forcing. The others generate.

    Args:
        model, processor: as `load_model` gives them.
        samples: what to answer.
        batch_size: rows of a forward pass. After out-of-memory a batch is halved, which is logged.
        teacher_forcing: False: all samples generate, so that every outcome has its answer.
        max_pixels: larger images are shrunk to it; None: as they are.

    Raises InputError: a model family that is not supported, no end token, an answer without tokens.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        samples: SampleSet,
        batch_size: int = 32,
        *,
        teacher_forcing: bool = True,
        max_pixels: int | None = None,
    ) -> None:
        if batch_size < 1:
            raise InputError(f"batch size is {batch_size}; it must be at least 1")
        if max_pixels is not None and max_pixels < 1:
            raise InputError(f"max pixels is {max_pixels}; it must be at least 1")
        self._max_pixels = max_pixels
        self.model, self.processor, self.samples, self.batch_size = model, processor, samples, batch_size
        self.num_layers = len(family_of(model).layers_of(model))
        self._ends = _end_tokens(model, processor).to(model.device)
        self._exact = [teacher_forcing and sample.exact for sample in samples]
        self._targets = [
            _target(processor, sample) if exact else []
            for sample, exact in zip(samples, self._exact, strict=True)
        ]
        lengths = [
            count
            + len(target)
            + prompts.prompt_length(processor, prompts.prompt_text(processor, sample.question))
            for sample, target, count in zip(samples, self._targets, self._vision_counts, strict=True)
        ]
        self._parts = [[batch] for batch in form_batches(self._exact, lengths, batch_size)]
        self._tensors: dict[tuple[int, ...], Tensors] = {}
        free = torch.cuda.mem_get_info(model.device)[0] if model.device.type == "cuda" else 0
        self._device_budget = int(_KEEP_SHARE * free)

    @property
    def num_batches(self) -> int:
        """Batches over the whole sample list."""
        return len(self._parts)

    @property
    def num_samples(self) -> int:
        """Readable samples."""
        return len(self.samples)

    @property
    def vision_tokens(self) -> int:
        """Vision tokens of a sample, the (lower) median over the samples, at most 1024."""
        return min(median_low(self._vision_counts), MAX_VISION_TOKENS)

    @cached_property
    def _vision_counts(self) -> list[int]:
        # The processor decides by the image's size, so one image of each size is enough.
        family = family_of(self.model)
        known: dict[tuple[int, int], int] = {}
        counts = []
        for sample in self.samples:
            size = image_size(sample.image, self._max_pixels)
            if size not in known:
                text = prompts.prompt_text(self.processor, sample.question)
                ids = prompts.encode(self.processor, [Image.new("RGB", size)], [text])["input_ids"]
                known[size] = int(family.is_vision(self.model.config, ids).sum())
            counts.append(known[size])
        return counts

    def evaluate(self, schedule: Schedule, batches: Sequence[int] | None = None) -> list[Outcome]:
        """Outcomes of the samples in `batches` (indices below `num_batches`; None: all), in their order.

        Raises InputError: a schedule for another number of layers, logits that are not numbers.
        """
        if schedule.num_layers != self.num_layers:
            raise InputError(
                f"the schedule has {schedule.num_layers} layers, the model {self.num_layers}; "
                "make or search one for this model"
            )
        outcomes: list[Outcome] = []
        with torch.inference_mode():
            for number in range(self.num_batches) if batches is None else batches:
                outcomes += self._evaluate(number, schedule)
        return outcomes

    def _evaluate(self, number: int, schedule: Schedule) -> list[Outcome]:
        outcomes: list[Outcome] = []
        parts, place = self._parts[number], 0
        while place < len(parts):
            part = parts[place]
            try:
                outcomes += self._outcomes(part, schedule)
                place += 1
                continue
            except RuntimeError as error:
                if not _out_of_memory(error) or len(part) == 1:
                    raise
            half = len(part) // 2
            logger.warning(
                "Out of memory: batch %d, %d samples at once, is halved for good.", number, len(part)
            )
            parts[place : place + 1] = [part[:half], part[half:]]
            self._tensors.pop(part, None)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        return outcomes

    def _outcomes(self, part: tuple[int, ...], schedule: Schedule) -> list[Outcome]:
        batch = self._batch(part)
        samples = [self.samples.samples[index] for index in part]
        exact = self._exact[part[0]]
        try:
            with reduce_vision_tokens(
                self.model, schedule, prompt_mask=batch.prompt, vision_mask=batch.vision
            ):
                if exact:
                    scores = self._decided(batch)
                    return [Outcome(sample.id, score) for sample, score in zip(samples, scores, strict=True)]
                limits = [sample.max_new_tokens for sample in samples]
                answers = greedy(self.model, batch, self._ends, limits)
        except NotANumber as error:
            names = ", ".join(samples[row].id for row in error.rows[:3])
            raise InputError(
                f"the logits of {len(error.rows)} samples ({names}) are NaN; "
                "load the model in float32 or bfloat16, or mend the checkpoint"
            ) from error
        return [self._judged(sample, tokens) for sample, tokens in zip(samples, answers, strict=True)]

    def _decided(self, batch: Tensors) -> list[float]:
        """1 where every target token and an end token after them are the arg-max, else 0."""
        logits = self.model(**batch.inputs, use_cache=False, logits_to_keep=batch.targets.shape[1]).logits
        ignored = batch.targets == IGNORED
        predicted = arg_max(logits, ignored)
        right = (predicted == batch.targets) | ignored
        right[:, -1] = torch.isin(predicted[:, -1], self._ends)
        scores: list[float] = right.all(1).float().tolist()
        return scores

    def _judged(self, sample: Sample, tokens: list[int]) -> Outcome:
        answer: str = self.processor.tokenizer.decode(tokens, skip_special_tokens=True)
        for stop in sample.until:
            answer = answer.split(stop)[0] if stop else answer
        return Outcome(sample.id, sample.score(answer), answer.strip())

    def _batch(self, part: tuple[int, ...]) -> Tensors:
        if part not in self._tensors:
            tensors = build(
                self.model,
                self.processor,
                [self.samples.samples[index] for index in part],
                [self._targets[index] for index in part],
                int(self._ends[0]),
                self._max_pixels,
            )
            kept = sum(batch.bytes for batch in self._tensors.values() if batch.mask.is_cuda)
            if tensors.mask.is_cuda and kept + tensors.bytes > self._device_budget:
                tensors = tensors.map(Tensor.cpu)
            self._tensors[part] = tensors
        return self._tensors[part].map(lambda tensor: tensor.to(self.model.device))

    @cached_property
    def text_tokens(self) -> int:
        """Text tokens of a sample's prompt, the (lower) median over the samples."""
        return median_low(
            prompts.prompt_length(self.processor, prompts.prompt_text(self.processor, sample.question))
            for sample in self.samples
        )

    @property
    def sample_tokens(self) -> tuple[int, int]:
        """Vision and text tokens of a sample's prompt, the (lower) medians over the samples."""
        return median_low(self._vision_counts), self.text_tokens

    def costs(self, schedules: Sequence[Schedule]) -> list[tuple[float, float]]:
        """TFLOPs (paper's convention) and median prefill seconds of each schedule, at batch 1.

        For a sample of median vision and text tokens. The prefill is the language model's alone, all
        schedules timed in turn.
        """
        tokens = median_low(self._vision_counts)
        times = prefill_times(self.model, schedules, tokens, self.text_tokens)
        return [
            (count_flops(self.model.config, schedule, tokens, self.text_tokens).total / 1e12, time.median)
            for schedule, time in zip(schedules, times, strict=True)
        ]

    def find_withdrawal(
        self, count: int = SAMPLES, threshold: float = THRESHOLD, first: int = FIRST
    ) -> Withdrawal:
        """VTW's search for its K on the prompts of `count` samples, spread evenly over all of them.

        Raises InputError as `vtr_ray.withdrawal.find_withdrawal` does.
        """
        count = min(count, len(self.samples))
        chosen = [self.samples.samples[number * len(self.samples) // count] for number in range(count)]
        prompted = (
            prompts.encode(
                self.processor,
                [read_image(sample.image, self._max_pixels)],
                [prompts.prompt_text(self.processor, sample.question)],
            ).to(self.model.device, dtype=self.model.dtype)
            for sample in chosen
        )
        return find_withdrawal(self.model, prompted, threshold=threshold, first=first)

    def sources(self) -> dict[str, str]:
        """Sample id -> source."""
        return {sample.id: sample.source for sample in self.samples}

    def describe(self) -> dict[str, Any]:
        """JSON: the model, how it runs, and the samples, those skipped by name and reason."""
        parameters = sum(parameter.numel() for parameter in self.model.parameters())
        return {
            "model": self.model.config.name_or_path,
            "parameters": parameters,
            "layers": self.num_layers,
            "vision_tokens": self.vision_tokens,
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "attention": self.model.config._attn_implementation,
            "device": str(self.model.device),
            "batch_size": self.batch_size,
            "batches": self.num_batches,
            "decided_in_one_pass": sum(self._exact),
            "samples": self.samples.describe(),
        }


@dataclass(frozen=True)
class EvaluatorSpec:
    """How to make an evaluator, anywhere: pickles, and `build` is the factory of a pool's actors.

    model, dtype, attn, device: as `load_model` takes them.
    samples: a set, or what gives one where it is built (`functools.partial(load_tasks, NAMES, FOLDER)`).
    threads: of torch in the process that builds; None: as they are. The rest: as `Evaluator` takes it.
    """

    model: str
    samples: SampleSet | Callable[[], SampleSet]
    batch_size: int = 32
    dtype: str = "auto"
    attn: str = "sdpa"
    device: str = "auto"
    threads: int | None = None
    teacher_forcing: bool = True
    max_pixels: int | None = None

    def build(self) -> Evaluator:
        """Load the model and the samples. Raises InputError as they do."""
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        samples = self.samples if isinstance(self.samples, SampleSet) else self.samples()
        model, processor = load_model(self.model, dtype=self.dtype, attn=self.attn, device=self.device)
        return Evaluator(
            model,
            processor,
            samples,
            self.batch_size,
            teacher_forcing=self.teacher_forcing,
            max_pixels=self.max_pixels,
        )


def _target(processor: Any, sample: Sample) -> list[int]:
    target = prompts.target_ids(processor, sample.question, sample.answers[0])
    if not target:
        raise InputError(
            f"sample {sample.id}: the tokenizer has no tokens for the answer {sample.answers[0]!r}"
        )
    return target


def _end_tokens(model: Any, processor: Any) -> Tensor:
    end = model.generation_config.eos_token_id
    if end is None:
        end = processor.tokenizer.eos_token_id
    if end is None:
        raise InputError("the checkpoint names no end token; set eos_token_id in its generation_config.json")
    return torch.tensor(end if isinstance(end, list) else [end], dtype=torch.int64)


def _out_of_memory(error: RuntimeError) -> bool:
    # On the CPU an allocation fails with a plain RuntimeError.
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
