"""`--labels self`: the untouched model answers the samples once, before anything is searched or compared."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from vtr_ray import strategies
from vtr_ray.commands.inputs import ModelOptions, PoolOptions, Samples, evaluated
from vtr_ray.evaluation.labels import (
    FILE,
    LabelEvaluator,
    Labels,
    labelled,
    labels_key,
    labels_of,
    read_labels,
    write_labels,
)
from vtr_ray.models import revision_of


def with_labels(
    samples: Samples,
    model: ModelOptions,
    pool: PoolOptions,
    folder: Path | None,
    say: Callable[[str], object],
) -> Samples:
    """The samples with the model's own greedy answers as targets; those that have answers as they are.

    Ray must be connected. The answers are written by a pool of their own, shared out in whole batches.
    folder: a run directory whose labels of the same samples and model are used, and which keeps new ones;
    None: they are not kept.

    Raises InputError: the model has no answer to more than 5 % of the samples.
    """
    if samples.label_tokens is None or samples.labels is not None:
        return samples
    limit = samples.label_tokens
    identity = {
        "revision": revision_of(model.path),
        "dtype": model.dtype,
        "attn": model.attn,
        "max_pixels": model.max_pixels,
    }
    key = labels_key(samples.set, limit, identity)
    labels = None if folder is None else read_labels(folder, key)
    if labels is None:
        labels = _written(samples, model, pool, key, limit, say)
        if folder is not None:
            write_labels(folder, labels, samples.set.where)
    elif folder is not None:
        say(f"Labels: the {len(labels.by_sample)} answers of the model itself in {folder / FILE}.")
    done = replace(samples, set=labelled(samples.load, labels), labels=labels)
    for skipped in done.set.skipped[len(samples.set.skipped) :]:
        say(f"Sample {skipped.name} is skipped: {skipped.reason}.")
    return done


def _written(
    samples: Samples,
    model: ModelOptions,
    pool: PoolOptions,
    key: str,
    limit: int,
    say: Callable[[str], object],
) -> Labels:
    began = time.monotonic()
    # What trials share is not worth keeping for one schedule.
    with pool.open(replace(model, cache="0"), samples, "labels", say=say, kind=LabelEvaluator) as actors:
        outcomes = actors.evaluate(strategies.none(actors.num_layers))
        asked = evaluated(samples, actors).set
    known = {skipped.name for skipped in samples.set.skipped}
    refused = [skipped for skipped in asked.skipped if skipped.name not in known]
    labels = labels_of(outcomes, key, limit, refused)
    cut = sum(not label.ends and label.error is None for label in labels.by_sample.values())
    say(
        f"Labels: the model itself answered {len(outcomes)} samples without reduction in "
        f"{(time.monotonic() - began) / 60:.1f} minutes, {cut} of them cut after {limit} tokens. E is "
        "agreement with these answers, not accuracy."
    )
    return labels
