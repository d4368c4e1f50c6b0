"""What the embedded model learns from: endless generated pictures and easy-VQA's training split."""

from __future__ import annotations

import hashlib
import random
from collections import defaultdict
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import PreTrainedTokenizerFast

from vtr_ray.embedded.draw import DRAWS, SIZE, Picture, clip
from vtr_ray.embedded.tokenizer import ANSWER
from vtr_ray.embedded.views import PATCHES, Drawn, View, llava_view

WEIGHTS = {"scenes": 6, "existence": 4, "text": 4, "documents": 5, "charts": 5, "easy_vqa": 2}
# Reading suffers most when tokens leave.
HABIT_WEIGHTS = {"scenes": 5, "existence": 3, "text": 6, "documents": 10, "charts": 4, "easy_vqa": 1}
TURN_TOKENS = 111
CLIPS = "clips"


@dataclass
class Batch:
    """`pixels` [images, 3, height, width], with tiles or frames several of a row; `patch_words` [batch,
    vision tokens, words] token ids, -1 = none; `places` [vision tokens], theirs in every row, all of them
    before `prefix`, where the first turn starts; `ids`, `turns`, `positions` [batch, length]; `targets`
    [batch, length] with -100 where nothing is asked.
    """

    pixels: torch.Tensor
    patch_words: torch.Tensor
    ids: torch.Tensor
    turns: torch.Tensor
    positions: torch.Tensor
    targets: torch.Tensor
    tasks: list[str]
    places: torch.Tensor
    prefix: int

    def mask(self, dtype: torch.dtype) -> torch.Tensor:
        """Additive mask [batch, 1, length, length]: a turn sees the image and itself, never other turns.

        So every turn is trained exactly as it is asked at inference: alone.
        """
        turns = self.turns
        length = turns.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool).tril()
        same = (turns[:, :, None] == turns[:, None, :]) | (turns[:, None, :] == 0)
        allowed = (causal & same)[:, None]
        return torch.zeros(allowed.shape, dtype=dtype).masked_fill(~allowed, -1e4)


def fingerprint(image: Image.Image) -> str:
    """Identifies an image by its pixels."""
    return hashlib.sha256(image.convert("RGB").tobytes()).hexdigest()


def easy_vqa_folder() -> Path:
    """Where the easy-vqa package keeps its images and questions."""
    import easy_vqa

    return Path(easy_vqa.__file__).parent / "data"


@cache
def easy_vqa_questions(split: str) -> dict[int, list[tuple[str, str]]]:
    """Image id -> its (question, answer) pairs, as the package has them."""
    import json

    by_image: dict[int, list[tuple[str, str]]] = defaultdict(list)
    for question, answer, image in json.loads((easy_vqa_folder() / split / "questions.json").read_text()):
        by_image[image].append((question, answer))
    return dict(by_image)


def easy_vqa_image(split: str, image: int) -> Image.Image:
    """One 64 x 64 image of the data set."""
    return Image.open(easy_vqa_folder() / split / "images" / f"{image}.png").convert("RGB")


class EasyVQA:
    """Pictures of easy-VQA's training split, but for the images held out for the search split."""

    def __init__(self, held_out: frozenset[str]) -> None:
        self.pictures: list[Picture] = []
        for image, questions in sorted(easy_vqa_questions("train").items()):
            raw = easy_vqa_image("train", image)
            if fingerprint(raw) in held_out:
                continue
            picture = Picture(raw.resize((SIZE, SIZE), Image.Resampling.BICUBIC), questions)
            found = _shape_box(raw)
            words = _shape_words(questions)
            if found is not None and words:
                picture.marks.append((found, words))
            self.pictures.append(picture)

    def draw(self, rng: random.Random) -> Picture:
        """One picture, its questions balanced between kinds: three in four of all are yes or no."""
        picture = rng.choice(self.pictures)
        open_ended = [q for q in picture.questions if q[1] not in ("yes", "no")]
        polar = [q for q in picture.questions if q[1] in ("yes", "no")]
        rng.shuffle(polar)
        questions = open_ended + polar[: max(3, len(open_ended))]
        rng.shuffle(questions)
        return Picture(picture.image, questions, marks=picture.marks)


def _shape_box(image: Image.Image) -> tuple[float, float, float, float] | None:
    pixels = np.asarray(image, dtype=np.int16)
    away = np.abs(pixels - np.median(pixels, axis=(0, 1))).sum(-1) > 60
    rows, columns = np.flatnonzero(away.any(1)), np.flatnonzero(away.any(0))
    if not len(rows):
        return None
    scale = SIZE / image.width
    return columns[0] * scale, rows[0] * scale, (columns[-1] + 1) * scale, (rows[-1] + 1) * scale


