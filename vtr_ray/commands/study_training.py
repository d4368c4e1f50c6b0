"""The study of training with reductions: six short trainings of the embedded model, all evaluated."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

import torch

from vtr_ray import embedded
from vtr_ray.commands.named import Given
from vtr_ray.commands.study_accuracy import evaluated
from vtr_ray.commands.study_job import Job
from vtr_ray.commands.study_searches import g_search, p_sigmoid
from vtr_ray.errors import InputError
from vtr_ray.evaluation.benchmarks.record import DOCUMENTS, file_name
from vtr_ray.evaluation.outcome import Outcome
from vtr_ray.evaluation.statistics import compare
from vtr_ray.schedule import Schedule
from vtr_ray.studies import training
from vtr_ray.studies.finding import Finding
from vtr_ray.studies.methods import DROP, G_SEARCH, P_SIGMOID
from vtr_ray.studies.training import PLAIN, REDUCED, SHIPPED, START, TUNED, Trained
from vtr_ray.studies.verdict import PairedDifference
from vtr_ray.tuning.directory import write_json

_PROCESSES = 4
_RECIPE = "recipe.json"


def trained_with_reductions(job: Job) -> Finding:
    """Trains from the shipped eyes and from all weights, plainly and under both schedules' rates."""
    name, _, variant = job.model.model.partition(":")
    if name != embedded.NAME or variant not in ("", *embedded.VARIANTS):
        raise InputError(
            f"this study trains the embedded LLaVA by its recipe; leave --model {job.model.model} out, "
            "or name a variant"
        )
    schedules = {
        G_SEARCH: job.given(g_search(job)).schedule,
        P_SIGMOID: job.given(p_sigmoid(job, [DROP])[DROP]).schedule,
    }
    rows = [
        Trained(name, SHIPPED, "", accuracy)
        for name, accuracy in _accuracies(job, SHIPPED, job.model.model, schedules).items()
        if name in schedules
    ]
    for weights in (START, TUNED):
        plain = f"{weights} plainly"
        found = _accuracies(job, plain, str(_trained(job, weights, None, plain)), schedules)
        rows += [Trained(name, weights, PLAIN, accuracy) for name, accuracy in found.items()]
        for name, schedule in schedules.items():
            ours = f"{weights} with {name}"
            model = _trained(job, weights, schedule, ours)
            accuracy = _accuracies(job, ours, str(model), {name: schedule})[name]
            lead = compare(_outcomes(job, ours, name), _outcomes(job, plain, name))
            gain = PairedDifference(lead.difference, lead.low, lead.high, lead.significant, lead.samples)
            rows.append(Trained(name, weights, REDUCED, accuracy, gain))
    return training.trained_with_reductions(rows, job.options.steps, job.options.tuning_steps)


def _trained(job: Job, weights: str, schedule: Schedule | None, name: str) -> Path:
    """The checkpoint of one training, made or gone on with unless the study's folder has it."""
    from vtr_ray.embedded.checkpoints import save_checkpoint
    from vtr_ray.embedded.recipe import Recipe
    from vtr_ray.embedded.splits import held_out
    from vtr_ray.embedded.training import train

    folder = job.folder / "trainings" / file_name(name)
    variant = job.model.model.partition(":")[2]
    plain = Recipe(
        projector=variant, origin=variant, eyes_steps=0, mind_steps=0, habit_steps=0, seed=job.options.seed
    )
    rates = () if schedule is None else schedule.rates
    recipe = replace(plain, rates=rates, start="eyes", reduced_steps=job.options.steps)
    if weights == TUNED:
        recipe = replace(
            recipe, start="all", reduced_steps=job.options.tuning_steps, reduced_lr=plain.habit_lr
        )
    recorded, asked = folder / _RECIPE, json.loads(json.dumps(asdict(recipe)))
    if recorded.is_file() and json.loads(recorded.read_text(encoding="utf-8")) != asked:
        raise InputError(
            f"{folder} holds a training by another recipe (steps, seed or rates); use another --out"
        )
    if (folder / "model" / "config.json").is_file():
        return folder / "model"
    folder.mkdir(parents=True, exist_ok=True)
    write_json(recorded, asked)
    job.say(f"Training: {name}, {recipe.reduced_steps} steps; progress in {folder / 'log.jsonl'}")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    processes = 1 if device == "cuda" else min(_PROCESSES, os.cpu_count() or 1)
    train(recipe, folder, held_out(), processes=processes, compiled=False, device=device)
    state = torch.load(folder / "trained.pt", map_location="cpu", weights_only=True)
    save_checkpoint(recipe, state, folder / "model.tmp")
    (folder / "model.tmp").rename(folder / "model")
    return folder / "model"


def _accuracies(job: Job, name: str, model: str, schedules: Mapping[str, Schedule]) -> dict[str, float]:
    given = {title: Given(schedule) for title, schedule in schedules.items()}
    content = evaluated(job, given, _folder(name), replace(job.model, model=model))
    return {title: row["average"]["value"] for title, row in content["strategies"].items()}


def _outcomes(job: Job, name: str, schedule: str) -> list[Outcome]:
    """What each document scored, by an evaluation's table of them."""
    table = job.folder / _folder(name) / DOCUMENTS / f"{file_name(schedule)}.csv"
    with table.open(encoding="utf-8", newline="") as file:
        return [
            Outcome(f"{row['benchmark']}/{row['document']}", float(row["score"]))
            for row in csv.DictReader(file)
            if row["score"]
        ]


def _folder(name: str) -> str:
    return f"evaluation-{file_name(name)}"
