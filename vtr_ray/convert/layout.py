"""What an original InternVL2 checkpoint says of itself, and the native configuration of the same model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError

from vtr_ray.errors import InputError

INTERNLM2 = "InternLM2ForCausalLM"
_TEXT_TYPES = {
    INTERNLM2: "llama",
    "LlamaForCausalLM": "llama",
    "Phi3ForCausalLM": "phi3",
    "Qwen2ForCausalLM": "qwen2",
}
_REQUIRED = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")


class Vision(BaseModel):
    """`vision_config`: an InternViT. The defaults are those of the original class (InternViT-6B)."""

    hidden_size: int = 3200
    intermediate_size: int = 12800
    num_hidden_layers: int = 48
    num_attention_heads: int = 25
    num_channels: int = 3
    patch_size: int = 14
    image_size: int = 224
    qkv_bias: bool = False
    qk_normalization: bool = True
    norm_type: Literal["rms_norm", "layer_norm"] = "rms_norm"
    layer_norm_eps: float = 1e-6
    hidden_act: str = "gelu"
    dropout: float = 0.0
    attention_dropout: float = 0.0
    initializer_range: float = 0.02
    initializer_factor: float = 0.1


class Layout(BaseModel):
    """`config.json` of an original checkpoint, as far as it decides what the model computes."""

    vision_config: Vision
    llm_config: dict[str, Any]
    template: str = ""
    system_message: str | None = None
    torch_dtype: str | None = None
    select_layer: int = -1
    downsample_ratio: float = Field(default=0.5, gt=0, le=1)
    force_image_size: int | None = None
    ps_version: str = "v1"
    pad2square: bool = False
    dynamic_image_size: bool = False
    use_thumbnail: bool = False
    min_dynamic_patch: int = 1
    max_dynamic_patch: int = 6

    @property
    def architecture(self) -> str:
        """Class name of the language model."""
        names = self.llm_config.get("architectures") or ["none"]
        return str(names[0])

    @property
    def image_size(self) -> int:
        """Side of a tile in pixels."""
        return self.force_image_size or self.vision_config.image_size

    @property
    def image_tokens(self) -> int:
        """Vision tokens of one tile."""
        patches = self.image_size // self.vision_config.patch_size
        return int(patches**2 * self.downsample_ratio**2)

    @classmethod
    def read(cls, folder: Path) -> Layout:
        """Reads `folder/config.json`.

        Raises InputError: no such file, another layout than InternVL2's original one, or a setting that the
        native model does not have.
        """
        raw = read_json(folder, "config.json")
        if raw is None:
            raise InputError(f"No config.json in {folder}; give the directory of an original checkpoint.")
        kind = raw.get("model_type")
        if kind == "internvl":
            raise InputError(f"{folder} is in the native layout already; use it as it is.")
        if kind != "internvl_chat":
            raise InputError(
                f"{folder} holds a {kind or 'nameless'} checkpoint, not one in the original InternVL2 layout "
                "(model_type internvl_chat)."
            )
        path = folder / "config.json"
        layout = cls.parse(raw, path)
        layout._check(path)
        return layout

    @classmethod
    def parse(cls, raw: Any, path: str | Path) -> Layout:
        """The layout that a `config.json`'s content describes; of `path` in errors.

        Raises InputError: entries missing or of a wrong type, or a language model that is not known.
        """
        try:
            layout = cls.model_validate(raw)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise InputError(f"{where} in {path}: {first['msg']}.") from None
        lacking = [name for name in _REQUIRED if not isinstance(layout.llm_config.get(name), int)]
        if layout.architecture not in _TEXT_TYPES:
            known = ", ".join(_TEXT_TYPES)
            raise InputError(f"{path} has language model {layout.architecture} (known: {known}).")
        if lacking:
            raise InputError(f"llm_config in {path} lacks {', '.join(lacking)}.")
        return layout

    def _check(self, path: Path) -> None:
        vision = self.vision_config
        scaling = (self.llm_config.get("rope_scaling") or {}).get("type")
        wrong = {
            f"ps_version {self.ps_version}, only v2 exists natively": self.ps_version != "v2",
            # Phi-3's code once had a rope of that name; transformers reads it as another.
            "rope_scaling yarn": scaling == "yarn",
            "pad2square": self.pad2square,
            "tiles without a thumbnail": self.dynamic_image_size and not self.use_thumbnail,
            # The native query and key norms have no setting for it.
            f"query and key norms with eps {vision.layer_norm_eps}": vision.qk_normalization
            and vision.layer_norm_eps != 1e-6,
        }
        for what, is_so in wrong.items():
            if is_so:
                raise InputError(f"Cannot convert {path}: {what}.")

    def native(self, image_token_id: int, tied: bool, dtype: str | None) -> Any:
        """The `InternVLConfig` of the same model.

        Args:
            image_token_id: id of the placeholder of a vision token.
            tied: the checkpoint has no output head of its own.
            dtype: a torch dtype's name, that of the tensors; None: not known.

        Raises InputError on numbers that transformers' configuration classes refuse.
        """
        from huggingface_hub.errors import StrictDataclassError
        from transformers import InternVLConfig

        try:
            return InternVLConfig(
                architectures=["InternVLForConditionalGeneration"],
                vision_config=self._native_vision(),
                text_config=self._native_text(tied, dtype),
                image_token_id=image_token_id,
                image_seq_length=self.image_tokens,
                downsample_ratio=self.downsample_ratio,
                vision_feature_layer=self.select_layer,
                tie_word_embeddings=tied,
                dtype=dtype,
            )
        except (StrictDataclassError, ValueError, TypeError, KeyError) as error:
            reason = " ".join(str(error).split())
            raise InputError(f"config.json describes a model that transformers refuses: {reason}") from None

    def _native_vision(self) -> Any:
        from transformers import InternVLVisionConfig

        vision = self.vision_config
        return InternVLVisionConfig(
            hidden_size=vision.hidden_size,
            intermediate_size=vision.intermediate_size,
            num_hidden_layers=vision.num_hidden_layers,
            num_attention_heads=vision.num_attention_heads,
            num_channels=vision.num_channels,
            patch_size=vision.patch_size,
            image_size=vision.image_size,
            attention_bias=vision.qkv_bias,
            use_qk_norm=vision.qk_normalization,
            norm_type=vision.norm_type,
            layer_norm_eps=vision.layer_norm_eps,
            hidden_act=vision.hidden_act,
            hidden_dropout_prob=vision.dropout,
            projection_dropout=vision.dropout,
            attention_dropout=vision.attention_dropout,
            initializer_range=vision.initializer_range,
            layer_scale_init_value=vision.initializer_factor,
            use_mean_pooling=True,  # no norm after the last layer
        )

    def _native_text(self, tied: bool, dtype: str | None) -> Any:
        from transformers.models.auto.configuration_auto import CONFIG_MAPPING

        kind = CONFIG_MAPPING[_TEXT_TYPES[self.architecture]]
        # An original configuration also dumps generation settings and a kernel's name: only the model counts.
        numbers = {
            name: value
            for name, value in self.llm_config.items()
            if name in kind.__annotations__ or name in ("rope_theta", "rope_scaling")
        }
        if self.architecture == INTERNLM2:
            numbers["attention_bias"] = bool(self.llm_config.get("bias", True))
        if numbers.get("rope_scaling"):
            scaling = dict(numbers["rope_scaling"])  # transformers writes into it
            name = scaling.pop("type", "default")
            # Phi-3's first name for it.
            numbers["rope_scaling"] = {"rope_type": "longrope" if name == "su" else name, **scaling}
        return kind(**{**numbers, "tie_word_embeddings": tied, "use_cache": True, "dtype": dtype})


def read_json(folder: Path, name: str) -> dict[str, Any] | None:
    """The object in `folder/name`, or None where there is no such file.

    Raises InputError on anything but a JSON object.
    """
    path = folder / name
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"Cannot read {path}: {error}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path} holds no JSON object.")
    return content
