"""What lmms-eval's entry point reads: the model's name and where its class is."""

from lmms_eval.models.registry_v2 import ModelManifest

MANIFEST = ModelManifest(
    model_id="vtr_ray", simple_class_path="vtr_ray.evaluation.benchmarks.lmms_model.VtrRay"
)
