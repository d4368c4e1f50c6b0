"""Training with reductions: what it minimises, where it starts."""

import random

import pytest
import torch
from torch.nn import functional as F

from vtr_ray import strategies
from vtr_ray.embedded import MODEL
from vtr_ray.embedded.checkpoints import begin
from vtr_ray.embedded.lessons import Teacher
from vtr_ray.embedded.losses import Losses
from vtr_ray.embedded.recipe import Recipe, build
from vtr_ray.embedded.training import train
from vtr_ray.models import load_model

HALF = (1.0, 1.0) + (0.5,) * 10


@pytest.fixture(scope="module")
def shipped():
    model, processor = load_model(str(MODEL), dtype="float32", device="cpu")
    return model, processor


@torch.no_grad()
def test_all_turns_without_reduction_lose_what_they_lose_in_one_sequence(shipped):
    model, processor = shipped
    losses = Losses(model, compiled=False)
    batch = Teacher(processor.tokenizer, frozenset()).batch(3, seed=4, step=0)
    vision = losses.see(batch)
    logits, targets = losses.answer_logits(batch, vision)
    every = int(batch.turns.max())

    def loss(schedule, turns):
        return losses.reduced_loss(batch, vision, random.Random(0), schedule, turns)

    torch.testing.assert_close(
        loss(strategies.none(12), every), F.cross_entropy(logits, targets), rtol=1e-4, atol=1e-5
    )
    fastv = strategies.fastv(12, 0.9)
    assert loss(fastv, every) > 1.2 * loss(strategies.none(12), every)
    assert loss(fastv, 1) != loss(fastv, 2)


def test_a_start_is_the_shipped_eyes_or_all_of_it(shipped):
    known = shipped[0].state_dict()
    eyes, decoder = ("vision_tower", "projector", "embed_tokens", "lm_head"), ("language_model.layers",)
    for start, taken in (("", ()), ("eyes", eyes), ("all", (*eyes, *decoder))):
        recipe = Recipe(start=start, seed=3)
        model = build(recipe)[1]
        fresh = {name: weight.clone() for name, weight in model.state_dict().items()}
        begin(model, recipe)
        for name, weight in model.state_dict().items():
            of = known if any(part in name for part in taken) else fresh
            assert start == "all" or weight.equal(of[name]), name
            assert start != "all" or weight.equal(known[name]), name


@pytest.mark.slow
def test_a_model_trains_under_its_rates_alone_and_resumes(tmp_path):
    recipe = Recipe(
        start="all", eyes_steps=0, mind_steps=0, habit_steps=0, reduced_steps=3, reduced_batch=2,
        reduced_turns=2, rates=HALF, warmup=1, checked=16,
    )  # fmt: skip
    for name, stops in (("whole", (float("inf"),)), ("parts", (0, float("inf")))):
        for stop in stops:
            train(recipe, tmp_path / name, frozenset(), compiled=False, stop=stop)
    whole, parts = (
        torch.load(tmp_path / name / "trained.pt", weights_only=True) for name in ("whole", "parts")
    )
    assert whole.keys() == parts.keys()
    for name, weight in whole.items():
        assert weight.equal(parts[name]), name
    first = load_model(str(MODEL), dtype="float32", device="cpu")[0].state_dict()
    assert not whole["model.language_model.layers.3.mlp.up_proj.weight"].equal(
        first["model.language_model.layers.3.mlp.up_proj.weight"]
    )
