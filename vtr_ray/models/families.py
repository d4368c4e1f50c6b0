"""The one table of supported model families: where each keeps its parts. A new family is a new row."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from vtr_ray.errors import InputError


@dataclass(frozen=True)
class Family:
    """Where a family's models and configurations keep what reduction, features and FLOPs need.

    Attributes:
        architecture: the transformers class, as in the checkpoint's `architectures`.
        model_type: the configuration's `model_type`.
        core: dotted name of the module that joins vision and text; its inputs carry `input_ids`.
        decoder: dotted name of the language model, with `layers` and `rotary_emb`.
        vision_token: configuration attribute with the placeholder's token id.
        text_types: `model_type`s of language models whose layers are known to be pre-norm with
            `input_layernorm`, `self_attn.q_proj`, `self_attn.k_proj` and rotary positions.
        encode: vision features per image, from the model and its vision inputs: list of [tokens, width].
    """

    architecture: str
    model_type: str
    core: str
    decoder: str
    vision_token: str
    text_types: tuple[str, ...]
    encode: Callable[[nn.Module, Mapping[str, Any]], list[Tensor]]

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
        """Token id that marks a vision token's place in `input_ids`."""
        return int(getattr(config, self.vision_token))


def _encode_llava(model: nn.Module, inputs: Mapping[str, Any]) -> list[Tensor]:
    output = model.get_image_features(pixel_values=inputs["pixel_values"], return_dict=True)  # type: ignore[operator]
    return list(output.pooler_output)


_FAMILIES = (
    Family(
        architecture="LlavaForConditionalGeneration",
        model_type="llava",
        core="model",
        decoder="model.language_model",
        vision_token="image_token_id",
        text_types=("llama", "mistral", "qwen2"),
        encode=_encode_llava,
    ),
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
