"""What an embedded model's training starts from, and the checkpoint that it ends in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from vtr_ray.embedded import model_folder
from vtr_ray.embedded.internvl import grow
from vtr_ray.embedded.recipe import Recipe, build
from vtr_ray.models import load_model

_EYES = ("vision_tower", "projector", "embed_tokens")


def begin(model: Any, recipe: Recipe) -> None:
    """Give a new model the weights that its recipe starts from."""
    if recipe.architecture == "internvl":
        grow(model, _shipped(recipe.origin))
    elif recipe.start:
        start_from(model, _shipped(recipe.origin), eyes_only=recipe.start == "eyes")


def sees(name: str) -> bool:
    """Whether a parameter is of the encoder, the projector or the words."""
    return any(part in name for part in _EYES)


def start_from(model: nn.Module, weights: dict[str, torch.Tensor], eyes_only: bool = False) -> list[str]:
    """Load weights where the model has the same ones; gives the names of those it keeps."""
    known = model.state_dict().keys()
    taken = {name: weight for name, weight in weights.items() if name in known}
    if eyes_only:
        taken = {name: weight for name, weight in taken.items() if sees(name)}
    missing, _ = model.load_state_dict(taken, strict=False)
    return list(missing)


def _shipped(variant: str) -> dict[str, torch.Tensor]:
    model, _ = load_model(str(model_folder(variant)), dtype="float32", device="cpu")
    weights: dict[str, torch.Tensor] = model.state_dict()
    return weights


def save_checkpoint(recipe: Recipe, weights: dict[str, torch.Tensor], folder: Path) -> None:
    """Write trained weights, in half precision, with their processor, as `load_model` reads them."""
    processor, model = build(recipe)
    model.load_state_dict(weights)
    model.half().save_pretrained(folder)
    processor.save_pretrained(folder)
