"""Whatever a file holds is read upright, as 8-bit RGB and on white: modes x formats x orientations.

The pictures are made from arrays and written in the layout that the EXIF standard gives each orientation;
what must be read is computed from the arrays.
"""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile

from vtr_ray.evaluation.images import as_rgb, image_size, read_image

# EXIF 2.32, tag 274: which side of the upright picture the stored first row is, and the stored first column.
SIDES = {
    1: ("top", "left"),
    2: ("top", "right"),
    3: ("bottom", "right"),
    4: ("bottom", "left"),
    5: ("left", "top"),
    6: ("right", "top"),
    7: ("right", "bottom"),
    8: ("left", "bottom"),
}
HEIGHT, WIDTH = 24, 40
EXACT, ROUNDED, LOSSY = 0, 1, 8  # by how much a value may differ


def blocks(low, high, dtype, depth=()):
    """Blocks of 8 x 8 pixels with values of their own."""
    values = np.random.default_rng(int(high)).integers(low, high, (HEIGHT // 8, WIDTH // 8, *depth))
    return values.repeat(8, 0).repeat(8, 1).astype(dtype)


RGB = blocks(0, 256, np.uint8, (3,))
ALPHA = blocks(0, 256, np.uint8)
ALPHA[:8, :16] = 0, *[0] * 7, *[255] * 8
INDEX = (
    np.arange(HEIGHT // 8 * (WIDTH // 8), dtype=np.uint8).reshape(HEIGHT // 8, -1).repeat(8, 0).repeat(8, 1)
)
DEEP = blocks(0, 65536, np.uint16)
DEEP[:8, :8], DEEP[8:16, :8] = 65535, 0
PALETTE = [tuple(RGB[index == INDEX][0].tolist()) for index in range(15)]


def gray(values):
    """RGB of gray values in 0..255, halves up."""
    return np.floor(np.asarray(values, np.float64) + 0.5).astype(np.uint8)[..., None].repeat(3, -1)


def on_white(colours, alpha):
    part = alpha[..., None] / 255
    return np.floor(colours * part + 255 * (1 - part) + 0.5).astype(np.uint8)


def paletted(index):
    image = Image.fromarray(index)
    image.putpalette([part for colour in PALETTE for part in colour])
    return image


def banded(mode):
    return lambda stored: Image.frombytes(mode, stored.shape[1::-1], np.ascontiguousarray(stored).tobytes())


ALPHAS = bytes(range(0, 255, 17))  # of the palette's 15 colours
BRIGHT = (DEEP / 65535).astype(np.float32)
SHALLOW = RGB[..., 0]
INKS = np.dstack([RGB, ALPHA])

# Name -> (the array that is stored, array -> image, what must be seen, options of saving, tolerance)
KINDS = {
    "RGB": (RGB, Image.fromarray, RGB, {}, EXACT),
    "L": (SHALLOW, Image.fromarray, gray(SHALLOW), {}, EXACT),
    "1": (SHALLOW > 127, Image.fromarray, gray(255 * (SHALLOW > 127)), {}, EXACT),
    "P": (INDEX, paletted, RGB, {}, EXACT),
    "RGBA": (INKS, Image.fromarray, on_white(RGB, ALPHA), {}, ROUNDED),
    "LA": (INKS[..., 2:], banded("LA"), on_white(gray(RGB[..., 2]), ALPHA), {}, ROUNDED),
    "P with alphas": (
        INDEX,
        paletted,
        on_white(RGB, np.array(list(ALPHAS))[INDEX]),
        {"transparency": ALPHAS},
        ROUNDED,
    ),
    "P with a key": (INDEX, paletted, on_white(RGB, 255 * (INDEX != 3)), {"transparency": 3}, EXACT),
    "RGB with a key": (
        RGB,
        Image.fromarray,
        on_white(RGB, 255 * (INDEX != 7)),
        {"transparency": PALETTE[7]},
        EXACT,
    ),
    "L with a key": (
        SHALLOW,
        Image.fromarray,
        on_white(gray(SHALLOW), 255 * (SHALLOW[20, 20] != SHALLOW)),
        {"transparency": int(SHALLOW[20, 20])},
        EXACT,
    ),
    "I;16": (DEEP, Image.fromarray, gray(DEEP / 257), {}, EXACT),
    "I;16 with a key": (
        DEEP,
        Image.fromarray,
        on_white(gray(DEEP / 257), 255 * (DEEP[20, 20] != DEEP)),
        {"transparency": int(DEEP[20, 20])},
        EXACT,
    ),
    "I;16B": (DEEP.astype(">u2"), banded("I;16B"), gray(DEEP / 257), {}, EXACT),
    "I": (DEEP.astype(np.int32), Image.fromarray, gray(DEEP / 257), {}, EXACT),
    "I of 8 bits": (SHALLOW.astype(np.int32), Image.fromarray, gray(SHALLOW), {}, EXACT),
    "F": (BRIGHT, Image.fromarray, gray(255 * BRIGHT.astype(float)), {}, EXACT),
    "F of 8 bits": (SHALLOW.astype(np.float32), Image.fromarray, gray(SHALLOW), {}, EXACT),
    "CMYK": (
        INKS,
        banded("CMYK"),
        np.floor((255.0 - RGB) * (255.0 - ALPHA[..., None]) / 255 + 0.5).astype(np.uint8),
        {},
        ROUNDED,
    ),
    "YCbCr": (
        RGB,
        banded("YCbCr"),
        np.clip(
            RGB[..., :1]
            + (RGB[..., 2:] - 128.0) * [1.402, -0.714136, 0]
            + (RGB[..., 1:2] - 128.0) * [0, -0.344136, 1.772],
            0,
            255,
        ),
        {},
        2,
    ),
}
HOLDS = {
    "PNG": "RGB, L, 1, P, RGBA, LA, I;16, P with alphas, P with a key, RGB with a key, L with a key, "
    "I;16 with a key",
    "TIFF": "RGB, L, 1, P, RGBA, LA, I;16, I;16B, I, I of 8 bits, F, F of 8 bits, CMYK, YCbCr",
    "WEBP": "RGB, RGBA",
    "JPEG": "RGB, L, CMYK",
    "MPO": "RGB",
    "AVIF": "RGB, RGBA",
    "GIF": "P, P with a key",
    "BMP": "RGB, P, L, 1",
    "TGA": "RGB, RGBA, LA",
    "PPM": "RGB, L, 1, I;16",
}
OPTIONS = {
    "WEBP": {"lossless": True, "exact": True},
    "JPEG": {"quality": 100, "subsampling": 0},
    "MPO": {"quality": 100, "subsampling": 0},
    "AVIF": {"quality": 100, "subsampling": "4:4:4"},
}
MATRIX = [(form, kind) for form, kinds in HOLDS.items() for kind in kinds.split(", ")]


def stored(upright, orientation):
    """The array as a file of that orientation holds it."""
    row, column = SIDES[orientation]
    height, width = upright.shape[:2]
    xs = range(width) if "left" in (row, column) else range(width)[::-1]
    ys = range(height) if "top" in (row, column) else range(height)[::-1]
    turned = upright[np.ix_(ys, xs)]
    return np.ascontiguousarray(turned if row in ("top", "bottom") else turned.swapaxes(0, 1))


def encoded(image, form, orientation=1, **options):
    file, exif = io.BytesIO(), Image.Exif()
    exif[274] = orientation
    if orientation != 1:
        options["exif"] = exif
    image.save(file, form, **options)
    return file.getvalue()


@pytest.mark.parametrize(("form", "kind"), MATRIX)
def test_a_file_is_seen_as_it_looks(form, kind):
    array, made, seen, options, tolerance = KINDS[kind]
    tolerance = max(tolerance, LOSSY if form in ("JPEG", "MPO", "AVIF") else 0)
    for orientation in SIDES if form in ("PNG", "TIFF", "WEBP", "JPEG", "MPO", "AVIF") else (1,):
        data = encoded(
            made(stored(array, orientation)), form, orientation, **options, **OPTIONS.get(form, {})
        )
        read = read_image(data)
        assert (read.mode, read.size, read.info) == ("RGB", (WIDTH, HEIGHT), {})
        off = np.abs(np.asarray(read).astype(int) - seen.astype(int)).max()
        assert off <= tolerance, (orientation, off)
        assert image_size(data) == (WIDTH, HEIGHT)
        assert image_size(data, 600) == read_image(data, 600).size == (31, 18)


def test_every_kind_is_in_the_matrix():
    assert {kind for _, kind in MATRIX} == set(KINDS)


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width, bits, colour, row, *, before=b"", after=b""):
    """A PNG of one row, of which PIL would write only some."""
    head = struct.pack(">IIBBBBB", width, 1, bits, colour, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(b"\0" + row))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + before + pixels + after + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("bits", "colour", "row", "key", "seen"),
    [
        (1, 0, [0b01000000], (1,), [0, 255, 0, 0]),
        (1, 0, [0b01000000], (0,), [255, 255, 255, 255]),
        (2, 0, [0b00011011], (1,), [0, 255, 170, 255]),
        (4, 0, [0x01, 0x2F], (2,), [0, 17, 255, 255]),
        (8, 0, [0, 50, 100, 255], (100,), [0, 50, 255, 255]),
        (16, 0, [0, 0, 100, 100, 200, 200, 255, 255], (100 * 257,), [0, 255, 200, 255]),
        (16, 0, [0, 0, 0, 255, 0, 128, 255, 0], (128,), [0, 1, 255, 254]),
        (8, 2, [1, 2, 3, 9, 9, 9], (9, 9, 9), [1, 2, 3, 255, 255, 255]),
        (16, 2, [1, 1, 2, 2, 3, 3, 9, 9, 8, 8, 7, 7], (9 * 257, 8 * 257, 7 * 257), [1, 2, 3, 255, 255, 255]),
        (16, 4, [7, 7, 255, 255, 7, 7, 0, 0], (), [7, 255]),
        (16, 6, [7, 7, 8, 8, 9, 9, 255, 255, 7, 7, 8, 8, 9, 9, 0, 0], (), [7, 8, 9, 255, 255, 255]),
    ],
)
def test_every_depth_of_a_png_has_its_transparent_colour(bits, colour, row, key, seen):
    keyed = chunk(b"tRNS", struct.pack(f">{len(key)}H", *key)) if key else b""
    width = len(seen) // (3 if colour in (2, 6) else 1)
    read = np.asarray(read_image(png(width, bits, colour, bytes(row), before=keyed)))[0]
    assert (read if colour in (2, 6) else read[:, :1]).ravel().tolist() == seen


def test_an_orientation_is_found_wherever_it_is_written():
    exif = Image.Exif()
    exif[274] = 6
    late = {"after": chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))}
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf tiff:Orientation="6"/></x:xmpmeta>'
    text = {"after": chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp)}
    row = bytes([1, 2, 3, 4])
    turned = encoded(Image.fromarray(RGB), "JPEG", xmp=xmp), encoded(Image.fromarray(RGB), "WEBP", xmp=xmp)
    flat = [png(4, 8, 0, row, **late), png(4, 8, 0, row, **text)]
    for data in flat:
        assert np.asarray(read_image(data))[:, 0, 0].tolist() == [1, 2, 3, 4]
        assert image_size(data) == (1, 4)
    for data in turned:
        assert read_image(data).size == image_size(data) == (HEIGHT, WIDTH)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("exif", [b"", b"Exif\0\0", b"Exif\0\0nonsense", b"Exif\0\0II*\0\x08\0\0\0\x05\0"])
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_damaged_metadata_do_not_hide_a_picture(form, exif):
    data = encoded(Image.fromarray(RGB), form, exif=exif)
    assert read_image(data).size == image_size(data) == (WIDTH, HEIGHT)


