"""What tells each published baseline's code from the others': rows, projections, positions, counts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import masked_oracle as oracle
import pytest
import torch
from test_equations import IMAGE, LAYERS, RAGGED, Sample, batch
from test_ranking import kept_by, top

from vtr_ray import strategies
from vtr_ray.reduction import reduce_vision_tokens
from vtr_ray.schedule import Ranking, Schedule

SAMPLE = Sample(52, 3, 1, 6)


def test_pdrop_reads_the_last_row_of_the_coming_layers_projections(llava_factory: Callable[..., Any]) -> None:
    """On the states that leave layer K: layer K+1's projections, not layer K's; one row, not their mean."""
    model = llava_factory(attn="eager")
    vision, after = SAMPLE.ids == IMAGE, 2
    with torch.no_grad():
        states = model(
            input_ids=SAMPLE.ids[None], pixel_values=SAMPLE.pixels, output_hidden_states=True
        ).hidden_states[after][0]
        decoder, everybody = model.model.language_model, torch.ones(len(SAMPLE.ids), dtype=torch.bool)
        where = torch.arange(len(SAMPLE.ids))
        coming, own = (
            oracle.attention(decoder.layers[index], decoder.config, states, where, everybody)[0].mean(0)
            for index in (after, after - 1)
        )
    schedule = strategies.pyramid_drop(LAYERS, layers=(after,), keep=0.5)
    kept = kept_by(model, schedule, SAMPLE)
    assert [len(layer) for layer in kept] == [16, 16, 8, 8, 8]
    assert kept[-1] == top(coming[-1, vision], 8)
    assert kept[-1] != top(coming[-6:, vision].mean(0), 8)
    assert kept[-1] != top(own[-1, vision], 8)


def test_pdrops_counts_are_fractions_of_the_original_number(tiny_llava: Any) -> None:
    schedule = strategies.pyramid_drop(LAYERS, layers=(1, 2, 3), keep=0.7)
    counts = [len(layer) for layer in kept_by(tiny_llava, schedule, SAMPLE)]
    assert counts == [16, int(16 * 0.7), int(16 * 0.7**2), int(16 * 0.7**3), int(16 * 0.7**3)]
    assert counts[3] == 5 != int(int(int(16 * 0.7) * 0.7) * 0.7)  # of what the stage before kept: 4


def test_pdrops_idle_stage_of_24_layers_is_the_papers(llava_factory: Callable[..., Any]) -> None:
    """The list of 32 layers on 24: two drops; scaled stages: three. Both as rates and on a live model."""
    as_run, scaled = strategies.pyramid_drop(24, layers=(8, 16, 24)), strategies.pyramid_drop(24)
    assert as_run.rates == (1.0,) * 8 + (0.5,) * 8 + (0.25,) * 8
    assert scaled.rates == (1.0,) * 6 + (0.5,) * 6 + (0.25,) * 6 + (0.125,) * 6
    assert as_run == strategies.pyramid_drop(24, layers=(8, 16)) == strategies.pyramid_drop(24, (8, 16, 30))
    model = llava_factory(num_hidden_layers=24, num_attention_heads=2, num_key_value_heads=1)
    kept = kept_by(model, as_run, SAMPLE)
    assert [len(layer) for layer in kept] == [16] * 8 + [8] * 8 + [4] * 8


@pytest.mark.parametrize("tokens", [1, 5, 144, 576, 577, 729, 1280, 2880])
def test_fastvs_count_is_its_own(tokens: int) -> None:
    """Their `round(N (1 - R))`: a count that ends in exactly a half goes to the even one."""
    for drop in (0.5, 0.625, 0.75, 0.875, 0.9375, 0.34375, 0.3, 0.7):
        schedule = strategies.fastv(32, drop)
        assert schedule.counts(tokens)[2] == round(tokens * (1 - drop))
        assert set(schedule.counts(tokens)[:2]) == {tokens}
        assert strategies.random(schedule).counts(tokens) == schedule.counts(tokens)


@pytest.mark.parametrize(
    ("keep", "ratios"),
    [(0.7, (0.7, 0.49, 0.343)), (0.6, (0.6, 0.36, 0.216)), (0.1, (0.1, 0.01, 0.001)), (0.0, (0.0,) * 3)],
)
def test_pdrops_counts_are_of_its_ratios_as_written(keep: float, ratios: tuple[float, ...]) -> None:
    """`int(N * ratio)`, their code; 0.7 ** 2 in floating point would keep 48 of 100 tokens."""
    schedule = strategies.pyramid_drop(8, layers=(2, 4, 6), keep=keep)
    for tokens in (1, 25, 100, 144, 576, 1000, 2880, 3000):
        assert schedule.counts(tokens)[2::2] == [int(tokens * ratio) for ratio in ratios]
    assert strategies.pyramid_drop(8, layers=(2, 4, 6), keep=ratios) == schedule


def test_fastv_chooses_once_and_keeps_positions(tiny_llava: Any) -> None:
    """One set of tokens in all deeper layers; renumbering them would give other logits."""
    schedule = strategies.fastv(LAYERS, drop=0.5)
    kept = kept_by(tiny_llava, schedule, SAMPLE)
    assert kept[2] == kept[3] == kept[4] and len(kept[2]) == 8
    renumbered = Schedule.from_rates(schedule.rates, ranking=Ranking.LAST_TOKEN, positions="renumber")
    logits = []
    for one in (schedule, renumbered):
        with torch.no_grad(), reduce_vision_tokens(tiny_llava, one):
            logits.append(tiny_llava(input_ids=SAMPLE.ids[None], pixel_values=SAMPLE.pixels).logits)
    expected = SAMPLE.oracle(tiny_llava, schedule)
    torch.testing.assert_close(logits[0][0], expected.logits[expected.alive[-1]], atol=1e-4, rtol=1e-4)
    assert (logits[0] - logits[1]).abs().max() > 1e-2


@pytest.mark.parametrize(
    "schedule",
    [strategies.fastv(LAYERS, drop=0.5), strategies.pyramid_drop(LAYERS, layers=(1, 3, 4), keep=0.6)],
    ids=["fastv", "pdrop"],
)
def test_under_teacher_forcing_the_last_prompt_token_ranks(tiny_llava: Any, schedule: Schedule) -> None:
    asked, answered = Sample(53, 2, 1, 4), Sample(53, 2, 1, 4, answer=4)
    assert answered.ids[: len(asked.ids)].equal(asked.ids)
    alone = kept_by(tiny_llava, schedule, Sample(53, 2, 1, 4))
    pixels = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    kept = {}
    for name, sample, mask in (
        ("asked", asked, None),
        ("answered", answered, answered.prompt[None]),
        ("the answer ranks", answered, None),
    ):
        with torch.no_grad(), reduce_vision_tokens(tiny_llava, schedule, prompt_mask=mask) as reduction:
            tiny_llava(input_ids=sample.ids[None], pixel_values=pixels)
        kept[name] = [layer.tolist() for layer in reduction.kept]
    assert kept["asked"] == kept["answered"] != kept["the answer ranks"]
    assert [len(layer) for layer in alone] == [len(layer[0]) for layer in kept["asked"]]


def test_vtws_text_stays_where_it_was(tiny_llava: Any) -> None:
    """After the withdrawal the text keeps its positions, in a ragged batch too."""
    schedule = strategies.vtw(LAYERS)
    inputs, _ = batch(RAGGED, "left")
    with torch.no_grad(), reduce_vision_tokens(tiny_llava, schedule) as reduction:
        logits = tiny_llava(**inputs).logits
    for row, sample in enumerate(RAGGED):
        expected = sample.oracle(tiny_llava, schedule)
        survivors = expected.logits[expected.alive[-1]]
        assert expected.kept[-1] == []
        torch.testing.assert_close(
            logits[row][reduction.positions[row] >= 0], survivors, atol=1e-4, rtol=1e-4
        )


def test_random_has_the_rates_and_counts_of_what_it_controls(tiny_llava: Any) -> None:
    for schedule in (strategies.fastv(LAYERS), strategies.pyramid_drop(LAYERS, (1, 3, 4), 0.7)):
        control = strategies.random(schedule, seed=2)
        assert control.counts(16) == schedule.counts(16) and control.positions == schedule.positions
        kept, drawn = kept_by(tiny_llava, schedule, SAMPLE), kept_by(tiny_llava, control, SAMPLE)
        assert [len(layer) for layer in kept] == [len(layer) for layer in drawn] and kept != drawn
