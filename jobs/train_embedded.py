"""Trains the embedded model: `python jobs/train_embedded.py FOLDER`. Run again, it goes on.

With `--projector deco` or `--projector tokenpacker`: the variant, from the shipped model's weights. With
`--architecture internvl`: the second model, which also learns from clips.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from pathlib import Path

from vtr_ray.embedded import VARIANTS
from vtr_ray.embedded.recipe import Recipe, internvl_recipe, variant_recipe
from vtr_ray.embedded.splits import held_out
from vtr_ray.embedded.training import train

if __name__ == "__main__":
    variant = argparse.ArgumentParser(add_help=False)  # its recipe gives the other options their defaults
    variant.add_argument("--projector", choices=VARIANTS, default="")
    variant.add_argument("--architecture", choices=("llava", "internvl"), default="llava")
    named = variant.parse_known_args()[0]
    if named.projector and named.architecture != "llava":
        variant.error("only the llava has other projectors")
    parser = argparse.ArgumentParser(description=__doc__, parents=[variant])
    parser.add_argument("folder", type=Path, help="checkpoints, log and result")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="CPU processes")
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop, resumable, after so long")
    recipe = variant_recipe(named.projector) if named.projector else Recipe()
    if named.architecture == "internvl":
        recipe = internvl_recipe()
    for name, default in vars(recipe).items():
        if name not in ("projector", "architecture", "rates"):
            parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
    options = vars(parser.parse_args())
    folder, device = options.pop("folder"), options.pop("device")
    processes = options.pop("processes") if device == "cpu" else 1
    stop = time.time() + 60 * options.pop("minutes")
    options.pop("processes", None)
    train(
        Recipe(**options),
        folder,
        held_out(),
        processes=processes,
        compiled=device == "cpu",
        device=device,
        stop=stop,
    )
