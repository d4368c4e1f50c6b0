"""A tiny model of each family, random weights, from its own configuration class; and pictures it takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from vtr_ray.efficiency import Picture

LAYERS = 5


@dataclass(frozen=True)
class Case:
    """`pictures`: of one sample, None where the tokens alone tell the cost."""

    family: str
    text: str
    tokens: int
    pictures: tuple[Picture, ...] | None = None

    @property
    def name(self) -> str:
        kind = "" if self.pictures is None else "-" + "+".join("x".join(map(str, p)) for p in self.pictures)
        return f"{self.family}-{self.text}-{self.tokens}{kind}"


def tiny_config(family: str, text: str, attn: str = "eager") -> Any:
    """LAYERS decoder layers of width 48; heads of 12, so that no two widths agree by chance."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    common = {
        "hidden_size": 48,
        "intermediate_size": 80,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 96,
        "max_position_embeddings": 1024,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 2, 2]}
    if text == "gemma3_text":
        common |= {"head_dim": 16, "sliding_window": 20, "sliding_window_pattern": 3}
    elif family in ("qwen2_vl", "qwen2_5_vl"):
        common |= {"rope_parameters": rope}
    elif family == "qwen3_vl":
        common |= {"head_dim": 12, "rope_parameters": rope | {"mrope_interleaved": True}}
    vit = {
        "hidden_size": 32,
        "intermediate_size": 56,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "image_size": 16,
        "patch_size": 4,
    }
    if family.startswith("qwen"):
        vision: dict[str, Any] = {
            "depth": 3,
            "num_heads": 4,
            "in_channels": 3,
            "patch_size": 4,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
        }
        vision |= {
            "qwen2_vl": {"embed_dim": 32, "hidden_size": 48, "mlp_ratio": 2},
            "qwen2_5_vl": {
                "hidden_size": 32,
                "intermediate_size": 56,
                "out_hidden_size": 48,
                "window_size": 16,
                "fullatt_block_indexes": [1],
            },
            "qwen3_vl": {
                "hidden_size": 32,
                "intermediate_size": 56,
                "out_hidden_size": 48,
                "num_position_embeddings": 64,
                "deepstack_visual_indexes": [0, 2],
            },
        }[family]
        text_config: Any = common
        options: dict[str, Any] = {
            "image_token_id": 90,
            "video_token_id": 91,
            "vision_start_token_id": 92,
            "vision_end_token_id": 93,
        }
        return CONFIG_MAPPING[family](
            text_config=text_config, vision_config=vision, attn_implementation=attn, **options
        )
    text_config = CONFIG_MAPPING[text](**common)
    options = {"image_token_index": 90}
    vision_type = "clip_vision_model"
    if family == "llava_next":
        options |= {"image_grid_pinpoints": [[16, 32], [32, 16], [32, 32]]}
    elif family == "llava_onevision":
        vision_type = "siglip_vision_model"
        options |= {"image_grid_pinpoints": [[16, 32], [32, 16], [32, 32]], "video_token_index": 91}
        options |= {"vision_aspect_ratio": "anyres_max_2"}
        vit |= {"vision_use_head": False}
    elif family == "internvl":
        vision_type = "internvl_vision"
        options = {"image_token_id": 90, "tie_word_embeddings": False}
    elif family in ("idefics3", "smolvlm"):
        vision_type = f"{family}_vision"
        options = {"image_token_id": 90, "scale_factor": 2}
    elif family == "gemma3":
        vision_type = "siglip_vision_model"
        options = {"image_token_id": 90, "boi_token_id": 91, "eoi_token_id": 92, "mm_tokens_per_image": 4}
    return CONFIG_MAPPING[family](
        text_config=text_config,
        vision_config=CONFIG_MAPPING[vision_type](**vit),
        attn_implementation=attn,
        **options,
    )


def tiny_model(config: Any) -> Any:
    from vtr_ray.efficiency.memory import build_model

    torch.manual_seed(0)
    return build_model(config).eval()


def _cases(family: str, text: str, *samples: Sequence[Picture] | int) -> list[Case]:
    from vtr_ray.efficiency import vision_tokens_of

    made = []
    for sample in samples:
        if isinstance(sample, int):
            made.append(Case(family, text, sample))
        else:
            config = tiny_config(family, text)
            made.append(Case(family, text, vision_tokens_of(config, sample), tuple(sample)))
    return made


def cases() -> list[Case]:
    """Every family with no image, one, two, and a video where it takes them."""
    wide, tall, video = Picture(16, 40), Picture(40, 24), Picture(16, 24, frames=3)
    return [
        *_cases("llava", "llama", 0, 16, 32),
        *_cases("llava", "mistral", 16),
        *_cases("llava", "qwen2", 16),
        *_cases("llava_next", "mistral", 0, [Picture(20, 30)], [Picture(30, 9), Picture(64, 64)]),
        *_cases(
            "llava_onevision",
            "qwen2",
            0,
            [Picture(20, 30)],
            [Picture(64, 64)],
            [Picture(30, 9), Picture(64, 64)],
            [Picture(16, 16, frames=3)],
        ),
        *_cases("internvl", "qwen2", 0, 4, 12),
        *_cases("internvl", "llama", 8),
        *_cases("internvl", "phi3", 8),
        *(
            case
            for family in ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
            for case in _cases(family, f"{family}_text", 0, 6, [wide], [wide, tall], [video])
        ),
        *_cases("idefics3", "llama", 0, 4, 8),
        *_cases("smolvlm", "llama", 0, 4, 8),
        *_cases("gemma3", "gemma3_text", 0, 4, 8),
    ]
