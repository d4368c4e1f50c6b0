"""A sample: one image or video, one question, and how its answer is judged."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from PIL import Image

from vtr_ray.errors import InputError

MAX_SKIPPED = 0.05
"""Share of unreadable samples above which a set is refused."""

AGREEMENT = "agreement with the model's own answers without reduction"
"""What E is where the model's own answers are the targets."""

FRAMES = 8
"""Frames that are read of a video, unless an option says otherwise."""

FRAME_RATE = 1.0
"""Frames a second of a list of frames that does not say."""


@dataclass(frozen=True)
class Video:
    """Where a video lies and how much of it is looked at. Pickles.

    source: a video file, or the files of its frames in order.
    frames: how many are read, spread evenly from the first to the last; of a shorter video some twice, so
        that all samples of a batch have as many.
    rate: frames a second of a list of frames; a file has its own.
    """

    source: Path | tuple[Path, ...]
    frames: int = FRAMES
    rate: float = FRAME_RATE


@runtime_checkable
class Pictures(Protocol):
    """The images of one question, read when they are needed. Pickles."""

    def pictures(self) -> list[Image.Image]:
        """All of them, decoded, RGB, in their order; none where the question is about none."""


class Nothing:
    """The images of a question that is about none."""

    def pictures(self) -> list[Image.Image]:
        """Return no image."""
        return []


NOTHING = Nothing()


@dataclass(frozen=True)
class Sample:
    """Images or a video, one question, and how its answer is judged. Pickles.

    id: unique within a set.
    source: the task, or the top folder of the image's path.
    image: a path, or the bytes of an encoded image; a video; or several images (`Pictures`).
    answers: what counts as right; the first is the target of an exact match.
    exact: judged by exact match of one token sequence (`answers[0]`, end token included), so that one
        forward pass decides. Otherwise the sample generates and `judge` scores the answer.
    judge: decoded answer -> score in [0, 1]; None: 1 where the answer is `answers[0]`, else 0. Its `names()`,
        where it has them, say which judge it is.
    digest: SHA-256 of the encoded image, or of the video's files.
    max_new_tokens, until: where generation stops at the latest, and strings that end an answer.
    document: the sample's place in its task's documents, for figures of a whole set; -1: not of a task.
    target: tokens that the untouched model wrote itself, which stand in for an answer (`--labels self`):
        the sample is then judged by these very tokens, since decoded text may be tokenised differently.
        None: `answers` say what is right.
    target_ends: an end token must follow the target; False: it was cut at the limit of its labels.
    """

    id: str
    source: str
    image: Path | bytes | Video | Pictures = field(repr=False)
    question: str
    answers: tuple[str, ...]
    exact: bool = True
    judge: Callable[[str], float] | None = field(default=None, repr=False)
    digest: str = field(default="", repr=False)
    max_new_tokens: int = 128
    until: tuple[str, ...] = ()
    document: int = -1
    target: tuple[int, ...] | None = field(default=None, repr=False)
    target_ends: bool = True

    @property
    def is_video(self) -> bool:
        """Whether the question is about a video."""
        return isinstance(self.image, Video)

    @property
    def kind(self) -> str:
        """ "image" or "video"."""
        return "video" if self.is_video else "image"

    @property
    def judged_by(self) -> tuple[str, ...]:
        """Names of what decides the score beside the answers, the same in every process: task and metric."""
        if self.judge is None:
            return ()
        named: Callable[[], tuple[str, ...]] | None = getattr(self.judge, "names", None)
        kind = getattr(self.judge, "__qualname__", type(self.judge).__qualname__)
        return (kind,) if named is None else named()

    def score(self, answer: str) -> float:
        """Score in [0, 1] of a decoded answer."""
        if self.judge is not None:
            return self.judge(answer)
        return float(answer.strip() == self.answers[0].strip())


@dataclass(frozen=True)
class Skipped:
    """A sample that cannot be read: its name, and why."""

    name: str
    reason: str


def skipped_line(where: str, skipped: Sequence[Skipped]) -> str:
    """Return the line that says how many samples of a set are skipped, the first five with the reason."""
    names = "; ".join(f"{one.name}: {one.reason}" for one in skipped[:5])
    more = f"; and {len(skipped) - 5} more" if len(skipped) > 5 else ""
    count = "1 sample" if len(skipped) == 1 else f"{len(skipped)} samples"
    return f"{where + ': ' if where else ''}skipped {count} ({names}{more})"


@dataclass(frozen=True)
class SampleSet:
    """The readable samples of a source, and the names of those that are not. Pickles.

    Raises InputError when no sample is left or more than 5 % were skipped.
    """

    samples: tuple[Sample, ...]
    skipped: tuple[Skipped, ...] = ()
    where: str = ""

    def __post_init__(self) -> None:
        total = len(self.samples) + len(self.skipped)
        first = "; ".join(f"{skipped.name}: {skipped.reason}" for skipped in self.skipped[:3])
        if not self.samples:
            why = f": {first}" if first else ""
            raise InputError(f"{self.where}: no readable samples among {total}{why}")
        if len(self.skipped) > MAX_SKIPPED * total:
            raise InputError(
                f"{self.where}: {len(self.skipped)} of {total} samples cannot be read, more than "
                f"{MAX_SKIPPED:.0%}; mend or remove them ({first})"
            )
        repeated = [
            name for name, times in Counter(sample.id for sample in self.samples).items() if times > 1
        ]
        if repeated:
            raise InputError(
                f"{self.where}: sample id {repeated[0]} occurs more than once; ids must be unique"
            )

    def __len__(self) -> int:
        return len(self.samples)

    def __iter__(self) -> Iterator[Sample]:
        return iter(self.samples)

    @property
    def per_source(self) -> dict[str, int]:
        """Number of samples per source, by name."""
        return dict(sorted(Counter(sample.source for sample in self.samples).items()))

    @property
    def labels(self) -> Literal["given", "self"]:
        """ "self" where the untouched model's own answers are the targets: E is then agreement with it."""
        return "self" if any(sample.target is not None for sample in self.samples) else "given"

    @property
    def fingerprint(self) -> str:
        """Hexadecimal digest of ids, images, questions, answers and judges, in the order of the samples.

        Where the model's own answers are the targets, it holds their tokens, too.
        """
        digest = hashlib.sha256()
        for sample in self.samples:
            parts = (sample.id, sample.digest, sample.question, str(sample.exact), *sample.answers)
            if sample.target is not None:
                parts += ("self", str(sample.target), str(sample.target_ends))
            for part in (*parts, *sample.judged_by):
                digest.update(f"{len(part)}:{part}".encode())
            digest.update(b"\n")
        return digest.hexdigest()[:16]

    def describe(self) -> dict[str, Any]:
        """JSON: counts per source, the skipped samples with reasons, the fingerprint."""
        return {
            "where": self.where,
            "samples": len(self.samples),
            "per_source": self.per_source,
            "skipped": {skipped.name: skipped.reason for skipped in self.skipped},
            "fingerprint": self.fingerprint,
            "labels": self.labels,
        }

    @staticmethod
    def joined(sets: Iterable[SampleSet]) -> SampleSet:
        """One set of several; ids must not clash."""
        parts = list(sets)
        return SampleSet(
            samples=tuple(sample for part in parts for sample in part.samples),
            skipped=tuple(skipped for part in parts for skipped in part.skipped),
            where=", ".join(part.where for part in parts),
        )
