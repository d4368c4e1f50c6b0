"""What the cost commands share: which configuration, what one sample holds, which schedules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vtr_ray import embedded, strategies
from vtr_ray.commands.named import read_schedule
from vtr_ray.efficiency.configs import read_config, shapes
from vtr_ray.efficiency.decoder import decoder_shape
from vtr_ray.efficiency.flops import Convention, count_flops
from vtr_ray.efficiency.memory import kv_bytes
from vtr_ray.efficiency.units import flops_unit
from vtr_ray.efficiency.vision import default_sample, vision_tokens_of
from vtr_ray.efficiency.workloads import Picture
from vtr_ray.errors import InputError
from vtr_ray.report.comparison import NO_REDUCTION
from vtr_ray.schedule import Schedule


@dataclass(frozen=True)
class SampleOptions:
    """One sample. None: `default_sample`. image: HEIGHTxWIDTH, once per image."""

    vision_tokens: int | None = None
    text_tokens: int = 75
    image: tuple[str, ...] = ()

    def of(self, config: Any) -> tuple[int, list[Picture] | None]:
        """Vision tokens and pictures. Raises InputError for sizes that are none."""
        if not self.image:
            return default_sample(config) if self.vision_tokens is None else (self.vision_tokens, None)
        images = [_picture(text) for text in self.image]
        tokens = vision_tokens_of(config, images)
        if self.vision_tokens not in (None, tokens):
            raise InputError(f"These images give {tokens} vision tokens; leave --vision-tokens out.")
        return tokens, images


def _picture(text: str) -> Picture:
    try:
        height, width = (int(side) for side in text.lower().split("x"))
    except ValueError:
        height = width = 0
    if min(height, width) < 1:
        raise InputError(f"--image is {text!r}; use HEIGHTxWIDTH in pixels, as 672x1008.")
    return Picture(height, width)


def read_schedules(
    paths: Sequence[Path], config: Any, model: str, force: bool = False
) -> dict[str, Schedule]:
    """Schedule files by name, no reduction first, for a model as `read_config` takes it.

    Raises InputError for one of another length; without `force` for one that was found on another model.
    """
    layers, weights = decoder_shape(config).layers, with_weights(model)
    loaded = {
        path.stem if len(paths) == 1 else str(path): read_schedule(path, weights, force) for path in paths
    }
    for path, schedule in loaded.items():
        if schedule.num_layers != layers:
            raise InputError(f"{path} has {schedule.num_layers} layers, the model {layers}.")
    return {NO_REDUCTION: strategies.none(layers)} | loaded


def with_weights(model: str) -> str | None:
    """The model; None where it is a shape or a configuration, on which no schedule can be found."""
    return None if model in shapes() or Path(model).is_file() else model


def check_writable(path: Path | None) -> None:
    """Refuse early a file that cannot be written at the end."""
    if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
        raise InputError(f"Cannot write {path}; name a file in a directory that exists.")


def cost_lines(schedule: Schedule, model: str, tokens: int | None, text_tokens: int) -> list[str]:
    """What a schedule costs on a model, beside no reduction. Raises InputError where it cannot be counted."""
    config = read_config(embedded.checkpoint(model))
    sample, images = (tokens, None) if tokens is not None else default_sample(config)
    none = strategies.none(schedule.num_layers)

    def tera(one: Schedule, convention: Convention) -> float:
        keep = 1 if convention == "executed" else 0
        flops = count_flops(config, one, sample, text_tokens, convention, images=images, logits_to_keep=keep)
        return flops.total / 1e12

    unit = flops_unit([tera(none, "paper"), tera(none, "executed")])
    paper, all_paper = (unit.show(tera(one, "paper")) for one in (schedule, none))
    executed, all_executed = (unit.show(tera(one, "executed")) for one in (schedule, none))
    held, all_held = (sum(kv_bytes(config, one, sample, text_tokens)) / 2**20 for one in (schedule, none))
    return [
        f"On {model}, {sample} vision and {text_tokens} text tokens (no reduction in brackets):",
        f"  {paper} {unit.name} ({all_paper}) by the paper's convention, "
        f"{executed} ({all_executed}) executed with one logit row",
        f"  {held:.4g} MiB of KV cache ({all_held:.4g}) in half precision",
    ]
