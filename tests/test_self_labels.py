"""`--labels self` from end to end: a folder of images, searched by what the model itself says of them."""

import json

import pytest
from commands import run_here
from PIL import Image

from vtr_ray import Schedule
from vtr_ray.tuning.directory import read_ledger, read_settings

pytestmark = pytest.mark.slow


def test_a_folder_of_images_is_searched_resumed_and_compared(tmp_path, ray_here):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(12):
        Image.effect_noise((96, 96), 20 * number).convert("RGB").save(folder / f"{number}.png")
    (folder / "0.txt").write_text("What colour is it?")
    asked = ("--samples", "pictures", "--question", "Is there a circle?", "--labels", "self")
    search = (
        "gsearch",
        *asked,
        *("--test", "pictures"),
        *"--stride 9 --initial 3 --iterations 1 --cpus-per-actor 1 --out run".split(),
    )
    first = run_here(tmp_path, *search, "--actors", "2", "--label-tokens", "3")
    run = tmp_path / "run"
    assert "E (agreement)" in first and "E is agreement with these answers, not accuracy" in first
    assert "agreement with the model's own answers without reduction: mean over 12 samples" in " ".join(
        first.split()
    )
    assert "(no reduction: 1.0000) (agreement with" in first
    assert "compared: no reduction: agreement 100.0" in first
    entries = read_ledger(run)
    assert [entry.score for entry in entries if not entry.schedule.reduces] == [1.0]
    assert read_settings(run).parameters["labels"] == "self"
    found = Schedule.load(run / "schedule.json").found
    assert (found["labels"], found["samples"]["count"], found["E_no_reduction"]) == ("self", 12, 1.0)
    (kept,) = json.loads((run / "labels.json").read_text())["sets"].values()
    assert len(kept["labels"]) == 12 and {len(one["tokens"]) for one in kept["labels"].values()} <= {1, 2, 3}
    again = run_here(tmp_path, *search, "--label-tokens", "3", "--resume")
    assert "the 12 answers of the model itself in" in again
    assert [(one.trial, one.score) for one in read_ledger(run)] == [(one.trial, one.score) for one in entries]
    page = run_here(tmp_path, "compare", "run", "--out", "page")
    text = (tmp_path / "page" / "index.html").read_text()
    assert "E is agreement with the model" in text and "scored by agreement with the model" in text, page
