"""What tells each ranking from the others, against transformers' own attention matrices where they exist."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from test_equations import IMAGE, LAYERS, RAGGED, Sample, batch
from torch import Tensor

from vtr_ray import strategies
from vtr_ray.reduction import reduce_vision_tokens
from vtr_ray.reduction.decoding import new_token_scores
from vtr_ray.reduction.layout import cut, whole
from vtr_ray.reduction.prompt import compact, read_prompt
from vtr_ray.reduction.scoring import attention_scores
from vtr_ray.schedule import Ranking, Schedule

SAMPLE = Sample(41, 3, 1, 6)


def kept_by(model: Any, schedule: Schedule, sample: Sample = SAMPLE) -> list[list[int]]:
    with torch.no_grad(), reduce_vision_tokens(model, schedule) as reduction:
        model(input_ids=sample.ids[None], pixel_values=sample.pixels)
    return [layer[0].tolist() for layer in reduction.kept]


def top(scores: Tensor, n: int) -> list[int]:
    return sorted(sorted(range(len(scores)), key=lambda i: (-float(scores[i]), i))[:n])


@pytest.mark.parametrize("after_layer", [1, 2, 3])
def test_instruction_and_fastv_read_the_layer_before_the_cut(
    llava_factory: Callable[..., Any], after_layer: int
) -> None:
    """Scores from the library's full attention matrix: all instruction rows, and the last row alone."""
    model = llava_factory(attn="eager")
    with torch.no_grad():
        attentions = model(
            input_ids=SAMPLE.ids[None], pixel_values=SAMPLE.pixels, output_attentions=True
        ).attentions
    matrix = attentions[after_layer - 1][0].mean(0)  # over heads
    vision = SAMPLE.ids == IMAGE
    rates = [1.0] * after_layer + [0.5] * (LAYERS - after_layer)
    ours = kept_by(model, Schedule.from_rates(rates))[-1]
    fastv = kept_by(model, strategies.fastv(LAYERS, 0.5, after_layer))[-1]
    assert ours == top(matrix[-6:, vision].mean(0), 8)
    assert fastv == top(matrix[-1, vision], 8)
    assert ours != fastv


def test_pdrop_ranks_by_the_coming_layer_on_renumbered_positions(tiny_llava: Any) -> None:
    """Same rates, other rankings or positions: other tokens (the oracle says which ones are right)."""
    rates = strategies.pyramid_drop(LAYERS, layers=(1, 3, 4), keep=0.6)
    as_fastv = Schedule.from_rates(rates.rates, ranking=Ranking.LAST_TOKEN, rounding="down")
    original = Schedule.from_rates(rates.rates, ranking=Ranking.NEXT_LAYER, rounding="down")
    kept = [kept_by(tiny_llava, schedule) for schedule in (rates, as_fastv, original)]
    assert [len(layer) for layer in kept[0]] == [
        16,
        9,
        9,
        5,
        3,
    ]  # int(16 * 0.6), int(16 * 0.36), int(16 * 0.216)
    assert kept[0] != kept[1]
    assert kept[0][1] == kept[2][1] and kept[0][3:] != kept[2][3:]


