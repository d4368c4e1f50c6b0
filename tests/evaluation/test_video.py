"""Reading videos, and LLaVA-format entries that name them."""

import json
import math
import pickle
import re
import shutil

import numpy as np
import pytest
from clips import decoded, pixels, write_clip
from PIL import Image

from vtr_ray.errors import InputError
from vtr_ray.evaluation.llava import load_llava
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
