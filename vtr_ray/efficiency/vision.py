"""What images cost before the language model: one row per model type, from the configuration alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

from vtr_ray.errors import InputError
from vtr_ray.models.projectors import projector_flops, projector_settings, tokens_per_image


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


@dataclass(frozen=True)
class VisionCost:
    """A family's row.

    workload: from the configuration, the vision tokens and the pictures (None: not given).
    encoder: FLOPs from the vision configuration, the runs and whether attention products count.
    projector: FLOPs from the configuration, the workload and whether attention products count.
    """

    workload: Callable[[Any, int, Sequence[Picture] | None], Workload]
    encoder: Callable[[Any, Sequence[tuple[int, int]], bool], int]
    projector: Callable[[Any, Workload, bool], int]


def vision_cost(config: Any) -> VisionCost:
    """The row of a configuration's family. Raises InputError for a family without one."""
    row = _ROWS.get(config.model_type)
    if row is None:
        raise InputError(
            f"FLOPs of model type {config.model_type!r} cannot be counted; known: {', '.join(_ROWS)}."
        )
    return row


def vision_tokens_of(config: Any, images: Sequence[Picture]) -> int:
    """Vision tokens of one sample's pictures. Raises InputError for a family without a row."""
    return vision_cost(config).workload(config, -1, images).tokens


def count_vision(
    config: Any, vision_tokens: int, images: Sequence[Picture] | None, executed: bool
) -> tuple[float, float]:
    """FLOPs of encoder and projector for one sample.

    Args:
        config: of a model.
        vision_tokens: vision tokens of the sample.
        images: its pictures, or None. Needed only where the tokens do not tell the cost: LLaVA-NeXT and
            LLaVA-OneVision (default: images of the smallest resolution that gives as many tokens),
            Qwen-VL (default: one image, as square as the tokens allow).
        executed: whether the encoder's attention products count.

    Raises:
        InputError: a family without a row, a fraction of an image, images that give other tokens.
    """
    row = vision_cost(config)
    work = row.workload(config, vision_tokens, images)
    if images is not None and work.tokens != vision_tokens:
        raise InputError(f"The images give {work.tokens} vision tokens, not {vision_tokens}.")
    encoder = row.encoder(config.vision_config, work.runs, executed)
    return float(encoder), float(row.projector(config, work, executed))


def default_sample(config: Any) -> tuple[int, list[Picture] | None]:
    """Vision tokens and pictures of the sample that is counted where nothing is said.

    One image: of one tile, or of four and a thumbnail where the family tiles (the paper's 5 of InternVL2);
    1024 tokens for Qwen-VL. Raises InputError for a family without a row.
    """
    row, vision = vision_cost(config), config.vision_config
    if row.workload is _any_resolution:
        height, width = _pair(vision.image_size)
        images = [Picture(2 * height, 2 * width)]
    elif row.workload is _native:
        side = 32 * vision.spatial_merge_size * _pair(vision.patch_size)[0]
        images = [Picture(side, side)]
    elif row.workload is _shuffled:
        return 5 * _shuffled_tile(config), None
    else:
        return row.workload(config, -1, [Picture(1, 1)]).tokens, None
    return vision_tokens_of(config, images), images


# Workloads.


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
    height, width = _pair(config.vision_config.image_size)
    down, across = _pair(config.vision_config.patch_size)
    return height // down, width // across


def _llava(config: Any, tokens: int, images: Sequence[Picture] | None) -> Workload:
    if projector_settings(config) is not None:
        return _tiles(config, tokens, images, tokens_per_image(config))
    return _plain(config, tokens, images)


def _plain(config: Any, tokens: int, images: Sequence[Picture] | None) -> Workload:
    each = math.prod(_tile(config))
    if config.vision_feature_select_strategy != "default":
        each += _class_token(config.vision_config)
    return _tiles(config, tokens, images, each)


def _shuffled(config: Any, tokens: int, images: Sequence[Picture] | None) -> Workload:
    """Tiles whose patches are joined `scale x scale` to a token (Idefics3, InternVL)."""
    if tokens < 0:
        raise InputError(
            f"How {config.model_type} tiles an image is its processor's choice; give the tokens."
        )
    return _tiles(config, tokens, None, _shuffled_tile(config))


