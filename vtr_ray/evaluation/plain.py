"""Images and questions without answers: a folder, a JSON list, or LLaVA-format data that lacks them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from vtr_ray.errors import InputError
from vtr_ray.evaluation.images import picture_suffixes
from vtr_ray.evaluation.llava import MARKERS, read_entries, samples_of
from vtr_ray.evaluation.samples import FRAMES, SampleSet

_LOOKED_AT = 100  # entries of a file, to tell whether it has answers
_SELF = "add --labels self: the untouched model's own answers are the targets, and E is agreement with them"


def load_unanswered(
    path: str | Path, images: str | Path | None = None, frames: int = FRAMES, question: str | None = None
) -> SampleSet:
    """Samples without answers; answers that are there are left out.

    path: a folder of images, each with its question beside it (`a.png`, `a.txt`); a JSON list of
    `{"image": "a.png", "question": "..."}`, `video` and `id` as in LLaVA's format; or LLaVA-format JSON,
    whose conversations may hold the question alone.
    images: the folder that a JSON's paths are relative to; default: the folder of the JSON.
    question: of all images and entries that have none of their own.

    Images that cannot be read are skipped and named.
    Raises InputError: as `load_llava`; an image of a folder without a question; `images` beside a folder.
    """
    path = Path(path)
    if path.is_dir():
        if images is not None:
            raise InputError(f"{path} is a folder of images itself; leave --images out")
        return samples_of(_of_folder(path, question), path, frames, str(path), answered=False)
    folder = Path(images) if images is not None else path.parent
    entries = (_conversation(raw, question) for raw in read_entries(path))
    return samples_of(entries, folder, frames, str(path), answered=False, images=images)


def check_answers(path: str | Path) -> None:
    """Refuse what has no answers: a folder, and a JSON of whose first entries none has one.

    Raises InputError, also as `read_entries` does.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path} is a folder, and its images have no answers; {_SELF}")
    first = list(islice(read_entries(path), _LOOKED_AT))
    questions = [raw for raw in first if "question" in raw or raw.get("conversations")]
    if questions and not any(_has_answer(raw) for raw in questions):
        raise InputError(f"the questions of {path} have no answers; {_SELF}")


def _has_answer(raw: dict[str, Any]) -> bool:
    turns = raw.get("conversations")
    # What is no list of turns is for the reader to refuse.
    return "conversations" in raw and (not isinstance(turns, list) or len(turns) != 1)


def _of_folder(folder: Path, question: str | None) -> Iterator[dict[str, Any]]:
    """An entry for each image in the folder and in the folders below, by path; hidden files are left out."""
    known = picture_suffixes()
    files = sorted(
        file
        for file in folder.rglob("*")
        if file.suffix.lower() in known
        and file.is_file()
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
    )
    if not files:
        raise InputError(f"{folder} has no images; name a folder of images, or a JSON")
    for file in files:
        name, beside = file.relative_to(folder).as_posix(), file.with_suffix(".txt")
        asked = question
        if beside.is_file():
            try:
                asked = beside.read_text(encoding="utf-8-sig").strip()
            except (OSError, UnicodeDecodeError) as error:
                raise InputError(f"{beside} cannot be read as UTF-8 text: {error}") from None
        if not asked:
            raise InputError(
                f"image {file} has no question; write it to {beside.name} beside the image, or give one to "
                "all with --question"
            )
        yield _conversation({"id": name, "image": name, "question": asked}, None)


def _conversation(raw: dict[str, Any], question: str | None) -> dict[str, Any]:
    """An entry in LLaVA's format; one that is in it already stays."""
    if "conversations" in raw:
        return raw
    asked, shown, name = raw.get("question"), raw.get("image") or raw.get("video"), raw.get("id")
    asked = question or "" if asked is None else asked
    if name is None and shown:
        name = shown if isinstance(shown, str) else str(shown[0])
    # What is no text is for the reader to refuse.
    value = f"{MARKERS[0]}\n{asked}" if isinstance(asked, str) else asked
    turns = [{"from": "human", "value": value}]
    return {**raw, "conversations": turns} | ({} if name is None else {"id": name})
