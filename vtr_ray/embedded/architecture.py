"""The embedded model's shape: transformers' own LLaVA classes, small."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from vtr_ray.embedded.draw.picture import GRID, PATCH, SIZE
from vtr_ray.embedded.tokenizer import ANSWER, IMAGE, build_tokenizer
from vtr_ray.models.projectors import set_projector
from vtr_ray.models.projectors.llava import LlavaForConditionalGeneration, fit_processor

WIDTH = 128
HEADS = 4
LAYERS = 12
ENCODER_LAYERS = 5
INIT_STD = 0.08
REDUCED_TOKENS = 36
_LAST = ("o_proj", "down_proj", "out_proj", "projection_layer", "fc2")  # a block's last matrix
LEVELS = [1, 3, 5]  # encoder layers whose features TokenPacker's regions hold


def build_config(tokenizer: PreTrainedTokenizerFast, projector: str = "") -> LlavaConfig:
    """LLaVA over a CLIP encoder and a Llama decoder: 144 vision tokens, 12 decoder layers.

    With a projector ("deco", "tokenpacker") it has 36 vision tokens, each of 2 x 2 patches.
    """
    vision = CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=3 * WIDTH,
        num_hidden_layers=ENCODER_LAYERS,
        num_attention_heads=HEADS,
        image_size=SIZE,
        patch_size=PATCH,
        projection_dim=WIDTH,
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=5 * WIDTH // 2,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        max_position_embeddings=512,
        initializer_range=INIT_STD,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=True,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
        image_seq_length=GRID * GRID,
        vision_feature_layer=LEVELS if projector == "tokenpacker" else -1,
        vision_feature_select_strategy="default",
        tie_word_embeddings=True,
    )
    if projector:
        heads = HEADS if projector == "tokenpacker" else None
        set_projector(config, projector, REDUCED_TOKENS, heads)
    return config


def build_processor(projector: str = "") -> LlavaProcessor:
    """Image processor and tokenizer; one `<image>` becomes 144 tokens, with a projector 36."""
    tokenizer = build_tokenizer()
    images = CLIPImageProcessor(
        size={"height": SIZE, "width": SIZE},
        do_center_crop=False,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    processor = LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        chat_template=tokenizer.chat_template,
        num_additional_image_tokens=1,
    )
    fit_processor(processor, build_config(tokenizer, projector))
    return processor


def build_model(
    tokenizer: PreTrainedTokenizerFast, seed: int, projector: str = ""
) -> LlavaForConditionalGeneration:
    """The untrained model in float32, initialised for its width (transformers' default is too small)."""
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(build_config(tokenizer, projector))
    initialise(model, ENCODER_LAYERS, LAYERS)
    finish(model, tokenizer)
    return model


@torch.no_grad()
def initialise(model: nn.Module, encoder_layers: int, layers: int) -> None:
    """Draw all matrices anew; what a layer adds is smaller, the more layers there are."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            deep = encoder_layers if "vision_tower" in name else layers
            last = name.endswith(_LAST)
            nn.init.normal_(module.weight, std=INIT_STD * ((2 * deep) ** -0.5 if last else 1.0))
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def finish(model: Any, tokenizer: PreTrainedTokenizerFast) -> None:
    """Tie the output to the word embeddings; generation ends as the tokenizer ends an answer."""
    model.tie_weights()
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.generation_config.bos_token_id = tokenizer.bos_token_id


__all__ = ["ANSWER", "build_config", "build_model", "build_processor"]
