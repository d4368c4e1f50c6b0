"""What decides an answer beside its question: the content of pictures and videos, and versions."""

from __future__ import annotations

import hashlib
from importlib import metadata
from pathlib import Path

from vtr_ray.evaluation.images import READER_VERSION
from vtr_ray.evaluation.samples import Pictures, Video
from vtr_ray.evaluation.video import video_digest

# Models and processors are theirs, pictures and frames are decoded and scaled by them.
_LIBRARIES = ("vtr-ray", "torch", "transformers", "torchvision", "pillow", "av")


def content_digest(seen: Path | bytes | Video | Pictures) -> str:
    """Return a digest of what a sample shows: pixels as its task gives them, else the bytes of the files.

    Where that cannot be read, the text says why: reading it again will say so to the user.
    """
    digest = hashlib.blake2b(digest_size=20)
    try:
        if isinstance(seen, Video):
            return video_digest(seen)
        if isinstance(seen, Path | bytes):
            digest.update(seen.read_bytes() if isinstance(seen, Path) else seen)
            return digest.hexdigest()
        for image in seen.pictures():
            digest.update(f"{image.mode} {image.size};".encode())
            digest.update(image.tobytes())
    except Exception as error:  # a task's own functions and decoders raise whatever they meet
        return f"{type(error).__name__}: {error}"
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """Return the versions of what turns a picture and a question into an answer."""
    return {**{name: metadata.version(name) for name in _LIBRARIES}, "reader": str(READER_VERSION)}
