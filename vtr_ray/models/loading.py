"""Loading a checkpoint and its processor; every failure a user can cause is one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from vtr_ray.errors import InputError
from vtr_ray.models.families import family_of


def load_model(path: str, dtype: str = "auto", attn: str = "sdpa", device: str = "auto") -> tuple[Any, Any]:
    """The model, in evaluation mode on its device, and its processor.

    A local directory is used without any network; anything else is looked up on the hub. Code that
    comes with a checkpoint is never run.

    Args:
        path: a directory, or a hub id.
        dtype: a torch dtype's name, or "auto": the checkpoint's own, but float32 where that is half precision
            and the device is a CPU.
        attn: attention implementation as transformers names it.
        device: a torch device's name, or "auto": CUDA where there is one, else the CPU.

    Raises:
        InputError: unknown path, a family that is not supported, unknown dtype, attention or device.
    """
    import transformers

    place = _device(device)
    config = load_config(path)
    family = family_of(config)
    precision = _dtype(dtype, config, place)
    local = Path(path).exists()
    try:
        model = getattr(transformers, family.architecture).from_pretrained(
            path, config=config, dtype=precision, attn_implementation=attn, local_files_only=local
        )
        processor = transformers.AutoProcessor.from_pretrained(
            path, trust_remote_code=False, local_files_only=local
        )
    except (OSError, ValueError, ImportError) as error:
        raise InputError(f"Cannot load a model from {path!r}: {_first_line(error)}") from None
    return model.to(place).eval(), processor


def load_config(path: str) -> Any:
    """The configuration alone: a cheap look before anything heavy starts.

    Raises:
        InputError: unknown path, or a family that is not supported.
    """
    import transformers

    local = Path(path).exists()
    if local and not (Path(path) / "config.json").is_file():
        raise InputError(f"No config.json in {path}; give a checkpoint's directory or a hub id.")
    try:
        config = transformers.AutoConfig.from_pretrained(
            path, trust_remote_code=False, local_files_only=local
        )
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"Cannot load a model from {path!r}: {_first_line(error)}") from None
    family_of(config)
    return config


def _device(device: str) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"Device {device!r} cannot be used: {_first_line(error)}") from None
    return place


def _dtype(dtype: str, config: Any, place: torch.device) -> torch.dtype:
    if dtype != "auto":
        named = getattr(torch, dtype, None)
        if not (isinstance(named, torch.dtype) and named.is_floating_point):
            raise InputError(f"dtype is {dtype!r}; use auto, float32, bfloat16 or float16.")
        return named
    own = getattr(config, "dtype", None) or config.get_text_config(decoder=True).dtype or torch.float32
    own = getattr(torch, own) if isinstance(own, str) else own
    # Half precision on a CPU is emulated: slower than float32, and less exact.
    return torch.float32 if place.type == "cpu" and own.itemsize < 4 else own


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
