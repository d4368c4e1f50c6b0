"""What the study of times says of them."""

from __future__ import annotations

import pytest

from vtr_ray.report.studies import draw
from vtr_ray.studies.efficiency import FLASH, Timed, Where, clocked
from vtr_ray.studies.methods import G_SEARCH, NONE

PLACE = Where("a model", 3_000_000, "a machine", ("FlashAttention2 does not run here: no.",))


def timed(method: str, prefill: float, decode: float, kernel: str = "sdpa", wobble: float = 0.01) -> Timed:
    turns = [1 - wobble, 1.0, 1 + wobble]
    return Timed(method, kernel, 0.5, 2.0, [prefill * t for t in turns], [decode * t for t in turns])


@pytest.mark.parametrize(
    ("ours", "flash", "holds"),
    [
        (timed(G_SEARCH, 0.5, 0.5), timed(NONE, 0.8, 1.0, FLASH), True),
        (timed(G_SEARCH, 0.9, 0.5), timed(NONE, 0.8, 1.0, FLASH), False),  # the kernel alone is faster
        (timed(G_SEARCH, 0.5, 1.1), timed(NONE, 0.8, 1.0, FLASH), False),  # slower decoding
        (timed(G_SEARCH, 0.5, 0.99, wobble=0.1), timed(NONE, 0.8, 1.0, FLASH), None),  # in the noise
    ],
)
def test_it_holds_where_it_is_faster_beyond_the_quartiles(
    ours: Timed, flash: Timed, holds: bool | None
) -> None:
    found = clocked([timed(NONE, 1.0, 1.0), ours], [timed(NONE, 0.9, 1.0), flash], PLACE)
    assert found.holds is holds
    rows = [
        dict(zip(found.tables["methods"].columns, row, strict=True)) for row in found.tables["methods"].rows
    ]
    assert rows[1]["prefill s"] == pytest.approx(ours.prefill[1])
    assert rows[1]["TMACs"] == 1.0 and rows[1]["parameters, B"] == 0.003
    assert PLACE.left_out[0] in found.sentences
    (drawing,) = draw(found)
    assert drawing.png.startswith(b"\x89PNG") and drawing.rows == found.tables["methods"].rows


def test_nothing_is_decided_without_a_search() -> None:
    assert clocked([timed(NONE, 1.0, 1.0), timed("VTW", 0.5, 0.5)], [], PLACE).holds is None
