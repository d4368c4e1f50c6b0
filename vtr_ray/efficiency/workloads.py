"""Patches and vision tokens of a sample's pictures, by family, from the configuration alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from vtr_ray.errors import InputError
from vtr_ray.models.projectors import tokens_per_image


class Picture(NamedTuple):
    """An image, or a video of `frames` frames, in pixels as the model gets it (the processor has resized)."""

    height: int
    width: int
    frames: int = 0


@dataclass(frozen=True)
class Workload:
    """What encoder and projector run on.

    runs: patches (height, width) of each sequence that attends to itself: a tile, an image, a video's frame.
    projected: rows of the projector. tokens: vision tokens that the language model gets.
    """

    runs: tuple[tuple[int, int], ...]
    projected: int
    tokens: int


def _tiles(config: Any, tokens: int, images: Sequence[Picture] | None, each: int) -> Workload:
    """Tiles of one size, `each` tokens apiece; a video's frames are tiles."""
    if tokens < 0:
        assert images is not None
        tokens = each * sum(max(1, image.frames) for image in images)
    count, rest = divmod(tokens, each)
    if rest:
        raise InputError(f"{tokens} vision tokens are no whole images of {each} tokens each.")
    return Workload((_tile(config),) * count, tokens, tokens)


def _tile(config: Any) -> tuple[int, int]:
    height, width = pair(config.vision_config.image_size)
    down, across = pair(config.vision_config.patch_size)
    return height // down, width // across


def llava(config: Any, tokens: int, images: Sequence[Picture] | None) -> Workload:
    """LLaVA: square images of as many tokens as its projector puts out."""
    return _tiles(config, tokens, images, tokens_per_image(config))


def shuffled(config: Any, tokens: int, images: Sequence[Picture] | None) -> Workload:
    """Tiles whose patches are joined `scale x scale` to a token (Idefics3, InternVL)."""
    if tokens < 0:
        raise InputError(
            f"How {config.model_type} tiles an image is its processor's choice; give the tokens."
        )
    return _tiles(config, tokens, None, shuffled_tile(config))


def shuffled_tile(config: Any) -> int:
    """Vision tokens of one tile."""
    factor = getattr(config, "scale_factor", None) or round(1 / config.downsample_ratio)
    return math.prod(_tile(config)) // int(factor) ** 2


def pooled(config: Any, tokens: int, images: Sequence[Picture] | None) -> Workload:
    """Gemma 3: as many tokens an image as its configuration says."""
    return _tiles(config, tokens, images, config.mm_tokens_per_image)


def any_resolution(config: Any, tokens: int, images: Sequence[Picture] | None) -> Workload:
    """LLaVA-NeXT, LLaVA-OneVision: the whole image in one tile, then a grid of tiles without its padding."""
    tile = _tile(config)
    base = math.prod(tile)
    if images is None:
        return _smallest_resolution(config, tokens)
    runs = found = 0
    for image in images:
        if image.frames:
            runs += image.frames
            found += image.frames * math.prod(math.ceil(side / 2) for side in tile) + 1
        elif config.model_type == "llava_onevision" and len(images) > 1:
            runs, found = runs + 1, found + base + 1
        else:
            grid, kept = _any_resolution_grid(config, image)
            runs, found = runs + 1 + math.prod(grid), found + base + kept
    return Workload((tile,) * runs, runs * base, found)


def _any_resolution_grid(config: Any, image: Picture) -> tuple[tuple[int, int], int]:
    """Tiles (down, across) of an image, and its tokens besides the base tile's, newlines included."""
    from transformers.image_processing_utils import select_best_resolution

    height, width = select_best_resolution((image.height, image.width), config.image_grid_pinpoints)
    sides = pair(config.vision_config.image_size)
    grid = (height // sides[0], width // sides[1])
    rows, columns = (count * patches for count, patches in zip(grid, _tile(config), strict=True))
    if image.width / image.height > columns / rows:
        rows -= 2 * ((rows - int(round(image.height * columns / image.width, 7))) // 2)
    else:
        columns -= 2 * ((columns - int(round(image.width * rows / image.height, 7))) // 2)
    if config.model_type == "llava_onevision":
        most = int(config.vision_aspect_ratio.removeprefix("anyres_max_"))
        ratio = math.sqrt(rows * columns / (most * _tile(config)[0] ** 2))
        if ratio > 1.1:
            rows, columns = int(rows // ratio), int(columns // ratio)
    return grid, rows * (columns + 1)


def _smallest_resolution(config: Any, tokens: int) -> Workload:
    sizes = sorted(config.image_grid_pinpoints, key=math.prod)
    by_size = [any_resolution(config, -1, [Picture(*size)]) for size in sizes]
    images = math.ceil(tokens / max(work.tokens for work in by_size))
    if images == 0:
        return Workload((), 0, tokens)
    work = next(work for work in by_size if work.tokens * images >= tokens)
    return Workload(work.runs * images, work.projected * images, tokens)


def native(config: Any, tokens: int, images: Sequence[Picture] | None) -> Workload:
    """Qwen-VL: images in their own resolution, `merge x merge` patches a token; frames in pairs."""
    vision = config.vision_config
    merge, patch = vision.spatial_merge_size, pair(vision.patch_size)
    runs: list[tuple[int, int]] = []
    if images is None and tokens:
        height = next(side for side in range(math.isqrt(tokens), 0, -1) if tokens % side == 0)
        runs.append((height * merge, tokens // height * merge))
    for image in images or ():
        run = (image.height // (patch[0] * merge) * merge, image.width // (patch[1] * merge) * merge)
        runs += [run] * max(1, math.ceil(image.frames / vision.temporal_patch_size))
    found = sum(math.prod(run) for run in runs) // merge**2
    return Workload(tuple(runs), found, found)


def pair(size: Any) -> tuple[int, int]:
    """Height and width of a size that may be given as one number."""
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
