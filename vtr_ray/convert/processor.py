"""How a converted checkpoint is spoken to: chat template, image tiles, the tokens that end an answer."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vtr_ray.convert.layout import Layout, read_json
from vtr_ray.convert.tokenizer import CONTEXT, VIDEO
from vtr_ray.errors import InputError

_MEAN, _STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
_INTERNVL2 = (
    "你是由上海人工智能实验室联合商汤科技开发的书生多模态大模型，英文名叫InternVL, "
    "是一个有用无害的人工智能助手。"
)
_INTERNVL2_5 = (
    "你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及多家合作单位"
    "联合开发的多模态大语言模型。"
)
_TURNS = (
    "{% if messages[0]['role'] != 'system' %}{{ before + 'system' + after + system + end }}{% endif %}"
    "{% for message in messages %}{{ before + message['role'] + after }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ image }}{% elif part['type'] == 'video' %}{{ video }}"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}{{ end }}{% endfor %}"
    "{% if add_generation_prompt %}{{ before + 'assistant' + after }}{% endif %}"
)


@dataclass(frozen=True)
class Chat:
    """A conversation: what a turn starts with around its role, what ends it, what the system says first.

    end: the token that ends a turn, an answer too; after_end: what follows it.
    """

    before_role: str
    after_role: str
    end: str
    after_end: str
    system: str


_CHATS = {
    "Hermes-2": Chat("<|im_start|>", "\n", "<|im_end|>", "", _INTERNVL2),
    "internlm2-chat": Chat("<|im_start|>", "\n", "<|im_end|>", "", _INTERNVL2),
    "internvl2_5": Chat("<|im_start|>", "\n", "<|im_end|>", "\n", _INTERNVL2_5),
    "phi3-chat": Chat("<|", "|>\n", "<|end|>", "", _INTERNVL2),
}
"""By the name that an original configuration calls its conversation `template`."""


def chat_of(layout: Layout) -> Chat:
    """The conversation that a checkpoint was trained with.

    Raises InputError on a template that is not known.
    """
    chat = _CHATS.get(layout.template)
    if chat is None:
        raise InputError(f"The chat template {layout.template!r} is not known; known: {', '.join(_CHATS)}.")
    return chat


def chat_template(chat: Chat, system: str | None = None) -> str:
    """The conversation as a Jinja template over messages of text, image and video parts.

    An image or video stands where its part stands, on a line of its own. Without a system message the
    checkpoint's own (`system`, else the conversation's) comes first: it was trained with one.
    """

    words = {
        "before": chat.before_role,
        "after": chat.after_role,
        "end": chat.end + chat.after_end,
        "system": chat.system if system is None else system,
        "image": CONTEXT + "\n",
        "video": VIDEO + "\n",
    }
    # A JSON string is a Jinja string.
    names = (f"{{% set {name} = {json.dumps(text, ensure_ascii=False)} %}}" for name, text in words.items())
    return "".join(names) + _TURNS


def build_processor(layout: Layout, tokenizer: Any) -> Any:
    """The `InternVLProcessor`: tiles of the original size and number, a thumbnail behind several tiles."""
    from transformers import GotOcr2ImageProcessor, InternVLProcessor, InternVLVideoProcessor

    pixels = {
        "size": {"height": layout.image_size, "width": layout.image_size},
        "image_mean": _MEAN,
        "image_std": _STD,
    }
    dynamic = layout.dynamic_image_size
    return InternVLProcessor(
        image_processor=GotOcr2ImageProcessor(
            **pixels,
            crop_to_patches=dynamic,
            min_patches=layout.min_dynamic_patch if dynamic else 1,
            max_patches=layout.max_dynamic_patch if dynamic else 1,
        ),
        tokenizer=tokenizer,
        video_processor=InternVLVideoProcessor(**pixels),
        image_seq_length=layout.image_tokens,
        chat_template=chat_template(chat_of(layout), layout.system_message),
    )


def generation_config(layout: Layout, tokenizer: Any, folder: Path) -> Any:
    """A `GenerationConfig` that stops where the conversation's turn ends, and where the original would.

    Raises InputError: the tokenizer has no such token.
    """
    from transformers import GenerationConfig

    end = chat_of(layout).end
    stop = tokenizer.convert_tokens_to_ids(end)
    if stop is None or stop == tokenizer.unk_token_id:
        raise InputError(f"The tokenizer in {folder} has no {end}, with which the model ends an answer.")
    stops = [stop]
    for source in (read_json(folder, "generation_config.json") or {}, layout.llm_config):
        more = source.get("eos_token_id")
        stops += more if isinstance(more, list) else [] if more is None else [more]
    return GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=list(dict.fromkeys(stops)),
        pad_token_id=tokenizer.pad_token_id,
    )
