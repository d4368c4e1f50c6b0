"""The keeping-rate figure."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from vtr_ray import strategies
from vtr_ray.errors import InputError
from vtr_ray.report.curve import draw_curve

SCHEDULES = {"ours": strategies.fastv(12), "none": strategies.none(12)}


def test_the_figure_names_its_axes_and_schedules(tmp_path: Path) -> None:
    text = draw_curve(SCHEDULES, tmp_path / "curve.svg", title="two curves").read_text()
    costs = {name: schedule.memory_cost for name, schedule in SCHEDULES.items()}
    for words in (
        "layer",
        "keeping rate",
        "two curves",
        *(f"{n} (memory cost {c:.3f})" for n, c in costs.items()),
    ):
        assert f"<!-- {words} -->" in text
    assert [file.name for file in tmp_path.iterdir()] == ["curve.svg"]


def test_any_thread_may_draw(tmp_path: Path) -> None:
    thread = threading.Thread(target=draw_curve, args=(SCHEDULES, tmp_path / "curve.png"))
    thread.start()
    thread.join()
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_an_unknown_format_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nonsense"):
        draw_curve(SCHEDULES, tmp_path / "curve.nonsense")
    (tmp_path / "curve.png").mkdir()
    with pytest.raises(InputError, match=r"curve\.png: Is a directory"):
        draw_curve(SCHEDULES, tmp_path / "curve.png")
    assert [file.name for file in tmp_path.iterdir()] == ["curve.png"]
