"""A model's inputs from its configuration alone: random text, random pixels laid out as its family takes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vtr_ray.efficiency.vision import vision_cost
from vtr_ray.efficiency.workloads import Picture, Workload
from vtr_ray.errors import InputError

_BEFORE = 4  # text tokens before the first image, as a chat template has some
_TYPE_IDS = {
    "gemma3": "token_type_ids",
    "qwen2_vl": "mm_token_type_ids",
    "qwen2_5_vl": "mm_token_type_ids",
    "qwen3_vl": "mm_token_type_ids",
}


def dummy_inputs(
    config: Any,
    vision_tokens: int,
    text_tokens: int,
    batch: int = 1,
    images: Sequence[Picture] | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> dict[str, Tensor]:
    """What the model's forward takes: a batch of equal prompts, images first, seeded.

    Args:
        config: of a model that `count_flops` knows.
        vision_tokens: per sample.
        text_tokens: per sample; at least one stands between two pictures.
        batch: samples.
        images: a sample's pictures; LLaVA-NeXT and LLaVA-OneVision need them. Images or videos, not both.
        device: of the tensors.
        dtype: of the pixels.

    Returns:
        `input_ids` and `attention_mask` int64 [batch, vision_tokens + text_tokens], and the family's vision
        entries.

    Raises:
        InputError: images that give other tokens, too little text.
    """
    work = vision_cost(config).workload(config, vision_tokens, images)
    if images is not None and work.tokens != vision_tokens:
        raise InputError(f"The images give {work.tokens} vision tokens, not {vision_tokens}.")
    video = any(image.frames for image in images or ())
    if video and not all(image.frames for image in images or ()):
        raise InputError("Images and videos in one sample are not supported here; give one kind.")
    blocks = [vision_tokens] if vision_tokens else []
    if images is not None and (len(images) > 1 or video):
        blocks = _blocks(config, images)
    vision = _places(blocks, text_tokens)
    generator = torch.Generator().manual_seed(0)
    token = config.video_token_id if video else config.image_token_id
    text = torch.randint(0, _plain_ids(config), (len(vision),), generator=generator)
    ids = torch.where(vision, token, text).expand(batch, -1)
    inputs = {"input_ids": ids.contiguous(), "attention_mask": torch.ones_like(ids)}
    if config.model_type in _TYPE_IDS:
        kind = vision.long() * (2 if video else 1)
        inputs[_TYPE_IDS[config.model_type]] = kind.expand(batch, -1).contiguous()
    if vision_tokens:
        inputs |= _pixels(config, work, images, batch, video, generator)
    return {
        name: tensor.to(device, dtype) if tensor.is_floating_point() else tensor.to(device)
        for name, tensor in inputs.items()
    }


def _plain_ids(config: Any) -> int:
    """Ids below it are taken for text: none of them marks an image."""
    text = config.get_text_config(decoder=True)
    special = [
        getattr(config, name, None) for name in ("image_token_id", "video_token_id", "vision_start_token_id")
    ]
    return min([int(text.vocab_size), *(int(found) for found in special if found is not None)])


def _blocks(config: Any, images: Sequence[Picture]) -> list[int]:
    if config.model_type == "llava_onevision" and not images[0].frames:
        return [vision_cost(config).workload(config, -1, images).tokens // len(images)] * len(images)
    alone = [vision_cost(config).workload(config, -1, [image]) for image in images]
    if config.model_type == "qwen3_vl":  # a time stamp before each pair of frames
        return [work.tokens // len(work.runs) for work in alone for _ in work.runs]
    return [work.tokens for work in alone]


def _places(blocks: Sequence[int], text_tokens: int) -> Tensor:
    """bool [tokens]: True at vision tokens."""
    between = max(0, len(blocks) - 1)
    before = min(_BEFORE, text_tokens - between - 1)
    if text_tokens < 1 or before < 0:
        raise InputError(
            f"{text_tokens} text tokens do not separate {len(blocks)} images and end the prompt."
        )
    places = [torch.zeros(before, dtype=torch.bool)]
    for number, tokens in enumerate(blocks):
        if number:
            places.append(torch.zeros(1, dtype=torch.bool))
        places.append(torch.ones(tokens, dtype=torch.bool))
    places.append(torch.zeros(text_tokens - before - between, dtype=torch.bool))
    return torch.cat(places)


def _pixels(
    config: Any,
    work: Workload,
    images: Sequence[Picture] | None,
    batch: int,
    video: bool,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    vision, kind = config.vision_config, config.model_type

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    if kind.startswith("qwen"):
        patch = vision.patch_size if isinstance(vision.patch_size, int) else vision.patch_size[0]
        values = vision.in_channels * vision.temporal_patch_size * patch**2
        patches = sum(math.prod(run) for run in work.runs)
        frames = [max(1, math.ceil(image.frames / vision.temporal_patch_size)) for image in images or ()] or [
            1
        ]
        starts = [sum(frames[:number]) for number in range(len(frames))]
        grid = torch.tensor([[t, *work.runs[start]] for t, start in zip(frames, starts, strict=True)])
        pixels, sizes = noise(batch * patches, values), grid.repeat(batch, 1)
        if video:
            return {"pixel_values_videos": pixels, "video_grid_thw": sizes}
        return {"pixel_values": pixels, "image_grid_thw": sizes}
    side = vision.image_size if isinstance(vision.image_size, int) else vision.image_size[0]
    shape = (vision.num_channels, side, side)
    if kind in ("llava_next", "llava_onevision"):
        if images is None:
            raise InputError(f"{kind} tiles an image by its size; give the images.")
        if video:
            return {"pixel_values_videos": noise(batch * len(images), images[0].frames, *shape)}
        single = kind == "llava_onevision" and len(images) > 1
        alone = [vision_cost(config).workload(config, -1, [image]) for image in images]
        tiles = 1 if single else max(len(one.runs) for one in alone)
        sizes = torch.tensor([[image.height, image.width] for image in images]).repeat(batch, 1)
        entries = {"pixel_values": noise(batch * len(images), tiles, *shape), "image_sizes": sizes}
        if kind == "llava_onevision":
            entries["batch_num_images"] = torch.tensor([len(images)] * batch)
        return entries
    if kind in ("idefics3", "smolvlm"):
        return {"pixel_values": noise(batch, len(work.runs), *shape)}
    return {"pixel_values": noise(batch * len(work.runs), *shape)}
