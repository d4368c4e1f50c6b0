"""Every study's claim can hold, can fail and can be left untold, by its numbers and again by its record."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from vtr_ray import Schedule, strategies
from vtr_ray.commands.study import _STUDIES
from vtr_ray.studies.attention import attention_by_layer
from vtr_ray.studies.correlation import rank_correlation
from vtr_ray.studies.curves import keeping_rates
from vtr_ray.studies.efficiency import FLASH, Timed, Times, Where, clocked
from vtr_ray.studies.exchange import OWN, Run, exchanged, on_top
from vtr_ray.studies.finding import Finding
from vtr_ray.studies.judging import judge
from vtr_ray.studies.methods import (
    DROP,
    G_SEARCH,
    NONE,
    ONE_CUT,
    P_SIGMOID,
    RANDOM,
    Differences,
    Method,
    every_benchmark,
    fastv_name,
    on_videos,
)
from vtr_ray.studies.tradeoff import Lead, Point, steepness_by_budget, trade_off
from vtr_ray.studies.training import PLAIN, REDUCED, SHIPPED, START, TUNED, Trained, trained_with_reductions
from vtr_ray.studies.verdict import PairedDifference, every, mean_interval, more, no_drop

RESULTS = Path(__file__).parents[2] / "docs" / "results"


def change(low: float, high: float, documents: int | None = 1000) -> PairedDifference:
    """A difference in points with its interval, significant where that does not contain 0."""
    ends = low / 100, high / 100
    return PairedDifference(sum(ends) / 2, *ends, low > 0 or high < 0, documents)


UP, SAME, WIDE, DOWN = change(1, 3), change(-0.4, 0.5), change(-3, 2), change(-3, -1)
SMALL_DROP = change(-0.9, -0.1)  # within a point, and a drop
TWENTY = change(0, 0, documents=20)  # not one of twenty answers differs
RECORDED_DROP = PairedDifference(-0.02, significant=True)  # as version 1 had them
RECORDED_NOTHING = PairedDifference(-0.02)


@pytest.mark.parametrize(
    ("found", "kept", "ahead"),
    [
        (UP, True, True),
        (SAME, True, False),
        (WIDE, None, None),
        (DOWN, False, False),
        (SMALL_DROP, False, False),
        (TWENTY, None, None),
        (change(2, 8, documents=20), True, True),
        (change(2, 8, documents=None), True, True),
        (change(-0.4, 0.5, documents=None), None, None),
        (RECORDED_DROP, False, False),
        (RECORDED_NOTHING, None, None),
        (None, None, None),
    ],
)
def test_what_an_interval_shows(
    found: PairedDifference | None, kept: bool | None, ahead: bool | None
) -> None:
    assert no_drop(found) is kept and more(found) is ahead
    if found is not None and found.significant:
        assert more(found, margin=None) is ahead
    elif found is not None:
        assert more(found, margin=None) is None


def test_all_of_nothing_is_nothing_told() -> None:
    assert every([]) is None and every([True, None]) is None
    assert every([None, False]) is False and every([True]) is True


def test_the_interval_of_a_mean_is_that_of_the_t_test() -> None:
    values = np.random.default_rng(0).random(9)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert mean_interval([*values, np.nan]) == pytest.approx((values.mean(), expected.low, expected.high))
    assert np.isnan(mean_interval([1.0])[1:]).all()


def scores(decay: float, count: int = 6, noise: float = 0.05) -> list[Any]:
    """Samples of eight layers whose scores shrink by a factor each layer."""
    rng = np.random.default_rng(3)
    return [decay ** np.arange(8)[:, None] * (1 + noise * rng.random((8, 30))) for _ in range(count)]


def rankings(noise: float, count: int) -> list[Any]:
    rng = np.random.default_rng(4)
    return [np.stack([rng.random(30) * noise + base for _ in range(5)]) for base in rng.random((count, 30))]


def curves(*rates: list[float], strides: int = 1) -> Finding:
    found = {f"model {number}": Schedule.from_rates(one) for number, one in enumerate(rates)}
    return keeping_rates(found, dict.fromkeys(found, strides))


SMOOTH = list(strategies.p_sigmoid(12, 0.4, 0.8).rates)
FLAT = [1.0, 1.0, *[0.5] * 10]


def exchange(*foreign: tuple[PairedDifference, float]) -> Finding:
    """Two models with each other's schedules: change of accuracy, TFLOPs (their own: 1)."""
    names = ("a", "b")
    runs = []
    for model, (changed, tflops) in zip(names, foreign, strict=True):
        other = "b" if model == "a" else "a"
        runs += [
            Run(model, OWN, 0.9, 1.0, 0.5, SAME),
            Run(model, other, 0.9 + changed.difference, tflops, 0.5, changed),
            Run(model, RANDOM, 0.5, 1.0, 0.5, DOWN),
            Run(model, ONE_CUT, 0.9, 1.0, 0.5, SAME),
        ]
    return exchanged(runs)


