"""Reading videos, and LLaVA-format entries that name them."""

import json
import math
import pickle
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from clips import decoded, pixels, turned_clip, write_clip
from PIL import Image

from vtr_ray.errors import InputError
from vtr_ray.evaluation.llava import load_llava
from vtr_ray.evaluation.natural_order import natural_order
from vtr_ray.evaluation.samples import Video
from vtr_ray.evaluation.split import make_split
from vtr_ray.evaluation.video import blank, open_video, read_video, seen_size


def spread(total, frames):
    if frames == 1:
        return [(total - 1) // 2]
    return [math.floor(i * (total - 1) / (frames - 1) + 0.5) for i in range(frames)]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("b.mp4", {}),
        ("one-key.mp4", {"g": "1000"}),
        ("all-keys.mp4", {"g": "1"}),
        ("no-count.mkv", {}),
        ("old.avi", {"codec": "mpeg4"}),
        ("lengths.webm", {"codec": "libvpx"}),
    ],
)
def test_the_frames_read_are_those_of_a_plain_decoding(tmp_path, name, options):
    path = write_clip(tmp_path / name, frames=33, **options)
    whole = decoded(path)
    assert len(whole) == 33
    for frames in (1, 2, 5, 8, 33, 40):
        clip = read_video(Video(path, frames))
        wanted = spread(33, frames)
        assert clip.metadata["frames_indices"] == wanted
        assert np.array_equal(clip.pixels, whole[wanted])
        assert seen_size(Video(path, frames)) == (32, 32, frames)
    assert (clip.metadata["total_num_frames"], clip.metadata["fps"]) == (33, 8.0)
    assert len({frame.tobytes() for frame in whole}) == 33


def test_larger_frames_are_shrunk(tmp_path):
    video = Video(write_clip(tmp_path / "v.mp4", size=(64, 32)), 3)
    assert read_video(video, 512).pixels.shape == (3, 16, 32, 3)
    assert seen_size(video, 512) == (32, 16, 3)
    assert blank((32, 16, 3)).pixels.shape == (3, 16, 32, 3)


def test_a_folder_of_frames_is_read_by_its_numbers(tmp_path):
    pictures = pixels(1, 11)
    for index, picture in enumerate(pictures):
        Image.fromarray(picture).save(tmp_path / f"{index}.png")
    (tmp_path / "notes.txt").write_text("not a frame")
    video = open_video(tmp_path, 6, rate=2.0)
    clip = read_video(video)
    assert np.array_equal(clip.pixels, pictures[[0, 2, 4, 6, 8, 10]])
    assert (clip.metadata["fps"], clip.metadata["duration"]) == (2.0, 5.5)
    assert pickle.loads(pickle.dumps(video)) == video


def shown(pixels, matrix):
    """Every pixel at the place (a x + c y, b x + d y) that the QuickTime format gives it, from 0 on."""
    a, b, c, d = matrix
    height, width = pixels.shape[:2]
    places = {(a * x + c * y, b * x + d * y): (y, x) for y in range(height) for x in range(width)}
    xs, ys = sorted({x for x, _ in places}), sorted({y for _, y in places})
    return np.array([[pixels[places[x, y]] for x in xs] for y in ys])


TURNS = {
    "identity": (1, 0, 0, 1),
    "90": (0, 1, -1, 0),
    "180": (-1, 0, 0, -1),
    "270": (0, -1, 1, 0),
    "mirrored": (-1, 0, 0, 1),
    "upside down": (1, 0, 0, -1),
    "transposed": (0, 1, 1, 0),
    "transverse": (0, -1, -1, 0),
}


