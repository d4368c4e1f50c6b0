"""The loss of a shortened sequence: that of the full-length one on the surviving positions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

IGNORED = -100


def surviving_loss(
    model: Any, logits: Tensor, positions: Tensor, labels: Tensor | None, extra: Mapping[str, Any]
) -> Tensor:
    """Next-token loss where position `p` predicts the label at `p + 1` of the input, removed or not.

    Args:
        model: for its loss function and vocabulary size.
        logits: [batch, length, vocabulary].
        positions: int64 [batch, length], the logits' input positions, -1 at fillers.
        labels: int64 [batch, seq] of the input; or None where `extra` has `shift_labels`.
        extra: further arguments of the loss function; its `shift_labels` [batch, seq] take precedence.
    """
    extra = dict(extra)
    shifted = extra.pop("shift_labels", None)
    if shifted is None:
        assert labels is not None
        shifted = pad(labels, (0, 1), value=IGNORED)[:, 1:]
    positions = positions.to(logits.device)
    shifted = shifted.to(logits.device)
    surviving = torch.where(positions >= 0, shifted.gather(1, positions.clamp(min=0)), IGNORED)
    loss: Tensor = model.loss_function(
        logits=logits,
        labels=labels,
        vocab_size=model.config.get_text_config().vocab_size,
        shift_labels=surviving,
        **extra,
    )
    return loss
