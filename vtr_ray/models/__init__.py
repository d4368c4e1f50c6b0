"""Loading a checkpoint, and what a model family must tell the rest."""

from vtr_ray.models.families import Family, family_of, supported
from vtr_ray.models.features import Features, embed, encode, encode_images, model_inputs
from vtr_ray.models.loading import fetch_model, load_config, load_model

__all__ = [
    "Family",
    "Features",
    "embed",
    "encode",
    "encode_images",
    "family_of",
    "fetch_model",
    "load_config",
    "load_model",
    "model_inputs",
    "supported",
]