def test_vtw_removes_all_and_ranks_nothing(tiny_llava: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vtr_ray.reduction.passes.attention_scores", None)  # would fail if called
    assert [len(layer) for layer in kept_by(tiny_llava, strategies.vtw(LAYERS))] == [16, 16, 0, 0, 0]


def test_random_is_seeded_nested_and_independent_of_the_batch(tiny_llava: Any) -> None:
    schedule = Schedule.from_rates([1, 1, 0.7, 0.4, 0.2])
    kept = {seed: kept_by(tiny_llava, strategies.random(schedule, seed)) for seed in range(8)}
    assert kept[3] == kept_by(tiny_llava, strategies.random(schedule, 3))
    assert len({str(layers) for layers in kept.values()}) == 8
    for layers in kept.values():
        for earlier, later in pairwise(layers):
            assert set(later) <= set(earlier)
    # every token has its chance
    assert len({index for layers in kept.values() for index in layers[-1]}) > 10
    inputs, _ = batch(RAGGED, "left")
    with torch.no_grad(), reduce_vision_tokens(tiny_llava, strategies.random(schedule, 3)) as reduction:
        tiny_llava(**inputs)
    assert reduction.kept[2][0][:11].tolist() == kept[3][2] == reduction.kept[2][3][:11].tolist()


@pytest.mark.parametrize("schedule", [Schedule.from_rates([1, 1, 0.7, 0.4, 0.13]), strategies.fastv(LAYERS)])
def test_sdpa_equals_eager(llava_factory: Callable[..., Any], schedule: Schedule) -> None:
    inputs, prompt = batch(RAGGED, "left")
    results = {}
    for attn in ("sdpa", "eager"):
        model = llava_factory(attn=attn)
        with torch.no_grad(), reduce_vision_tokens(model, schedule, prompt_mask=prompt) as reduction:
            logits = model(**inputs).logits
        results[attn] = logits[reduction.positions >= 0], [layer.tolist() for layer in reduction.kept]
    assert results["sdpa"][1] == results["eager"][1]
    torch.testing.assert_close(results["sdpa"][0], results["eager"][0], atol=1e-4, rtol=1e-4)


def test_long_instructions_are_scored_in_blocks(tiny_llava: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    schedule = Schedule.from_rates([1, 1, 0.7, 0.4, 0.13])
    whole_at_once = kept_by(tiny_llava, schedule)
    monkeypatch.setattr("vtr_ray.reduction.scoring._BLOCK", 4 * 25 * 2)  # two rows at a time
    assert kept_by(tiny_llava, schedule) == whole_at_once


def test_ties_go_to_the_earlier_token_and_order_stays() -> None:
    vision = torch.tensor([[False, True, True, True, True, False]])
    layout = whole(read_prompt(vision, None, None), generating=False)
    scores = torch.tensor([[9.0, 0.1, 0.3, 0.1, 0.3, 9.0]])
    for n, kept in ((4, [0, 1, 2, 3]), (3, [0, 1, 3]), (2, [1, 3]), (1, [1]), (0, [])):
        slots, shorter = cut(layout, scores, [n])
        assert shorter.kept()[0].tolist() == kept
        assert slots[0].tolist() == [0, *(1 + index for index in kept), 5] == shorter.index[0].tolist()


def test_compact_puts_fillers_on_the_asked_side() -> None:
    mask = torch.tensor([[True, False, True, True], [False, True, False, False]])
    assert compact(mask, 3, right=False).tolist() == [[0, 2, 3], [1, -1, -1]]
    assert compact(mask, 3, right=True).tolist() == [[0, 2, 3], [-1, -1, 1]]


def test_instruction_rows_and_their_fallback() -> None:
    vision = torch.tensor([[0, 1, 1, 0, 0, 0], [0, 0, 1, 1, 0, 0], [0, 0, 0, 0, 0, 0]], dtype=torch.bool)
    attention = torch.tensor([[1, 1, 1, 1, 1, 1], [0, 1, 1, 1, 1, 1], [0, 0, 0, 1, 1, 1]])
    asked = torch.tensor([[1, 1, 1, 1, 0, 1], [1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 0]], dtype=torch.bool)
    prompt = read_prompt(vision, attention, asked)
    assert prompt.rows.tolist() == [[3, 3], [3, 3], [3, 4]]  # one turn; the last vision token; all text
    assert prompt.weights.tolist() == [[1, 0], [1, 0], [0.5, 0.5]]
    assert (prompt.num_vision, prompt.num_text) == ([2, 2, 0], [4, 3, 3])
    assert prompt.ends_with_vision and prompt.padded and prompt.last_column_valid


def test_a_window_leaves_what_it_hides_out_of_the_softmax() -> None:
    """Rows 6 and 7 with a window of 6 see the input's places 1 to 6 and 2 to 7; places 3 and 4 are gone."""
    draw = torch.Generator().manual_seed(0)
    vision = torch.tensor([[False, False, True, True, True, True, False, False]])
    uncut = whole(read_prompt(vision, None, None), generating=False)
    _, layout = cut(uncut, torch.tensor([[0.0, 0.0, 3.0, 1.0, 1.0, 2.0, 0.0, 0.0]]), [2])
    assert layout.index.tolist() == [[0, 1, 2, 5, 6, 7]]
    query, key = torch.randn(1, 2, 4, 8, generator=draw), torch.randn(1, 2, 6, 8, generator=draw)
    weights = torch.tensor([[0.5, 0.5]])
    found = attention_scores(query, key, 0.3, layout, layout.rows, weights, window=6)
    rows = torch.zeros(2, 6)
    for row, seen in ((0, [1, 2, 3, 4]), (1, [2, 3, 4, 5])):  # slots
        for head in range(4):
            products = 0.3 * key[0, head // 2, seen] @ query[0, row, head]
            rows[row, seen] += products.softmax(-1) / 4
    torch.testing.assert_close(found[0], rows.mean(0))


@pytest.mark.parametrize("several", [True, False])
def test_scores_are_float32_also_under_autocast(several: bool) -> None:
    draw = torch.Generator().manual_seed(0)
    vision = torch.zeros(2, 12, dtype=torch.bool)
    vision[:, 2:8] = True
    layout = whole(read_prompt(vision, None, None), generating=False)
    rows, weights = (layout.rows, layout.prompt.weights) if several else (layout.last, None)
    query = torch.randn(2, rows.shape[1], 4, 8, generator=draw)
    key = torch.randn(2, 2, 12, 8, generator=draw)

    def scored() -> list[Tensor]:
        new = new_token_scores(query.transpose(1, 2)[:, :, :1], key, 0.35, layout.valid)
        return [attention_scores(query, key, 0.35, layout, rows, weights), new]

    expected = scored()
    with torch.autocast("cpu", torch.bfloat16):
        found = scored()
        assert (query[0] @ query[0].transpose(1, 2)).dtype == torch.bfloat16
    for own, wanted in zip(found, expected, strict=True):
        assert own.dtype == torch.float32 and torch.equal(own, wanted)