def ontop(*own: tuple[PairedDifference, float]) -> Finding:
    """Models with G-Search's schedule: change to no reduction, TFLOPs (without: 1)."""
    runs = []
    for number, (changed, tflops) in enumerate(own):
        runs += [
            Run(f"m{number}", NONE, 0.9, 1.0, 1.0),
            Run(f"m{number}", OWN, 0.9 + changed.difference, tflops, 0.5, changed),
            Run(f"m{number}", ONE_CUT, 0.9, tflops, 0.5, UP),
        ]
    return on_top(runs, {"m0": 36})


def method(name: str, tflops: float, accuracy: float = 0.9) -> Method:
    return Method(name, accuracy, accuracy - 0.01, accuracy + 0.01, 0.5, tflops, None, {"GQA": accuracy})


def benchmarks(drop: PairedDifference, fastv_tflops: float, lead: PairedDifference | None) -> Finding:
    """G-Search at 4 TFLOPs beside a dear VTW and FastV."""
    fastv = fastv_name(0.5)
    names = {
        NONE: 9.0,
        "VTW": 5.0,
        "PDrop": 5.0,
        fastv: fastv_tflops,
        G_SEARCH: 4.0,
        RANDOM: 4.0,
        ONE_CUT: 4.0,
    }
    pairs: dict[tuple[str, str], PairedDifference] = {(G_SEARCH, NONE): drop, (ONE_CUT, G_SEARCH): UP}
    if lead is not None:
        pairs[fastv, G_SEARCH] = -lead
    return every_benchmark([method(*one) for one in names.items()], pairs)


def videos(drop: PairedDifference, lead: PairedDifference | None, tflops: float = 2.0) -> Finding:
    fastv = fastv_name(DROP)
    pairs: Differences = {(G_SEARCH, NONE): drop}
    if lead is not None:
        pairs = {**pairs, (P_SIGMOID, fastv): lead}
    names = {NONE: 9.0, G_SEARCH: 4.0, fastv: 2.0, P_SIGMOID: tflops, f"{P_SIGMOID}, {ONE_CUT}": 2.0}
    return on_videos([method(*one) for one in names.items()], fastv, pairs)


def tradeoff(*leads: PairedDifference, tflops: float = 1.0, cut: PairedDifference = DOWN) -> Finding:
    """P-Sigmoid at 1 TFLOPs beside others at so many; one cut beside it never enters the verdict."""
    others = ("FastV", "PDrop", RANDOM)[: len(leads)]
    points = [Point("P-Sigmoid", 0.5, 1.0, 0.5, 0.9)]
    points += [Point(name, 0.5, tflops, 0.5, 0.8) for name in (*others, ONE_CUT)]
    found = [Lead(name, 0.5, one) for name, one in zip(others, leads, strict=True)]
    return trade_off(points, [*found, Lead(ONE_CUT, 0.5, cut)])