def _shuffled_tile(config: Any) -> int:
    factor = getattr(config, "scale_factor", None) or round(1 / config.downsample_ratio)
    return math.prod(_tile(config)) // int(factor) ** 2


def _pooled(config: Any, tokens: int, images: Sequence[Picture] | None) -> Workload:
    return _tiles(config, tokens, images, config.mm_tokens_per_image)


def _any_resolution(config: Any, tokens: int, images: Sequence[Picture] | None) -> Workload:
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
    sides = _pair(config.vision_config.image_size)
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
    by_size = [_any_resolution(config, -1, [Picture(*size)]) for size in sizes]
    images = math.ceil(tokens / max(work.tokens for work in by_size))
    if images == 0:
        return Workload((), 0, tokens)
    work = next(work for work in by_size if work.tokens * images >= tokens)
    return Workload(work.runs * images, work.projected * images, tokens)


def _native(config: Any, tokens: int, images: Sequence[Picture] | None) -> Workload:
    """Qwen-VL: images in their own resolution, `merge x merge` patches a token; frames in pairs."""
    vision = config.vision_config
    merge, patch = vision.spatial_merge_size, _pair(vision.patch_size)
    runs: list[tuple[int, int]] = []
    if images is None and tokens:
        height = next(side for side in range(math.isqrt(tokens), 0, -1) if tokens % side == 0)
        runs.append((height * merge, tokens // height * merge))
    for image in images or ():
        run = (image.height // (patch[0] * merge) * merge, image.width // (patch[1] * merge) * merge)
        runs += [run] * max(1, math.ceil(image.frames / vision.temporal_patch_size))
    found = sum(math.prod(run) for run in runs) // merge**2
    return Workload(tuple(runs), found, found)


# Encoders.


def _vit(vision: Any, runs: Sequence[tuple[int, int]], executed: bool) -> int:
    """CLIP, SigLIP, InternViT and their kin: two-matrix feed-forward, full attention."""
    width, feed = vision.hidden_size, vision.intermediate_size
    down, across = _pair(vision.patch_size)
    patch = 2 * vision.num_channels * down * across * width
    total = 0
    for height, breadth in runs:
        tokens = height * breadth + _class_token(vision)
        total += height * breadth * patch
        total += vision.num_hidden_layers * _layer([tokens], width, 2 * width * feed, executed)
        if vision.model_type == "siglip_vision_model" and vision.vision_use_head:
            # One query over all tokens, then a feed-forward on it.
            total += 4 * tokens * width**2 + 4 * width**2 + 4 * width * feed
            total += 4 * tokens * width if executed else 0
    return total


def _class_token(vision: Any) -> int:
    known = _CLASS_TOKENS.get(vision.model_type)
    if known is None:
        raise InputError(
            f"FLOPs of the encoder {vision.model_type!r} cannot be counted; known: "
            f"{', '.join(_CLASS_TOKENS)}."
        )
    return known


_CLASS_TOKENS = {
    "clip_vision_model": 1,
    "internvl_vision": 1,
    "siglip_vision_model": 0,
    "idefics3_vision": 0,
    "smolvlm_vision": 0,
}


def _qwen(width: int, feed: int, vision: Any, runs: Sequence[tuple[int, int]], executed: bool) -> int:
    """`feed`: weights of the feed-forward. Qwen2.5: all layers but a few attend within windows."""
    down, across = _pair(vision.patch_size)
    patch = 2 * vision.in_channels * vision.temporal_patch_size * down * across * width
    wholes = [height * breadth for height, breadth in runs]
    full = depth = int(vision.depth)
    parts: list[int] = []
    if hasattr(vision, "window_size"):
        full = len([layer for layer in vision.fullatt_block_indexes if layer < vision.depth])
        side = vision.window_size // vision.spatial_merge_size // down * vision.spatial_merge_size
        parts = [a * b for h, w in runs for a in _cut(h, side) for b in _cut(w, side)]
    layers = full * _layer(wholes, width, feed, executed)
    layers += (depth - full) * _layer(parts, width, feed, executed)
    return int(layers + sum(wholes) * patch)


def _qwen2(vision: Any, runs: Sequence[tuple[int, int]], executed: bool) -> int:
    width = int(vision.embed_dim)
    return _qwen(width, 2 * width * int(width * vision.mlp_ratio), vision, runs, executed)


def _qwen2_5(vision: Any, runs: Sequence[tuple[int, int]], executed: bool) -> int:
    return _qwen(
        vision.hidden_size, 3 * vision.hidden_size * vision.intermediate_size, vision, runs, executed
    )


def _qwen3(vision: Any, runs: Sequence[tuple[int, int]], executed: bool) -> int:
    return _qwen(
        vision.hidden_size, 2 * vision.hidden_size * vision.intermediate_size, vision, runs, executed
    )


def _layer(sequences: Sequence[int], width: int, feed: int, executed: bool) -> int:
    """One layer over sequences that attend to themselves; `feed`: weights of the feed-forward."""
    linear: int = sum(sequences) * 2 * (4 * width**2 + feed)
    return linear + (4 * width * sum(n * n for n in sequences) if executed else 0)


def _cut(length: int, side: int) -> list[int]:
    return [side] * (length // side) + ([length % side] if length % side else [])


# Projectors.


def _llava_projector(config: Any, work: Workload, executed: bool) -> int:
    if projector_settings(config) is not None:
        return projector_flops(config, len(work.runs), products=executed)
    return _two_layers(config, work, executed)


def _two_layers(config: Any, work: Workload, executed: bool) -> int:
    layers = config.vision_feature_layer
    features = config.vision_config.hidden_size * (1 if isinstance(layers, int) else len(layers))
    return work.projected * _mlp(features, _out(config), _out(config))


def _shuffled_two_layers(config: Any, work: Workload, executed: bool) -> int:
    factor = round(1 / config.downsample_ratio)
    return work.projected * _mlp(config.vision_config.hidden_size * factor**2, _out(config), _out(config))


def _shuffled_one_layer(config: Any, work: Workload, executed: bool) -> int:
    return work.projected * _mlp(config.vision_config.hidden_size * config.scale_factor**2, _out(config))


def _one_layer(config: Any, work: Workload, executed: bool) -> int:
    return work.projected * _mlp(config.vision_config.hidden_size, _out(config))


def _merger(config: Any, work: Workload, executed: bool) -> int:
    """Qwen's; Qwen3-VL has one more for each deep-stacked layer."""
    vision = config.vision_config
    width = getattr(vision, "embed_dim", vision.hidden_size) * vision.spatial_merge_size**2
    mergers = 1 + len([i for i in getattr(vision, "deepstack_visual_indexes", ()) if i < vision.depth])
    # Qwen2-VL calls the merger's output hidden_size, the others out_hidden_size.
    out = getattr(vision, "out_hidden_size", vision.hidden_size)
    return work.projected * mergers * _mlp(width, width, out)


def _mlp(*widths: int) -> int:
    """One row through linear layers of these widths."""
    return sum(2 * before * after for before, after in pairwise(widths))


def _out(config: Any) -> int:
    return int(config.get_text_config(decoder=True).hidden_size)


def _pair(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


_ROWS = {
    "llava": VisionCost(_llava, _vit, _llava_projector),
    "llava_next": VisionCost(_any_resolution, _vit, _two_layers),
    "llava_onevision": VisionCost(_any_resolution, _vit, _two_layers),
    "internvl": VisionCost(_shuffled, _vit, _shuffled_two_layers),
    "qwen2_vl": VisionCost(_native, _qwen2, _merger),
    "qwen2_5_vl": VisionCost(_native, _qwen2_5, _merger),
    "qwen3_vl": VisionCost(_native, _qwen3, _merger),
    "idefics3": VisionCost(_shuffled, _vit, _shuffled_one_layer),
    "smolvlm": VisionCost(_shuffled, _vit, _shuffled_one_layer),
    "gemma3": VisionCost(_pooled, _vit, _one_layer),
}
