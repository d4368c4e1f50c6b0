"""The families' real processors over a word-level tokenizer, for the toys' models."""

from __future__ import annotations

from typing import Any

from toys import PINPOINTS

NAMED = {
    "llava": {3: "<image>"},
    "tiled": {3: "<image>", 4: "<video>", 6: "<fake_token_around_image>", 7: "<global-img>"},
    "onevision": {3: "<image>", 4: "<video>"},
    "internvl": {3: "<IMG_CONTEXT>", 4: "<video>", 6: "<img>", 7: "</img>"},
    "gemma3": {3: "<image_soft_token>", 4: "<video>", 6: "<start_of_image>", 7: "<end_of_image>"},
    "qwen": {3: "<|image_pad|>", 4: "<|video_pad|>", 6: "<|vision_start|>", 7: "<|vision_end|>"},
}
PLACE = {
    "llava": ("<image>", ""),
    "tiled": ("<image>", "<video>"),
    "onevision": ("<image>", "<video>"),
    "internvl": ("<IMG_CONTEXT>", "<video>"),
    "gemma3": ("<start_of_image>", ""),
    "qwen": ("<|vision_start|><|image_pad|><|vision_end|>", "<|vision_start|><|video_pad|><|vision_end|>"),
}


def tokenizer(family: str, **named: str) -> Any:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    words = {0: "<pad>", 1: "<s>", 2: "</s>", 5: "<unk>", 8: "user", 9: "model", **NAMED[family]}
    words |= {index: f"w{index}" for index in range(64) if index not in words}
    backend = Tokenizer(WordLevel({word: index for index, word in words.items()}, unk_token="<unk>"))
    backend.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=list(NAMED[family].values()),
        padding_side="left",
        **({"extra_special_tokens": named} if named else {}),
    )


def template(family: str) -> str:
    image, video = PLACE[family]
    return (
        "{% for message in messages %}{{ message['role'].replace('assistant', 'model') + ' ' }}"
        "{% for part in message['content'] %}"
        "{{ '" + image + " ' if part['type'] == 'image' else '" + video + " ' if part['type'] == 'video' "
        "else part['text'] + ' ' }}"
        "{% endfor %}{% endfor %}{% if add_generation_prompt %}{{ 'model ' }}{% endif %}"
    )


def processor_of(name: str) -> Any:
    import transformers

    if name == "llava-next":
        return transformers.LlavaNextProcessor(
            transformers.LlavaNextImageProcessor(
                size={"shortest_edge": 16},
                crop_size={"height": 16, "width": 16},
                image_grid_pinpoints=PINPOINTS,
            ),
            tokenizer("llava"),
            patch_size=4,
            vision_feature_select_strategy="default",
            num_additional_image_tokens=1,
            chat_template=template("llava"),
        )
    if name.startswith("llava"):
        size = {"height": 16, "width": 16}
        return transformers.LlavaProcessor(
            transformers.CLIPImageProcessor(size=size, crop_size=size, do_center_crop=False),
            tokenizer("llava"),
            patch_size=4,
            vision_feature_select_strategy="default",
            num_additional_image_tokens=1,
            chat_template=template("llava"),
        )
    if name in ("idefics3", "smolvlm"):
        kinds: dict[str, Any] = {"size": {"longest_edge": 32}, "max_image_size": {"longest_edge": 16}}
        options: dict[str, Any] = {"image_seq_len": 4, "chat_template": template("tiled")}
        if name == "idefics3":
            images = transformers.Idefics3ImageProcessor(**kinds)
            return transformers.Idefics3Processor(images, tokenizer("tiled"), **options)
        images = transformers.SmolVLMImageProcessor(**kinds)
        videos = transformers.SmolVLMVideoProcessor(size={"longest_edge": 16})
        return transformers.SmolVLMProcessor(images, tokenizer("tiled"), videos, **options)
    if name.startswith("gemma3"):
        named = {
            "boi_token": "<start_of_image>",
            "eoi_token": "<end_of_image>",
            "image_token": "<image_soft_token>",
        }
        images = transformers.Gemma3ImageProcessor(size={"height": 16, "width": 16})
        return transformers.Gemma3Processor(
            images, tokenizer("gemma3", **named), template("gemma3"), image_seq_length=16
        )
    if name == "onevision":
        size = {"height": 16, "width": 16}
        return transformers.LlavaOnevisionProcessor(
            transformers.LlavaOnevisionImageProcessor(size=size, image_grid_pinpoints=PINPOINTS),
            tokenizer(name),
            transformers.LlavaOnevisionVideoProcessor(size=size),
            num_image_tokens=16,
            vision_feature_select_strategy="full",
            chat_template=template(name),
        )
    if name.startswith("internvl"):
        named = {
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        }
        size = {"height": 16, "width": 16}
        return transformers.InternVLProcessor(
            transformers.GotOcr2ImageProcessor(size=size, min_patches=1, max_patches=2),
            tokenizer("internvl", **named),
            transformers.InternVLVideoProcessor(size=size),
            image_seq_length=4,
            chat_template=template("internvl"),
        )
    words = tokenizer("qwen")
    sizes = {"shortest_edge": 16 * 16, "longest_edge": 32 * 32}
    options = {"patch_size": 4, "temporal_patch_size": 2, "merge_size": 2, "size": sizes}
    images = transformers.Qwen2VLImageProcessor(**options)
    if name == "qwen3-vl":
        videos = transformers.Qwen3VLVideoProcessor(**options)
        return transformers.Qwen3VLProcessor(
            images, tokenizer("qwen"), videos, chat_template=template("qwen")
        )
    videos = transformers.Qwen2VLVideoProcessor(**options)
    kind = transformers.Qwen2VLProcessor if name == "qwen2-vl" else transformers.Qwen2_5_VLProcessor
    return kind(images, words, videos, chat_template=template("qwen"))