def tiff(values, **tags):
    """A TIFF whose tags are changed after it was written."""
    file = io.BytesIO()
    Image.fromarray(values).save(file, "TIFF")
    data = bytearray(file.getvalue())
    (start,) = struct.unpack("<I", data[4:8])
    for entry in range(struct.unpack("<H", data[start : start + 2])[0]):
        at = start + 2 + 12 * entry
        tag, _, count, _ = struct.unpack("<HHII", data[at : at + 12])
        name = {258: "bits", 262: "photometric", 339: "sample_format"}.get(tag)
        if name in tags:
            data[at : at + 12] = struct.pack("<HHIHH", tag, 3, count, tags[name], 0)
    return bytes(data)


def test_gray_runs_over_the_range_of_its_type():
    row = np.array([[0, 1000, 32767, 65535]], np.uint16)
    assert shades(tiff(row)) == [0, 4, 127, 255]
    assert shades(tiff(row, photometric=0)) == [255, 251, 128, 0]  # white is zero
    assert shades(tiff(np.array([[0, 0.25, 1]], np.float32), photometric=0)) == [255, 191, 0]
    packed = np.frombuffer(bytes([0xFF, 0xF0, 0x00, 0x80, 0x00, 0x00]), np.uint8)  # 4095, 0, 2048, 0
    twelve = tiff(np.zeros((1, 4), np.uint16), bits=12)
    place = len(twelve) - 8
    assert shades(twelve[:place] + packed.tobytes() + b"\0\0") == [255, 0, 128, 0]
    assert shades(encoded(Image.fromarray(row), "PPM")) == [0, 4, 127, 255]


