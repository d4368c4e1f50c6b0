"""The numbers of the embedded models' training, and what they train."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vtr_ray.embedded import architecture, internvl
from vtr_ray.embedded.views import View, internvl_views, llava_view

STAGES = ("eyes", "mind", "habit", "reduced")


@dataclass(frozen=True)
class Recipe:
    """Every number of the recipe.

    Batches are global: they are split over the processes; stage `habit` takes `mind_batch`. Rates (eyes_lr,
    ...) are of the matrices (Muon); all else (AdamW) learns at `other_lr` times that. eyes_weight: of the
    patch targets after stage `eyes`. architecture: "llava" or "internvl". projector: "" for LLaVA's own, or a
    variant's. clips: share of the steps that show clips, of an architecture that takes them. start: what is
    the shipped LLaVA's at first: "eyes" (encoder, projector, words), "all" or "" (nothing); origin: or of
    which of its variants. rates: keeping rates of stage `reduced`, which asks `reduced_turns` questions per
    picture, each under them; () is none.
    """

    architecture: str = "llava"
    projector: str = ""
    start: str = ""
    origin: str = ""
    seed: int = 0
    eyes_steps: int = 1600
    eyes_batch: int = 64
    eyes_lr: float = 5e-3
    mind_steps: int = 2500
    mind_batch: int = 32
    mind_lr: float = 2e-3
    habit_steps: int = 1900
    habit_lr: float = 6e-4
    reduced_steps: int = 0
    reduced_batch: int = 16
    reduced_turns: int = 6
    reduced_lr: float = 2e-3
    rates: tuple[float, ...] = ()
    other_lr: float = 0.6
    weight_decay: float = 0.02
    warmup: int = 100
    eyes_weight: float = 1.0
    clip: float = 1.0
    clips: float = 0.0
    checked: int = 96  # pictures of a validation


def variant_recipe(projector: str) -> Recipe:
    """The recipe of a variant: lower rates and shorter stages, for weights that know most of their task."""
    return Recipe(
        projector=projector,
        start="all",
        seed=10,
        eyes_steps=800,
        eyes_lr=3e-3,
        mind_steps=1600,
        mind_lr=1.5e-3,
        habit_steps=400,
    )


def internvl_recipe() -> Recipe:
    """The recipe of the InternVL: new eyes, the LLaVA's decoder grown; a sixth of the steps on clips."""
    return Recipe(
        architecture="internvl",
        seed=20,
        mind_steps=1300,
        mind_lr=1.5e-3,
        habit_steps=450,
        clips=1 / 6,
    )


def build(recipe: Recipe) -> tuple[Any, Any]:
    """Processor and untrained model, in float32."""
    if recipe.architecture == "internvl":
        processor = internvl.build_processor()
        return processor, internvl.build_model(processor.tokenizer, recipe.seed)
    processor = architecture.build_processor(recipe.projector)
    return processor, architecture.build_model(processor.tokenizer, recipe.seed, recipe.projector)


def views(recipe: Recipe, processor: Any, model: Any) -> tuple[View, View | None]:
    """How the model is shown pictures and clips."""
    if recipe.architecture == "internvl":
        return internvl_views(processor)
    return llava_view(processor.tokenizer, model.config.image_seq_length), None
