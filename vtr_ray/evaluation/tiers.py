"""Prefixes where they fit: the model's device, then (pinned) host memory, then disk, within one limit."""

from __future__ import annotations

import fcntl
import logging
import shutil
import tempfile
import weakref
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from vtr_ray.reduction.prefix import Prefix

logger = logging.getLogger(__name__)

_DEVICE_SHARE = 0.5  # of the accelerator's memory that is free once the model is loaded
_RESERVE = 0.1  # of host memory and of the disk: left to others
_FOLDER = "vtr_ray_prefix_"


@dataclass(frozen=True)
class Held:
    """A prefix in its place. bytes: what it takes there. path: of its tensors, where it is on disk."""

    tier: str
    bytes: int
    content: Prefix
    devices: tuple[torch.device, ...]
    path: Path | None = None


class Tiers:
    """Holds prefixes; one that fits nowhere, or is lost, is given back as None: run the layers again.

    Args:
        limit: bytes of all tiers together.
        device: of the model; where that is the CPU, host memory comes first.
    """

    def __init__(self, limit: int, device: torch.device) -> None:
        self.limit = limit
        self.used: dict[str, int] = {"device": 0, "host": 0, "disk": 0}
        self._cuda = device.type == "cuda"
        free = torch.cuda.mem_get_info(device)[0] if self._cuda else 0
        self.near_limit = int(_DEVICE_SHARE * free) if self._cuda else limit
        self._folder: Path | None = None
        self._disk_works = True
        self._files = 0

    @property
    def bytes(self) -> int:
        """What all tiers hold."""
        return sum(self.used.values())

    @property
    def near(self) -> int:
        """Of it, what is in the model's own memory, at most `near_limit`."""
        return self.used["device" if self._cuda else "host"]

    def put(self, prefix: Prefix) -> Held | None:
        """Keep `prefix`; None where no tier takes it."""
        size = prefix.bytes
        if self.bytes + size > self.limit:
            return None
        devices = tuple(tensor.device for tensor in prefix.tensors())
        held: Held | None = None
        near = self.near + size <= self.near_limit
        if self._cuda and near:
            held = Held("device", size, prefix, devices)
        if held is None and (self._cuda or near) and self._host_has(size):
            held = self._on_host(prefix, size, devices)
        if held is None:
            held = self._on_disk(prefix, size, devices)
        if held is not None:
            self.used[held.tier] += held.bytes
        return held

    def get(self, held: Held) -> Prefix | None:
        """The prefix where its model runs; None where it is lost."""
        if held.tier == "device" or (held.tier == "host" and not self._cuda):
            return held.content.map(lambda tensor: tensor)  # what a pass adds to it goes with the pass
        devices = iter(held.devices)
        if held.path is None:
            return held.content.map(lambda tensor: tensor.to(next(devices), non_blocking=True))
        try:
            loaded = load_file(held.path)
        except (OSError, SafetensorError) as error:
            logger.warning("A prefix cannot be read back (%s); its layers run again.", str(error))
            return None
        names = iter(range(len(loaded)))
        return held.content.map(lambda _: loaded[str(next(names))].to(next(devices)))

    def drop(self, held: Held) -> None:
        """Give up its place."""
        self.used[held.tier] -= held.bytes
        if held.path is not None:
            held.path.unlink(missing_ok=True)

    def _host_has(self, size: int) -> bool:
        memory = psutil.virtual_memory()
        return bool(memory.available - size > _RESERVE * memory.total)

    def _on_host(self, prefix: Prefix, size: int, devices: tuple[torch.device, ...]) -> Held | None:
        if not self._cuda:
            return Held("host", size, prefix, devices)
        try:
            moved = prefix.map(_pinned)
        except RuntimeError:  # no more memory can be pinned
            return None
        return Held("host", moved.bytes, moved, devices)

    def _on_disk(self, prefix: Prefix, size: int, devices: tuple[torch.device, ...]) -> Held | None:
        if not self._disk_works:
            return None
        try:
            folder = self._own_folder()
            disk = shutil.disk_usage(folder)
            if disk.free - size < _RESERVE * disk.total:
                raise OSError(f"{folder} has {disk.free >> 20} MiB left")
            self._files += 1
            path = folder / f"{self._files}.safetensors"
            _save(prefix, path)
        except (OSError, SafetensorError) as error:
            self._disk_works = False
            logger.warning(
                "The disk takes no more prefixes (%s); what does not fit is run again.", str(error)
            )
            return None
        skeleton = prefix.map(lambda tensor: torch.empty_like(tensor, device="meta"))
        return Held("disk", path.stat().st_size, skeleton, devices, path)

    def _own_folder(self) -> Path:
        if self._folder is None:
            self._folder = own_folder()
            weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        return self._folder


def own_folder() -> Path:
    """A new temporary folder, locked while this process lives; those of processes that were killed go."""
    for stale in Path(tempfile.gettempdir()).glob(f"{_FOLDER}*/lock"):
        try:
            with stale.open("r+") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(stale.parent, ignore_errors=True)
        except OSError:
            continue  # in use, or another user's
    folder = Path(tempfile.mkdtemp(prefix=_FOLDER))
    # Locked before it has the name that others look for: between the two they would take it for a dead one's.
    unnamed = folder / "new"
    lock = unnamed.open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    unnamed.rename(folder / "lock")
    _locks.append(lock)
    return folder


_locks: list[object] = []  # open as long as the process


def _save(prefix: Prefix, path: Path) -> None:
    """Tensors by their number, to a temporary name first."""
    tensors = {str(number): _alone(tensor) for number, tensor in enumerate(prefix.tensors())}
    temporary = path.with_suffix(".tmp")
    try:
        save_file(tensors, temporary)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _alone(tensor: Tensor) -> Tensor:
    """On the host, in memory of its own."""
    moved = tensor.cpu().contiguous()
    return moved if moved.untyped_storage().nbytes() == moved.nbytes else moved.clone()


def _pinned(tensor: Tensor) -> Tensor:
    room = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return room.copy_(tensor)
