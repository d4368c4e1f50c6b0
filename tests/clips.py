"""Small videos, written by PyAV."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np


def pixels(seed: int, frames: int, size: tuple[int, int] = (32, 32)) -> np.ndarray:
    """uint8 [frames, height, width, 3]: a few large squares that move, so that no two frames are alike."""
    width, height = size
    draw = np.random.default_rng(seed)
    blocks = draw.integers(0, 256, (frames, height // 8, width // 8, 3), dtype=np.uint8)
    return blocks.repeat(8, axis=1).repeat(8, axis=2)


def write_clip(
    path: Path,
    seed: int = 0,
    frames: int = 12,
    size: tuple[int, int] = (32, 32),
    codec: str = "libx264",
    rate: int = 8,
    **options: str,
) -> Path:
    """A video of `pixels(seed, ...)`; options: the codec's, as g (frames between key frames) and bf."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(rate), options={"g": "5", "bf": "2", **options})
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        for picture in pixels(seed, frames, size):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def decoded(path: Path) -> np.ndarray:
    """uint8 [frames, height, width, 3]: everything, one after the other."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def turned_clip(path: Path, matrix: tuple[float, ...], size: tuple[int, int] = (64, 32)) -> Path:
    """A clip whose track header (`tkhd`) says how it is shown, as phones write it: (a, b, c, d)."""
    write_clip(path, size=size)
    data = bytearray(path.read_bytes())
    place = data.index(b"tkhd") + 44  # version 0: times, track, duration, layer, group, volume before it
    assert struct.unpack(">9i", data[place : place + 36]) == (65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30)
    a, b, c, d = (round(part * 65536) for part in matrix)
    data[place : place + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path
