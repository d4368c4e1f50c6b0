"""A search split of LLaVA's training data: first turns, short answers, drawn evenly from every source."""

from __future__ import annotations

import json
import random
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from vtr_ray.errors import InputError
from vtr_ray.evaluation.llava import Entry, Sources, parse_entry, read_entries
from vtr_ray.files import replacing

MAX_TOKENS = 8
"""Longest answer, in tokens, where a tokenizer counts and no limit is named."""

# Scripts that put no spaces between words, as the names of their characters begin.
_UNSPACED = (
    "CJK ", "IDEOGRAPHIC ", "HIRAGANA ", "KATAKANA", "HALFWIDTH KATAKANA", "THAI ", "LAO ", "KHMER ",
    "MYANMAR ", "TIBETAN ",
)  # fmt: skip
_CHARACTERS_PER_WORD = 2


@dataclass(frozen=True)
class Split:
    """A search split that was written.

    chosen, candidates: entries per source. read: entries of the file. dropped: how many of them were no
    candidates, by reason, the most frequent first.
    """

    path: Path
    chosen: dict[str, int]
    candidates: dict[str, int]
    read: int
    dropped: dict[str, int]


def make_split(
    path: str | Path,
    output: str | Path | None = None,
    *,
    per_source: int = 100,
    seed: int = 0,
    max_words: int = 5,
    tokenizer: str | None = None,
    max_tokens: int | None = None,
    images: str | Path | None = None,
    force: bool = False,
) -> Split:
    """Write a search split of LLaVA's training data (`llava_v1_5_mix665k.json`): short answers, all sources.

    Candidates are entries whose first turn is about an image or a video and answered in at most `max_words`
    words (see `count_words`); only that turn is kept. From each source (see `Sources`) `per_source` are
    drawn, all where there are fewer. The same seed gives the same split. The JSON is read entry by entry, so
    that memory stays at what is drawn; one with absolute paths is read twice.

    Args:
        path: LLaVA-format JSON.
        output: default `<name>_split.json` beside the input; written to a temporary name and renamed.
        tokenizer: a checkpoint whose tokens are counted instead of words, at most `max_tokens` (default 8).
        images: the folder that sources of absolute paths start from.
        force: overwrite `output` where it is there already.

    Raises:
        InputError: no such file, not a JSON list, no candidates, an output that is there already, that is the
            input or that cannot be written, `max_tokens` without a tokenizer, a tokenizer that does not load.
    """
    path = Path(path)
    output = Path(output) if output is not None else path.parent / f"{path.stem}_split.json"
    if per_source < 1:
        raise InputError(f"per_source is {per_source}; it must be at least 1")
    _check_output(output, path, force)
    length, limit, unit = _lengths(max_words, tokenizer, max_tokens)
    long = f"the answer has more than {limit} {unit}"
    folder = path.parent if images is None else Path(images)
    sources = Sources(folder, images, lambda: _files(path))
    drawn: dict[str, list[tuple[int, Entry]]] = {}
    candidates: Counter[str] = Counter()
    dropped: Counter[str] = Counter()
    randoms: dict[str, random.Random] = {}
    read = 0
    for index, raw in enumerate(read_entries(path)):
        read += 1
        entry = parse_entry(raw)  # what is no sample is most often text alone
        if isinstance(entry, str) or length(entry.answer) > limit:
            dropped[entry if isinstance(entry, str) else long] += 1
            continue
        source = sources.of(entry.file)
        candidates[source] += 1
        chosen = drawn.setdefault(source, [])
        # Reservoir sampling (Vitter's algorithm R), each source from its own generator.
        place = randoms.setdefault(source, random.Random(f"{seed}/{source}")).randrange(candidates[source])
        if len(chosen) < per_source:
            chosen.append((index, entry))
        elif place < per_source:
            chosen[place] = (index, entry)
    why = dict(dropped.most_common())
    if not drawn:
        raise InputError(
            f"{path}: none of {read} entries has a first turn about an image with an answer of at most "
            f"{limit} {unit}{''.join(f'; {count}: {reason}' for reason, count in list(why.items())[:3])}"
        )
    entries = [
        {
            "id": entry.id,
            **entry.model_dump(include={"image", "video", "fps"}, exclude_none=True, exclude_unset=True),
            "conversations": [{"from": turn.speaker, "value": turn.value} for turn in entry.conversations],
        }
        for source in sorted(drawn)
        for _, entry in sorted(drawn[source], key=lambda pair: pair[0])
    ]
    with replacing(output) as temporary:
        temporary.write_text(json.dumps(entries, indent=1, ensure_ascii=False), encoding="utf-8")
    counts = {source: len(drawn[source]) for source in sorted(drawn)}
    return Split(output, counts, dict(sorted(candidates.items())), read, why)


def count_words(text: str) -> int:
    """Return how many words an answer has, in any script.

    Words are what spaces separate. In scripts that put none between words (Chinese, Japanese, Thai, Lao,
    Khmer, Burmese, Tibetan) every two letters or digits of a run count as one word, combining marks not.
    """
    if text.isascii():
        return len(text.split())
    return sum(_words(part) for part in text.split())


def _words(part: str) -> int:
    """Words of a text without spaces."""
    kinds = "".join(map(_kind, part))
    if "u" not in kinds:
        return 1
    unspaced = [run.replace("m", "") for run in re.findall("u[um]*", kinds)]
    others = re.findall("w[wm]*", kinds)  # "7" of 7月, "iPhone" of iPhone手机
    return sum(-(-len(run) // _CHARACTERS_PER_WORD) for run in unspaced) + len(others)


def _kind(character: str) -> str:
    """ "u": a letter or digit of a script without spaces, "m": a mark, "w": another letter, "-": the rest."""
    category = unicodedata.category(character)[0]
    if category == "M":
        return "m"
    if category not in "LN":
        return "-"
    return "u" if unicodedata.name(character, "").startswith(_UNSPACED) else "w"


def _lengths(
    max_words: int, tokenizer: str | None, max_tokens: int | None
) -> tuple[Callable[[str], int], int, str]:
    """How long an answer is, how long it may be, and in what."""
    if tokenizer is None:
        if max_tokens is not None:
            raise InputError("--max-tokens counts a model's tokens; name the model with --tokenizer")
        return count_words, max_words, "words"
    from vtr_ray.models import load_tokenizer

    tokens = load_tokenizer(tokenizer)
    limit = MAX_TOKENS if max_tokens is None else max_tokens
    return lambda answer: len(tokens.encode(answer, add_special_tokens=False)), limit, "tokens"


def _check_output(output: Path, source: Path, force: bool) -> None:
    if not output.is_file():
        return
    if source.is_file() and output.samefile(source):
        raise InputError(f"{output} is the file that is read; name another file with --out")
    if not force:
        raise InputError(
            f"{output} is there already; name another file with --out, or overwrite it (--force)"
        )


def _files(path: Path) -> Iterator[str]:
    """The image or video of every entry."""
    for raw in read_entries(path):
        entry = parse_entry(raw)
        if not isinstance(entry, str):
            yield entry.file
