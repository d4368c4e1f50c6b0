"""Batches, formed once over the whole sample list, and their tensors, built once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from vtr_ray.errors import InputError
from vtr_ray.evaluation import prompts
from vtr_ray.evaluation.samples import Sample
from vtr_ray.evaluation.tokens import refusal
from vtr_ray.evaluation.video import Seen, read
from vtr_ray.models import encode, family_of, model_inputs

IGNORED = -100


@dataclass(frozen=True)
class Tensors:
    """What a forward pass over a batch needs. Rows are left-padded, so that all end together.

    inputs: keyword arguments of the call, vision features in place of pixels; of them
        mask: int64 [batch, seq], 0 at padding, and positions: int64 [batch, seq] or [3, batch, seq].
    prompt, vision: bool [batch, seq]; target tokens are not prompt.
    targets: int64 [batch, longest target + 1], the tokens that the last places must yield, right-aligned,
        end token (any of the model's, here the first) included, `IGNORED` before; where a sample's target
        has no end, `IGNORED` in the end token's place; zero columns where the batch generates.
    """

    inputs: Mapping[str, Any]
    prompt: Tensor
    vision: Tensor
    targets: Tensor

    @property
    def mask(self) -> Tensor:
        """The call's attention mask."""
        mask: Tensor = self.inputs["attention_mask"]
        return mask

    @property
    def positions(self) -> Tensor:
        """The call's position ids."""
        positions: Tensor = self.inputs["position_ids"]
        return positions

    def without_features(self) -> Tensors:
        """The same without what only layers 1 and on from the start need: embeddings and vision features."""
        kept = {name: self.inputs[name] for name in ("attention_mask", "position_ids")}
        return replace(self, inputs=kept)

    def map(self, function: Callable[[Tensor], Tensor]) -> Tensors:
        """The same batch with `function` of every tensor."""
        return Tensors(**{field.name: _mapped(getattr(self, field.name), function) for field in fields(self)})

    @property
    def bytes(self) -> int:
        """Bytes of all tensors together."""
        sizes: list[int] = []

        def count(tensor: Tensor) -> Tensor:
            sizes.append(tensor.nbytes)
            return tensor

        self.map(count)
        return sum(sizes)


def _mapped(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, Mapping):  # a dict, or a model's output
        return type(value)(**{name: _mapped(entry, function) for name, entry in value.items()})
    if isinstance(value, list | tuple):
        return type(value)(_mapped(entry, function) for entry in value)
    return value


def form_batches(
    exact: Sequence[bool],
    lengths: Sequence[int],
    batch_size: int,
    shown: Sequence[str] | None = None,
    sources: Sequence[str] | None = None,
) -> list[tuple[int, ...]]:
    """Indices of samples, batch by batch: those decided in one pass apart from those that generate, similar
    lengths together, ties in the order of the samples. Depends on nothing else.

    shown: what each sample shows, where given; no batch has samples of two kinds ("image" and "video").
    sources: where given, no batch has samples of two of them, and they come in their order.
    """
    places = {name: place for place, name in enumerate(dict.fromkeys(sources or ()))}

    def kind(index: int) -> tuple[int, bool, str]:
        place = places[sources[index]] if sources else 0
        return place, not exact[index], shown[index] if shown else ""

    order = sorted(range(len(lengths)), key=lambda index: (kind(index), lengths[index], index))
    batches: list[tuple[int, ...]] = []
    for _, group in groupby(order, key=kind):
        indices = list(group)
        batches += [
            tuple(indices[start : start + batch_size]) for start in range(0, len(indices), batch_size)
        ]
    return batches


def read_sample(sample: Sample, max_pixels: int | None = None) -> Seen:
    """Return the images or the video of a sample. Raises InputError where they cannot be read any more."""
    try:
        return read(sample.image, max_pixels)
    except Exception as error:
        raise InputError(f"sample {sample.id}: its {sample.kind} cannot be read any more: {error}") from error


def build(
    model: nn.Module,
    processor: object,
    samples: Sequence[Sample],
    targets: Sequence[Sequence[int] | None],
    end_token: int,
    max_pixels: int | None = None,
    seen: Sequence[Seen] | None = None,
) -> Tensors:
    """Read, encode and project the images or videos of a batch and lay its rows out, on the model's device.

    targets: a sample's target tokens, without the end token; None in batches that generate.
    max_pixels: larger images are shrunk to it.
    seen: what the samples show, where it was read before: all images, all videos, or none of either.
    Raises InputError where an image or a video cannot be read any more, Refused where the processor refuses.
    """
    seen = [read_sample(sample, max_pixels) for sample in samples] if seen is None else seen
    device = model.get_input_embeddings().weight.device  # type: ignore[operator]
    texts = [
        prompts.prompt_text(processor, sample.question, images=len(one))
        if isinstance(one, list)
        else prompts.prompt_text(processor, sample.question, video=True)
        for sample, one in zip(samples, seen, strict=True)
    ]
    try:
        inputs = prompts.encode(processor, seen, texts)
    except MemoryError:
        raise
    except Exception as error:  # a processor raises whatever it meets
        raise refusal(processor, seen, error) from error
    seconds = inputs.get("second_per_grid_ts")  # positions, which half precision would move
    inputs = inputs.to(device, dtype=model.dtype)
    if seconds is not None:
        inputs["second_per_grid_ts"] = torch.as_tensor(seconds).to(device)
    rows = [
        torch.cat([ids[real.bool()], torch.tensor(target or [], dtype=torch.int64, device=device)])
        for ids, real, target in zip(inputs["input_ids"], inputs["attention_mask"], targets, strict=True)
    ]
    length = max(len(row) for row in rows)
    ids = torch.zeros(len(rows), length, dtype=torch.int64, device=device)
    mask = torch.zeros_like(ids)
    prompt = torch.zeros_like(ids, dtype=torch.bool)
    given = [list(target) for target in targets if target is not None]
    width = max(map(len, given)) + 1 if given else 0
    wanted = torch.full((len(rows), width), IGNORED, dtype=torch.int64, device=device)
    for number, (row, sample, target) in enumerate(zip(rows, samples, targets, strict=True)):
        ids[number, length - len(row) :] = row
        mask[number, length - len(row) :] = 1
        prompt[number, length - len(row) : length - len(target or [])] = True
        if target is not None:
            end = end_token if sample.target_ends else IGNORED
            tokens = torch.tensor([*target, end], dtype=torch.int64, device=device)
            wanted[number, width - len(tokens) :] = tokens
    vision = family_of(model).is_vision(model.config, ids) & mask.bool()
    return Tensors(model_inputs(model, ids, mask, encode(model, inputs)), prompt, vision, wanted)
