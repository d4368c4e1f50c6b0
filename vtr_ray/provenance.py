"""Where a schedule was found, which `schedule.json` says, and whether a model is the one it was found on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

from vtr_ray import embedded
from vtr_ray.errors import InputError
from vtr_ray.evaluation.samples import AGREEMENT, SampleSet
from vtr_ray.evaluation.statistics import wilson_interval
from vtr_ray.models import revision_of
from vtr_ray.schedule import Schedule

LIBRARIES = ("vtr-ray", "transformers", "torch")
_SHORT = 12  # characters of a revision in a message


def versions() -> dict[str, str]:
    """The installed versions of what decides a model's answers."""
    return {name: metadata.version(name) for name in LIBRARIES}


def provenance(command: str, model: str, vision_tokens: int, samples: SampleSet) -> dict[str, Any]:
    """What `Schedule.found` says of a search, but for E: JSON values.

    model: as the command line names it; its revision is that of the checkpoint. vision_tokens: `N`.
    """
    return {
        "command": command,
        "model": model,
        "revision": revision_of(embedded.checkpoint(model)),
        "vision_tokens": vision_tokens,
        "samples": {"fingerprint": samples.fingerprint, "count": len(samples)},
        "labels": samples.labels,
        "versions": versions(),
    }


def with_provenance(
    schedule: Schedule, found: Mapping[str, Any], score: float | None, before: float | None
) -> Schedule:
    """The schedule, saying where it was found, its E there with a 95 % interval, and E without reduction.

    found: what `provenance` gives. score, before: None where no trial measured it.
    """
    interval = None if score is None else list(wilson_interval(score, found["samples"]["count"]))
    scores = {"E": score, "E_interval": interval, "E_no_reduction": before}
    return replace(schedule, found={**found, **scores})


def found_line(found: Mapping[str, Any]) -> str:
    """Where a schedule was found, as a sentence; what the mapping lacks is left out."""
    samples, score, none = found.get("samples") or {}, found.get("E"), found.get("E_no_reduction")
    revision = f" (revision {str(found['revision'])[:_SHORT]})" if found.get("revision") else ""
    parts = [f"{found.get('vision_tokens')} vision tokens"] if found.get("vision_tokens") else []
    parts += [f"{samples.get('count')} samples ({samples.get('fingerprint')})"] if samples else []
    if score is not None:
        low_high = found.get("E_interval")
        interval = f" [{low_high[0]:.4f}, {low_high[1]:.4f}]" if low_high else ""
        before = "" if none is None else f" (no reduction: {none:.4f})"
        meaning = f", {AGREEMENT}" if found.get("labels") == "self" else ""
        parts.append(f"E {score:.4f}{interval}{before}{meaning}")
    named = ", ".join(f"{name} {version}" for name, version in (found.get("versions") or {}).items())
    parts += [named] if named else []
    return f"Found by {found.get('command')} on {found.get('model')}{revision}: {'; '.join(parts)}"


def check_model(
    schedule: Schedule, name: str, model: str, force: bool = False, option: str = "--force"
) -> None:
    """Refuse a schedule that was found on another model, or before the model's weights changed.

    The same weights are the same model wherever they lie: revisions decide where both are known, else names.
    A schedule that does not say where it was found passes, as does every one with `force`.

    name: of the schedule, in the message. model: as the command line names it. option: what sets `force`.
    Raises InputError.
    """
    found = schedule.found
    if force or found is None:
        return
    anyway = f"or use it all the same with {option}"
    before, there = str(found.get("model") or ""), str(found.get("revision") or "")
    if not before and not there:
        return
    path = embedded.checkpoint(model)
    here = revision_of(path)
    if there and here:
        if {there, _commit(before)} & {here, _commit(path)} - {""}:
            return
        if _same_name(before, model):
            raise InputError(
                f"{name} was found on {model} before its weights changed (revision {there[:_SHORT]} then, "
                f"{here[:_SHORT]} now); search again, {anyway}"
            )
    elif _same_name(before, model):
        return
    raise InputError(f"{name} was found on {before or there}, not on {model}; search one for it, {anyway}")


def _commit(path: str) -> str:
    """The commit of a snapshot in the hub's cache, from its path; "": it is none."""
    folder = Path(path)
    return folder.name if folder.parent.name == "snapshots" else ""


def _same_name(first: str, second: str) -> bool:
    return first == second or (
        Path(first).exists() and Path(second).exists() and Path(first).resolve() == Path(second).resolve()
    )