@pytest.mark.parametrize("name", TURNS)
def test_a_video_is_turned_as_its_display_matrix_says(tmp_path, name):
    path = turned_clip(tmp_path / "v.mp4", TURNS[name])
    whole = decoded(path)  # FFmpeg's decoder does not turn
    clip = read_video(Video(path, 3))
    for place, index in enumerate(clip.metadata["frames_indices"]):
        assert np.array_equal(clip.pixels[place], shown(whole[index], TURNS[name]))
    width, height = (32, 64) if TURNS[name][0] == 0 else (64, 32)
    assert seen_size(Video(path, 3)) == (width, height, 3)
    small = (width // 2, height // 2, 3)
    assert seen_size(Video(path, 3), 512) == small
    assert read_video(Video(path, 3), 512).pixels.shape == (3, small[1], small[0], 3)


def test_scaled_and_empty_matrices_turn_alike_and_slanted_ones_are_refused(tmp_path):
    half = turned_clip(tmp_path / "half.mp4", (0, 0.5, -0.5, 0.001))
    assert read_video(Video(half, 2)).pixels.shape == (2, 64, 32, 3)
    none = turned_clip(tmp_path / "none.mp4", (0, 0, 0, 0))
    assert read_video(Video(none, 2)).pixels.shape == (2, 32, 64, 3)
    slanted = turned_clip(tmp_path / "slanted.mp4", (0.87, 0.5, -0.5, 0.87))
    with pytest.raises(ValueError, match="other than quarter turns"):
        read_video(Video(slanted, 2))


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize(
    ("space", "red", "blue"),
    [(2, 0.299, 0.114), (6, 0.299, 0.114), (1, 0.2126, 0.0722), (7, 0.212, 0.087), (9, 0.2627, 0.0593)],
)
def test_colours_are_those_of_the_space_that_a_video_names(tmp_path, space, red, blue, full):
    """BT.601 (also where none is named), 709, SMPTE 240M, BT.2020: encoded by their formulas, losslessly."""
    import av

    colours = np.array([(220, 40, 60), (30, 200, 90)])
    r, g, b = colours.T / 255
    light = red * r + (1 - red - blue) * g + blue * b
    parts = np.stack([light, (b - light) / (2 - 2 * blue), (r - light) / (2 - 2 * red)])
    scale, zero = ([255, 255, 255], [0, 128, 128]) if full else ([219, 224, 224], [16, 128, 128])
    stored = np.rint(parts * np.array(scale)[:, None] + np.array(zero)[:, None]).astype(np.uint8)
    with av.open(str(tmp_path / "v.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=4, options={"qp": "0"})
        stream.width, stream.height, stream.pix_fmt = 32, 16, "yuv444p"
        stream.codec_context.colorspace, stream.codec_context.color_range = space, 2 if full else 1
        planes = np.ascontiguousarray(stored.repeat(16, 1)[:, None].repeat(16, 1))
        frame = av.VideoFrame.from_ndarray(planes, format="yuv444p")
        frame.colorspace, frame.color_range = space, 2 if full else 1
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    seen = read_video(Video(tmp_path / "v.mp4", 1)).pixels[0, 8, [4, 28]]
    assert np.abs(seen.astype(int) - colours).max() <= 3


@pytest.mark.parametrize(
    ("name", "codec", "pixel_format"), [("a.mov", "png", "rgba"), ("a.mkv", "ffv1", "bgra")]
)
def test_transparent_videos_are_seen_on_white(tmp_path, name, codec, pixel_format):
    import av

    pixels = np.full((16, 16, 4), (10, 20, 30, 0), np.uint8)
    pixels[:8, :, 3], pixels[8:12, :, 3] = 255, 51
    with av.open(str(tmp_path / name), "w") as container:
        stream = container.add_stream(codec, rate=4)
        stream.width, stream.height, stream.pix_fmt = 16, 16, pixel_format
        for _ in range(2):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgba")))
        container.mux(stream.encode())
    frame = read_video(Video(tmp_path / name, 2)).pixels[1]
    assert frame[[0, 9, 15], 0].tolist() == [[10, 20, 30], [206, 208, 210], [255, 255, 255]]


def test_an_animated_picture_is_seen_on_white(tmp_path):
    frames = [Image.new("RGBA", (16, 16), (10, 20, 30, 0)) for _ in range(3)]
    for index, frame in enumerate(frames):
        frame.paste((200, 20, 30, 255), (0, 0, 16, 4 * index + 4))
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=200, disposal=2)
    clip = read_video(Video(tmp_path / "a.gif", 3))
    for index, seen in enumerate(clip.pixels):
        assert (seen[: 4 * index + 4] == (200, 20, 30)).all()
        assert (seen[4 * index + 4 :] == 255).all()


ORDERS = [
    "0.25 0.5 1.0 10.0",
    "0 0.5 1 10",
    "frame_2 frame_10",
    "frame.0.25 frame.0.5 frame.10",
    "t=0.5s t=1.25s t=10s",
    "-10 -1.5 -0.5 0 0.5",
    "frame_-1 frame_0 frame_1",
    "clip-1 clip-2 clip-10",
    "2023-12-31 2024-01-02 2024-01-10 2024-02-01",
    "2024.01.02 2024.01.10 2024.02.01",
    "1.2.3 1.2.10 1.10.1",
    "1.1 1.2 1.9 1.10 1.11",
    "007 8 9 010",
    "v1.0_9 v1.0_10",
    "IMG_9 img_10 IMG_11",
    "1 2 A a2 a10 B",
    "00-00-59.5 00-01-00.25",
]


@pytest.mark.parametrize("names", ORDERS)
def test_files_are_ordered_as_a_person_would(names):
    files = [Path(f"{name}.png") for name in names.split()]
    for shift in range(len(files)):
        assert natural_order(files[shift:] + files[:shift][::-1]) == files


def test_what_is_no_picture_is_passed_over(tmp_path):
    folder_of_frames(tmp_path / "frames")
    for name in (
        "._0.png",
        "._0.PNG",
        ".DS_Store",
        ".hidden.jpg",
        "Thumbs.db",
        "notes.txt",
        "a.pdf",
        "b.mpg",
    ):
        (tmp_path / "frames" / name).write_bytes(b"\0\5\x16\7")
    (tmp_path / "frames/more.png").mkdir()
    assert [file.name for file in open_video(tmp_path / "frames").source] == [f"{i}.png" for i in range(4)]
    (tmp_path / "frames/2.JPG").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"frame 2\.JPG: cannot identify"):
        read_video(open_video(tmp_path / "frames", 5))


def test_frames_that_are_turned_each_by_itself_are_seen_alike(tmp_path):
    pictures, exif = pixels(3, 4, (16, 32)), Image.Exif()
    for seconds, picture, orientation in zip((0.25, 0.5, 2, 10), pictures, (1, 6, 3, 8), strict=True):
        exif[274] = orientation
        stored = np.rot90(picture, {1: 0, 6: 1, 3: 2, 8: 3}[orientation])
        Image.fromarray(stored).save(tmp_path / f"{seconds}.png", exif=exif)
    video = open_video(tmp_path, 4)
    assert np.array_equal(read_video(video).pixels, pictures)
    for frames in (1, 2, 4):
        video = open_video(tmp_path, frames)
        assert seen_size(video) == (16, 32, frames)
        assert read_video(video, 200).pixels.shape == (frames, *seen_size(video, 200)[1::-1], 3)


def test_a_single_frame_has_its_own_size(tmp_path):
    for index, size in enumerate([(8, 8), (24, 16), (8, 8)]):
        Image.new("RGB", size).save(tmp_path / f"{index}.png")
    assert read_video(open_video(tmp_path, 1)).pixels.shape == (1, 16, 24, 3)
    assert seen_size(open_video(tmp_path, 1)) == (24, 16, 1)


def entry(name, video="clips/v.mp4", question="<video>\nWhat moves?", answer="a square", **more):
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"id": name, "video": video, "conversations": turns, **more}


