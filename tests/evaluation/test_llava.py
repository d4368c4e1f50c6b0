import errno
import io
import json
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image, ImageFile

from vtr_ray.errors import InputError
from vtr_ray.evaluation import llava
from vtr_ray.evaluation.llava import Sources, load_llava, read_entries, unique_names
from vtr_ray.evaluation.samples import Sample, SampleSet


def entry(name, image="a/x.png", question="<image>\nWhat colour?", answer="red", more=()):
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}, *more]
    return {"id": name, "image": image, "conversations": turns}


def write(path, entries):
    path.write_text(json.dumps(entries))
    return path


def png(path, colour=(255, 0, 0), size=(64, 64)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.effect_noise(size, 80).convert("RGB").save(path)
    return path


def test_a_set_is_loaded_with_question_answer_and_source(tmp_path):
    png(tmp_path / "coco/train/x.png")
    more = ({"from": "human", "value": "And now?"}, {"from": "gpt", "value": "blue"})
    samples = load_llava(write(tmp_path / "s.json", [entry("1", "coco/train/x.png", more=more)]))
    (sample,) = samples
    assert (sample.id, sample.source, sample.question) == ("1", "coco", "What colour?")
    assert sample.answers == ("red",)
    assert sample.exact
    assert sample.score(" red ") == 1.0
    assert sample.score("redder") == 0.0
    assert pickle.loads(pickle.dumps(samples)) == samples


def bad_entries(tmp_path):
    """Name -> (entry, what the reason must say)."""
    png(tmp_path / "whole.png")
    data = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(data[: len(data) * 2 // 3])
    jpeg = io.BytesIO()
    Image.effect_noise((64, 64), 80).convert("RGB").save(jpeg, "JPEG")
    (tmp_path / "cut.jpg").write_bytes(jpeg.getvalue()[: len(jpeg.getvalue()) // 2])
    (tmp_path / "text.png").write_text("not an image")
    return {
        "missing": (entry("missing", "nowhere.png"), "no image"),
        "truncated": (entry("truncated", "cut.png"), "cannot be decoded"),
        "truncated-jpeg": (entry("truncated-jpeg", "cut.jpg"), "truncated"),
        "no-image": (entry("no-image", "text.png"), "cannot be decoded"),
        "empty": (entry("empty", "whole.png", question="<image>\n "), "empty question"),
        "silent": (entry("silent", "whole.png", answer=" "), "empty answer"),
        "text-only": (entry("text-only", "whole.png", question="Hello"), "not about an image"),
        "turns": (
            {"id": "turns", "image": "whole.png", "conversations": [{"from": "user", "value": "?"}] * 2},
            "from",
        ),
        "keyless": ({"id": "keyless", "conversations": []}, "image"),
    }


@pytest.mark.parametrize("flag", [False, True])
def test_what_cannot_be_read_is_skipped_counted_and_named(tmp_path, monkeypatch, flag):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", flag)  # importing lmms_eval sets it
    bad = bad_entries(tmp_path)
    good = [entry(f"good{i}", "whole.png") for i in range(20 * len(bad))]
    samples = load_llava(write(tmp_path / "s.json", [*(raw for raw, _ in bad.values()), *good]))
    assert len(samples) == len(good)
    reasons = samples.describe()["skipped"]
    assert reasons.keys() == bad.keys()
    for name, (_, reason) in bad.items():
        assert reason in reasons[name]
    assert ImageFile.LOAD_TRUNCATED_IMAGES is flag


def test_more_than_five_percent_skipped_is_an_error_that_names_them(tmp_path):
    png(tmp_path / "whole.png")
    gone = entry("gone", "gone.png")
    good = [entry(f"good{i}", "whole.png") for i in range(19)]
    assert len(load_llava(write(tmp_path / "s.json", [gone, *good])).skipped) == 1  # 1 of 20: just 5 %
    with pytest.raises(InputError, match=r"1 of 19 samples cannot be read.*gone"):
        load_llava(write(tmp_path / "s.json", [gone, *good[:18]]))


def test_none_left_is_an_error(tmp_path):
    with pytest.raises(InputError, match="no readable samples among 1"):
        load_llava(write(tmp_path / "s.json", [entry("gone", "gone.png")]))
    with pytest.raises(InputError, match="no readable samples among 0"):
        load_llava(write(tmp_path / "s.json", []))


def test_repeated_ids_get_a_number(tmp_path):
    png(tmp_path / "a/x.png")
    samples = load_llava(write(tmp_path / "s.json", [entry("7"), entry("7"), entry(7)]))
    assert [sample.id for sample in samples] == ["7", "7#2", "7#3"]


def test_a_suffix_is_no_id_of_the_file():
    assert unique_names(["a", "a", "a#2", "a", "b"]) == ["a", "a#3", "a#2", "a#4", "b"]
    assert unique_names(["a#2", "a#2", "a", "a"]) == ["a#2", "a#2#2", "a", "a#3"]


def test_later_turns_are_not_looked_at(tmp_path):
    png(tmp_path / "a/x.png")
    odd = [{"from": "system", "value": "?"}, "text", {"value": 3}, {"from": "human"}, None]
    entries = [entry(str(i), more=[turn]) for i, turn in enumerate(odd)]
    assert len(load_llava(write(tmp_path / "s.json", entries))) == len(odd)


@pytest.mark.parametrize("folder", ["/data", "/data/llava/images", "/elsewhere"])
@pytest.mark.parametrize("named", [False, True])
def test_sources_of_paths_however_they_are_written(folder, named):
    """Oracle: the first folder after what the user named, else after the longest start that all share."""
    files = [
        f"/data/llava/images/{name}" for name in ("coco/train/1.jpg", "gqa/2.jpg", "gqa/x/3.jpg", "4.jpg")
    ]
    inside = named and folder != "/elsewhere"
    start = folder if inside else "/data/llava/images"
    expected = [rest.split("/")[0] if "/" in (rest := file[len(start) + 1 :]) else "." for file in files]
    for paths in (files, [f"..{'/..' * 5}{file}" for file in files]):
        sources = Sources(Path(folder), folder if named else None, lambda paths=paths: paths)
        assert [sources.of(file) for file in paths] == expected
    relative = Sources(Path(folder), None, lambda: files)
    assert [relative.of(file) for file in ("coco/a/1.jpg", "./gqa/2.jpg", "3.jpg", "a/../b/4.jpg")] == [
        "coco", "gqa", ".", "b"
    ]  # fmt: skip


def test_absolute_paths_have_their_own_sources(tmp_path):
    files = [png(tmp_path / "all" / name / "x.png") for name in ("coco", "gqa")]
    samples = load_llava(write(tmp_path / "s.json", [entry(str(f), str(f)) for f in files]))
    assert samples.per_source == {"coco": 1, "gqa": 1}


def test_the_fingerprint_sees_every_part(tmp_path):
    png(tmp_path / "a/x.png")
    png(tmp_path / "a/y.png", size=(32, 32))
    fingerprints = {
        load_llava(write(tmp_path / "s.json", entries)).fingerprint
        for entries in (
            [entry("1")],
            [entry("2")],
            [entry("1", image="a/y.png")],
            [entry("1", question="<image>?")],
            [entry("1", answer="blue")],
            [entry("1"), entry("2")],
            [entry("2"), entry("1")],
        )
    }
    assert len(fingerprints) == 7
    again = load_llava(write(tmp_path / "s.json", [entry("1")])).fingerprint
    assert again in fingerprints
    (sample,) = load_llava(tmp_path / "s.json")
    for judge in (str.isalpha, str.isdigit):
        fingerprints.add(SampleSet((replace(sample, judge=judge),)).fingerprint)
    assert len(fingerprints) == 9


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "list of objects"),
        ('{"id": 1}', "list of objects"),
        (" ]", "list of objects"),
        (", []", "list of objects"),
        ("[1, 2]", "entry 0 is not a JSON object"),
        ('[{"id": 1}, 3]', "entry 1 is not a JSON object"),
        ('[{"id": 1} {"id": 2}]', "entry 1 is not"),
        ('[{"id": 1},]', "entry 1 is not"),
        ('[{"id": 1}', "entry 1 is broken or the file ends"),
        ('[{"id": 1}, {"id": ', "entry 1 is broken"),
        ('[{"id": ' + "[" * 100_000, "entry 0 cannot be read"),
        ('[{"id": ' + "1" * 5000 + "}]", "entry 0 cannot be read"),
        ('[{"id": 1}]\n[{"id": 2}]', r"after 1 entries, at line 2: '\[{\"id\": 2}\]'"),
        ('\n[\n{"id": 1},\n{"id": 2}\n]\n \n, {"id": 3}]', "after 2 entries, at line 7"),
        ("[] x", "after 0 entries, at line 1: 'x'"),
        ("[]]", "text follows the end"),
    ],
)
def test_a_broken_json_is_a_clear_error(tmp_path, content, message):
    path = tmp_path / "s.json"
    path.write_text(content)
    with pytest.raises(InputError, match=message):
        list(read_entries(path))


def test_missing_files_and_folders_are_clear_errors(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        load_llava(tmp_path / "s.json")
    path = write(tmp_path / "s.json", [])
    with pytest.raises(InputError, match="image folder"):
        load_llava(path, tmp_path / "nowhere")
    path.write_bytes(b'[{"id": "\xff"}]')
    with pytest.raises(InputError, match="UTF-8"):
        load_llava(path)


def test_a_file_that_must_not_be_read_is_a_clear_error(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    path = write(tmp_path / "s.json", [])
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(InputError, match=r"s\.json: Permission denied"):
        load_llava(path)


@pytest.mark.parametrize("chunk", [1, 7, 64, 1 << 20])
@pytest.mark.parametrize("indent", [None, 2])
def test_entries_are_read_whatever_the_chunks(tmp_path, monkeypatch, chunk, indent):
    monkeypatch.setattr(llava, "_CHUNK", chunk)
    entries = [entry(f"é{i}", answer='a "quoted" } ] , answer \\') for i in range(5)]
    path = tmp_path / "s.json"
    path.write_text(json.dumps(entries, indent=indent, ensure_ascii=False), encoding="utf-8")
    assert list(read_entries(path)) == entries
    path.write_text("\ufeff \n" + json.dumps(entries, indent=indent) + "\n \r\n\t", encoding="utf-8")
    assert list(read_entries(path)) == entries
    with path.open("a", encoding="utf-8") as file:
        file.write("\n\n[]")
    with pytest.raises(InputError, match=f"after 5 entries, at line {path.read_text().count(chr(10)) + 1}:"):
        list(read_entries(path))


def test_sets_join_and_refuse_a_repeated_id():
    def one(name):
        return SampleSet((Sample(name, "s", Path("x"), "?", ("a",)),), where=name)

    assert [sample.id for sample in SampleSet.joined([one("a"), one("b")])] == ["a", "b"]
    with pytest.raises(InputError, match="more than once"):
        SampleSet.joined([one("a"), one("a")])
