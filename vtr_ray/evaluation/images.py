"""The one reader of pictures: any file becomes 8-bit RGB, upright and on white, as viewers show it."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms, ImageFile

READER_VERSION = 2
"""Raised whenever a file becomes other pixels than before, so that kept answers are asked for again."""

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""By EXIF orientation, what makes the stored picture upright; 1 needs nothing."""

SIDEWAYS = (5, 6, 7, 8)
"""Orientations that swap width and height."""

_IDENTIFIED_ONLY = {"BUFR", "EPS", "GRIB", "HDF5", "IPTC", "MPEG", "PALM", "PDF", "WMF"}


def picture_suffixes() -> frozenset[str]:
    """Return the suffixes, in lower case and with their dot, of the files that PIL decodes by itself."""
    known = Image.registered_extensions().items()
    return frozenset(suffix for suffix, kind in known if kind not in _IDENTIFIED_ONLY)


@contextmanager
def whole_images_only() -> Iterator[None]:
    """Inside, a truncated image raises.

    Importing lmms_eval sets a process-wide flag of PIL that fills the missing part with grey instead.
    """
    before = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before


def read_image(image: Path | bytes, max_pixels: int | None = None) -> Image.Image:
    """Return the image as `as_displayed`, decoded to its last row, shrunk to `max_pixels` where it has more.

    Raises OSError, ValueError (or what else PIL raises) where it cannot be decoded.
    """
    with _open(image) as opened:
        return shrunk_image(as_displayed(opened), max_pixels)


def image_size(image: Path | bytes, max_pixels: int | None = None) -> tuple[int, int]:
    """Return the width and height that `read_image` gives, from the image's header."""
    with whole_images_only(), _open(image) as opened:
        if opened.format == "PNG" and _has_metadata_after_pixels(opened):
            opened.load()
        width, height = opened.size
        # PIL turns a TIFF by its own tag, in the size from the start and in the pixels when it is loaded.
        already_turned = ExifTags.Base.Orientation in getattr(opened, "tag_v2", ())
        if _orientation(opened) in SIDEWAYS and not already_turned:
            width, height = height, width
    return shrunk((width, height), max_pixels)


def shrunk_image(image: Image.Image, max_pixels: int | None) -> Image.Image:
    """Return the image, shrunk to `max_pixels` where it has more."""
    size = shrunk(image.size, max_pixels)
    return image if image.size == size else image.resize(size, Image.Resampling.BICUBIC)


def shrunk(size: tuple[int, int], max_pixels: int | None) -> tuple[int, int]:
    """Return the width and height of an image of that size after shrinking it to `max_pixels`."""
    width, height = size
    if max_pixels is None or width * height <= max_pixels:
        return size
    factor = (max_pixels / (width * height)) ** 0.5
    return max(1, int(width * factor)), max(1, int(height * factor))


def as_displayed(image: Image.Image) -> Image.Image:
    """Return an opened file's first picture as viewers show it: 8-bit RGB, upright, transparency on white.

    The orientation is that of EXIF or, without one, of XMP; colours become 8-bit as in `as_rgb`. Colour
    profiles are not applied.

    Raises OSError, ValueError (or what else PIL raises) where it cannot be decoded, is truncated, or has
    values without a known range.
    """
    _scale_colour_key(image)
    with whole_images_only():
        image.load()  # before the orientation is asked for: the metadata of a PNG may follow its pixels
        shown = _on_white(image) if image.has_transparency_data else as_rgb(image)
    turn = TURNS.get(_orientation(image))
    return shown if turn is None else shown.transpose(turn)


def as_rgb(image: Image.Image) -> Image.Image:
    """Return an image's colours as 8-bit RGB, as they are stored: not turned, transparency left aside.

    This is for images that a task hands over in memory. Gray values of more than 8 bits are scaled by the
    range of their type: 65535 for 16 bits (signed: 32767), 4095 for 12 bits. 32-bit integers are 8-bit values
    where none exceeds 255, 16-bit values where none exceeds 65535. Floats run from 0 to 1, or are 8-bit
    values where all of them are whole numbers up to 255. The result carries no metadata.

    Raises OSError where it is truncated, ValueError for other values of integers or floats.
    """
    with whole_images_only():
        if image.mode == "F" or image.mode.startswith("I"):
            rgb = Image.fromarray(_gray(image)).convert("RGB")
        elif image.mode == "LAB":
            profiles = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
            converted = ImageCms.profileToProfile(image, *profiles, outputMode="RGB")
            assert converted is not None  # it is None only where it works in place
            rgb = converted
        else:
            rgb = _straight(image).convert("RGB")
    rgb.info.clear()  # else a saved copy becomes transparent, or is turned
    return rgb


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # PIL takes 16-bit values for white before it looks for the colour key
        rgb = np.array(as_rgb(image))
        rgb[np.asarray(image) == image.info["transparency"]] = 255
        return Image.fromarray(rgb)
    rgba = _straight(image).convert("RGBA")
    white = Image.new("RGB", rgba.size, "white")
    white.paste(rgba, mask=rgba.getchannel("A"))
    return white


