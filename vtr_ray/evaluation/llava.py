"""Samples in LLaVA's JSON format."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError, field_validator

from vtr_ray.errors import InputError
from vtr_ray.evaluation.images import read_image
from vtr_ray.evaluation.samples import FRAME_RATE, FRAMES, Sample, SampleSet, Skipped, Video
from vtr_ray.evaluation.video import open_video, read_video, video_digest

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

    @field_validator("conversations", mode="before")
    @classmethod
    def _first_turn_alone(cls, turns: Any) -> Any:
        """Drop later turns, which nobody asks: a bad one must not cost the entry."""
        return turns[:2] if isinstance(turns, list) else turns

    @property
    def file(self) -> str:
        """Path of the image or video; of a list of frames, of the first."""
        path = self.image or self.video or ""
        return path if isinstance(path, str) else path[0]

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
        speakers = [turn.speaker for turn in self.conversations]
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


class Sources:
    """Which data set a file is from: the top folder of its path, "." where it has none.

    An absolute path, or one that leaves the folder of images (`../`), counts from `images` where it lies
    below it, else from the folder that all such paths have in common: of /data/coco/1.jpg and /data/gqa/2.jpg
    the sources are coco and gqa.

    Args:
        folder: what relative paths start from.
        images: the folder of images where the user named one.
        files: gives the paths of all entries; called once, and only where a path needs the others.
    """

    def __init__(self, folder: Path, images: str | Path | None, files: Callable[[], Iterable[str]]) -> None:
        self._folder, self._files = folder, files
        self._images = None if images is None else _normal(Path(images))

    def of(self, file: str) -> str:
        """Return the source of a file."""
        path = self._inside(file) or self._absolute(file).relative_to(self._common)
        return path.parts[0] if len(path.parts) > 1 else "."

    def _absolute(self, file: str) -> PurePosixPath:
        return _normal(self._folder / file)

    def _inside(self, file: str) -> PurePosixPath | None:
        """The path below the folder of images; None where it lies elsewhere, or nobody said where that is."""
        path = PurePosixPath(os.path.normpath(file))
        if not path.is_absolute() and path.parts[:1] != ("..",):
            return path
        absolute = self._absolute(file)
        if self._images is not None and absolute.is_relative_to(self._images):
            return absolute.relative_to(self._images)
        return None

    @cached_property
    def _common(self) -> PurePosixPath:
        folders = {str(self._absolute(file).parent) for file in self._files() if self._inside(file) is None}
        return PurePosixPath(os.path.commonpath(folders))


def _normal(path: Path) -> PurePosixPath:
    """The absolute path without "..", links as they are."""
    return PurePosixPath(os.path.normpath(path.absolute()))


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
    return samples_of(read_entries(path), folder, frames, str(path), images=images)


def samples_of(
    entries: Iterable[dict[str, Any]],
    folder: Path,
    frames: int,
    where: str,
    answered: bool = True,
    images: str | Path | None = None,
) -> SampleSet:
    """Samples of entries as `load_llava` reads them. where: names their source in messages.

    answered: False: answers are left out, and may be missing. images: the folder where the user named one.
    """
    if frames < 1:
        raise InputError(f"frames is {frames}; at least 1 of a video must be read")
    if not folder.is_dir():
        raise InputError(f"image folder {folder} does not exist; name the folder that image paths start from")
    found = [
        (str(raw.get("id", f"entry {index}")), *_sample(raw, folder, frames, answered))
        for index, raw in enumerate(entries)
    ]
    names = unique_names([name for name, *_ in found])
    sources = Sources(folder, images, lambda: [file for _, file, _ in found if file])
    samples: list[Sample] = []
    skipped: list[Skipped] = []
    for name, (_, file, sample) in zip(names, found, strict=True):
        if isinstance(sample, str):
            skipped.append(Skipped(name, sample))
        else:
            samples.append(replace(sample, id=name, source=sources.of(file)))
    return SampleSet(tuple(samples), tuple(skipped), where=where)


def unique_names(names: Sequence[str]) -> list[str]:
    """Return the names; one that occurred before gets the first suffix `#2`, `#3`, ... that is nobody's."""
    taken, seen, unique = set(names), set[str](), []
    for name in names:
        number = 2
        chosen = name
        while chosen in seen or (chosen != name and chosen in taken):
            chosen, number = f"{name}#{number}", number + 1
        seen.add(chosen)
        unique.append(chosen)
    return unique


