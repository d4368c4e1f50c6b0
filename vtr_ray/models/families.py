"""The one table of supported model families: where each keeps its parts. A new family is a new row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from vtr_ray.errors import InputError

# Pre-norm layers with `input_layernorm`, rotary positions on half-split heads, and queries and keys from
# `self_attn.q_proj` and `k_proj` (normed by `q_norm` and `k_norm`, if any) or the fused `qkv_proj`.
_TEXT_TYPES = ("llama", "mistral", "phi3", "qwen2", "qwen3")


@dataclass(frozen=True)
class Family:
    """Where a family's models and configurations keep what reduction, features and FLOPs need.

    The defaults are the common pattern; a family that follows it names its class and no more.

    Attributes:
        architecture: the transformers class, as in the checkpoint's `architectures`.
        model_type: the configuration's `model_type`.
        text_types: `model_type`s of language models whose layers are known.
        core: dotted name of the module that joins vision and text; its inputs carry `input_ids`.
        decoder: dotted name of the language model, with `layers` and `rotary_emb`.
        vision_tokens: configuration attributes with the placeholders' token ids, the image's first.
        image_inputs: what the model's `get_image_features` takes of the processor's output.
        video_inputs: the same of `get_video_features`; none: videos come as images, or not at all.
        blocks: the model input whose runs of 1 are blocks that see themselves in both directions.
        grid_positions: rotary positions have a time, a height and a width (`get_rope_index`).
        deepstack: the decoder's method that adds deeper vision features to the first layers' outputs.
    """

    architecture: str
    model_type: str
    text_types: tuple[str, ...] = _TEXT_TYPES
    core: str = "model"
    decoder: str = "model.language_model"
    vision_tokens: tuple[str, ...] = ("image_token_id",)
    image_inputs: tuple[str, ...] = ("pixel_values",)
    video_inputs: tuple[str, ...] = ()
    blocks: str | None = None
    grid_positions: bool = False
    deepstack: str | None = None

    def core_of(self, model: nn.Module) -> nn.Module:
        """The module that joins vision and text."""
        return model.get_submodule(self.core)

    def decoder_of(self, model: nn.Module) -> nn.Module:
        """The language model without its head."""
        return model.get_submodule(self.decoder)

    def layers_of(self, model: nn.Module) -> list[nn.Module]:
        """The `L` decoder layers, layer 1 first."""
        layers = self.decoder_of(model).layers
        assert isinstance(layers, nn.ModuleList)
        return list(layers)

    def vision_token_id(self, config: Any) -> int:
        """Token id that marks an image token's place in `input_ids`."""
        return int(getattr(config, self.vision_tokens[0]))

    def is_vision(self, config: Any, input_ids: Tensor) -> Tensor:
        """bool, of the shape of `input_ids`: True at the places of vision tokens, videos' included."""
        vision = input_ids == self.vision_token_id(config)
        for name in self.vision_tokens[1:]:
            vision = vision | (input_ids == getattr(config, name))
        return vision


_ANYRES = ("pixel_values", "image_sizes")
_IMAGE_AND_VIDEO = ("image_token_id", "video_token_id")
_GRID: dict[str, Any] = {
    "vision_tokens": _IMAGE_AND_VIDEO,
    "image_inputs": ("pixel_values", "image_grid_thw"),
    "video_inputs": ("pixel_values_videos", "video_grid_thw"),
    "grid_positions": True,
}
_TILED: dict[str, Any] = {
    "decoder": "model.text_model",
    "image_inputs": ("pixel_values", "pixel_attention_mask"),
}

_FAMILIES = (
    Family("LlavaForConditionalGeneration", "llava"),
    Family("LlavaNextForConditionalGeneration", "llava_next", image_inputs=_ANYRES),
    Family(
        "LlavaOnevisionForConditionalGeneration",
        "llava_onevision",
        vision_tokens=_IMAGE_AND_VIDEO,
        image_inputs=(*_ANYRES, "batch_num_images"),
        video_inputs=("pixel_values_videos",),
    ),
    Family("InternVLForConditionalGeneration", "internvl"),
    Family("Idefics3ForConditionalGeneration", "idefics3", **_TILED),
    Family("SmolVLMForConditionalGeneration", "smolvlm", **_TILED),
    Family("Qwen2VLForConditionalGeneration", "qwen2_vl", ("qwen2_vl_text",), **_GRID),
    Family("Qwen2_5_VLForConditionalGeneration", "qwen2_5_vl", ("qwen2_5_vl_text",), **_GRID),
    Family(
        "Qwen3VLForConditionalGeneration",
        "qwen3_vl",
        ("qwen3_vl_text",),
        deepstack="_deepstack_process",
        **_GRID,
    ),
    Family("Gemma3ForConditionalGeneration", "gemma3", ("gemma3_text",), blocks="token_type_ids"),
)


def supported() -> list[str]:
    """Class names of the supported families."""
    return [family.architecture for family in _FAMILIES]


def family_of(model_or_config: Any) -> Family:
    """The family of a model (by class) or of a configuration (by `architectures`, else `model_type`).

    Raises:
        InputError: a family, or a language model inside it, that is not supported.
    """
    if isinstance(model_or_config, nn.Module):
        names = [base.__name__ for base in type(model_or_config).__mro__]
        config: Any = getattr(model_or_config, "config", None)
    else:
        names = list(getattr(model_or_config, "architectures", None) or [])
        config = model_or_config
    for family in _FAMILIES:
        if family.architecture in names or (not names and family.model_type == config.model_type):
            _check_text(family, config)
            return family
    name = names[0] if names else getattr(config, "model_type", type(config).__name__)
    raise InputError(f"{name} is not supported; supported families: {', '.join(supported())}.")


def _check_text(family: Family, config: Any) -> None:
    text_type = config.get_text_config(decoder=True).model_type
    if text_type not in family.text_types:
        raise InputError(
            f"{family.architecture} with a {text_type} language model is not supported; supported language "
            f"models: {', '.join(family.text_types)}."
        )