def _shape_words(questions: list[tuple[str, str]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(answer for _, answer in questions if answer not in ("yes", "no")))


class Teacher:
    """Draws batches; the same (seed, step, rank) always gives the same batch.

    vision_tokens: of one image, a square of equal cells of patches; a cell shows what its patches show.
    views: of pictures and clips, where they are shown otherwise; clips: share of the batches that are clips.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        held_out: frozenset[str],
        weights: dict[str, int] = WEIGHTS,
        vision_tokens: int = PATCHES,
        views: tuple[View, View | None] | None = None,
        clips: float = 0.0,
    ) -> None:
        self.tokenizer = tokenizer
        self.views = views or (llava_view(tokenizer, vision_tokens), None)
        self.clips = clips
        self.held_out = held_out
        self.weights = weights
        self.easy = EasyVQA(held_out) if "easy_vqa" in weights else None
        self.vocabulary: dict[str, int] = tokenizer.get_vocab()
        self.answer = tokenizer.convert_tokens_to_ids(ANSWER)
        self._question_ids: dict[str, list[int]] = {}

    def picture(self, task: str, rng: random.Random) -> Drawn:
        """A picture or a clip that no held-out split contains."""
        while True:
            if task == "easy_vqa":
                assert self.easy is not None
                return self.easy.draw(rng)
            picture = clip(rng) if task == CLIPS else DRAWS[task](rng)
            if fingerprint(picture.image) not in self.held_out:
                return picture

    def batch(
        self, size: int, *, seed: int, step: int, rank: int = 0, weights: dict[str, int] | None = None
    ) -> Batch:
        """`size` pictures of all tasks (`weights`: other shares), or clips, with as many turns as fit.

        All rows are of one kind, so that they have as many vision tokens.
        """
        rng = random.Random(f"{seed}/{step}/{rank}")
        shares = self.weights if weights is None else weights
        view, moving = self.views
        if moving is not None and random.Random(f"{seed}/{step}/kind").random() < self.clips:
            view, shares = moving, {CLIPS: 1}
        tasks = rng.choices(list(shares), list(shares.values()), k=size)
        pictures = [self.picture(task, rng) for task in tasks]
        prefix = len(view.prefix)
        length = prefix + TURN_TOKENS
        patch_words = torch.full((size, len(view.places), view.most), -1)
        ids = torch.full((size, length), self.tokenizer.pad_token_id)
        turns = torch.full((size, length), -1)
        positions = torch.zeros(size, length, dtype=torch.long)
        targets = torch.full((size, length), -100)
        ids[:, :prefix] = view.prefix
        turns[:, :prefix] = 0
        positions[:, :prefix] = torch.arange(prefix)
        for row, picture in enumerate(pictures):
            for cell, words in enumerate(view.words(picture)):
                for k, word in enumerate(words):
                    patch_words[row, cell, k] = self._word_id(word)
            at = prefix
            # Some practice early: a picture with many questions would leave no room for it.
            lessons = [*picture.questions[:6], *picture.practice[:3]]
            lessons += [*picture.questions[6:], *picture.practice[3:]]
            for turn, (question, answer) in enumerate(lessons, start=1):
                asked, said = self._encode(question), self._encode(answer)
                tokens = [*asked, self.answer, *said, self.tokenizer.eos_token_id]
                if at + len(tokens) > length:
                    break
                end = at + len(tokens)
                ids[row, at:end] = torch.tensor(tokens)
                turns[row, at:end] = turn
                positions[row, at:end] = torch.arange(prefix, prefix + len(tokens))
                first = at + len(asked)
                targets[row, first : end - 1] = ids[row, first + 1 : end]
                at = end
        pixels = view.pixels(pictures)
        return Batch(pixels, patch_words, ids, turns, positions, targets, tasks, view.places, prefix)

    def _word_id(self, word: str) -> int:
        return self.vocabulary[word] if len(word) == 1 else self.vocabulary[f"▁{word}"]

    def _encode(self, text: str) -> list[int]:
        known = self._question_ids.get(text)
        if known is None:
            known = self.tokenizer(text, add_special_tokens=False).input_ids
            if len(self._question_ids) < 50_000:
                self._question_ids[text] = known
        return known
