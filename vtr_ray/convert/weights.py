"""The tensors of a checkpoint: read file by file, checked by name and shape, written converted in shards.

Files are mapped into memory and one output shard is held at a time, so memory stays far below the
checkpoint's size.
"""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from vtr_ray.convert.layout import read_json
from vtr_ray.convert.mapping import Mapping as NameMapping
from vtr_ray.errors import InputError

SHARD_BYTES = 5_000_000_000
HEADS = ("language_model.output.weight", "language_model.lm_head.weight")
"""The output head in an original checkpoint; one whose embeddings are tied to it has none."""
_SINGLE = ("model.safetensors", "pytorch_model.bin")


def weight_files(folder: Path) -> list[Path]:
    """The files with a checkpoint's tensors, safetensors before .bin, in the order of their names.

    Raises InputError: no weights, or a shard that the index names is missing.
    """
    for name in _SINGLE:
        index = read_json(folder, f"{name}.index.json")
        if index is not None:
            shards = index.get("weight_map")
            if not isinstance(shards, dict) or not all(isinstance(shard, str) for shard in shards.values()):
                raise InputError(f"{folder / name}.index.json has no weight_map; download it again.")
            files = [folder / Path(shard).name for shard in sorted(set(shards.values()))]
            gone = [file.name for file in files if not file.is_file()]
            if gone:
                raise InputError(f"{folder} lacks {_few(gone)}; download the checkpoint again.")
            return files
        if (folder / name).is_file():
            return [folder / name]
    raise InputError(f"No weights in {folder}: neither {' nor '.join(_SINGLE)}, with or without an index.")


def read_tensors(files: Iterable[Path]) -> Iterator[tuple[str, Tensor]]:
    """Name and tensor, file by file; a tensor's values are read from disk when they are used.

    Raises InputError on a damaged file, or a .bin that holds anything but tensors.
    """
    for file in files:
        try:
            if file.suffix == ".safetensors":
                with safe_open(file, framework="pt") as opened:
                    for name in opened.keys():  # noqa: SIM118 (no mapping, has only keys)
                        yield name, opened.get_tensor(name)
            else:
                yield from _load_bin(file).items()
        except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise InputError(f"Cannot read {file}: {reason}") from None


def _load_bin(file: Path) -> dict[str, Tensor]:
    with file.open("rb") as opened:
        zipped = opened.read(2) == b"PK"  # files from before PyTorch 1.6 cannot be mapped
    content = torch.load(file, map_location="cpu", weights_only=True, mmap=zipped)
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise InputError(f"{file} holds something other than named tensors.")
    return content


def outline(files: Iterable[Path]) -> dict[str, Tensor]:
    """Every tensor of a checkpoint on the meta device: names, shapes and dtypes without values.

    Raises InputError on a name that occurs twice, or as `read_tensors` does.
    """
    tensors: dict[str, Tensor] = {}
    for name, tensor in read_tensors(files):
        if name in tensors:
            raise InputError(f"The checkpoint has {name} twice; remove the older weights file.")
        tensors[name] = tensor.to("meta")
    return tensors


def check_coverage(tensors: Mapping[str, Tensor], mapping: NameMapping, config: Any) -> int:
    """Checks that the mapping makes the native model of these tensors, nothing more and nothing less.

    Args:
        tensors: the outline of an original checkpoint.
        mapping: its mapping.
        config: the native configuration.

    Returns the bytes of the native tensors.

    Raises InputError that lists the first of the missing or unexpected tensors, or of the wrong shapes.
    """
    expected = native_shapes(config)
    found: dict[str, str] = {}
    unexpected, wrong, size = [], [], 0
    for name, tensor in tensors.items():
        try:
            parts = mapping.convert(name, tensor)
        except RuntimeError:
            wrong.append(f"{name} {tuple(tensor.shape)}")
            continue
        for native, part in parts.items():
            if native not in expected or native in found:
                unexpected.append(name)
            elif part.shape != expected[native]:
                wrong.append(f"{name} {tuple(tensor.shape)}")
            found[native] = name
            size += part.nbytes
    if wrong:
        raise InputError(f"Shapes that config.json does not allow: {_few(wrong)}.")
    missing = [native for native in expected if native not in found]
    if missing or unexpected:
        parts_of = [
            f"no tensor for {_few(missing)}" if missing else "",
            f"unexpected {_few(list(dict.fromkeys(unexpected)))}" if unexpected else "",
        ]
        raise InputError(f"Not the tensors of this InternVL2: {'; '.join(filter(None, parts_of))}.")
    return size


def native_shapes(config: Any) -> dict[str, torch.Size]:
    """Names and shapes of the tensors in a native checkpoint; a tied output head is not among them.

    Raises InputError on a configuration that the native classes cannot be built from.
    """
    from transformers import InternVLForConditionalGeneration

    try:
        with torch.device("meta"):
            state = InternVLForConditionalGeneration(config).state_dict()
    except (ArithmeticError, AssertionError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"config.json describes no InternVL model: {error}") from None
    if config.tie_word_embeddings:
        del state["lm_head.weight"]
    return {name: tensor.shape for name, tensor in state.items()}


def write_weights(
    files: Iterable[Path], mapping: NameMapping, folder: Path, size: int, shard_bytes: int = SHARD_BYTES
) -> list[str]:
    """Converts the tensors into `folder` as `model.safetensors`, or as shards with an index.

    Args:
        files: the original weights.
        mapping: their mapping, checked with `check_coverage`.
        folder: exists.
        size: bytes of the native tensors.
        shard_bytes: a shard is closed when the next tensor would take it past this many.

    Returns the names of the files that hold tensors.

    Raises InputError where the disk has no room, or as `read_tensors` does.
    """
    free = shutil.disk_usage(folder).free
    if free < size:
        raise InputError(
            f"The converted weights take {size / 1e9:.1f} GB, {folder} has {free / 1e9:.1f} free."
        )
    shards: list[list[str]] = []
    held: dict[str, Tensor] = {}

    def close() -> None:
        save_file(held, folder / _part(len(shards)), metadata={"format": "pt"})
        shards.append(list(held))
        held.clear()

    for name, tensor in read_tensors(files):
        for native, part in mapping.convert(name, tensor).items():
            if held and sum(each.nbytes for each in held.values()) + part.nbytes > shard_bytes:
                close()
            # A copy: a mapped tensor may share its storage with others, and pins its file's pages.
            held[native] = part.clone(memory_format=torch.contiguous_format)
    close()
    return _name_shards(folder, shards, size)


def _part(index: int) -> str:
    return f"part-{index}.safetensors"


def _name_shards(folder: Path, shards: list[list[str]], size: int) -> list[str]:
    """Gives the shards the names that loaders look for, now that their number is known."""
    if len(shards) == 1:
        (folder / _part(0)).rename(folder / "model.safetensors")
        return ["model.safetensors"]
    names = [f"model-{index:05d}-of-{len(shards):05d}.safetensors" for index in range(1, len(shards) + 1)]
    for index, name in enumerate(names):
        (folder / _part(index)).rename(folder / name)
    where = {native: name for name, natives in zip(names, shards, strict=True) for native in natives}
    content = {"metadata": {"total_size": size}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(content, indent=1) + "\n")
    return names


def _few(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
