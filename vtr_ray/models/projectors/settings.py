"""The projector that a checkpoint's config.json names as `vtr_ray_projector`: checked, tokens, FLOPs."""

from __future__ import annotations

from math import isqrt
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vtr_ray.errors import InputError

KEY = "vtr_ray_projector"
_CLASS_TOKENS = {"clip_vision_model": 1, "siglip_vision_model": 0}


class ProjectorSettings(BaseModel):
    """`vtr_ray_projector` of a LLaVA's config.json.

    Attributes:
        name: "deco" or "tokenpacker".
        tokens: vision tokens per image, a square whose side divides the patch grid's.
        heads: TokenPacker's attention heads; default: one per 128 of the encoder's width, as in its code.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: Literal["deco", "tokenpacker"]
    tokens: int = Field(ge=1)
    heads: int | None = Field(default=None, ge=1)

    @property
    def side(self) -> int:
        """Vision tokens along an edge of the image."""
        return isqrt(self.tokens)


def projector_settings(config: Any) -> ProjectorSettings | None:
    """The projector that a configuration names; None: its own.

    Raises:
        InputError: settings that are none, or that do not fit the rest of the configuration.
    """
    raw = getattr(config, KEY, None)
    if raw is None:
        return None
    if getattr(config, "model_type", None) != "llava":
        raise InputError(f"{KEY} is for LLaVA, not for {config.model_type!r}; remove it from config.json.")
    try:
        settings = ProjectorSettings.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join([KEY, *map(str, first["loc"])])
        raise InputError(
            f'{place} is {first["input"]!r}: {first["msg"]}; e.g. {{"name": "deco", "tokens": 36}}.'
        ) from None
    _check(settings, config)
    return settings


def set_projector(config: Any, name: str, tokens: int, heads: int | None = None) -> None:
    """Name a projector in a LLaVA's configuration, and its vision tokens per image; all or nothing.

    Raises:
        InputError: as `projector_settings`.

    Example: a LLaVA to be trained with TokenPacker, its processor, and where both go.
        >>> from vtr_ray.models.projectors.llava import LlavaForConditionalGeneration, fit_processor
        >>> set_projector(config, "tokenpacker", 144)
        >>> model = LlavaForConditionalGeneration.from_pretrained(path, config=config)
        >>> fit_processor(processor, config)
        >>> model.save_pretrained(folder), processor.save_pretrained(folder)
    """
    before = getattr(config, KEY, None)
    setattr(config, KEY, {"name": name, "tokens": tokens} | ({} if heads is None else {"heads": heads}))
    try:
        projector_settings(config)
    except InputError:
        setattr(config, KEY, before)
        raise
    config.image_seq_length = tokens


def tokens_per_image(config: Any) -> int:
    """Vision tokens that a LLaVA's language model gets for one image."""
    settings = projector_settings(config)
    if settings is not None:
        return settings.tokens
    return _features(config, _CLASS_TOKENS.get(config.vision_config.model_type, 1))


def patch_grid(config: Any) -> int:
    """Patches along an edge of the image."""
    return int(config.vision_config.image_size // config.vision_config.patch_size)


def levels(config: Any) -> int:
    """Encoder layers whose features the projector gets, side by side."""
    layers = config.vision_feature_layer
    return 1 if isinstance(layers, int) else len(layers)


def projector_flops(config: Any, images: int, products: bool = True) -> int:
    """FLOPs of a LLaVA's projector (a multiply-add counts 2); its pooling and norms count none.

    With `T` tokens, `P` patches, `l` levels of width `c`, language width `d`: LLaVA's own and DeCo
    `2T (l c d + d^2)`; TokenPacker `2T (c^2 + c^2 + c^2 + c d + d^2)` for the queries, what attention does to
    them, and the MLP, `2P (2 (l c^2 + c^2) + 2 c^2)` for keys and values, `4 P c` for attention's products.

    Args:
        config: of a LLaVA.
        images: how many.
        products: count attention's products too, as `FlopCounterMode` does; the paper leaves them out.
    """
    settings = projector_settings(config)
    tokens, patches = tokens_per_image(config), patch_grid(config) ** 2
    c, d = config.vision_config.hidden_size, config.get_text_config(decoder=True).hidden_size
    if settings is None or settings.name == "deco":
        return int(images * 2 * tokens * (levels(config) * c * d + d * d))
    queries = 2 * tokens * (3 * c * c + c * d + d * d)
    fine = 2 * patches * (2 * (levels(config) * c * c + c * c) + 2 * c * c)
    return int(images * (queries + fine + (4 * patches * c if products else 0)))


def attention_heads(settings: ProjectorSettings, width: int) -> int:
    """TokenPacker's heads at an encoder's width."""
    return settings.heads or max(1, width // 128)


def _features(config: Any, class_tokens: int) -> int:
    """Features per image that the encoder gives the projector; the strategy "default" drops the first."""
    dropped = config.vision_feature_select_strategy == "default"
    return patch_grid(config) ** 2 + class_tokens - int(dropped)


def _check(settings: ProjectorSettings, config: Any) -> None:
    grid = patch_grid(config)
    if settings.side**2 != settings.tokens or grid % settings.side:
        fitting = ", ".join(str(side**2) for side in range(1, grid + 1) if grid % side == 0)
        raise InputError(
            f"{KEY}.tokens is {settings.tokens}; with {grid} x {grid} patches use one of: {fitting}."
        )
    encoder = config.vision_config.model_type
    if encoder not in _CLASS_TOKENS:
        raise InputError(f"{KEY} needs one of: {', '.join(_CLASS_TOKENS)}; the encoder is a {encoder!r}.")
    if _features(config, _CLASS_TOKENS[encoder]) != grid**2:
        fitting = "default" if _CLASS_TOKENS[encoder] else "full"
        raise InputError(
            f"{KEY} needs the {grid} x {grid} patches of the {encoder} and nothing else: "
            f"set vision_feature_select_strategy to {fitting!r}."
        )
    width = config.vision_config.hidden_size
    if settings.name == "deco" and settings.heads is not None:
        raise InputError(f"{KEY}.heads is for tokenpacker; deco has no attention.")
    heads = attention_heads(settings, width)
    if settings.name == "tokenpacker" and width % heads:
        raise InputError(f"{KEY}.heads is {heads}; use a divisor of the encoder's width {width}.")