def write(path, entries):
    path.write_text(json.dumps(entries))
    return path


def folder_of_frames(path, frames=4):
    path.mkdir(parents=True)
    for index, picture in enumerate(pixels(2, frames)):
        Image.fromarray(picture).save(path / f"{index}.png")
    return path


def test_entries_name_files_folders_and_frames(tmp_path):
    write_clip(tmp_path / "clips/v.mp4")
    folder_of_frames(tmp_path / "frames/one")
    Image.new("RGB", (8, 8)).save(tmp_path / "i.png")
    image = {**entry("image", question="<image> What?"), "image": "i.png"}
    del image["video"]
    listed = ["frames/one/3.png", "frames/one/0.png"]
    samples = load_llava(
        write(
            tmp_path / "s.json",
            [
                entry("file"),
                entry("marker", question="<image>\nWhat moves?"),
                entry("folder", "frames/one", fps=3),
                entry("list", listed),
                image,
            ],
        ),
        frames=5,
    )
    file, marker, folder, several, still = samples
    assert file.image == Video(tmp_path / "clips/v.mp4", 5)
    assert (file.question, marker.question, file.source, still.source) == ("What moves?",) * 2 + (
        "clips",
        ".",
    )
    assert (len(folder.image.source), folder.image.rate, folder.source) == (4, 3.0, "frames")
    assert several.image.source == tuple(tmp_path / name for name in listed)
    assert [sample.is_video for sample in samples] == [True] * 4 + [False]
    assert pickle.loads(pickle.dumps(samples)) == samples
    assert load_llava(tmp_path / "s.json", frames=5).fingerprint == samples.fingerprint
    assert load_llava(tmp_path / "s.json", frames=4).fingerprint != samples.fingerprint


