"""A model class for lmms-eval: any supported family with a schedule applied, batched."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import groupby
from typing import Any

from lmms_eval.api.model import lmms
from PIL import Image

from vtr_ray import embedded, strategies
from vtr_ray.errors import InputError
from vtr_ray.evaluation.benchmarks.evaluator import BenchmarkEvaluator
from vtr_ray.evaluation.benchmarks.loading import MAX_NEW_TOKENS
from vtr_ray.evaluation.images import as_rgb, whole_images_only
from vtr_ray.evaluation.prefix_cache import parse_size
from vtr_ray.evaluation.samples import FRAMES, Sample, SampleSet
from vtr_ray.evaluation.suites import answer_limits, images_of, video_of, visuals_of
from vtr_ray.evaluation.video import open_video
from vtr_ray.models import load_model
from vtr_ray.provenance import check_model
from vtr_ray.schedule import Schedule


class _Shown:
    """A request's images, asked of its task when their turn comes."""

    def __init__(self, visuals: Any, document: Any) -> None:
        self._visuals, self._document = visuals, document

    def pictures(self) -> list[Image.Image]:
        """All of them, RGB; it may have none."""
        with whole_images_only():  # datasets decodes on access
            visuals = self._visuals(self._document())
        return [as_rgb(visual) for visual in visuals]


class VtrRay(lmms):  # type: ignore[misc]
    """`lmms-eval --model vtr_ray --model_args pretrained=PATH,schedule=s.json --tasks mme`.

    Decodes greedily, whatever temperature a task asks for. Answers are those of `vtr-ray evaluate --suite`.

    Args:
        pretrained: a checkpoint's directory, a hub id, or `embedded`.
        schedule: a schedule file; "": nothing is reduced.
        batch_size, dtype, attn, device, max_pixels, frames, cache: as `vtr-ray evaluate` takes them.
        force: also takes a schedule that was found on another model.

    Raises:
        InputError: as `load_model`, `Schedule.load`; a schedule for another number of layers, or without
            `force` one that was found on another model.
    """

    is_simple = True

    def __init__(
        self,
        pretrained: str = embedded.NAME,
        schedule: str | Schedule = "",
        batch_size: int | str = 16,
        dtype: str = "auto",
        attn: str = "sdpa",
        device: str = "auto",
        max_pixels: int | None = None,
        frames: int = FRAMES,
        cache: str = "4GiB",
        force: bool | str = False,
    ) -> None:
        super().__init__()
        if isinstance(schedule, str) and schedule:
            name, schedule = schedule, Schedule.load(schedule)
            check_model(schedule, name, pretrained, str(force).lower() in ("true", "1"), "force=True")
        self.network, self.processor = load_model(embedded.checkpoint(pretrained), dtype, attn, device)
        layers = self.network.config.get_text_config(decoder=True).num_hidden_layers
        if isinstance(schedule, str):
            schedule = strategies.none(layers)
        if schedule.num_layers != layers:
            raise InputError(
                f"the schedule has {schedule.num_layers} layers, {pretrained} has {layers}; search one for it"
            )
        self.schedule = schedule
        self._batch_size, self._max_pixels, self._frames = int(batch_size), max_pixels, int(frames)
        self._cache = parse_size(cache)

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """Answers, in the order of the requests."""
        answers: dict[int, str] = {}
        numbered = sorted(enumerate(requests), key=lambda pair: str(pair[1].args[4]))
        for _, group in groupby(numbered, key=lambda pair: pair[1].args[4]):
            samples = SampleSet(tuple(self._samples(list(group))))
            evaluator = BenchmarkEvaluator(
                self.network,
                self.processor,
                samples,
                self._batch_size,
                cache=self._cache,
                max_pixels=self._max_pixels,
            )
            for outcome in evaluator.evaluate(self.schedule):
                answers[int(outcome.sample_id)] = outcome.answer or ""
        return [answers[place] for place in range(len(requests))]

    def _samples(self, requests: Sequence[tuple[int, Any]]) -> Iterator[Sample]:
        """Requests of one task, with their places among all."""
        _, _, _, _, task, split = requests[0][1].args
        data = self.task_dict[task][split]
        moving: bool | None = None  # unknown until a document shows something; images are read in their turn
        for place, request in requests:
            context, generation, visuals, number, *_ = request.args
            shown: Any = _Shown(partial(images_of, visuals), partial(data.__getitem__, number))
            seen = [] if moving is False else visuals_of(visuals, data[number])
            video = video_of(seen)
            moving = moving if not seen else video is not None
            if video is not None:
                shown = open_video(video, self._frames)
            limits = answer_limits(generation, MAX_NEW_TOKENS)
            yield Sample(str(place), task, shown, context, ("",), exact=False, **limits)

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Raises InputError: only answers are judged here."""
        raise InputError("the vtr_ray model writes answers; name tasks of output_type generate_until")

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        """Raises InputError: one question, one answer."""
        raise InputError("the vtr_ray model answers single questions; name tasks of one round")

    def clean(self) -> None:
        """Nothing: lmms-eval would take the model apart, and the next evaluation needs it."""
