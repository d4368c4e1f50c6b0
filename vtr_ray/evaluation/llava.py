"""Samples in LLaVA's JSON format, and a search split of LLaVA's training data."""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError

from vtr_ray.errors import InputError
from vtr_ray.evaluation.samples import (
    FRAME_RATE,
    FRAMES,
    Sample,
    SampleSet,
    Skipped,
    Video,
    read_image,
)
from vtr_ray.evaluation.video import open_video, read_video, video_digest
from vtr_ray.files import replacing

MARKERS = ("<image>", "<video>")
"""What stands for the image or the video in a question; LLaVA's own video data write `<image>`."""

_CHUNK = 1 << 20
_LONGEST_ENTRY = 64 << 20


class Turn(BaseModel):
    """One turn of a conversation."""

    speaker: Literal["human", "gpt"] = Field(alias="from")
    value: str


class Entry(BaseModel):
    """One entry of a LLaVA-format JSON; other keys are ignored.

    video: a file, a folder of frames, or the frames' files in order. fps: frames a second of frames.
    """

    id: str | int
    image: str | None = None
    video: str | list[str] | None = None
    fps: float = Field(FRAME_RATE, gt=0)
    conversations: list[Turn] = Field(min_length=1)

    @property
    def source(self) -> str:
        """Top folder of the image's or video's path; "." where it has none."""
        path = self.image or self.video or ""
        parts = PurePosixPath(path if isinstance(path, str) else path[0]).parts
        return parts[0] if len(parts) > 1 else "."

    @property
    def question(self) -> str:
        """The first turn's question, without the marker of its image or video."""
        question = self.conversations[0].value
        for marker in MARKERS:
            question = question.replace(marker, "")
        return question.strip()

    @property
    def answer(self) -> str:
        """The answer to the first turn; empty where it has none."""
        return self.conversations[1].value.strip() if len(self.conversations) > 1 else ""

    def first_turn(self, answered: bool = True) -> str | None:
        """Why the first turn is not a question about one image or video with an answer; None where it is.

        answered: False where the answer does not matter and may be missing.
        """
        speakers = [turn.speaker for turn in self.conversations[:2]]
        if speakers != ["human", "gpt"] and (answered or speakers != ["human"]):
            return "the conversation does not start with a question and its answer"
        if self.image and self.video:
            return "both an image and a video; exactly one is supported"
        asked = MARKERS if self.video else MARKERS[:1]
        if not any(marker in self.conversations[0].value for marker in asked):
            what = "a video" if self.video else "an image"
            return f"the first turn is not about {what} (no {' or '.join(asked)})"
        if not self.question:
            return "empty question"
        return None if self.answer or not answered else "empty answer"


def load_llava(path: str | Path, images: str | Path | None = None, frames: int = FRAMES) -> SampleSet:
    """Samples of a LLaVA-format JSON: `id`, `image` or `video`, `conversations` [{from: human | gpt, value}].

    The first turn is the question, its answer the one token sequence that counts. Every image is decoded,
    of a video (a file, a folder of frames or a list of their files) the frames that count: what cannot be
    read is skipped and named. An id that occurs again gets the suffix `#2`, `#3`, ...

    images: the folder that paths are relative to; default: the folder of the JSON.
    frames: of a video, spread evenly over it.
    Raises InputError: no such file or folder, not a JSON list, more than 5 % skipped, none left.
    """
    path = Path(path)
    folder = Path(images) if images is not None else path.parent
    return samples_of(read_entries(path), folder, frames, str(path))


def samples_of(
    entries: Iterable[dict[str, Any]], folder: Path, frames: int, where: str, answered: bool = True
) -> SampleSet:
    """Samples of entries as `load_llava` reads them. where: names their source in messages.

    answered: False: answers are left out, and may be missing.
    """
    if frames < 1:
        raise InputError(f"frames is {frames}; at least 1 of a video must be read")
    if not folder.is_dir():
        raise InputError(f"image folder {folder} does not exist; name the folder that image paths start from")
    samples: list[Sample] = []
    skipped: list[Skipped] = []
    seen: Counter[str] = Counter()
    for index, raw in enumerate(entries):
        name = str(raw.get("id", f"entry {index}"))
        seen[name] += 1
        name = name if seen[name] == 1 else f"{name}#{seen[name]}"
        sample = _sample(name, raw, folder, frames, answered)
        if isinstance(sample, Skipped):
            skipped.append(sample)
        else:
            samples.append(sample)
    return SampleSet(tuple(samples), tuple(skipped), where=where)


def _sample(name: str, raw: dict[str, Any], folder: Path, frames: int, answered: bool) -> Sample | Skipped:
    entry = _entry(raw, answered)
    if isinstance(entry, str):
        return Skipped(name, entry)
    seen: Path | Video
    try:
        if entry.video:
            seen = _video(entry, folder, frames)
            read_video(seen)
            digest = video_digest(seen)
        else:
            seen = folder / str(entry.image)
            if not seen.is_file():
                return Skipped(name, f"no image {seen}")
            data = seen.read_bytes()
            read_image(data)
            digest = hashlib.sha256(data).hexdigest()
    except FileNotFoundError as error:
        return Skipped(name, str(error))
    except Exception as error:  # PIL's and FFmpeg's decoders raise whatever they meet
        what = f"video {entry.video}" if entry.video else f"image {folder / str(entry.image)}"
        return Skipped(name, f"{what} cannot be decoded: {error}")
    answers = (entry.answer,) if answered else ()
    return Sample(name, entry.source, seen, entry.question, answers, digest=digest)


