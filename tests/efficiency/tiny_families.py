"""A tiny model of each family, random weights, from its own configuration class; and pictures it takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tiny_configs import config_of

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
    words: dict[str, Any] = {
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
        **_WORDS.get(text, {}),
    }
    tower = (_GRIDS[family] | _GRID) if family in _GRIDS else _TOWER | _TOWERS.get(family, {})
    options = (_IDS | _OPTIONS.get(family, {})) if family not in _GRIDS else _GRID_IDS
    return config_of(family, text, words, tower, attn_implementation=attn, **options)


_ROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 2, 2]}
_WORDS: dict[str, dict[str, Any]] = {
    "qwen3": {"head_dim": 12},
    "gemma3_text": {"head_dim": 16, "sliding_window": 20, "sliding_window_pattern": 3},
    "qwen2_vl_text": {"rope_parameters": _ROPE},
    "qwen2_5_vl_text": {"rope_parameters": _ROPE},
    "qwen3_vl_text": {"head_dim": 12, "rope_parameters": _ROPE | {"mrope_interleaved": True}},
}
_TOWER = {
    "hidden_size": 32,
    "intermediate_size": 56,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 16,
    "patch_size": 4,
}
_TOWERS: dict[str, dict[str, Any]] = {"llava_onevision": {"vision_use_head": False}}
_GRID = {
    "depth": 3,
    "num_heads": 4,
    "in_channels": 3,
    "patch_size": 4,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
}
_LATER = {"hidden_size": 32, "intermediate_size": 56, "out_hidden_size": 48}
_GRIDS: dict[str, dict[str, Any]] = {
    "qwen2_vl": {"embed_dim": 32, "hidden_size": 48, "mlp_ratio": 2},
    "qwen2_5_vl": _LATER | {"window_size": 16, "fullatt_block_indexes": [1]},
    "qwen3_vl": _LATER | {"num_position_embeddings": 64, "deepstack_visual_indexes": [0, 2]},
}
_IDS: dict[str, Any] = {"image_token_id": 90}
_GRID_IDS = _IDS | {"video_token_id": 91, "vision_start_token_id": 92, "vision_end_token_id": 93}
_PINPOINTS = {"image_grid_pinpoints": [[16, 32], [32, 16], [32, 32]]}
_OPTIONS: dict[str, dict[str, Any]] = {
    "llava_next": _PINPOINTS,
    "llava_onevision": _PINPOINTS | {"video_token_id": 91, "vision_aspect_ratio": "anyres_max_2"},
    "internvl": {"tie_word_embeddings": False},
    "idefics3": {"scale_factor": 2},
    "smolvlm": {"scale_factor": 2},
    "gemma3": {"boi_token_id": 91, "eoi_token_id": 92, "mm_tokens_per_image": 4},
}


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
        *(case for text in ("qwen2", "phi3", "qwen3") for case in _cases("llava", text, 16)),
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
        *_cases("internvl", "qwen3", 8),
        *(
            case
            for family in ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
            for case in _cases(family, f"{family}_text", 0, 6, [wide], [wide, tall], [video])
        ),
        *_cases("idefics3", "llama", 0, 4, 8),
        *_cases("smolvlm", "llama", 0, 4, 8),
        *_cases("gemma3", "gemma3_text", 0, 4, 8),
    ]
