"""Tiny LLaVA models of random weights, built from transformers' own configuration classes."""

from __future__ import annotations

from typing import Any

import torch

IMAGE_TOKEN_ID = 3
VISION_TOKENS = 16  # 16 px, patch 4
WORDS = [
    "<pad>",
    "<s>",
    "</s>",
    "<image>",
    "<unk>",
    "USER:",
    "ASSISTANT:",
    "what",
    "color",
    "is",
    "the",
    "circle",
    "?",
    "red",
    "green",
    "blue",
    "yes",
    "no",
]


def make_llava(seed: int = 0, text: str = "llama", attn: str = "sdpa", **text_options: Any) -> Any:
    """A LLaVA of width 32 with 5 decoder layers; weights large enough that attention is far from uniform."""
    from transformers import CLIPVisionConfig, LlavaConfig, LlavaForConditionalGeneration
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    text_config = CONFIG_MAPPING[text](
        **{
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 5,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "vocab_size": 64,
            "max_position_embeddings": 512,
            "initializer_range": 0.25,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
            **text_options,
        }
    )
    vision_config = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=16,
        patch_size=4,
        initializer_range=0.25,
        projection_dim=32,
    )
    config = LlavaConfig(
        vision_config=vision_config,
        text_config=text_config,
        image_token_index=IMAGE_TOKEN_ID,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        image_seq_length=VISION_TOKENS,
        attn_implementation=attn,
    )
    torch.manual_seed(seed)
    return LlavaForConditionalGeneration(config).eval()


def make_processor() -> Any:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import CLIPImageProcessor, LlavaProcessor, PreTrainedTokenizerFast

    words = {word: index for index, word in enumerate(WORDS)}
    words |= {f"w{index}": index for index in range(len(words), 64)}
    backend = Tokenizer(WordLevel(words, unk_token="<unk>"))
    backend.pre_tokenizer = WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=["<image>"],
        padding_side="left",
    )
    template = (
        "{% for message in messages %}{{ 'USER: ' if message['role'] == 'user' else 'ASSISTANT: ' }}"
        "{% for part in message['content'] %}"
        "{{ '<image> ' if part['type'] == 'image' else part['text'] + ' ' }}"
        "{% endfor %}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
    )
    image_processor = CLIPImageProcessor(
        size={"height": 16, "width": 16}, crop_size={"height": 16, "width": 16}, do_center_crop=False
    )
    return LlavaProcessor(
        image_processor=image_processor,
        tokenizer=tokenizer,
        patch_size=4,
        vision_feature_select_strategy="default",
        chat_template=template,
        image_token="<image>",
        num_additional_image_tokens=1,
    )
