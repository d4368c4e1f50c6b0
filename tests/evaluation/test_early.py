"""Ending an evaluation early: what shows it, and that arrival does not matter."""

import random

from vtr_ray.evaluation.early import EarlyStop
from vtr_ray.evaluation.outcome import Outcome, effectiveness


def outcomes(scores: list[float]) -> list[Outcome]:
    return [Outcome(f"s{number:03d}", score) for number, score in enumerate(scores)]


def test_it_stops_where_unseen_samples_being_right_would_not_do_and_not_before() -> None:
    early, told = EarlyStop(0.85), outcomes([1, 0, 1, 0.5, 1, 0, 1, 1, 1, 1])
    assert not early(told[:4], 6)  # at most 0.85: may still reach it
    assert early.ceiling is None
    assert early(told[:7], 3)
    assert early.ceiling == 0.75  # of the sixth, whatever was seen after it


def test_what_is_known_in_full_was_not_stopped() -> None:
    early, told = EarlyStop(0.85), outcomes([1, 1, 1, 0, 0.0])
    assert not EarlyStop(0.7)(told, 0)  # only the last sample decides
    assert early(told, 0) and early.ceiling == 0.8


def test_any_arrival_gives_the_same_ceiling_and_it_is_above_e() -> None:
    draw = random.Random(0)
    for _ in range(200):
        told = outcomes([draw.choice([1, 1, 1, 0.25, 0]) for _ in range(40)])
        threshold = draw.uniform(0.4, 1)
        ceilings = set()
        for _ in range(5):
            early = EarlyStop(threshold)
            for end in sorted(draw.sample(range(1, 41), 6)):
                if early(told[:end], 40 - end):
                    break
            else:
                early(told, 0)
            ceilings.add(early.ceiling)
        (ceiling,) = ceilings
        if ceiling is not None:
            assert effectiveness(told) - 1e-12 <= ceiling < threshold
        else:
            assert effectiveness(told) >= threshold - 1 / 40 - 1e-12