def _straight(image: Image.Image) -> Image.Image:
    """Undo the premultiplication of colours, and palettes: PIL has no other or no quiet way to RGB."""
    straight = {"La": "LA", "RGBa": "RGBA", "P": "RGBA"}.get(image.mode)
    return image if straight is None else image.convert(straight)


def _scale_colour_key(image: Image.Image) -> None:
    """Scale a PNG's transparent colour as PIL scales its samples; PIL leaves it in the file's units."""
    key = image.info.get("transparency")
    tiles = getattr(image, "tile", ())  # what is still to be decoded
    samples = tiles[0].args if tiles and image.format == "PNG" else None
    if isinstance(key, int) and samples in ("L;2", "L;4"):
        image.info["transparency"] = key * {"L;2": 85, "L;4": 17}[samples]
    elif isinstance(key, tuple) and samples == "RGB;16B":
        image.info["transparency"] = tuple(part >> 8 for part in key)


def _gray(image: Image.Image) -> NDArray[np.uint8]:
    """Return an integer or float image's values, scaled to 8 bits, uint8 [height, width]."""
    tags = getattr(image, "tag_v2", {})  # of a TIFF: PIL's mode does not say all
    values = np.asarray(image).astype(np.float64)
    least, most = float(values.min()), float(values.max())  # one of them is not finite where a value is not
    full = _range(image.mode, image.format, tags.get(_BITS, (0,))[0], values, most)
    if not (least >= 0 and most <= full):
        what = "float" if image.mode == "F" else "integer"
        known = "0 to 1 (or whole numbers to 255)" if image.mode == "F" else f"0 to {full:.0f}"
        raise ValueError(
            f"its {what} gray values run from {least:g} to {most:g}; values of {known} are supported: "
            "scale them, or store 8 bits"
        )
    shown = np.rint(values * (255 / full)).astype(np.uint8)
    # PIL inverts gray where 0 is white up to 8 bits a value, not beyond.
    return 255 - shown if tags.get(_PHOTOMETRIC) == 0 else shown


_BITS, _PHOTOMETRIC = ExifTags.Base.BitsPerSample, ExifTags.Base.PhotometricInterpretation


def _range(mode: str, file: str | None, bits: int, values: NDArray[np.float64], most: float) -> float:
    """Return the value that is white, of an image whose largest value is `most`."""
    if mode == "F":
        return 255 if most > 1 and bool(np.all(values == np.rint(values))) else 1
    if mode != "I":
        return 4095 if bits == 12 else 65535
    if file in ("PNG", "PPM"):  # 16 bits by their formats
        return 65535
    if bits == 16:
        return 32767
    return 255 if most <= 255 else 65535


def _orientation(image: Image.Image) -> int:
    """Return the orientation that an opened image's metadata tell; 1 where they are damaged."""
    try:
        # Of the base class: that of a PNG would decode the image.
        orientation = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
    except Exception:  # PIL's parser raises whatever it meets
        return 1
    return orientation if orientation in TURNS else 1


def _has_metadata_after_pixels(image: ImageFile.ImageFile) -> bool:
    """Tell whether chunks that can hold an orientation follow the pixels of an opened PNG."""
    file = image.fp
    assert file is not None  # it is closed when the image is loaded
    before, pixels = file.tell(), False
    try:
        file.seek(8)
        while len(head := file.read(8)) == 8:
            length, kind = struct.unpack(">I4s", head)
            if pixels and kind in (b"eXIf", b"tEXt", b"zTXt", b"iTXt"):
                return True
            pixels = pixels or kind == b"IDAT"
            file.seek(length + 4, io.SEEK_CUR)
        return False
    finally:
        file.seek(before)


def _open(image: Path | bytes) -> ImageFile.ImageFile:
    return Image.open(io.BytesIO(image) if isinstance(image, bytes) else image)
