"""Whether no reduction is right often enough for a search to show what reduction costs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from vtr_ray.evaluation.outcome import Outcome
from vtr_ray.evaluation.samples import Sample

LEAST_RIGHT = 6
"""Right answers whose loss is significant: the exact McNemar test gives 2 * 0.5**6 = 0.03 < 0.05."""

_SHOWN = 3  # wrong answers in a message
_LETTERS = 60  # of an answer


@dataclass(frozen=True)
class Needed:
    """What no reduction must reach before a search begins.

    At least `LEAST_RIGHT` samples must have a score above 0: else the loss of all would not be significant.
    Fewer samples than that can show nothing whatever they score, so of them only the second is asked: E must
    exceed `given_away`, what the objective pays for removing all tokens: else removing all always wins.

    Args:
        given_away: in units of E; 0 where the objective is E itself.
        option: the option that says so (`--weight 0.01`); "": none does.
    """

    given_away: float = 0.0
    option: str = ""

    def enough(self, outcomes: Sequence[Outcome], left: int) -> bool:
        """Whether it is reached, whatever the samples score that are `left`: the `enough` of a pool."""
        return self.lacking(outcomes, len(outcomes) + left) is None

    def lacking(self, outcomes: Sequence[Outcome], samples: int) -> str | None:
        """Return what is lacking, in words; None where nothing is. Samples without an outcome score 0."""
        right = sum(outcome.score > 0 for outcome in outcomes)
        score = math.fsum(outcome.score for outcome in outcomes) / samples
        said = f"without reduction the model is right on {right} of {samples} samples"
        if samples >= LEAST_RIGHT > right:
            return f"{said}, fewer than {LEAST_RIGHT}: no loss could be told from chance"
        if score > self.given_away:
            return None
        if not self.option:
            return f"{said}: there is nothing to lose"
        return (
            f"{said} (E {score:.4g}), and {self.option} gives away {self.given_away:g}: removing every token "
            "would always win"
        )


def refusal(
    lacking: str,
    samples: Sequence[Sample],
    outcomes: Sequence[Outcome],
    answers: Callable[[Sequence[str]], Mapping[str, str]],
) -> str:
    """Return the line that refuses a search: what is lacking, the first wrong answers, and what to do.

    answers: gives those of samples, by their ids, that have none in `outcomes`.
    """
    by_id = {outcome.sample_id: outcome for outcome in outcomes}
    wrong = [one for one in samples if one.id in by_id and by_id[one.id].score < 1][:_SHOWN]
    known = {one.id: by_id[one.id].answer for one in wrong}
    given = answers([name for name, answer in known.items() if answer is None])
    shown = "; ".join(
        f"sample {one.id}: answered {_short(given.get(one.id) or known[one.id] or '')}, expected "
        f"{_short(one.answers[0] if one.answers else '')}"
        for one in wrong
    )
    return (
        f"{lacking}. {shown[:1].upper()}{shown[1:]}. Give samples with short answers in the model's own "
        "words (vtr-ray samples draws short ones), check the prompt's format (the processor's chat "
        "template), or take the model's own answers for right ones with --labels self"
    )


def _short(text: str) -> str:
    text = " ".join(text.split())
    return repr(text if len(text) <= _LETTERS else text[: _LETTERS - 3] + "...")
