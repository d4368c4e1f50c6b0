"""What the study of times says of them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vtr_ray.report.studies import draw
from vtr_ray.studies.efficiency import FLASH, FLASH_ATTENTION, Timed, Times, Where, clocked
from vtr_ray.studies.methods import G_SEARCH, NONE

PLACE = Where("a model", 3_000_000, "a machine", ("FlashAttention2 does not run here: no.",))


def timed(method: str, prefill: float, decode: float, kernel: str = "sdpa", wobble: float = 0.01) -> Timed:
    turns = [1 - wobble, 1 - wobble, 1.0, 1 + wobble, 1 + wobble]
    times = [Times.of([seconds * t for t in turns]) for seconds in (prefill, decode)]
    return Timed(method, kernel, 0.5, 2.0, *times)


@pytest.mark.parametrize(
    ("ours", "flash", "holds", "why"),
    [
        (timed(G_SEARCH, 0.5, 0.5), timed(NONE, 0.8, 0.9, FLASH), True, None),
        (timed(G_SEARCH, 0.5, 0.5), timed(NONE, 0.8, 0.9, FLASH_ATTENTION), True, None),
        (timed(G_SEARCH, 0.9, 0.5), timed(NONE, 0.8, 0.9, FLASH), False,
         "Slower: G-Search beside flash in prefill."),
        (timed(G_SEARCH, 0.5, 0.6), timed(NONE, 0.8, 0.5, FLASH_ATTENTION), False,
         "Slower: G-Search beside FlashAttention2 in decode."),
        (timed(G_SEARCH, 0.5, 1.1), timed(NONE, 0.8, 1.2, FLASH), False,
         "Slower: G-Search beside no reduction in decode."),
        (timed(G_SEARCH, 0.5, 0.99, wobble=0.1), timed(NONE, 0.8, 1.2, FLASH), None,
         "Not told apart, for the quartiles overlap: G-Search beside no reduction in decode."),
        (timed(G_SEARCH, 0.5, 1.01, wobble=0.1), timed(NONE, 0.8, 1.2, FLASH), None,
         "Not told apart, for the quartiles overlap: G-Search beside no reduction in decode."),
        (timed(G_SEARCH, 0.5, 0.5), timed(NONE, 0.8, 0.9, "eager"), None,
         "No flash kernel ran, so that the claim about it is not decided."),
    ],
)  # fmt: skip
def test_it_holds_where_it_is_faster_beyond_the_quartiles(
    ours: Timed, flash: Timed, holds: bool | None, why: str | None
) -> None:
    kernels = [timed(NONE, 0.9, 1.0), ours, flash, replace(ours, kernel=flash.kernel)]
    found = clocked([timed(NONE, 1.0, 1.0), timed("VTW", 2.0, 2.0), ours], kernels, PLACE)
    assert found.holds is holds
    assert why is None or why in found.sentences
    if holds:
        assert not any(
            sentence.startswith(("Slower", "Not told", "FLOPs fall")) for sentence in found.sentences
        )
    rows = [
        dict(zip(found.tables["methods"].columns, row, strict=True)) for row in found.tables["methods"].rows
    ]
    assert rows[2]["prefill s"] == pytest.approx(ours.prefill.median)
    assert rows[2]["TMACs"] == 1.0 and rows[2]["parameters, B"] == 0.003
    assert PLACE.left_out[0] in found.sentences
    (drawing,) = draw(found)
    assert drawing.png.startswith(b"\x89PNG") and drawing.rows == found.tables["methods"].rows


def test_nothing_is_decided_without_a_search() -> None:
    kernels = [timed(NONE, 1.0, 1.0), timed(NONE, 0.9, 0.9, FLASH)]
    found = clocked([timed(NONE, 1.0, 1.0), timed("VTW", 0.5, 0.5)], kernels, PLACE)
    assert found.holds is None and not any("flash kernel ran" in one for one in found.sentences)
