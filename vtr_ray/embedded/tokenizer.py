"""The embedded model's tokenizer: whole words of its questions, single characters for all else."""

from __future__ import annotations

import string

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from vtr_ray.embedded.draw.picture import COLORS, ORDINALS
from vtr_ray.embedded.draw.scenes import SHAPES
from vtr_ray.embedded.draw.writing import KEYS

PAD, BOS, EOS, UNK, IMAGE, ANSWER = SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "<image>", "<answer>")

_QUESTION_WORDS = (
    "a above an are at bar bars bottom color contain does empty first how image in is label left "
    "leftmost letter line many middle no not object objects of present rectangle right rightmost say "
    "says shape shortest taller tallest text than the there top value what which written yes "
).split()

_VIDEO_WORDS = "Frame appear appeared did direction down last move moved that up".split()
START, END, VIDEO, BREAK = "<img>", "</img>", "<video>", "\n"

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] if part['type'] == 'image' %}<image>{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}{% endif %}"
    "<answer>{% else %}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}{% endif %}"
    "{{ eos_token }}{% endif %}{% endfor %}"
)


def words() -> list[str]:
    """Every word that is one token, sorted."""
    plurals = [f"{shape}s" for shape in SHAPES]
    return sorted({*_QUESTION_WORDS, *COLORS, *SHAPES, *plurals, *ORDINALS, *KEYS})


def build_tokenizer(tiled: bool = False) -> PreTrainedTokenizerFast:
    """A greedy longest-match tokenizer over `words()` and single characters; a space is part of the word.

    A word is one token (`▁circle`); anything else is a `▁` and its characters, so that a string of letters
    has one token for each letter, the same wherever the letter stands. tiled: with what InternVL's processor
    writes and clips ask, behind the tokens of the others.
    """
    tokens = [
        *SPECIAL,
        "▁",
        *(f"▁{word}" for word in words()),
        *string.digits,
        *string.ascii_uppercase,
        *string.ascii_lowercase,
        *".,?!:;'-+%$/()",
    ]
    template, special = CHAT_TEMPLATE, {"image_token": IMAGE, "answer_token": ANSWER}
    if tiled:
        tokens += [START, END, VIDEO, BREAK, *(f"▁{word}" for word in _VIDEO_WORDS)]
        special = {
            "answer_token": ANSWER,
            "start_image_token": START,
            "end_image_token": END,
            "context_image_token": IMAGE,
            "video_token": VIDEO,
            "break_token": BREAK,  # stands between a clip's frames
        }
        image = "{% for part in message['content'] if part['type'] == 'image' %}<image>{% endfor %}"
        template = template.replace(image, image + image.replace("image", "video"))
    vocabulary = {token: index for index, token in enumerate(tokens)}
    model = models.WordPiece(vocabulary, unk_token=UNK, continuing_subword_prefix="")
    core = Tokenizer(model)
    core.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation()])
    core.decoder = decoders.Metaspace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNK,
        extra_special_tokens=special,
        padding_side="left",
        model_max_length=512,
    )
    tokenizer.chat_template = template
    return tokenizer
