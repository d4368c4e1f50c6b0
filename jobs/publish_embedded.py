"""Turns a finished training into the model that ships: half-precision weights, tokenizer, model card.

The checkpoint says which model it is: the LLaVA, a variant with another projector, or the InternVL.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import tempfile
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from embedded_cards import CARD, HISTORY, INTERNVL_CARD, VARIANT_CARD, VARIANT_WORDS
from PIL import Image

from vtr_ray import strategies
from vtr_ray.embedded import INTERNVL, MODEL, TASKS, TASKS_FOLDER, VIDEO_TASKS, model_folder, test_tasks
from vtr_ray.embedded.checkpoints import save_checkpoint
from vtr_ray.embedded.lessons import Teacher
from vtr_ray.embedded.recipe import Recipe
from vtr_ray.embedded.splits import held_out
from vtr_ray.evaluation.evaluator import Evaluator
from vtr_ray.evaluation.outcome import Outcome, by_source, effectiveness
from vtr_ray.evaluation.samples import FRAMES, Sample, SampleSet, Video
from vtr_ray.evaluation.suites import load_tasks, task_figures
from vtr_ray.models import load_model
from vtr_ray.schedule import Schedule

_KNOWN_TASKS = (*TASKS, *VIDEO_TASKS)


def _by_task(samples: SampleSet, outcomes: list[Outcome]) -> dict[str, float]:
    found = by_source(outcomes, {sample.id: sample.source for sample in samples})
    return {task: found[f"vtr_{task}"] for task in _KNOWN_TASKS if f"vtr_{task}" in found}


def _blank(samples: SampleSet, folder: Path) -> SampleSet:
    file = io.BytesIO()
    Image.new("RGB", (96, 96), "white").save(file, "PNG")
    frame = folder / "white.png"
    frame.write_bytes(file.getvalue())
    return SampleSet(
        tuple(
            replace(sample, image=Video((frame,)) if sample.is_video else file.getvalue())
            for sample in samples
        )
    )


def _last_frame(samples: SampleSet) -> SampleSet:
    """The clips, standing still at their end."""

    def still(sample: Sample) -> Sample:
        assert isinstance(sample.image, Video) and isinstance(sample.image.source, tuple)
        return replace(sample, image=Video(sample.image.source[-1:], FRAMES))

    return SampleSet(tuple(still(sample) for sample in samples if sample.is_video))


def _text_prior(samples: SampleSet, tokenizer: Any) -> list[Outcome]:
    """Answers every question with its most frequent answer in training, unseen ones with the task's."""
    teacher = Teacher(tokenizer, held_out())
    counts: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    rng = random.Random("prior")
    for task in dict.fromkeys(sample.source.removeprefix("vtr_") for sample in samples):
        for _ in range(5000):
            for question, answer in teacher.picture(task, rng).questions:
                counts[f"vtr_{task}", question][answer] += 1
                counts[f"vtr_{task}", ""][answer] += 1
    outcomes = []
    for sample in samples:
        known = counts.get((sample.source, sample.question)) or counts[sample.source, ""]
        outcomes.append(Outcome(sample.id, sample.score(known.most_common(1)[0][0])))
    return outcomes


def publish(folder: Path, hours: float) -> None:
    """Writes the model directory, measures it, writes its card."""
    state = torch.load(folder / "checkpoint.pt", map_location="cpu", weights_only=True)
    recipe = Recipe(**state["recipe"])  # older checkpoints lack what has a default
    second = recipe.architecture == INTERNVL
    target = model_folder(INTERNVL if second else recipe.projector)
    save_checkpoint(recipe, state["model"], target)
    model, processor = load_model(str(target), dtype="float32", device="cpu")
    tasks = (*TASKS, *VIDEO_TASKS) if second else TASKS
    samples = load_tasks(test_tasks(tasks), TASKS_FOLDER)
    evaluator = Evaluator(model, processor, samples, 32)
    layers = evaluator.num_layers
    none = strategies.none(layers)
    figures = {
        "no reduction": _by_task(samples, evaluator.evaluate(none)),
        "no vision tokens from layer 3 on": _by_task(
            samples, evaluator.evaluate(Schedule.from_rates([1.0, 1.0] + [0.0] * (layers - 2)))
        ),
    }
    with tempfile.TemporaryDirectory() as blank:
        white = Evaluator(model, processor, _blank(samples, Path(blank)), 32)
        figures["blank image"] = _by_task(samples, white.evaluate(none))
    figures["text prior"] = _by_task(samples, _text_prior(samples, processor.tokenizer))
    answering = Evaluator(
        model,
        processor,
        SampleSet(tuple(sample for sample in samples if sample.source == "vtr_existence")),
        32,
        teacher_forcing=False,
    )
    f1 = task_figures(samples, answering.evaluate(none))["vtr_existence"]["pope_f1_score"]
    measured = {"accuracy": figures, "existence_f1": f1}
    if second:
        still = Evaluator(model, processor, _last_frame(samples), 32).evaluate(none)
        measured["last_frame"] = effectiveness(still)
    shown = dict(figures)
    if recipe.projector:
        whole = json.loads((MODEL / "measured.json").read_text())["accuracy"]["no reduction"]
        shown = {"144 tokens, no reduction": whole, **figures}
    rows = [
        f"| {name} | {' | '.join(f'{value:.3f}' for value in row.values())} "
        f"| {sum(row.values()) / len(row):.3f} |"
        for name, row in shown.items()
    ]
    template = INTERNVL_CARD if second else VARIANT_CARD if recipe.projector else CARD
    card = template.format(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        hours=hours,
        history=HISTORY,
        step=state["step"],
        stage=state["stage"],
        second_seed=recipe.seed + 1,
        third_seed=recipe.seed + 2,
        tasks=" | ".join(tasks),
        dashes=" | ".join("---" for _ in tasks),
        rows="\n".join(rows),
        f1=f1,
        last_frame=measured.get("last_frame"),
        **vars(recipe),
        **VARIANT_WORDS.get(recipe.projector, {}),
    )
    (target / "README.md").write_text(card)
    (target / "measured.json").write_text(json.dumps(measured, indent=1) + "\n")
    print("\n".join(rows))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="the folder that train_embedded.py trained into")
    parser.add_argument("--hours", type=float, required=True, help="training time, for the card")
    options = parser.parse_args()
    publish(options.folder, options.hours)