def trainings(
    boost: PairedDifference, tuned: PairedDifference | None, ways: Sequence[str] = (START, TUNED)
) -> Finding:
    rows = []
    for name in (G_SEARCH, P_SIGMOID):
        rows += [Trained(name, SHIPPED, "", 0.9)]
        for weights in ways:
            gain = tuned if name == P_SIGMOID else boost
            rows += [Trained(name, weights, PLAIN, 0.8), Trained(name, weights, REDUCED, 0.8, gain)]
    return trained_with_reductions(rows, 400, 100)


def clock(ours: float, flash: float | None = 0.8, turns: int = 9, wobble: float = 0.01) -> Finding:
    """G-Search, no reduction (1 s), and that on a flash kernel, with quartiles so wide."""

    def timed(name: str, kernel: str, seconds: float) -> Timed:
        times = Times(seconds - wobble, seconds, seconds + wobble, turns)
        return Timed(name, kernel, 0.5, 2.0, times, times)

    kernels = [timed(NONE, "eager", 1.1), timed(G_SEARCH, "eager", ours)]
    if flash is not None:
        kernels += [timed(NONE, FLASH, flash), timed(G_SEARCH, FLASH, ours)]
    methods = [timed(NONE, "sdpa", 1.0), timed(G_SEARCH, "sdpa", ours)]
    return clocked(
        [*methods, timed(f"{G_SEARCH}, {ONE_CUT}", "sdpa", 0.4)], kernels, Where("m", 10**6, "here")
    )


def k(*found: tuple[float, ...]) -> list[tuple[float, ...]]:
    """Of budgets 0.1, 0.2, ... the k, or k and its range."""
    return [(float(place), place / 10, *one) for place, one in enumerate(found, start=1)]


