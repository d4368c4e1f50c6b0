"""How a model's processor shows pictures and clips, and which words each vision token then shows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isqrt
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import PreTrainedTokenizerFast

from vtr_ray.embedded import internvl
from vtr_ray.embedded.draw import GRID, SIZE, Clip, Picture
from vtr_ray.embedded.draw.clips import FRAMES

PATCHES = GRID * GRID
Words = list[tuple[str, ...]]
Drawn = Picture | Clip


@dataclass(frozen=True)
class View:
    """What stands before a question, and what the encoder is given.

    prefix: token ids, int64 [prefix]; places: of the vision tokens in it, int64 [vision tokens].
    pixels: of a batch, float [images or tiles or frames, 3, height, width], in the order of their tokens.
    words: of each vision token, at most `most` of them.
    """

    prefix: torch.Tensor
    places: torch.Tensor
    pixels: Callable[[Sequence[Any]], torch.Tensor]
    words: Callable[[Any], Words]
    most: int


def cell_words(patches: Words, cells: int) -> Words:
    """Words of each cell of patches in raster order: its patches' first three, each word once.

    `("empty",)` where all of them are. With as many cells as patches, a patch's first three words.
    """
    side, grid = isqrt(cells), isqrt(len(patches))
    size = grid // side
    found = []
    for cell in range(cells):
        top, left = (size * place for place in divmod(cell, side))
        shown = [patches[(top + y) * grid + left + x][:3] for y in range(size) for x in range(size)]
        words = dict.fromkeys(word for patch in shown for word in patch if patch != ("empty",))
        found.append(tuple(words) or ("empty",))
    return found


def llava_view(tokenizer: PreTrainedTokenizerFast, vision_tokens: int = PATCHES) -> View:
    """One image as a square of equal cells of patches."""
    image = tokenizer.convert_tokens_to_ids("<image>")

    def pixels(pictures: Sequence[Picture]) -> torch.Tensor:
        raw = torch.from_numpy(np.stack([np.asarray(picture.image) for picture in pictures]))
        return (raw.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5

    return View(
        torch.tensor([tokenizer.bos_token_id, *[image] * vision_tokens]),
        torch.arange(1, 1 + vision_tokens),
        pixels,
        lambda picture: cell_words(picture.patch_words(), vision_tokens),
        3 * PATCHES // vision_tokens,
    )


def internvl_views(processor: Any) -> tuple[View, View]:
    """Of pictures and of clips, through the processor itself."""

    def tiles(pictures: Sequence[Picture]) -> torch.Tensor:
        images = [picture.image for picture in pictures]
        found: torch.Tensor = processor.image_processor(images=images, return_tensors="pt").pixel_values
        return found

    def frames(clips: Sequence[Clip]) -> torch.Tensor:
        videos = [np.stack([np.asarray(frame.image) for frame in clip.frames]) for clip in clips]
        found = processor.video_processor(videos=videos, do_sample_frames=False, return_tensors="pt")
        flat: torch.Tensor = found.pixel_values_videos.flatten(0, 1)
        return flat

    blank = Image.new("RGB", (SIZE, SIZE))
    video = np.stack([np.asarray(blank)] * FRAMES)
    seen = processor(images=[[blank]], text=_start(processor, "image"), **_PLAIN)
    watched = processor(videos=[video], text=_start(processor, "video"), do_sample_frames=False, **_PLAIN)
    return (
        View(*_prefix(processor, seen), tiles, _tile_words, _MOST_WORDS),
        View(*_prefix(processor, watched), frames, _frame_words, _MOST_WORDS),
    )


_PLAIN = {"add_special_tokens": False, "return_tensors": "pt"}
_MOST_WORDS = 12


def _start(processor: Any, kind: str) -> list[str]:
    turn = {"role": "user", "content": [{"type": kind}, {"type": "text", "text": ""}]}
    return [processor.apply_chat_template([turn], tokenize=False)]


def _prefix(processor: Any, inputs: Any) -> tuple[torch.Tensor, torch.Tensor]:
    prefix = inputs.input_ids[0, :-1]  # without `<answer>`
    return prefix, (prefix == processor.image_token_id).nonzero().flatten()


def _tile_words(picture: Picture) -> Words:
    """The four tiles' tokens, each tile's in raster order, then the thumbnail's."""
    patches = picture.patch_words(SIZE // internvl.PATCH)
    cells, side = cell_words(patches, 4 * internvl.TILE_TOKENS), isqrt(internvl.TILE_TOKENS)
    ordered = [
        cells[(down * side + row) * 2 * side + right * side + column]
        for down in range(2)
        for right in range(2)
        for row in range(side)
        for column in range(side)
    ]
    return [words[:_MOST_WORDS] for words in [*ordered, *cell_words(patches, internvl.TILE_TOKENS)]]


def _frame_words(clip: Clip) -> Words:
    return [
        words[:_MOST_WORDS]
        for frame in clip.frames
        for words in cell_words(frame.patch_words(), internvl.TILE_TOKENS)
    ]
