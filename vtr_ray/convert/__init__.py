"""Original-layout InternVL2 checkpoints in, native ones out. Knows nothing above the model files.

No code of a checkpoint is ever run: names, shapes and the tokenizer are ours to know.
"""

from vtr_ray.convert.checkpoint import Converted, convert

__all__ = ["Converted", "convert"]
