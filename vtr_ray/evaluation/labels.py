"""Labels that the untouched model writes itself, for samples that have none: `--labels self`.

E is then not accuracy: it is agreement with what the model answers without reduction.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from vtr_ray.errors import InputError
from vtr_ray.evaluation.benchmarks.responses import digest
from vtr_ray.evaluation.evaluator import Evaluator
from vtr_ray.evaluation.outcome import NOT_A_NUMBER, Outcome
from vtr_ray.evaluation.samples import Sample, SampleSet, Skipped
from vtr_ray.files import replacing
from vtr_ray.provenance import versions

FILE = "labels.json"
LIMIT = 32
"""Tokens of a label at most, unless an option says otherwise."""

_VERSION = 1
_PLACEHOLDER = "the model's own answer holds a placeholder of vision tokens"


@dataclass(frozen=True)
class Label:
    """What the model answers to one sample.

    tokens: without the end token. ends: an end token follows; False: the answer was cut at the limit.
    text: the decoded tokens. error: why the model has no answer that can be a label; None: it has one.
    """

    tokens: tuple[int, ...]
    ends: bool
    text: str
    error: str | None = None


@dataclass(frozen=True)
class Labels:
    """The labels of one sample set, by sample id. Pickles.

    key: digest of all that decides them, see `labels_key`. limit: tokens of a label at most.
    """

    key: str
    limit: int
    by_sample: Mapping[str, Label]


class LabelEvaluator(Evaluator):
    """Writes answers, nothing judges them: each outcome has its tokens."""

    def _judged(self, sample: Sample, tokens: list[int] | None) -> Outcome:
        if tokens is None:
            return Outcome(sample.id, 0.0, "", NOT_A_NUMBER, ())
        text = self.processor.tokenizer.decode(tokens, skip_special_tokens=True).strip()
        error = _PLACEHOLDER if self._counter.vision_tokens(tokens) else None
        return Outcome(sample.id, 1.0, text, error, tuple(tokens))


def unlabelled(load: Callable[[], SampleSet], limit: int = LIMIT) -> SampleSet:
    """The samples that `load` gives, without answers and judges: they generate up to `limit` tokens."""
    samples = load()
    return replace(
        samples,
        samples=tuple(
            replace(sample, answers=(), exact=False, judge=None, max_new_tokens=limit, until=(), document=-1)
            for sample in samples
        ),
    )


def labelled(load: Callable[[], SampleSet], labels: Labels | Callable[[], Labels]) -> SampleSet:
    """The samples that `load` gives with their labels as targets, each decided in one forward pass.

    labels: or what gives them where the samples are loaded. Samples whose label has an error are skipped.
    Raises InputError: samples that were not there when the labels were written; more than 5 % skipped.
    """
    known = labels if isinstance(labels, Labels) else labels()
    samples = load()
    kept: list[Sample] = []
    skipped = list(samples.skipped)
    for sample in samples:
        label = known.by_sample.get(sample.id)
        if label is None:
            raise InputError(
                f"{samples.where}: sample {sample.id} has no label; its files changed since the labels were "
                "written, or differ from node to node"
            )
        if label.error is not None:
            skipped.append(Skipped(sample.id, label.error))
            continue
        judged = replace(
            sample, answers=(label.text,), exact=True, judge=None, target=label.tokens, target_ends=label.ends
        )
        kept.append(judged)
    return SampleSet(tuple(kept), tuple(skipped), samples.where)


def labels_of(outcomes: Sequence[Outcome], key: str, limit: int, refused: Iterable[Skipped] = ()) -> Labels:
    """The labels that the outcomes of `LabelEvaluator`s hold. An answer of `limit` tokens was cut there.

    refused: samples that the model could not be asked about.
    """
    return Labels(
        key,
        limit,
        {
            one.sample_id: Label(
                one.tokens or (), len(one.tokens or ()) < limit, one.answer or "", error=one.error
            )
            for one in outcomes
        }
        | {one.name: Label((), False, "", error=one.reason) for one in refused},
    )


def labels_key(samples: SampleSet, limit: int, identity: Mapping[str, Any]) -> str:
    """A digest of all that decides labels: pictures, questions, limit, versions, and `identity`.

    samples: unlabelled. identity: the model's revision (weights, chat template) and how it runs, JSON values.
    """
    return digest(samples=samples.fingerprint, limit=limit, versions=versions(), **identity)


def read_labels(folder: Path, key: str) -> Labels | None:
    """The labels of that key in a run directory; None: it has none, or those of something else.

    Raises InputError where the file is broken.
    """
    content = _sets(folder).get(key)
    if content is None:
        return None
    try:
        found = {
            name: Label(tuple(map(int, one["tokens"])), bool(one["ends"]), str(one["text"]), one["error"])
            for name, one in content["labels"].items()
        }
        return Labels(key, int(content["limit"]), found)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _broken(folder, error) from None


def write_labels(folder: Path, labels: Labels, where: str) -> None:
    """Add labels to those that a run directory has. where: the name of their samples' source."""
    kept = {name: asdict(label) for name, label in labels.by_sample.items()}
    entry = {"where": where, "limit": labels.limit, "labels": kept}
    content = {"version": _VERSION, "sets": {**_sets(folder), labels.key: entry}}
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the run directory {folder}: {error.strerror}; name another") from None
    with replacing(folder / FILE) as temporary:
        temporary.write_text(json.dumps(content, ensure_ascii=False) + "\n", encoding="utf-8")


def _sets(folder: Path) -> dict[str, Any]:
    file = folder / FILE
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if content["version"] != _VERSION:
            raise ValueError(f"version {content['version']}")
        return dict(content["sets"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise _broken(folder, error) from None


def _broken(folder: Path, error: Exception) -> InputError:
    return InputError(
        f"{folder / FILE} cannot be read ({type(error).__name__}: {error}); delete it, and the labels are "
        "written anew"
    )