def _sample(raw: dict[str, Any], folder: Path, frames: int, answered: bool) -> tuple[str, Sample | str]:
    """The file of an entry, and its sample without name and source, or why there is none."""
    entry = parse_entry(raw, answered)
    if isinstance(entry, str):
        return "", entry
    seen: Path | Video
    try:
        if entry.video:
            seen = _video(entry, folder, frames)
            read_video(seen)
            digest = video_digest(seen)
        else:
            seen = folder / str(entry.image)
            if not seen.is_file():
                return entry.file, f"no image {seen}"
            data = seen.read_bytes()
            read_image(data)
            digest = hashlib.sha256(data).hexdigest()
    except FileNotFoundError as error:
        return entry.file, str(error)
    except Exception as error:  # PIL's and FFmpeg's decoders raise whatever they meet
        what = f"video {entry.video}" if entry.video else f"image {folder / str(entry.image)}"
        return entry.file, f"{what} cannot be decoded: {error}"
    answers = (entry.answer,) if answered else ()
    return entry.file, Sample("", "", seen, entry.question, answers, digest=digest)


def parse_entry(raw: dict[str, Any], answered: bool = True) -> Entry | str:
    """Return the entry, or why it is no sample."""
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


def read_entries(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSON list, one by one: a file of gigabytes needs megabytes of memory.

    Raises InputError: no such file, one that cannot be read, not UTF-8, not a JSON list of objects, text
    after the end of the list.
    """
    decoder = json.JSONDecoder()
    try:
        if not path.is_file():
            raise InputError(f"{path} does not exist; name a LLaVA-format JSON file")
        with path.open(encoding="utf-8-sig") as file:
            buffer, position, number, line, expected = "", 0, 0, 1, "list"
            while True:
                while position < len(buffer) and buffer[position] in " \t\r\n":
                    position += 1
                mark = buffer[position : position + 1]
                if mark == "[" and expected == "list":
                    position, expected = position + 1, "first"
                    continue
                if mark == "]" and expected in ("first", "comma"):
                    position, expected = position + 1, "end"
                    continue
                if mark == "," and expected == "comma":
                    position, expected = position + 1, "entry"
                    continue
                if mark == "{" and expected in ("first", "entry"):
                    try:
                        entry, position = decoder.raw_decode(buffer, position)
                        number, expected = number + 1, "comma"
                        yield entry
                        continue
                    except json.JSONDecodeError:
                        pass  # cut by the end of the buffer, unless there is no more to read
                    except (ValueError, RecursionError) as error:  # a number of too many digits; too deep
                        raise InputError(f"{path}: entry {number} cannot be read: {error}") from None
                elif mark and expected == "end":
                    line += buffer.count("\n", 0, position)
                    raise InputError(
                        f"{path}: text follows the end of the list, after {number} entries, at line {line}: "
                        f"{buffer[position : position + 20]!r}; a file holds one list"
                    )
                elif mark and expected != "list":
                    raise InputError(f"{path}: entry {number} is not a JSON object")
                chunk = file.read(_CHUNK)
                if expected == "list" and (mark or not chunk):
                    raise InputError(f"{path} is not a LLaVA-format JSON: it must hold a list of objects")
                if expected == "end" and not chunk:
                    return
                if not chunk or len(buffer) - position > _LONGEST_ENTRY:
                    raise InputError(f"{path}: entry {number} is broken or the file ends too early")
                line += buffer.count("\n", 0, position)
                buffer, position = buffer[position:] + chunk, 0
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; name a LLaVA-format JSON file") from None
