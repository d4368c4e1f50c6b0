"""Samples with the tokens still alive: the data of the viewer, and pictures of a few layers for paper."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from html import escape
from typing import Any

from PIL import Image, UnidentifiedImageError

from vtr_ray.errors import InputError
from vtr_ray.report.comparison import NO_REDUCTION
from vtr_ray.report.page.evaluations import Answer, Sample

SIDE, BYTES = 640, 120_000  # larger images are shrunk: the page holds each once
STRIP = 32  # cells of a line where tokens have no grid
ON_PAPER = 4  # layers that are printed


def viewer(samples: Sequence[Sample], prefix: str) -> str:
    """The section's HTML. prefix: of its ids."""
    images = [_image(sample) for sample in samples]
    symbols = "".join(
        f'<symbol id="{prefix}-{number}" viewBox="0 0 {width} {height}" preserveAspectRatio="none">'
        f'<image href="{data}" width="{width}" height="{height}"/></symbol>'
        for number, (data, width, height) in enumerate(images)
    )
    content = [
        _content(sample, f"#{prefix}-{number}", size)
        for number, (sample, (_, *size)) in enumerate(zip(samples, images, strict=True))
    ]
    first = next((name for name in samples[0].strategies if name != NO_REDUCTION), NO_REDUCTION)
    printed = "".join(
        _on_paper(sample, f"#{prefix}-{number}", size[0], size[1])
        for number, (sample, (_, *size)) in enumerate(zip(samples, images, strict=True))
    )
    return (
        f'<svg class="symbols" width="0" height="0" aria-hidden="true">{symbols}</svg>'
        f'<div class="viewer" data-first="{escape(first)}">'
        f'<script type="application/json">{_safe(content)}</script>{_CONTROLS}</div>'
        f'<div class="paper">{printed}</div>'
    )


def shown_layers(answer: Answer) -> list[int]:
    """A few layers, counted from 1: the first, and those after which the most tokens had left; ascending."""
    counts = [len(kept) for kept in answer.kept]
    falls = sorted(range(1, len(counts)), key=lambda i: (counts[i] - counts[i - 1], i))
    fell = [i for i in falls if counts[i] < counts[i - 1]][: ON_PAPER - 1]
    return sorted({1, *(i + 1 for i in fell)}) if fell else [1, len(counts)]


_CONTROLS = """
<div class="controls">
 <div class="samples"><button type="button" class="previous">‹ previous</button>
 <button type="button" class="next">next ›</button> <span class="which" aria-live="polite"></span></div>
 <label>strategy <select class="strategy"></select></label>
 <label class="depth"><span class="layer">layer 1</span>
 <input type="range" min="1" max="1" value="1" step="1"></label>
</div>
<div class="stage"><div class="picture"></div>
<div><dl><dt>question</dt><dd class="question"></dd><dt>right answer</dt><dd class="target"></dd>
<dt>answer</dt><dd><span class="answer"></span> <span class="verdict"></span></dd>
<dt>vision tokens</dt><dd class="kept" aria-live="polite"></dd></dl>
<div class="scroll"><table class="answers-table"><caption>All strategies on this sample</caption><thead><tr>
<th scope="col">strategy</th><th scope="col" class="heading">tokens</th><th scope="col">answer</th></tr>
</thead><tbody></tbody></table></div></div></div>
"""


def _content(sample: Sample, image: str, size: Sequence[int]) -> dict[str, Any]:
    strategies = {
        name: {
            "answer": answer.answer,
            "score": answer.score,
            "layers": len(answer.kept),
            "last": answer.lifetimes(sample.tokens),
        }
        for name, answer in sample.strategies.items()
    }
    rows, columns = sample.grid or (-(-sample.tokens // STRIP), min(STRIP, sample.tokens))
    return {
        "task": sample.task,
        "document": sample.document,
        "question": sample.question,
        "target": sample.target,
        "image": image,
        "size": list(size),
        "overlaid": sample.grid is not None,
        "rows": rows,
        "columns": columns,
        "tokens": sample.tokens,
        "strategies": strategies,
    }


def _on_paper(sample: Sample, image: str, width: int, height: int) -> str:
    """One strategy's tokens at a few layers, and every strategy's answer."""
    name = next((name for name in sample.strategies if name != NO_REDUCTION), NO_REDUCTION)
    answer = sample.strategies[name]
    last = answer.lifetimes(sample.tokens)
    panels = "".join(
        f"<figure>{_lit(sample, last, layer, image, width, height)}<figcaption>layer {layer}: "
        f"{len(answer.kept[layer - 1])} of {sample.tokens}</figcaption></figure>"
        for layer in shown_layers(answer)
    )
    answers = "".join(
        f"<li>{_verdict(one.score)} {escape(label)}: {escape(one.answer)}</li>"
        for label, one in sample.strategies.items()
    )
    return (
        f"<article><h4>{escape(sample.task)} {sample.document}: {escape(sample.question)}</h4>"
        f"<p>Right answer: {escape(sample.target)}. Tokens alive under {escape(name)}:</p>"
        f'<div class="panels">{panels}</div><ul class="answers">{answers}</ul></article>'
    )


def _lit(sample: Sample, last: Sequence[int], layer: int, image: str, width: int, height: int) -> str:
    use = f'<use href="{image}" width="{width}" height="{height}"/>'
    box = f'viewBox="0 0 {width} {height}"'
    if sample.grid is None:  # tokens of several tiles: cells in reading order below the image
        rows = -(-sample.tokens // STRIP)
        cells = _veil(last, layer, STRIP)
        return (
            f"<svg {box} aria-hidden='true'>{use}</svg><svg class='strip' viewBox='0 0 {STRIP} {rows}' "
            f"aria-hidden='true'><path class='cells' d='{_cells(range(sample.tokens), STRIP)}'/>"
            f"<path class='veil' d='{cells}'/></svg>"
        )
    rows, columns = sample.grid
    scale = f'transform="scale({width / columns:.6g} {height / rows:.6g})"'
    return (
        f'<svg {box} aria-hidden="true">{use}<path class="veil" {scale} d="{_veil(last, layer, columns)}"/>'
        "</svg>"
    )


def _veil(last: Sequence[int], layer: int, columns: int) -> str:
    return _cells([token for token, end in enumerate(last) if end < layer], columns)


def _cells(tokens: Sequence[int], columns: int) -> str:
    return "".join(f"M{token % columns} {token // columns}h1v1h-1z" for token in tokens)


def _verdict(score: float) -> str:
    return "✓" if score >= 1 else "✗" if score <= 0 else f"{score:.2f}"


def _image(sample: Sample) -> tuple[str, int, int]:
    """The image as a data address, small enough for the page, and its width and height."""
    where = f"the image of {sample.task} {sample.document}"
    try:
        with Image.open(io.BytesIO(base64.b64decode(sample.image.partition(",")[2]))) as picture:
            width, height = picture.size
            if max(width, height) <= SIDE and len(sample.image) <= BYTES:
                return sample.image, width, height
            picture.thumbnail((SIDE, SIDE))
            file = io.BytesIO()
            picture.convert("RGB").save(file, "JPEG", quality=82)
    except (UnidentifiedImageError, OSError, ValueError) as error:
        raise InputError(f"{where} cannot be read ({error}); run the evaluation again") from None
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}", *picture.size


def _safe(content: Any) -> str:
    """JSON that ends no script element."""
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
