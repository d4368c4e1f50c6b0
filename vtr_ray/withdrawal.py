"""VTW's own search for its layer: the first after which the next token does without vision tokens."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vtr_ray import strategies
from vtr_ray.errors import InputError
from vtr_ray.models import family_of
from vtr_ray.reduction import reduce_vision_tokens
from vtr_ray.schedule import Schedule

SAMPLES = 20
THRESHOLD = 0.003
FIRST = 5


@dataclass(frozen=True)
class Withdrawal:
    """What `find_withdrawal` found.

    Attributes:
        layer: VTW's K, the last layer with vision tokens.
        divergences: mean KL divergence, in nats, by tried K.
        schedule: VTW with that K.
    """

    layer: int
    divergences: dict[int, float]
    schedule: Schedule


@torch.inference_mode()
def find_withdrawal(
    model: Any,
    batches: Iterable[Mapping[str, Any]],
    *,
    threshold: float = THRESHOLD,
    first: int = FIRST,
) -> Withdrawal:
    """The first K >= `first` whose mean divergence is at most `threshold`; K = L would be no withdrawal.

    A sample's divergence is `KL(w || f) = sum_t w_t (log w_t - log f_t)` in nats, over the vocabulary's
    probabilities for the token after the prompt: `w` with all vision tokens withdrawn after layer K, `f` from
    the full model (Lin et al., 2024, as their code has it; theirs takes 20 samples, 0.003 and 5).

    Args:
        model: a supported model.
        batches: the processor's outputs, prompts only, without padding on the right.
        threshold: largest mean divergence, in nats.
        first: first K that is tried.

    Raises:
        InputError: no batches, no layer to try, or no K that meets the threshold.
    """
    layers = len(family_of(model).layers_of(model))
    if not 1 <= first < layers:
        raise InputError(f"the search for VTW's K begins at {first}; the model has {layers} layers, use less")
    known = list(batches)
    if not known:
        raise InputError("the search for VTW's K needs samples; give at least one")
    full = [_last_logs(model, inputs, strategies.none(layers)) for inputs in known]
    divergences: dict[int, float] = {}
    for layer in range(first, layers):
        schedule = strategies.vtw(layers, withdraw_after=layer)
        samples = torch.cat(
            [
                _divergence(_last_logs(model, inputs, schedule), logs)
                for inputs, logs in zip(known, full, strict=True)
            ]
        )
        divergences[layer] = float(samples.mean())
        if divergences[layer] <= threshold:
            return Withdrawal(layer, divergences, schedule)
    best = min(divergences, key=lambda layer: divergences[layer])
    raise InputError(
        f"VTW finds no K from {first} to {layers - 1} with a mean divergence of at most {threshold:g}: the "
        f"lowest is {divergences[best]:.3g} at K = {best}; this model needs its vision tokens, or a fixed K"
    )


def _last_logs(model: Any, inputs: Mapping[str, Any], schedule: Schedule) -> Tensor:
    """Log-probabilities of the token after the prompt, float32 [batch, vocabulary]."""
    with reduce_vision_tokens(model, schedule):
        logits = model(**inputs, use_cache=False, logits_to_keep=1).logits
    return logits[:, -1].float().log_softmax(-1)  # type: ignore[no-any-return]


def _divergence(withdrawn: Tensor, full: Tensor) -> Tensor:
    """KL(withdrawn || full) per sample, from log-probabilities [batch, vocabulary]."""
    return (withdrawn.exp() * (withdrawn - full)).sum(-1)
