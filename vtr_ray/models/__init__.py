"""Loading a checkpoint, and what a model family must tell the rest."""

from vtr_ray.models.caches import CACHE, cache_of, given_cache
from vtr_ray.models.families import Family, family_of, supported
from vtr_ray.models.features import Features, embed, encode, encode_images, model_inputs
from vtr_ray.models.loading import fetch_model, load_config, load_model, load_tokenizer, revision_of

__all__ = [
    "CACHE",
    "Family",
    "Features",
    "cache_of",
    "embed",
    "encode",
    "encode_images",
    "family_of",
    "fetch_model",
    "given_cache",
    "load_config",
    "load_model",
    "load_tokenizer",
    "model_inputs",
    "revision_of",
    "supported",
]