HELD: dict[str, list[Callable[[], Finding]]] = {
    "attention": [lambda: attention_by_layer(scores(0.8))],
    "correlation": [lambda: rank_correlation(rankings(0.05, 6))],
    "curves": [lambda: curves(SMOOTH)],
    "tradeoff": [lambda: tradeoff(UP, UP, UP)],
    "budgets": [
        lambda: steepness_by_budget({"a": k((0.1,), (0.2,))}),
        lambda: steepness_by_budget({"a": k((0.1, 0.0, 0.15), (0.5, 0.2, 0.9)), "b": k((1.0,), (2.0,))}),
    ],
    "exchange": [lambda: exchange((DOWN, 1.2), (DOWN, 0.8))],
    "ontop": [lambda: ontop((SAME, 0.5), (UP, 0.9))],
    "training": [lambda: trainings(SAME, UP), lambda: trainings(DOWN, UP)],
    "benchmarks": [
        lambda: benchmarks(SAME, 5.0, DOWN),  # dearer
        lambda: benchmarks(SAME, 3.0, UP),  # cheaper, and less accurate
    ],
    "efficiency": [lambda: clock(0.5)],
    "video": [lambda: videos(SAME, UP)],
}
BROKEN: dict[str, list[Callable[[], Finding]]] = {
    "attention": [lambda: attention_by_layer(scores(1.2))],
    "correlation": [lambda: rank_correlation(rankings(5.0, 6))],
    "curves": [
        lambda: curves(FLAT),
        lambda: curves([1.0, 1.0, *[0.3] * 9, 0.0]),
        lambda: curves([1.0] * 12),
        lambda: curves([1.0, 1.0, 0.99, 0.98, 0.97, 0.96]),  # steady, and as good as nothing
        lambda: curves(SMOOTH, FLAT),
        lambda: curves([1.0, 1.0, 1.0, *[0.67] * 4, *[0.6] * 4, 0.3]),  # steady, and no sigmoid
    ],
    "tradeoff": [
        lambda: tradeoff(UP, UP, DOWN),
        lambda: tradeoff(UP, SAME, UP),  # a lead of less than a point
        lambda: tradeoff(UP, SMALL_DROP),
    ],
    "budgets": [
        lambda: steepness_by_budget({"a": k((0.2,), (0.1,))}),
        lambda: steepness_by_budget({"a": k((0.1,), (0.2,)), "b": k((0.1,), (0.5,), (0.4,))}),
    ],
    "exchange": [
        lambda: exchange((DOWN, 1.0), (UP, 2.0)),  # dearer, and a gain is no loss
        lambda: exchange((DOWN, 1.0), (SAME, 1.0)),
        lambda: exchange((WIDE, 1.0), (SAME, 2.0)),
    ],
    "ontop": [lambda: ontop((SAME, 0.5), (SMALL_DROP, 0.5)), lambda: ontop((SAME, 1.0))],
    "training": [lambda: trainings(UP, UP), lambda: trainings(SAME, DOWN)],
    "benchmarks": [
        lambda: benchmarks(SMALL_DROP, 5.0, UP),
        lambda: benchmarks(SAME, 4.0, DOWN),
        lambda: benchmarks(SAME, 4.0, SAME),  # as good for as much
    ],
    "efficiency": [lambda: clock(0.9), lambda: clock(1.5, flash=None)],
    "video": [lambda: videos(DOWN, UP), lambda: videos(SAME, DOWN), lambda: videos(SAME, SAME)],
}
UNTOLD: dict[str, list[Callable[[], Finding]]] = {
    "attention": [
        lambda: attention_by_layer(scores(1.0, noise=0.5)),
        lambda: attention_by_layer(scores(0.8, count=1)),
    ],
    "correlation": [lambda: rank_correlation(rankings(0.35, 3)), lambda: rank_correlation(rankings(0.05, 1))],
    "curves": [lambda: curves([1.0, 1.0, *[0.5] * 2, *[0.0] * 2], strides=2)],
    "tradeoff": [
        lambda: tradeoff(),
        lambda: tradeoff(UP, WIDE, UP),
        lambda: tradeoff(UP, TWENTY),
        lambda: tradeoff(UP, UP, UP, tflops=0.9),  # at more FLOPs than the others
        lambda: tradeoff(UP, UP),  # no random tokens
        lambda: tradeoff(UP),
    ],
    "budgets": [
        lambda: steepness_by_budget({"a": k((0.0,), (0.0,), (0.0,))}),
        lambda: steepness_by_budget({"a": k((0.3,))}),
        lambda: steepness_by_budget({"a": [(1.0, 0.1, 0.1), (1.0, 0.1, 0.3)]}),  # one budget, twice
        lambda: steepness_by_budget({"a": k((0.1, 0.0, 0.5), (0.2, 0.0, 0.9))}),
        lambda: steepness_by_budget({"a": k((0.1,), (0.2,)), "b": k((0.1,), (0.2,))}),  # no model differs
    ],
    "exchange": [
        lambda: exchange((DOWN, 1.0), (WIDE, 1.0)),
        lambda: exchange((DOWN, 1.0), (TWENTY, 1.0)),
        lambda: exchange((DOWN, 0.9), (DOWN, 0.9)),  # both are cheaper
        lambda: exchange((DOWN, 1.0), (RECORDED_NOTHING, 1.0)),
    ],
    "ontop": [
        lambda: ontop((SAME, 0.5), (WIDE, 0.5)),
        lambda: ontop((TWENTY, 0.5)),
        lambda: ontop((RECORDED_NOTHING, 0.5)),
    ],
    "training": [
        lambda: trainings(WIDE, UP),
        lambda: trainings(SAME, SAME),
        lambda: trainings(SAME, None),
        lambda: trainings(SAME, UP, ways=(TUNED,)),  # none from the start
    ],
    "benchmarks": [
        lambda: benchmarks(TWENTY, 5.0, UP),
        lambda: benchmarks(WIDE, 5.0, UP),
        lambda: benchmarks(SAME, 3.0, WIDE),
        lambda: benchmarks(SAME, 3.0, None),
        lambda: every_benchmark([method(NONE, 9.0), method(G_SEARCH, 4.0)], {(G_SEARCH, NONE): SAME}),
    ],
    "efficiency": [
        lambda: clock(0.79),
        lambda: clock(0.5, flash=None),
        lambda: clock(0.5, turns=1),
    ],
    "video": [
        lambda: videos(WIDE, UP),
        lambda: videos(SAME, WIDE),
        lambda: videos(SAME, None),
        lambda: videos(SAME, UP, tflops=2.1),  # dearer than FastV
    ],
}
CASES = [
    pytest.param(study, verdict, number, id=f"{study}-{verdict}-{number}")
    for verdict, cases in ((True, HELD), (False, BROKEN), (None, UNTOLD))
    for study, own in cases.items()
    for number in range(len(own))
]


