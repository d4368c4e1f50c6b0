"""What a sample shows: images, or a video's file or list of frames, of which spread ones are read."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vtr_ray.evaluation.images import (
    SIDEWAYS,
    TURNS,
    as_displayed,
    image_size,
    picture_suffixes,
    read_image,
    shrunk,
    shrunk_image,
)
from vtr_ray.evaluation.natural_order import natural_order
from vtr_ray.evaluation.samples import FRAME_RATE, FRAMES, Pictures, Video


@dataclass(frozen=True)
class Clip:
    """What was read of a video.

    pixels: uint8 [frames, height, width, 3], RGB.
    metadata: what a processor takes as `video_metadata`: which frames these are, of how many, how fast.
    """

    pixels: NDArray[np.uint8]
    metadata: dict[str, Any]


Seen = list[Image.Image] | Clip
Size = tuple[int, int, int] | tuple[tuple[int, int], ...]
"""Width, height and frames of a clip; or width and height of each image."""


def open_video(path: Path, frames: int = FRAMES, rate: float = FRAME_RATE) -> Video:
    """Return the video of a file, or of a folder of frames in the `natural_order` of their names.

    Hidden files of the folder and files without the suffix of a picture are passed over.

    Raises FileNotFoundError: no such file or folder, or one without images.
    """
    if path.is_file():
        return Video(path, frames, rate)
    if not path.is_dir():
        raise FileNotFoundError(f"no video {path}")
    known = picture_suffixes()
    files = [
        file
        for file in path.iterdir()
        if file.suffix.lower() in known and not file.name.startswith(".") and file.is_file()
    ]
    if not files:
        raise FileNotFoundError(f"no frames in the folder {path}")
    return Video(tuple(natural_order(files)), frames, rate)


def read(seen: Path | bytes | Video | Pictures, max_pixels: int | None = None) -> Seen:
    """A sample's images or clip. Raises as `read_image` and `read_video` do."""
    if isinstance(seen, Video):
        return read_video(seen, max_pixels)
    if isinstance(seen, Path | bytes):
        return [read_image(seen, max_pixels)]
    return [shrunk_image(image, max_pixels) for image in seen.pictures()]


def seen_size(seen: Path | bytes | Video | Pictures, max_pixels: int | None = None) -> Size:
    """Size of what `read` gives, from the header where there is one: it decides the tokens."""
    if isinstance(seen, Video):
        return (*video_size(seen, max_pixels), seen.frames)
    if isinstance(seen, Path | bytes):
        return (image_size(seen, max_pixels),)
    return tuple(shrunk(image.size, max_pixels) for image in seen.pictures())


def blank(size: Size) -> Seen:
    """Black images or a black clip of that `seen_size`."""
    if not isinstance(size[0], int):
        return [Image.new("RGB", one) for one in size if not isinstance(one, int)]
    width, height, frames = (one for one in size if isinstance(one, int))
    return Clip(np.zeros((frames, height, width, 3), np.uint8), _metadata(frames, FRAME_RATE, range(frames)))


def read_video(video: Video, max_pixels: int | None = None) -> Clip:
    """Return the video's uniformly spread frames as a player shows them, upright and RGB.

    Each is shrunk to `max_pixels` where it has more, and to the first one's size where that differs.

    Raises OSError, ValueError (or what else PIL and FFmpeg raise) where it cannot be decoded.
    """
    if isinstance(video.source, Path):
        total, rate, images = _decoded(video.source, video.frames)
    else:
        total, rate = len(video.source), video.rate
        images = {index: _frame(video.source[index]) for index in set(spread(total, video.frames))}
    indices = spread(total, video.frames)
    size = shrunk(images[indices[0]].size, max_pixels)
    arrays = {
        index: np.asarray(image if image.size == size else image.resize(size, Image.Resampling.BICUBIC))
        for index, image in images.items()
    }
    return Clip(np.stack([arrays[index] for index in indices]), _metadata(total, rate, indices))


def _frame(file: Path) -> Image.Image:
    try:
        return read_image(file)
    except Exception as error:  # PIL's decoders raise whatever they meet
        raise ValueError(f"frame {file.name}: {error}") from error


def _metadata(total: int, rate: float, indices: Sequence[int]) -> dict[str, Any]:
    return {"total_num_frames": total, "fps": rate, "duration": total / rate, "frames_indices": list(indices)}


def video_size(video: Video, max_pixels: int | None = None) -> tuple[int, int]:
    """Return the width and height that `read_video` gives, from the first frame that is at hand."""
    if not isinstance(video.source, Path):
        return image_size(video.source[spread(len(video.source), video.frames)[0]], max_pixels)
    import av

    with av.open(str(video.source)) as container:
        frame = next(container.decode(video=0), None)  # a header does not say how the picture is turned
        if frame is None:
            raise ValueError("it has no frames")
        size = (frame.width, frame.height) if _turn(frame) not in SIDEWAYS else (frame.height, frame.width)
    return shrunk(size, max_pixels)


def video_digest(video: Video) -> str:
    """SHA-256 of the video's files and of what is looked at in them."""
    digest = hashlib.sha256(f"{video.frames} frames at {video.rate}".encode())
    for file in [video.source] if isinstance(video.source, Path) else video.source:
        with file.open("rb") as opened:
            digest.update(hashlib.file_digest(opened, "sha256").digest())
    return digest.hexdigest()