def _entry(raw: dict[str, Any], answered: bool = True) -> Entry | str:
    """The entry, or why it is no sample."""
    if not raw.get("image") and not raw.get("video"):
        return "no image and no video"
    try:
        entry = Entry.model_validate(raw)
    except ValidationError as error:
        return _first_problem(error)
    return entry.first_turn(answered) or entry


def _video(entry: Entry, folder: Path, frames: int) -> Video:
    if isinstance(entry.video, str):
        return open_video(folder / entry.video, frames, entry.fps)
    files = tuple(folder / file for file in entry.video or ())
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(f"no frame {file}")
    return Video(files, frames, entry.fps)


def _first_problem(error: ValidationError) -> str:
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"


@dataclass(frozen=True)
class Split:
    """A search split that was written: where, chosen and candidate entries per source, entries read."""

    path: Path
    chosen: dict[str, int]
    candidates: dict[str, int]
    read: int


def make_split(
    path: str | Path,
    output: str | Path | None = None,
    *,
    per_source: int = 100,
    seed: int = 0,
    max_words: int = 5,
) -> Split:
    """Write a search split of LLaVA's training data (`llava_v1_5_mix665k.json`): short answers, all sources.

    Candidates are entries whose first turn is about an image or a video and answered in at most `max_words`
    words; only that turn is kept. From each source (top folder of the path) `per_source` are drawn, all where
    there are fewer. Same seed, same split. Reads the JSON entry by entry: memory stays at what is drawn.

    output: default `<name>_split.json` beside the input; written to a temporary name and renamed.
    Raises InputError: no such file, not a JSON list, no candidates, an output that cannot be written.
    """
    path = Path(path)
    output = Path(output) if output is not None else path.parent / f"{path.stem}_split.json"
    if per_source < 1:
        raise InputError(f"per_source is {per_source}; it must be at least 1")
    drawn: dict[str, list[tuple[int, Entry]]] = {}
    candidates: Counter[str] = Counter()
    randoms: dict[str, random.Random] = {}
    read = 0
    for index, raw in enumerate(read_entries(path)):
        read += 1
        entry = _entry(raw)  # what is no sample is most often text alone
        if isinstance(entry, str) or len(entry.answer.split()) > max_words:
            continue
        source = entry.source
        candidates[source] += 1
        chosen = drawn.setdefault(source, [])
        # Reservoir sampling (Vitter's algorithm R), each source from its own generator.
        place = randoms.setdefault(source, random.Random(f"{seed}/{source}")).randrange(candidates[source])
        if len(chosen) < per_source:
            chosen.append((index, entry))
        elif place < per_source:
            chosen[place] = (index, entry)
    if not drawn:
        raise InputError(
            f"{path}: none of {read} entries has a first turn about an image with an answer of at most "
            f"{max_words} words"
        )
    entries = [
        {
            "id": entry.id,
            **entry.model_dump(include={"image", "video", "fps"}, exclude_none=True, exclude_unset=True),
            "conversations": [
                {"from": turn.speaker, "value": turn.value} for turn in entry.conversations[:2]
            ],
        }
        for source in sorted(drawn)
        for _, entry in sorted(drawn[source], key=lambda pair: pair[0])
    ]
    with replacing(output) as temporary:
        temporary.write_text(json.dumps(entries, indent=1, ensure_ascii=False), encoding="utf-8")
    counts = {source: len(drawn[source]) for source in sorted(drawn)}
    return Split(output, counts, dict(sorted(candidates.items())), read)


def read_entries(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSON list, one by one: a file of gigabytes needs megabytes of memory.

    Raises InputError: no such file, one that cannot be read, not UTF-8, not a JSON list of objects.
    """
    decoder = json.JSONDecoder()
    try:
        if not path.is_file():
            raise InputError(f"{path} does not exist; name a LLaVA-format JSON file")
        with path.open(encoding="utf-8-sig") as file:
            buffer = file.read(_CHUNK).lstrip()
            if not buffer.startswith("["):
                raise InputError(f"{path} is not a LLaVA-format JSON: it must hold a list of objects")
            buffer, position, number, expected = buffer[1:], 0, 0, "first"
            while True:
                while position < len(buffer) and buffer[position] in " \t\r\n":
                    position += 1
                mark = buffer[position : position + 1]
                if mark == "]" and expected != "entry":
                    return
                if mark == "," and expected == "comma":
                    position, expected = position + 1, "entry"
                    continue
                if mark == "{" and expected != "comma":
                    try:
                        entry, position = decoder.raw_decode(buffer, position)
                        number, expected = number + 1, "comma"
                        yield entry
                        continue
                    except json.JSONDecodeError:
                        pass  # cut by the end of the buffer, unless there is no more to read
                    except (ValueError, RecursionError) as error:  # a number of too many digits; too deep
                        raise InputError(f"{path}: entry {number} cannot be read: {error}") from None
                elif mark:
                    raise InputError(f"{path}: entry {number} is not a JSON object")
                chunk = file.read(_CHUNK)
                if not chunk or len(buffer) - position > _LONGEST_ENTRY:
                    raise InputError(f"{path}: entry {number} is broken or the file ends too early")
                buffer, position = buffer[position:] + chunk, 0
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; name a LLaVA-format JSON file") from None