def test_every_study_has_data_of_all_three_verdicts() -> None:
    assert {*HELD} == {*BROKEN} == {*UNTOLD} == {*_STUDIES}


@pytest.mark.parametrize(("study", "verdict", "number"), CASES)
def test_each_verdict_can_be_reached_and_is_reached_again_from_the_record(
    study: str, verdict: bool | None, number: int
) -> None:
    found = {True: HELD, False: BROKEN, None: UNTOLD}[verdict][study][number]()
    assert (found.study, found.holds) == (study, verdict), found.sentences
    assert found.inequality.startswith("Holds where ")
    record = json.loads(json.dumps(found.to_dict()))
    again = json.loads(json.dumps(judge(record).to_dict()))
    for name in record:
        # NaN is not equal to itself.
        assert json.dumps(again[name]) == json.dumps(record[name]), name


# What is said of studies that version 1 recorded, without intervals: by file, the verdict today.
RECORDED = {
    "embedded-correlation": False,
    "embedded-attention": None,  # no spread over samples
    "embedded-curves": False,  # most of the fall is at one layer
    "embedded-internvl-curves": False,
    "embedded-efficiency": None,
    "embedded-deco-training": None,
}


@pytest.mark.parametrize("file", sorted(RESULTS.glob("*.json")), ids=lambda file: file.stem)
def test_recorded_studies_are_judged_by_what_their_record_holds(file: Path) -> None:
    content = json.loads(file.read_text(encoding="utf-8"))
    found = judge(content)
    assert found.study == content["study"] and found.title == content["title"]
    if content["version"] == 1 and file.stem in RECORDED:
        assert found.holds is RECORDED[file.stem]


def test_one_cut_is_said_beside_every_search() -> None:
    for finding in (tradeoff(UP), exchange((UP, 1), (UP, 1)), ontop((UP, 0.5)), benchmarks(UP, 5, UP)):
        lines = [line for line in finding.sentences if "Over one cut with the same ranking" in line]
        assert lines and all("points [" in line for line in lines), finding.study
    assert "gains -2.0 points [-3.0, -1.0]: its ranking in a single cut would serve better" in " ".join(
        tradeoff(UP, cut=DOWN).sentences
    )
    assert "may be its ranking's alone" in " ".join(tradeoff(UP, cut=SAME).sentences)
    assert "comes from how its rates fall" in " ".join(tradeoff(UP, cut=UP).sentences)
    none = replace(Lead(ONE_CUT, 0.5, UP), other="FastV")
    assert any("No one cut with P-Sigmoid's" in line for line in trade_off([], [none]).sentences)


def test_a_drop_that_pdrop_cannot_reach_is_named_and_one_where_it_lacks_its_lead_is_not_told() -> None:
    def found(*pdrop_at: float) -> Finding:
        points = [
            Point(name, drop, 1.0, 0.5, 0.9) for drop in (0.5, 0.9) for name in ("P-Sigmoid", "FastV", RANDOM)
        ]
        points += [Point("PDrop", drop, 1.0, 0.5, 0.8) for drop in pdrop_at]
        leads = [Lead(name, drop, UP) for drop in (0.5, 0.9) for name in ("FastV", RANDOM)]
        return trade_off(points, [*leads, Lead("PDrop", 0.5, UP)])

    assert found(0.5).holds is True
    assert "PDrop cannot reach FastV's TFLOPs at R = 90 %, and is not compared there." in found(0.5).sentences
    assert found(0.5, 0.9).holds is None
    assert "Not compared, so that the claim cannot hold: PDrop at 90 %." in found(0.5, 0.9).sentences
