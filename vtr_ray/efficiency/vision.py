"""What images cost before the language model: one row per model type, from the configuration alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from vtr_ray.efficiency import workloads
from vtr_ray.efficiency.workloads import Picture, Workload
from vtr_ray.errors import InputError
from vtr_ray.models.projectors import projector_flops


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
    if row.workload is workloads.any_resolution:
        height, width = workloads.pair(vision.image_size)
        images = [Picture(2 * height, 2 * width)]
    elif row.workload is workloads.native:
        side = 32 * vision.spatial_merge_size * workloads.pair(vision.patch_size)[0]
        images = [Picture(side, side)]
    elif row.workload is workloads.shuffled:
        return 5 * workloads.shuffled_tile(config), None
    else:
        return row.workload(config, -1, [Picture(1, 1)]).tokens, None
    return vision_tokens_of(config, images), images


# Encoders.


def _vit(vision: Any, runs: Sequence[tuple[int, int]], executed: bool) -> int:
    """CLIP, SigLIP, InternViT and their kin: two-matrix feed-forward, full attention."""
    width, feed = vision.hidden_size, vision.intermediate_size
    down, across = workloads.pair(vision.patch_size)
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
    down, across = workloads.pair(vision.patch_size)
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
    return projector_flops(config, len(work.runs), products=executed)


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


_ROWS = {
    "llava": VisionCost(workloads.llava, _vit, _llava_projector),
    "llava_next": VisionCost(workloads.any_resolution, _vit, _two_layers),
    "llava_onevision": VisionCost(workloads.any_resolution, _vit, _two_layers),
    "internvl": VisionCost(workloads.shuffled, _vit, _shuffled_two_layers),
    "qwen2_vl": VisionCost(workloads.native, _qwen2, _merger),
    "qwen2_5_vl": VisionCost(workloads.native, _qwen2_5, _merger),
    "qwen3_vl": VisionCost(workloads.native, _qwen3, _merger),
    "idefics3": VisionCost(workloads.shuffled, _vit, _shuffled_one_layer),
    "smolvlm": VisionCost(workloads.shuffled, _vit, _shuffled_one_layer),
    "gemma3": VisionCost(workloads.pooled, _vit, _one_layer),
}
