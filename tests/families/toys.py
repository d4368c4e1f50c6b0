"""A tiny model of each family from its real configuration class, and samples as its processor gives them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from native_oracle import decoder_of
from tiny_configs import config_of
from torch import Tensor

IMAGE, VIDEO, WRAP = 3, 4, 6  # placeholders, and a text token around them
WIDTH, VOCABULARY = 32, 64
TEXT: dict[str, Any] = {
    "hidden_size": WIDTH,
    "intermediate_size": 64,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 512,
    "initializer_range": 0.25,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
TOWER: dict[str, Any] = {
    "hidden_size": WIDTH,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 16,
    "patch_size": 4,
    "initializer_range": 0.25,
}
PARTLY = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}
PINPOINTS = [[16, 32], [32, 16], [32, 32]]


@dataclass
class Part:
    """One image or video: the tokens that stand for it, and what the model takes for it."""

    ids: list[int]
    entries: dict[str, Tensor]


@dataclass(frozen=True)
class Toy:
    """A family's tiny model.

    config: of the whole model. image, video: draw one, from the model's configuration and a generator.
    join: entries of all parts of a batch, sample by sample, as one call's keyword arguments.
    first: first layer (from 1) that may lose tokens, whatever the input.
    """

    architecture: str
    config: Callable[[], Any]
    image: Callable[[Any, torch.Generator], Part]
    video: Callable[[Any, torch.Generator], Part] | None = None
    join: Callable[[list[list[Part]]], dict[str, Tensor]] = field(default=lambda batch: concatenated(batch))
    first: int = 2


def concatenated(batch: list[list[Part]]) -> dict[str, Tensor]:
    entries: dict[str, list[Tensor]] = {}
    for parts in batch:
        for part in parts:
            for name, tensor in part.entries.items():
                entries.setdefault(name, []).append(tensor)
    return {name: torch.cat(tensors) for name, tensors in entries.items()}


def pixels(draw: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=draw)


# LLaVA-1.5 and Gemma 3: one square image, one run of tokens.


def square(config: Any, draw: torch.Generator) -> Part:
    return Part([WRAP] + [IMAGE] * 16 + [WRAP], {"pixel_values": pixels(draw, 1, 3, 16, 16)})


def llava(kind: str, **options: Any) -> Any:
    return config_of(
        "llava",
        kind,
        TEXT | options,
        TOWER | {"projection_dim": WIDTH},
        image_token_index=IMAGE,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        image_seq_length=16,
    )


def gemma3(layers: int, **options: Any) -> Any:
    own = {"num_hidden_layers": layers, "head_dim": 8, "sliding_window": 26, "query_pre_attn_scalar": 8}
    return config_of(
        "gemma3",
        "gemma3_text",
        TEXT | own | options,
        TOWER,
        mm_tokens_per_image=16,
        image_token_index=IMAGE,
        boi_token_index=WRAP,
        eoi_token_index=WRAP,
    )


# LLaVA-NeXT and LLaVA-OneVision: tiles and line breaks, as many as the image's size asks for.


def anyres(config: Any, draw: torch.Generator) -> Part:
    from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches, unpad_image

    height, width = ((16, 30), (30, 30), (28, 12))[int(torch.randint(3, (1,), generator=draw))]
    tiles = image_size_to_num_patches([height, width], PINPOINTS, 16)
    best = {(16, 30): (16, 32), (30, 30): (32, 32), (28, 12): (32, 16)}[height, width]
    kept = unpad_image(torch.zeros(1, best[0] // 4, best[1] // 4), [height, width]).shape[1:]
    tokens = 16 + kept[0] * (kept[1] + 1)
    padded = torch.zeros(1, 5, 3, 16, 16)
    padded[0, :tiles] = pixels(draw, tiles, 3, 16, 16)
    return Part([IMAGE] * tokens, {"pixel_values": padded, "image_sizes": torch.tensor([[height, width]])})


def llava_next() -> Any:
    return config_of(
        "llava_next",
        "mistral",
        TEXT | {"sliding_window": None},
        TOWER | {"projection_dim": WIDTH},
        image_token_index=IMAGE,
        image_grid_pinpoints=PINPOINTS,
        image_seq_length=16,
    )


def onevision() -> Any:
    return config_of(
        "llava_onevision",
        "qwen2",
        TEXT,
        TOWER | {"vision_use_head": False},
        image_token_index=IMAGE,
        video_token_index=VIDEO,
        image_grid_pinpoints=PINPOINTS,
    )


def onevision_video(config: Any, draw: torch.Generator) -> Part:
    return Part([VIDEO] * (3 * 4 + 1), {"pixel_values_videos": pixels(draw, 1, 3, 3, 16, 16)})


# InternVL: tiles in one run; a video's frames are images with text before each.


def internvl(kind: str, **options: Any) -> Any:
    tower = TOWER | {"image_size": [16, 16], "patch_size": [4, 4], "layer_scale_init_value": 1.0}
    return config_of("internvl", kind, TEXT | options, tower, image_token_id=IMAGE, image_seq_length=4)


def internvl_image(config: Any, draw: torch.Generator) -> Part:
    return Part([WRAP] + [IMAGE] * 12 + [WRAP], {"pixel_values": pixels(draw, 3, 3, 16, 16)})


def internvl_video(config: Any, draw: torch.Generator) -> Part:
    return Part(([7, WRAP] + [IMAGE] * 4 + [WRAP]) * 3, {"pixel_values": pixels(draw, 3, 3, 16, 16)})


# Idefics3 and SmolVLM: tiles with text between; images padded to the sample with the most.


def tiled(name: str) -> Any:
    return config_of(name, "llama", TEXT, TOWER, image_token_id=IMAGE, scale_factor=2)


def tiled_image(config: Any, draw: torch.Generator) -> Part:
    ids = ([WRAP, 8] + [IMAGE] * 4) * 2 + [WRAP, 9] + [IMAGE] * 4 + [WRAP]
    mask = torch.ones(1, 3, 16, 16, dtype=torch.bool)
    return Part(ids, {"pixel_values": pixels(draw, 1, 3, 3, 16, 16), "pixel_attention_mask": mask})


def tiled_join(batch: list[list[Part]]) -> dict[str, Tensor]:
    if not any(batch):
        return {}
    most = max(3 * len(parts) for parts in batch)
    joined = {}
    for name, empty in (
        ("pixel_values", torch.zeros(1, most, 3, 16, 16)),
        ("pixel_attention_mask", torch.zeros(1, most, 16, 16, dtype=torch.bool)),
    ):
        rows = []
        for parts in batch:
            row = empty.clone()
            for number, part in enumerate(parts):
                row[:, 3 * number : 3 * number + 3] = part.entries[name]
            rows.append(row)
        joined[name] = torch.cat(rows)
    return joined


# Qwen-VL: patches of any size in rows, a grid says which; positions have a time, a height and a width.


def qwen(name: str, tower: dict[str, Any], **options: Any) -> Any:
    own = {"depth": 2, "num_heads": 4, "patch_size": 4, "temporal_patch_size": 2, "spatial_merge_size": 2}
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}
    return config_of(
        name,
        f"{name}_text",
        TEXT | {"rope_parameters": rope} | options,
        own | {"initializer_range": 0.25} | tower,
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        vision_start_token_id=WRAP,
        vision_end_token_id=WRAP,
    )


def grid_image(config: Any, draw: torch.Generator) -> Part:
    height, width = ((4, 6), (6, 6), (8, 4))[int(torch.randint(3, (1,), generator=draw))]
    return Part(
        [WRAP] + [IMAGE] * (height * width // 4) + [WRAP],
        {
            "pixel_values": pixels(draw, height * width, 3 * 2 * 4 * 4),
            "image_grid_thw": torch.tensor([[1, height, width]]),
        },
    )


def grid_video(config: Any, draw: torch.Generator) -> Part:
    apart = config.model_type == "qwen3_vl"  # its frames have text between them
    ids = ([7, WRAP] + [VIDEO] * 6 + [WRAP]) * 3 if apart else [WRAP] + [VIDEO] * 18 + [WRAP]
    return Part(
        ids,
        {
            "pixel_values_videos": pixels(draw, 3 * 24, 3 * 2 * 4 * 4),
            "video_grid_thw": torch.tensor([[3, 4, 6]]),
        },
    )


QWEN2 = {"embed_dim": WIDTH, "hidden_size": WIDTH}
QWEN25 = {
    "hidden_size": WIDTH,
    "out_hidden_size": WIDTH,
    "intermediate_size": 64,
    "window_size": 16,
    "fullatt_block_indexes": [1],
}
QWEN3 = {
    "hidden_size": WIDTH,
    "out_hidden_size": WIDTH,
    "intermediate_size": 64,
    "depth": 4,
    "num_position_embeddings": 64,
    "deepstack_visual_indexes": [0, 1, 2],
}

TOYS = {
    "llava": Toy("Llava", lambda: llava("llama"), square),
    "llava-window": Toy(
        "Llava",
        lambda: llava(
            "qwen2",
            use_sliding_window=True,
            sliding_window=24,
            layer_types=["full_attention", "sliding_attention"] * 2 + ["sliding_attention"],
        ),
        square,
    ),
    "llava-next": Toy("LlavaNext", llava_next, anyres),
    "onevision": Toy("LlavaOnevision", onevision, anyres, onevision_video),
    "internvl-qwen2": Toy("InternVL", lambda: internvl("qwen2"), internvl_image, internvl_video),
    "internvl-llama": Toy("InternVL", lambda: internvl("llama"), internvl_image, internvl_video),
    "internvl-phi3": Toy(
        "InternVL", lambda: internvl("phi3", rope_parameters=PARTLY), internvl_image, internvl_video
    ),
    "internvl-qwen3": Toy("InternVL", lambda: internvl("qwen3", head_dim=8), internvl_image, internvl_video),
    "idefics3": Toy("Idefics3", lambda: tiled("idefics3"), tiled_image, join=tiled_join),
    "smolvlm": Toy("SmolVLM", lambda: tiled("smolvlm"), tiled_image, tiled_image, tiled_join),
    "qwen2-vl": Toy("Qwen2VL", lambda: qwen("qwen2_vl", QWEN2), grid_image, grid_video),
    "qwen2.5-vl": Toy("Qwen2_5_VL", lambda: qwen("qwen2_5_vl", QWEN25), grid_image, grid_video),
    "qwen3-vl": Toy("Qwen3VL", lambda: qwen("qwen3_vl", QWEN3, head_dim=8), grid_image, grid_video),
    "gemma3": Toy("Gemma3", lambda: gemma3(8), square, first=7),
    "gemma3-early": Toy(
        "Gemma3",
        lambda: gemma3(
            5,
            layer_types=["sliding_attention", "full_attention", *["sliding_attention"] * 2, "full_attention"],
        ),
        square,
        first=3,
    ),
}


@cache
def model_of(name: str, attn: str, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Any:
    """The tiny model; of one name, all have the same weights."""
    import transformers

    toy = TOYS[name]
    torch.manual_seed(0)
    cls = getattr(transformers, f"{toy.architecture}ForConditionalGeneration")
    config = copy.deepcopy(toy.config())
    config._attn_implementation = attn
    model = cls(config)
    for parameter in model.parameters():
        if not bool(parameter.any()) and parameter.dim() > 1:  # Gemma's projector starts at zero
            torch.nn.init.normal_(parameter, std=0.25)
    for layer in decoder_of(model).layers:
        if toy.architecture == "Gemma3":  # else its attention is so even that any tokens would do
            torch.nn.init.constant_(layer.self_attn.q_norm.weight, 0.5)
            torch.nn.init.constant_(layer.self_attn.k_norm.weight, 0.5)
    assert decoder_attn(model) == attn
    return model.to(device, dtype).eval()


def decoder_attn(model: Any) -> str:
    return model.config.get_text_config(decoder=True)._attn_implementation


class Sample:
    """Text, images and videos with text between, a question, an answer."""

    def __init__(
        self, name: str, seed: int, before: int, images: int, after: int, answer: int = 0, videos: int = 0
    ) -> None:
        toy, config = TOYS[name], model_of(name, "eager").config
        draw = torch.Generator().manual_seed(seed)

        def text(n: int) -> list[int]:
            return torch.randint(10, VOCABULARY, (n,), generator=draw).tolist()

        self.name, self.toy = name, toy
        self.parts: list[Part] = []
        ids = text(before)
        for number in range(images + videos):
            draws = toy.image if number < images else toy.video
            assert draws is not None
            part = draws(config, draw)
            self.parts.append(part)
            ids += part.ids + (text(1) if number + 1 < images + videos else [])
        self.prompt_ids = torch.tensor(ids + text(after))
        self.ids = torch.tensor(self.prompt_ids.tolist() + text(answer))

    @property
    def vision(self) -> Tensor:
        return (self.ids == IMAGE) | (self.ids == VIDEO)

    @property
    def prompt(self) -> Tensor:
        return torch.arange(len(self.ids)) < len(self.prompt_ids)

    def with_answer(self, answer: list[int]) -> Sample:
        """The same sample with another answer."""
        other = copy.copy(self)
        other.ids = torch.tensor(self.prompt_ids.tolist() + answer)
        return other


def inputs_of(samples: list[Sample], model: Any) -> dict[str, Any]:
    """Call of a batch, padded on the left; without padding, also without a mask."""
    width = max(len(sample.ids) for sample in samples)
    ids = torch.zeros(len(samples), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, sample in enumerate(samples):
        ids[row, width - len(sample.ids) :] = sample.ids
        mask[row, width - len(sample.ids) :] = 1
    inputs: dict[str, Any] = {"input_ids": ids}
    if not bool(mask.all()):
        inputs["attention_mask"] = mask
    joined = samples[0].toy.join([sample.parts for sample in samples])
    inputs |= {
        key: tensor.to(model.dtype) if tensor.is_floating_point() else tensor
        for key, tensor in joined.items()
    }
    if model.config.model_type.startswith("qwen"):
        inputs["mm_token_type_ids"] = (ids == IMAGE).int() + 2 * (ids == VIDEO).int()
    if model.config.model_type == "gemma3":
        inputs["token_type_ids"] = (ids == IMAGE).long()
    if "attention_mask" in inputs and not model.config.model_type.startswith("qwen"):
        inputs["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
    return {key: tensor.to(model.device) for key, tensor in inputs.items()}


def prompts_of(samples: list[Sample]) -> Tensor:
    """bool [batch, seq], as `inputs_of` pads."""
    width = max(len(sample.ids) for sample in samples)
    prompt = torch.zeros(len(samples), width, dtype=torch.bool)
    for row, sample in enumerate(samples):
        prompt[row, width - len(sample.ids) :] = sample.prompt
    return prompt
