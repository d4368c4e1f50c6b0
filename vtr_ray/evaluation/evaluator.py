"""E on a live model: holds a model and its samples, gives per-sample outcomes for any schedule."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import median_low
from typing import Any

import torch
from torch import Tensor

from vtr_ray.efficiency import MeanCost
from vtr_ray.efficiency.latency import language_times, measurable
from vtr_ray.efficiency.schedule_cost import ScheduleCost
from vtr_ray.efficiency.times import Latency
from vtr_ray.efficiency.turns import Turns
from vtr_ray.errors import InputError
from vtr_ray.evaluation import prompts
from vtr_ray.evaluation.batches import IGNORED, Tensors, build, form_batches
from vtr_ray.evaluation.greedy import arg_max, greedy
from vtr_ray.evaluation.outcome import NOT_A_NUMBER, Outcome, some_of
from vtr_ray.evaluation.prefix_cache import DEFAULT_LIMIT, PrefixCache
from vtr_ray.evaluation.samples import Sample, SampleSet, Skipped, skipped_line
from vtr_ray.evaluation.tokens import Refused, TokenCounter
from vtr_ray.evaluation.video import Seen, read
from vtr_ray.models import family_of, fetch_model, load_model
from vtr_ray.reduction import DecodeReduction, reduce_vision_tokens
from vtr_ray.reduction.kinds import layer_kinds
from vtr_ray.reduction.prefix import Prefix, close
from vtr_ray.reduction.refusals import capturable
from vtr_ray.reduction.watching import layer_scores
from vtr_ray.schedule import Schedule
from vtr_ray.withdrawal import FIRST, SAMPLES, THRESHOLD, Withdrawal, find_withdrawal

logger = logging.getLogger(__name__)

MAX_VISION_TOKENS = 1024
TIMING = 60.0  # seconds for all prefill times of a table
_KEEP_SHARE = 0.25  # of the device's free memory, for the tensors of all batches together


class Evaluator:
    """Per-sample outcomes of a model under any schedule.

    Batches are formed once over the whole sample list; a batch's images are encoded and projected when it is
    first evaluated, and kept. A shard is a set of whole batches, so shards merge to the unsharded outcomes
    exactly. Samples judged by exact match take one forward pass: greedy decoding writes the target exactly
    when every target token, end token included, is the arg-max under teacher forcing. The others generate.

    A sample that the model cannot be asked about is skipped and named, in a warning and in `describe`: the
    processor refuses its image, or a token that only vision may have stands in its answer. That depends on
    the sample alone, so that all evaluators of one model skip the same.

    Args:
        model, processor: as `load_model` gives them.
        samples: what to answer; `Evaluator.samples` is what is left of it.
        batch_size: rows of a forward pass. After out-of-memory it is halved, which is logged.
        teacher_forcing: False: all samples generate, so that every outcome has its answer.
        max_pixels: larger images are shrunk to it; None: as they are.
        cache: bytes for the states that trials share, wherever they fit (see `PrefixCache`); 0: none.
        decode: answers are written under decode-time reduction: all samples generate, and nothing is cached.

    Raises InputError: a model family that is not supported, no end token, more than 5 % skipped.
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
        cache: int = DEFAULT_LIMIT,
        decode: DecodeReduction | None = None,
    ) -> None:
        if batch_size < 1:
            raise InputError(f"batch size is {batch_size}; it must be at least 1")
        if max_pixels is not None and max_pixels < 1:
            raise InputError(f"max pixels is {max_pixels}; it must be at least 1")
        self._max_pixels = max_pixels
        self.model, self.processor, self.batch_size = model, processor, batch_size
        self._counter = TokenCounter(model, processor, max_pixels)
        self.num_layers = len(family_of(model).layers_of(model))
        self._ends = _end_tokens(model, processor).to(model.device)
        if any(sample.is_video for sample in samples):
            prompts.check_video(processor)
        self._decode = decode
        self._answers: list[list[int]] = []
        self._counts: list[tuple[int, int]] = []
        self.samples = self._answerable(samples)
        self._exact = [teacher_forcing and sample.exact and decode is None for sample in self.samples]
        targets = zip(self._answers, self._exact, strict=True)
        self._targets = [target if exact else None for target, exact in targets]
        self._lengths = [
            tokens + len(target or [])
            for target, tokens in zip(self._targets, self._prompt_lengths(), strict=True)
        ]
        self._parts = [[batch] for batch in self._formed()]
        self._tensors: dict[tuple[int, ...], Tensors] = {}
        free = torch.cuda.mem_get_info(model.device)[0] if model.device.type == "cuda" else 0
        self._device_budget = int(_KEEP_SHARE * free)
        self.prefixes = PrefixCache(cache if capturable(model) and decode is None else 0, model.device)
        self._drafts: dict[int, tuple[float, list[int]]] = {}  # by sample: best score, its tokens

    def _prompt_lengths(self) -> list[int]:
        """Tokens of each sample's prompt, by which batches are formed."""
        return [vision + text for vision, text in self.token_counts()]

    def _answerable(self, samples: SampleSet) -> SampleSet:
        """The samples that the model can be asked about; warns of the others."""
        kept: list[Sample] = []
        refused: list[Skipped] = []
        for sample in samples:
            try:
                answer, count = self._answer(sample), self._counter.count(sample)
            except Refused as error:
                refused.append(Skipped(sample.id, str(error)))
            else:
                kept.append(sample)
                self._answers.append(answer)
                self._counts.append(count)
        if not refused:
            return samples
        logger.warning("%s", skipped_line(samples.where, refused))
        return replace(samples, samples=tuple(kept), skipped=(*samples.skipped, *refused))

    def _answer(self, sample: Sample) -> list[int]:
        """Tokens of the right answer; [] where a task judges.

        Raises Refused where no model writes it, also where this evaluator compares no tokens: all skip alike.
        """
        if sample.target is not None:
            target = list(sample.target)
        elif not sample.answers or not (sample.exact or sample.judge is None):
            return []
        else:
            target = prompts.target_ids(self.processor, sample.question, sample.answers[0], sample.is_video)
        if not target and sample.target is None:
            raise Refused(f"the tokenizer has no tokens for the answer {sample.answers[0]!r}")
        if self._counter.vision_tokens(target):
            raise Refused(f"its answer {sample.answers[0]!r} holds a placeholder of images or videos")
        return target

    def _formed(self) -> list[tuple[int, ...]]:
        """The batches: indices of samples."""
        shown = [
            "video" if sample.is_video else "image" if vision else ""
            for sample, (vision, _) in zip(self.samples, self._counts, strict=True)
        ]
        return form_batches(self._exact, self._lengths, self.batch_size, shown)

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
        return min(self.sample_tokens[0], MAX_VISION_TOKENS)

    def token_counts(self) -> list[tuple[int, int]]:
        """Vision and text tokens of each sample's prompt, in the order of the samples."""
        return list(self._counts)

    def evaluate(self, schedule: Schedule, batches: Sequence[int] | None = None) -> list[Outcome]:
        """Outcomes of the samples in `batches` (indices below `num_batches`; None: all), in their order.

        A sample whose logits are NaN counts as wrong, and its outcome says why.
        Raises InputError: a schedule for another number of layers. torch.OutOfMemoryError: not even one
        sample at a time fits.
        """
        if schedule.num_layers != self.num_layers:
            raise InputError(
                f"the schedule has {schedule.num_layers} layers, the model {self.num_layers}; "
                "make or search one for this model"
            )
        outcomes: list[Outcome] = []
        with torch.inference_mode():
            for number in range(self.num_batches) if batches is None else batches:
                try:
                    outcomes += self._evaluate(number, schedule)
                except RuntimeError as error:
                    if not _out_of_memory(error):
                        raise
                    raise torch.OutOfMemoryError(
                        f"out of memory at one sample at a time (batch {number}); give each actor more "
                        "memory: fewer actors, --gpus-per-actor 2, or a larger device (smaller images, "
                        "--max-pixels, are another search)"
                    ) from error
        return outcomes

    def _evaluate(self, number: int, schedule: Schedule) -> list[Outcome]:
        outcomes: list[Outcome] = []
        parts, place, released = self._parts[number], 0, 0
        while place < len(parts):
            part = parts[place]
            try:
                outcomes += self._outcomes(part, schedule)
                place += 1
                if released:  # so it was the cache that took too much
                    self.prefixes.shrink(released // 2)
                released = 0
                continue
            except RuntimeError as error:
                if not _out_of_memory(error):
                    raise
                moved = self._move_inputs()
                released = 0 if moved else self.prefixes.release()
                if not moved and not released and len(part) == 1:
                    raise
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            if released:
                logger.warning("Out of memory: the prefix cache (%d MiB) is given up.", released >> 20)
            if not moved and not released:
                self._halve(part)
        return outcomes

    def _move_inputs(self) -> bool:
        """After out-of-memory: keep no batch's inputs on the device. False: none were."""
        resident = [part for part, batch in self._tensors.items() if self._resident(batch)]
        if not resident:
            return False
        size = sum(self._tensors[part].bytes for part in resident)
        for part in resident:
            self._tensors[part] = self._tensors[part].map(Tensor.cpu)
        self._device_budget = 0
        logger.warning("Out of memory: the batches' inputs (%d MiB) move to host memory.", size >> 20)
        return True

    def _halve(self, refused: tuple[int, ...]) -> None:
        """Halve a batch for good, with all that need as much: else each would cost the whole cache."""
        most, count = self._need(refused), 0
        for parts in self._parts:
            for place, part in reversed(list(enumerate(parts))):
                alike = self._exact[part[0]] == self._exact[refused[0]]
                if part == refused or (len(part) > 1 and alike and self._need(part) >= most):
                    parts[place : place + 1] = [part[: len(part) // 2], part[len(part) // 2 :]]
                    self._tensors.pop(part, None)
                    self.prefixes.forget(part)
                    count += 1
        logger.warning(
            "Out of memory: %d samples at once are too many; %s halved for good.",
            len(refused),
            "one batch is" if count == 1 else f"{count} batches are",
        )

    def _need(self, part: tuple[int, ...]) -> int:
        """Tokens of a batch, padding included."""
        return len(part) * max(self._lengths[index] for index in part)

    @staticmethod
    def _resident(batch: Tensors) -> bool:
        """Whether a batch that is kept takes the device's memory."""
        return batch.mask.is_cuda

    def _outcomes(self, part: tuple[int, ...], schedule: Schedule) -> list[Outcome]:
        layer = self.prefixes.layer(schedule)
        prefix = None if layer is None else self.prefixes.get(part, schedule)
        batch = self._batch(part, whole=prefix is None)
        samples = [self.samples.samples[index] for index in part]
        exact = self._exact[part[0]]
        if layer is not None and prefix is not None and layer <= prefix.layer:
            layer = None
        with reduce_vision_tokens(
            self.model, schedule, batch.prompt, batch.vision, capture=layer, decode=self._decode
        ) as reduction:
            keep = batch.targets.shape[1] if exact else 1
            first: Any
            if prefix is None:
                first = self.model(**batch.inputs, use_cache=not exact, logits_to_keep=keep)
            else:
                first = reduction.resume(prefix, keep, use_cache=not exact)
            taken = reduction.prefix
            if exact:
                outcomes = self._decided(samples, batch, first.logits)
            else:
                outcomes = self._generated(part, batch, first)
        if taken is not None and self._trusted(taken, batch, schedule, first.logits):
            self.prefixes.put(part, taken)
        return outcomes

    def _trusted(self, prefix: Prefix, batch: Tensors, schedule: Schedule, logits: Tensor) -> bool:
        """Whether the layers from a prefix on give what the whole model gave; asked once, of the first."""
        if not self.prefixes.checked:
            keep = logits.shape[1]
            with reduce_vision_tokens(
                self.model, schedule, prompt_mask=batch.prompt, vision_mask=batch.vision
            ) as reduction:
                again = reduction.resume(prefix, keep).logits
            if again.shape != logits.shape or not close(again, logits):
                name = type(self.model).__name__
                self.prefixes.switch_off(
                    f"{name} does more between its layers than is known here; trials run whole"
                )
                return False
            self.prefixes.checked = True
        return True

    def _decided(self, samples: Sequence[Sample], batch: Tensors, logits: Tensor) -> list[Outcome]:
        """1 where every target token and, of targets that end, an end token after them are the arg-max."""
        ignored = batch.targets == IGNORED
        predicted, bad = arg_max(logits)
        right = (predicted == batch.targets) | ignored
        right[:, -1] = torch.isin(predicted[:, -1], self._ends) | ignored[:, -1]
        lost = (bad & ~ignored).any(1)
        found = zip(samples, (right.all(1) & ~lost).tolist(), lost.tolist(), strict=True)
        return [Outcome(one.id, float(hit), error=NOT_A_NUMBER if none else None) for one, hit, none in found]

    def _generated(self, part: tuple[int, ...], batch: Tensors, first: Any) -> list[Outcome]:
        samples = [self.samples.samples[index] for index in part]
        limits = [_limit(sample) for sample in samples]
        stepwise = self._decode is not None or self._windowed(batch, limits)
        drafts = None if stepwise else [self._draft(index)[1] for index in part]
        answers = greedy(self.model, batch, self._ends, limits, first, drafts)
        outcomes = [self._judged(sample, tokens) for sample, tokens in zip(samples, answers, strict=True)]
        for index, tokens, outcome in zip(part, answers, outcomes, strict=True):
            if tokens is not None and outcome.score > self._draft(index)[0]:
                self._drafts[index] = outcome.score, tokens
        return outcomes

    def _draft(self, index: int) -> tuple[float, list[int]]:
        """What a sample that generates will likely write: the best answer so far, at first the right one."""
        if index not in self._drafts:
            sample = self.samples.samples[index]
            if sample.target is not None:
                tokens = list(sample.target)
            elif not sample.answers:
                tokens = []
            else:
                answer = sample.answers[0]
                tokens = prompts.target_ids(self.processor, sample.question, answer, sample.is_video)
            self._drafts[index] = 0.0, [] if self._counter.vision_tokens(tokens) else tokens
        return self._drafts[index]

    def _windowed(self, batch: Tensors, limits: list[int]) -> bool:
        kinds = layer_kinds(family_of(self.model).decoder_of(self.model).config)
        length = batch.mask.shape[1] + 2 * max(limits)
        return any(kind.window is not None and kind.window < length for kind in kinds)

    def _judged(self, sample: Sample, tokens: list[int] | None) -> Outcome:
        if tokens is None:
            return Outcome(sample.id, 0.0, answer="", error=NOT_A_NUMBER)
        answer = self._text(sample, tokens)
        if sample.target is not None:
            return Outcome(sample.id, float(tuple(tokens) == sample.target), answer.strip())
        return Outcome(sample.id, sample.score(answer), answer.strip())

    def _text(self, sample: Sample, tokens: list[int]) -> str:
        answer: str = self.processor.tokenizer.decode(tokens, skip_special_tokens=True)
        for stop in sample.until:
            answer = answer.split(stop)[0] if stop else answer
        return answer

    def _batch(self, part: tuple[int, ...], whole: bool = True) -> Tensors:
        """The batch on the model's device; not `whole`: without what only the first layer needs."""
        if part not in self._tensors:
            try:
                tensors = self._build(part)
            except Refused as error:  # not for its size, which was asked about before
                ids = [self.samples.samples[index].id for index in part]
                raise Refused(f"{some_of(ids)}: {error}") from error
            kept = sum(batch.bytes for batch in self._tensors.values() if self._resident(batch))
            if self._resident(tensors) and kept + tensors.bytes > self._device_budget:
                tensors = tensors.map(Tensor.cpu)
            self._tensors[part] = tensors
        tensors = self._tensors[part]
        tensors = tensors if whole else tensors.without_features()
        return tensors.map(lambda tensor: tensor.to(self.model.device))

    def _build(self, part: tuple[int, ...]) -> Tensors:
        return build(
            self.model,
            self.processor,
            [self.samples.samples[index] for index in part],
            [self._targets[index] for index in part],
            int(self._ends[0]),
            self._max_pixels,
            self._seen(part),
        )

    def _seen(self, part: tuple[int, ...]) -> list[Seen] | None:
        """What was read of a batch's samples already; None: nothing."""
        return None

    @property
    def text_tokens(self) -> int:
        """Text tokens of a sample's prompt, the (lower) median over the samples."""
        return median_low(text for _, text in self.token_counts())

    @property
    def sample_tokens(self) -> tuple[int, int]:
        """Vision and text tokens of a sample's prompt, the (lower) medians over the samples."""
        return median_low(vision for vision, _ in self.token_counts()), self.text_tokens

    def costs(
        self, schedules: Sequence[Schedule], new_tokens: int = 1, target: float | None = None
    ) -> list[ScheduleCost]:
        """Return what each schedule costs: counted as the mean over the samples, timed on one of them.

        Timed is the language model alone, at batch 1 on a sample of median vision and text tokens, all
        schedules in turns; not at all where the model is too small to tell schedules apart (`measurable`),
        unless there is a target.

        Args:
            schedules: of this model's number of layers.
            new_tokens: what is timed: the prefill's own token and those decoded after it.
            target: seconds that prefills are to be told apart from.
        """
        mean = MeanCost(self.model.config, self.token_counts())
        times: list[tuple[Latency | None, Latency | None]] = [(None, None)] * len(schedules)
        if target is not None or measurable(self.model.config, *self.sample_tokens):
            turns = Turns(seconds=TIMING)
            times = list(
                language_times(
                    self.model, schedules, *self.sample_tokens, new_tokens, turns=turns, target=target
                )
            )
        return [
            ScheduleCost(
                mean.memory_cost(schedule),
                mean.tflops(schedule),
                mean.tflops(schedule, "executed"),
                mean.samples,
                *own,
            )
            for schedule, own in zip(schedules, times, strict=True)
        ]

    def find_withdrawal(
        self, count: int = SAMPLES, threshold: float = THRESHOLD, first: int = FIRST
    ) -> Withdrawal:
        """VTW's search for its K on the prompts of `count` samples, spread evenly over all of them.

        Raises InputError as `vtr_ray.withdrawal.find_withdrawal` does.
        """
        count = min(count, len(self.samples))
        chosen = [self.samples.samples[number * len(self.samples) // count] for number in range(count)]
        prompted = (self._prompted(sample) for sample in chosen)
        return find_withdrawal(self.model, prompted, threshold=threshold, first=first)

    def _prompted(self, sample: Sample) -> Any:
        """The processor's inputs of one sample's prompt, on the model's device."""
        seen = read(sample.image, self._max_pixels)
        images = len(seen) if isinstance(seen, list) else 1
        text = prompts.prompt_text(self.processor, sample.question, sample.is_video, images)
        inputs = prompts.encode(self.processor, [seen], [text])
        return inputs.to(self.model.device, dtype=self.model.dtype)

    def _alone(self, sample: Sample) -> Tensors:
        """A batch of one sample's prompt, on the model's device; not kept."""
        batch = build(self.model, self.processor, [sample], [None], int(self._ends[0]), self._max_pixels)
        return batch.map(lambda tensor: tensor.to(self.model.device))

    def answers(self, sample_ids: Sequence[str]) -> dict[str, str]:
        """Return what the model answers to some samples without reduction, by id, those of one pass included.

        "" where its logits are NaN. Nothing is kept.
        """
        samples = {sample.id: sample for sample in self.samples}
        found = {}
        with torch.inference_mode():
            for sample in (samples[name] for name in sample_ids):
                limits = [sample.max_new_tokens]
                (tokens,) = greedy(self.model, self._alone(sample), self._ends, limits)
                found[sample.id] = "" if tokens is None else self._text(sample, tokens)
        return found

    def vision_scores(self, place: int) -> list[list[float]]:
        """By layer, the scores of all vision tokens of the sample at that place, nothing being reduced."""
        batch = self._alone(self.samples.samples[place])
        found = layer_scores(self.model, batch.inputs, batch.vision, batch.prompt)
        return [layer[0].tolist() for layer in found]

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
    threads: of torch in the process that builds; None: as they are. kind: what is built; the rest: as it
        takes it.
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
    cache: int = DEFAULT_LIMIT
    decode: DecodeReduction | None = None
    kind: type[Evaluator] = Evaluator

    def build(self) -> Evaluator:
        """Load the model and the samples. Raises InputError as they do.

        A hub's model is downloaded once per machine, also to one that joins a running cluster.
        """
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        samples = self.samples if isinstance(self.samples, SampleSet) else self.samples()
        fetch_model(self.model)
        model, processor = load_model(self.model, dtype=self.dtype, attn=self.attn, device=self.device)
        return self.kind(
            model,
            processor,
            samples,
            self.batch_size,
            teacher_forcing=self.teacher_forcing,
            max_pixels=self.max_pixels,
            cache=self.cache,
            decode=self.decode,
        )


def _limit(sample: Sample) -> int:
    """New tokens at most: one more than a target that ends, so that an answer of its length has ended."""
    return sample.max_new_tokens if sample.target is None else len(sample.target) + sample.target_ends


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