def shades(data):
    pixels = np.asarray(read_image(data))
    assert (pixels == pixels[..., :1]).all()
    return pixels[0, :, 0].tolist()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.array([[0, 70_000]], np.int32), "integer gray values run from 0 to 70000"),
        (np.array([[-1, 70]], np.int32), "run from -1 to 70"),
        (np.array([[0, 1.5]], np.float32), "float gray values run from 0 to 1.5"),
        (np.array([[-0.1, 1]], np.float32), "run from -0.1 to 1"),
        (np.array([[0, 256]], np.float32), "run from 0 to 256"),
        (np.array([[0, np.nan]], np.float32), "nan"),
        (np.array([[0, np.inf]], np.float32), "inf"),
    ],
)
def test_values_of_no_known_range_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        read_image(tiff(values))
    with pytest.raises(ValueError, match=message):
        as_rgb(Image.fromarray(values))


def test_lab_has_the_colours_of_its_definition():
    """CIE L*a*b* under D50, as TIFF has it, of some sRGB colours."""
    right = np.array([(200, 100, 50), (90, 140, 110), (60, 80, 170), (255, 255, 255), (128, 128, 128)])
    linear = np.where(right > 10, ((right / 255 + 0.055) / 1.055) ** 2.4, 0)
    to_d50 = [[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]]
    x, y, z = np.cbrt(np.array(to_d50) @ linear.T / np.array([[0.96422], [1], [0.82521]]))
    lab = np.stack([(116 * y - 16) * 2.55, 500 * (x - y), 200 * (y - z)], -1)
    image = Image.frombytes("LAB", (5, 1), (np.rint(lab).astype(int) % 256).astype(np.uint8).tobytes())
    seen = np.asarray(read_image(encoded(image, "TIFF")))[0].astype(int)
    assert np.abs(seen - right).max() <= 4


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "TIFF", "GIF"])
def test_truncated_files_raise_whatever_the_flag(form, monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)  # as importing lmms_eval does
    noise = Image.effect_noise((64, 64), 80)
    data = encoded(noise, form)
    for part in (data[: len(data) * 2 // 3], data[: len(data) // 2]):
        with pytest.raises((OSError, SyntaxError, ValueError)):
            read_image(part)
        with pytest.raises((OSError, SyntaxError, ValueError)):
            as_rgb(Image.open(io.BytesIO(part)))
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_task_hands_over_keeps_its_place_and_its_hidden_colours(kind):
    array, made, seen, options, tolerance = KINDS[kind]
    image = made(array)
    image.info |= options
    if "A" in kind or "with" in kind:
        hidden = {"RGBA": RGB, "LA": gray(RGB[..., 2]), "P": RGB, "RGB": RGB, "L": gray(SHALLOW)}
        seen = hidden.get(kind.split(" ")[0], gray(DEEP / 257))
    exif = Image.Exif()
    exif[274] = 6
    image.info["exif"] = exif.tobytes()
    taken = as_rgb(image)
    assert (taken.mode, taken.info, taken is image) == ("RGB", {}, False)
    assert np.abs(np.asarray(taken).astype(int) - seen.astype(int)).max() <= tolerance
    # As tasks' pictures are kept: a PNG that is read again.
    assert read_image(encoded(taken, "PNG")).tobytes() == taken.tobytes()


def test_premultiplied_colours_are_undone():
    premultiplied = Image.fromarray(INKS).convert("RGBa")
    solid = ALPHA > 128
    assert np.abs(np.asarray(as_rgb(premultiplied)).astype(int) - RGB)[solid].max() <= 2
    assert as_rgb(Image.merge("LA", Image.fromarray(INKS).split()[2:]).convert("La")).mode == "RGB"
