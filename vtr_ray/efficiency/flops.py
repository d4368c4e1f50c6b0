"""FLOPs of one prefill of one sample, from the configuration alone, under two conventions."""

from __future__ import annotations

from dataclasses import astuple, dataclass
from typing import Any, Literal, get_args

from vtr_ray.errors import InputError
from vtr_ray.models import family_of
from vtr_ray.schedule import Ranking, Schedule

Convention = Literal["paper", "executed"]


@dataclass(frozen=True)
class Flops:
    """FLOPs by part; a multiply-add counts 2."""

    encoder: float
    projector: float
    linear: float  # the decoder layers' matrices
    attention: float  # the decoder layers' attention products, full square
    scoring: float  # what the ranking adds; 0 in the paper's convention
    head: float

    @property
    def total(self) -> float:
        """Sum of all parts."""
        return float(sum(astuple(self)))


def count_flops(
    config: Any,
    schedule: Schedule,
    vision_tokens: int,
    text_tokens: int,
    convention: Convention = "paper",
    instruction_tokens: int | None = None,
) -> Flops:
    """FLOPs of a prefill at batch 1, the language-model head on all tokens left after the last layer.

    "paper" is the rule that reproduces the paper's tables: with `n_i` tokens at layer `i`, width `d`, key
    width `d_kv`, feed-forward width `m`: `2 n_i (2 d^2 + 2 d d_kv + 3 d m)` and `4 n_i^2 d` per layer,
    `2 n_L d vocabulary` for the head; of the encoder the linear layers and the patch embedding. "executed"
    adds what else runs: the encoder's attention and the ranking's own products.

    Args:
        config: of a supported model.
        schedule: one rate per decoder layer.
        vision_tokens: input vision tokens `N`, of whole images.
        text_tokens: other input tokens.
        convention: "paper" or "executed".
        instruction_tokens: rows that rank, for "executed" with the instruction ranking. Default: all text.

    Raises:
        InputError: a schedule of another length, a fraction of an image, an unknown convention, a family that
            is not supported.
    """
    if convention not in get_args(Convention):
        raise InputError(f"convention is {convention!r}; use paper or executed.")
    family_of(config)
    text = config.get_text_config(decoder=True)
    if schedule.num_layers != text.num_hidden_layers:
        raise InputError(
            f"The schedule has {schedule.num_layers} rates but the model has {text.num_hidden_layers} "
            "decoder layers; give one rate per decoder layer."
        )
    counts = schedule.counts(vision_tokens)
    lengths = [kept + text_tokens for kept in counts]
    width, size = text.hidden_size, _head_dim(text)
    attended, keys = text.num_attention_heads * size, text.num_key_value_heads * size
    per_token = 2 * (2 * width * attended + 2 * width * keys + 3 * width * text.intermediate_size)
    encoder, projector = _vision(config, vision_tokens, executed=convention == "executed")
    rows = text_tokens if instruction_tokens is None else instruction_tokens
    return Flops(
        encoder=encoder,
        projector=projector,
        linear=float(sum(n * per_token for n in lengths)),
        attention=float(sum(4 * n * n * attended for n in lengths)),
        scoring=_scoring(schedule, counts, lengths, text, rows) if convention == "executed" else 0.0,
        head=2.0 * lengths[-1] * width * text.vocab_size,
    )


def _vision(config: Any, vision_tokens: int, executed: bool) -> tuple[float, float]:
    """Encoder and projector (LLaVA: CLIP-like encoder, two linear layers)."""
    vision = config.vision_config
    patches = (vision.image_size // vision.patch_size) ** 2
    per_image = patches if config.vision_feature_select_strategy == "default" else patches + 1
    images, rest = divmod(vision_tokens, per_image)
    if rest:
        raise InputError(f"{vision_tokens} vision tokens are no whole images of {per_image} tokens each.")
    tokens, width = patches + 1, vision.hidden_size
    layer = tokens * 2 * (4 * width**2 + 2 * width * vision.intermediate_size)
    if executed:
        layer += 4 * tokens**2 * width
    embedding = 2 * patches * vision.num_channels * vision.patch_size**2 * width
    layers = config.vision_feature_layer
    features = width * (1 if isinstance(layers, int) else len(layers))
    out = config.get_text_config(decoder=True).hidden_size
    projector = vision_tokens * 2 * (features * out + out * out)
    return float(images * (vision.num_hidden_layers * layer + embedding)), float(projector)


def _scoring(schedule: Schedule, counts: list[int], lengths: list[int], text: Any, rows: int) -> float:
    """Products of the ranking: its rows against all keys, at every cut that has to choose."""
    size = _head_dim(text)
    attended, keys = text.num_attention_heads * size, text.num_key_value_heads * size
    total = 0
    for layer in range(1, len(counts)):
        if not 0 < counts[layer] < counts[layer - 1]:
            continue
        length = lengths[layer - 1]
        if schedule.ranking is Ranking.INSTRUCTION:
            total += 2 * rows * length * (attended + 1)  # and the mean over rows
        elif schedule.ranking is Ranking.LAST_TOKEN:
            total += 2 * length * attended
        elif schedule.ranking is Ranking.NEXT_LAYER:
            total += 2 * length * attended + 2 * text.hidden_size * (attended + length * keys)
    return float(total)


def _head_dim(text: Any) -> int:
    return int(getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads)
