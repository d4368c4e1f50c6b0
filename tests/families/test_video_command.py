"""`vtr-ray gsearch` over a LLaVA-format JSON of videos, with real Ray: from files to a schedule."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from clips import write_clip
from test_video_evaluator import question, ready

from vtr_ray import Schedule
from vtr_ray.cli import main
from vtr_ray.evaluation.evaluator import Evaluator
from vtr_ray.evaluation.llava import load_llava


@pytest.mark.slow
def test_a_search_over_videos_on_the_command_line(
    capsys: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_llava_dir: Path, ray_here: None
) -> None:
    model, processor = ready("qwen2.5-vl")
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    entries = []
    for number in range(20):
        if number:
            write_clip(tmp_path / f"videos/{number}.mp4", number, 9)
        turns = [("human", f"<video>\n{question(number)}"), ("gpt", "w10")]
        conversations = [{"from": who, "value": text} for who, text in turns]
        entries.append({"id": str(number), "video": f"videos/{number}.mp4", "conversations": conversations})
    (tmp_path / "samples.json").write_text(json.dumps(entries))
    # Random weights are right on nothing but their own answers, and such a search is refused.
    own = Evaluator(model, processor, load_llava(tmp_path / "samples.json", None, 4))
    said = own.answers([str(number) for number in range(1, 20)])
    for entry in entries[1:]:
        entry["conversations"][1]["value"] = said[entry["id"]].strip() or "w10"
    (tmp_path / "samples.json").write_text(json.dumps(entries))
    monkeypatch.chdir(tmp_path)
    common = ["--samples", "samples.json", "--frames", "4", "--no-compare", "--cpus-per-actor", "1", "--out"]
    search = ["--stride", "3", "--initial", "3", "--iterations", "1"]
    with pytest.raises(SystemExit) as stop:
        main(["gsearch", "--model", "model", *search, *common, "run"])
    out = capsys.readouterr().out
    assert stop.value.code == 0, out
    assert "skipped 1 sample (0: no video" in out and "32 vision tokens, 19 search samples" in out
    assert Schedule.load("run/schedule.json").num_layers == 5
    with pytest.raises(SystemExit) as stop:
        main(["gsearch", "--model", str(tiny_llava_dir), *common, "other"])
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("vtr-ray: ")]
    assert stop.value.code == 2 and "Llava takes no videos" in line