def spread(total: int, frames: int) -> list[int]:
    """Indices of `frames` frames from the first of `total` to the last, evenly; a single one: the middle."""
    if frames == 1:
        return [(total - 1) // 2]
    return [(2 * i * (total - 1) + frames - 1) // (2 * (frames - 1)) for i in range(frames)]


def _decoded(path: Path, frames: int) -> tuple[int, float, dict[int, Image.Image]]:
    """Number of frames, frames a second, and the wanted frames by their index.

    A header's count of frames is missing in some containers and wrong in cut files: packets are counted.
    """
    import av

    with av.open(str(path)) as container:
        if not container.streams.video:
            raise ValueError("it has no video stream")
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        # Of each packet its time, whether decoding can start there, whether an edit list hides it.
        packets = [(one.pts, one.is_keyframe, one.is_discard) for one in container.demux(stream) if one.size]
        if len(packets) < stream.frames:
            raise ValueError(f"it ends after {len(packets)} of {stream.frames} frames")
        times = sorted(time for time, _, hidden in packets if time is not None and not hidden)
        starts = sorted(time for time, key, _ in packets if time is not None and key)
        total = sum(not hidden for _, _, hidden in packets)
        if not total:
            raise ValueError("it has no frames")
        rate = float(stream.average_rate or stream.guessed_rate or FRAME_RATE)
        wanted = sorted(set(spread(total, frames)))
        found: dict[int, Image.Image] = {}
        container.seek(0)
        if len(set(times)) == total:
            for place, frame in _at(container, stream, [times[index] for index in wanted], starts):
                found[wanted[place]] = _image(frame)
        if len(found) < len(wanted):  # no times to go by, or (AVI) not the frames' own
            container.seek(0)
            frames_in_order = enumerate(container.decode(stream))
            found = {index: _image(frame) for index, frame in frames_in_order if index in wanted}
        missing = [index for index in wanted if index not in found]
        if missing:
            raise ValueError(f"its frame {missing[0]} of {total} cannot be decoded")
    return total, rate, found


def _at(
    container: Any, stream: Any, times: Sequence[int], starts: Sequence[int]
) -> Iterator[tuple[int, Any]]:
    """Frames shown at `times` (ascending), with their place in it; seeks where that saves decoding."""
    frames, now = container.decode(stream), min(starts, default=0)
    for place, time in enumerate(times):
        start = max((start for start in starts if start <= time), default=None)
        if start is not None and start > now:
            container.seek(start, stream=stream)
            frames = container.decode(stream)
        for frame in frames:
            now = time if frame.pts is None else frame.pts
            if now >= time:
                if now == time:
                    yield place, frame
                break


def _image(frame: Any) -> Image.Image:
    if frame.is_corrupt:
        raise ValueError(f"its frame at {frame.time or 0:.2f} s is damaged")
    colours = _colours(frame)
    if frame.format.has_palette or any(part.is_alpha for part in frame.format.components):
        image = as_displayed(Image.fromarray(frame.to_ndarray(format="rgba", **colours)))
    else:
        image = frame.to_image(**colours)
    turn = TURNS.get(_turn(frame))
    return image if turn is None else image.transpose(turn)


def _colours(frame: Any) -> dict[str, int]:
    """Return what PyAV must be told of a frame's YUV: by itself it takes every matrix for that of BT.601."""
    if frame.format.is_rgb or frame.colorspace not in _OTHER_MATRICES:
        return {}
    full = frame.color_range == _FULL or frame.format.name.startswith("yuvj")
    # It uses the frame's matrix only where the target's differs, which RGB has none of.
    return {"dst_colorspace": _BT601, "src_color_range": _FULL if full else 1, "dst_color_range": _FULL}


_BT601, _FULL = 5, 2  # FFmpeg's numbers
_OTHER_MATRICES = (1, 4, 7, 9)  # BT.709, FCC, SMPTE 240M, BT.2020
_ORIENTATIONS = {
    (1, 0, 0, 1): 1, (-1, 0, 0, 1): 2, (-1, 0, 0, -1): 3, (1, 0, 0, -1): 4,
    (0, 1, 1, 0): 5, (0, 1, -1, 0): 6, (0, -1, -1, 0): 7, (0, -1, 1, 0): 8,
}  # fmt: skip


def _turn(frame: Any) -> int:
    """Return a frame's display matrix as an EXIF orientation.

    The matrix takes a stored place (x, y) to the place (a x + c y, b x + d y) where it is shown.
    """
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return 1
    a, b, _, c, d, *_ = struct.unpack("=9i", bytes(matrix))
    across, down = max(abs(a), abs(b)), max(abs(c), abs(d))
    if not across or not down:  # written by mistake; players ignore it
        return 1
    parts = (a / across, b / across, c / down, d / down)
    orientation = _ORIENTATIONS.get(tuple(map(round, parts)))
    if orientation is None or any(abs(part - round(part)) > _SLANT for part in parts):
        raise ValueError("it is turned by other than quarter turns; store its frames upright")
    return orientation


_SLANT = 0.02  # about one degree
