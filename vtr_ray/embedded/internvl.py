"""The second embedded model's shape: transformers' own InternVL classes, small.

A picture of 96 x 96 becomes four tiles and a thumbnail of 48 x 48, a frame of a clip one tile; a tile has
8 x 8 patches, which pixel shuffle makes 4 x 4 vision tokens.
"""

from __future__ import annotations

import torch
from torch import nn
from transformers import (
    GotOcr2ImageProcessor,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    InternVLVideoProcessor,
    InternVLVisionConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from vtr_ray.embedded.architecture import INIT_STD, finish, initialise
from vtr_ray.embedded.tokenizer import IMAGE, build_tokenizer

WIDTH = 128
HEADS = 4
LAYERS = 16
NEW_LAYERS = (3, 7, 11, 15)  # of the decoder, from 0; the others are the LLaVA's twelve
ENCODER_LAYERS = 4
TILE = 48
PATCH = 6
TILES = (4, 6)
TILE_TOKENS = (TILE // PATCH // 2) ** 2


def build_config(tokenizer: PreTrainedTokenizerFast) -> InternVLConfig:
    """InternVL over a Qwen2 decoder of 16 layers: 80 vision tokens an image, 16 a frame."""
    vision = InternVLVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=3 * WIDTH,
        num_hidden_layers=ENCODER_LAYERS,
        num_attention_heads=HEADS,
        attention_bias=True,
        image_size=TILE,
        patch_size=PATCH,
        layer_scale_init_value=1.0,  # the default keeps so shallow an encoder from learning
    )
    text = Qwen2Config(
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
    return InternVLConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=tokenizer.convert_tokens_to_ids(IMAGE),
        image_seq_length=TILE_TOKENS,
        downsample_ratio=0.5,
        tie_word_embeddings=True,
    )


def build_processor() -> InternVLProcessor:
    """Tiles, frames and tokenizer; a square `<image>` becomes 80 tokens, a `<video>` 16 for each frame."""
    tokenizer = build_tokenizer(tiled=True)
    look = {"size": {"height": TILE, "width": TILE}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    images = GotOcr2ImageProcessor(crop_to_patches=True, min_patches=TILES[0], max_patches=TILES[1], **look)
    return InternVLProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        video_processor=InternVLVideoProcessor(**look),
        image_seq_length=TILE_TOKENS,
        chat_template=tokenizer.chat_template,
    )


def build_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> InternVLForConditionalGeneration:
    """The untrained model in float32, initialised for its width (transformers' default is too small)."""
    torch.manual_seed(seed)
    model = InternVLForConditionalGeneration(build_config(tokenizer))
    initialise(model, ENCODER_LAYERS, LAYERS)
    with torch.no_grad():
        nn.init.normal_(model.model.vision_tower.embeddings.position_embeddings, std=INIT_STD / 4)
    finish(model, tokenizer)
    return model


@torch.no_grad()
def grow(model: InternVLForConditionalGeneration, llava: dict[str, torch.Tensor]) -> None:
    """Give the decoder the LLaVA's words and layers, a new layer behind each three (LLaMA Pro, section 3).

    llava: the state of a model of `vtr_ray.embedded.architecture`. A new layer adds nothing until it is
    trained: the grown decoder answers as the LLaVA's. The encoder and the projector stay as they are.
    """
    decoder = model.model.language_model
    prefix = "model.language_model."
    known = llava[f"{prefix}embed_tokens.weight"]
    decoder.embed_tokens.weight[: len(known)] = known
    decoder.norm.weight.copy_(llava[f"{prefix}norm.weight"])
    old = iter(range(LAYERS - len(NEW_LAYERS)))
    for index, layer in enumerate(decoder.layers):
        if index in NEW_LAYERS:
            nn.init.zeros_(layer.self_attn.o_proj.weight)
            nn.init.zeros_(layer.mlp.down_proj.weight)
            continue
        start = f"{prefix}layers.{next(old)}."
        given = {name[len(start) :]: weight for name, weight in llava.items() if name.startswith(start)}
        layer.load_state_dict(given, strict=False)  # Qwen2 has biases, zero at first, where Llama has none