def bad_entries(tmp_path):
    """Name -> (entry, what the reason must say)."""
    whole = write_clip(tmp_path / "clips/v.mp4", frames=40, movflags="")
    front = tmp_path / "clips/front.mp4"
    data = whole.read_bytes()
    (tmp_path / "clips/cut.mp4").write_bytes(data[: len(data) // 2])
    (tmp_path / "clips/text.mp4").write_text("not a video")
    (tmp_path / "clips/empty.mp4").write_bytes(b"")
    import av

    with av.open(str(whole)) as source, av.open(str(front), "w", options={"movflags": "faststart"}) as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    data = front.read_bytes()
    front.write_bytes(data[: len(data) * 2 // 3])  # its header promises 40 frames
    with av.open(str(tmp_path / "clips/sound.mp4"), "w") as sound:
        stream = sound.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.rate = 8000
        sound.mux(stream.encode(frame))
        sound.mux(stream.encode())
    folder_of_frames(tmp_path / "frames/cut")
    (tmp_path / "frames/cut/3.png").write_bytes((tmp_path / "frames/cut/3.png").read_bytes()[:60])
    (tmp_path / "frames/none").mkdir()
    both = {**entry("both"), "image": "i.png"}
    return {
        "missing": (entry("missing", "clips/nowhere.mp4"), "no video"),
        "cut": (entry("cut", "clips/cut.mp4"), "cannot be decoded"),
        "front": (entry("front", "clips/front.mp4"), "of 40 frames"),
        "text": (entry("text", "clips/text.mp4"), "cannot be decoded"),
        "empty": (entry("empty", "clips/empty.mp4"), "cannot be decoded"),
        "sound": (entry("sound", "clips/sound.mp4"), "no video stream"),
        "frame": (entry("frame", "frames/cut"), "cannot be decoded"),
        "folder": (entry("folder", "frames/none"), "no frames in the folder"),
        "listed": (entry("listed", ["frames/cut/0.png", "frames/cut/9.png"]), "no frame"),
        "both": (both, "both an image and a video"),
        "unasked": (entry("unasked", question="What moves?"), "not about a video"),
        "rate": (entry("rate", fps=0), "fps"),
        "neither": ({"id": "neither", "conversations": []}, "no image and no video"),
    }


def test_what_cannot_be_read_is_skipped_counted_and_named(tmp_path):
    bad = bad_entries(tmp_path)
    good = [entry(f"good{i}", "frames/good") for i in range(20 * len(bad))]
    folder_of_frames(tmp_path / "frames/good")
    samples = load_llava(write(tmp_path / "s.json", [*(raw for raw, _ in bad.values()), *good]), frames=2)
    reasons = samples.describe()["skipped"]
    assert len(samples) == len(good)
    assert reasons.keys() == bad.keys()
    for name, (_, reason) in bad.items():
        assert re.search(reason, reasons[name]), (name, reasons[name])
    with pytest.raises(InputError, match="frames is 0"):
        load_llava(tmp_path / "s.json", frames=0)


def test_a_split_keeps_videos(tmp_path):
    write_clip(tmp_path / "clips/v.mp4")
    shutil.copy(tmp_path / "clips/v.mp4", tmp_path / "w.mp4")
    entries = [entry("a"), entry("b", "w.mp4", fps=2.0), entry("c", question="Hello")]
    split = make_split(write(tmp_path / "mix.json", entries))
    assert json.loads(split.path.read_text()) == [entries[1], entries[0]]
    assert load_llava(split.path).per_source == {".": 1, "clips": 1}
