"""Loading a checkpoint and its processor; every failure a user can cause is one line."""

from __future__ import annotations

import fcntl
import hashlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from vtr_ray.errors import InputError, first_line
from vtr_ray.models.families import family_of
from vtr_ray.models.projectors import projector_settings

_STATE = (
    ".json",
    ".jinja",
    ".txt",
    ".model",
    ".safetensors",
    ".bin",
)  # suffixes of what a checkpoint consists of


def load_model(path: str, dtype: str = "auto", attn: str = "sdpa", device: str = "auto") -> tuple[Any, Any]:
    """The model, in evaluation mode on its device, and its processor.

    A local directory is used without any network; anything else is looked up on the hub. Code that
    comes with a checkpoint is never run. A LLaVA whose config.json names a `vtr_ray_projector` gets it, and
    its processor writes as many placeholders as it has tokens.

    Args:
        path: a directory, or a hub id.
        dtype: a torch dtype's name, or "auto": the checkpoint's own, but float32 where that is half precision
            and the device is a CPU.
        attn: attention implementation as transformers names it.
        device: a torch device's name; "auto": CUDA where there is one, else the CPU; "split": the layers
            evenly over all GPUs that this process sees.

    Raises:
        InputError: unknown path, a family that is not supported, unknown dtype, attention or device, a
            projector that does not fit or that the checkpoint has no weights for, too little room to split.
    """
    import transformers

    split = device == "split"
    place = device_of("cuda" if split else device)
    config = load_config(path)
    family = family_of(config)
    precision = dtype_of(dtype, config, place)
    local = Path(path).exists()
    architecture = getattr(transformers, family.architecture)
    projected = projector_settings(config) is not None
    if projected:
        from vtr_ray.models.projectors.llava import LlavaForConditionalGeneration, fit_processor

        architecture = LlavaForConditionalGeneration
    try:
        model, report = architecture.from_pretrained(
            path,
            config=config,
            dtype=precision,
            attn_implementation=attn,
            local_files_only=local,
            output_loading_info=True,
            **({"device_map": "balanced"} if split else {}),
        )
        processor = transformers.AutoProcessor.from_pretrained(
            path, trust_remote_code=False, local_files_only=local
        )
    except (OSError, ValueError, ImportError) as error:
        raise InputError(f"Cannot load a model from {path!r}: {first_line(error)}") from None
    if projected:
        _check_projector(path, report)
        fit_processor(processor, config)
    if split:
        _check_split(path, model)
        return model.eval(), processor
    return model.to(place).eval(), processor


def load_tokenizer(path: str) -> Any:
    """Return the tokenizer of a checkpoint, without its weights.

    Raises:
        InputError: unknown path, or one without a tokenizer that transformers can load.
    """
    import transformers

    try:
        return transformers.AutoTokenizer.from_pretrained(
            path, trust_remote_code=False, local_files_only=Path(path).exists()
        )
    except Exception as error:  # each tokenizer class raises whatever it meets
        raise InputError(f"Cannot load a tokenizer from {path!r}: {first_line(error)}") from None


def fetch_model(path: str) -> None:
    """Have a hub checkpoint in this machine's cache (`HF_HOME`), so that loading it downloads nothing.

    Only what `load_model` reads: no second copy of the weights in another format. A directory is left alone.
    Processes that share a cache take turns: the first one downloads, the others find it there.

    Raises:
        InputError: the hub does not have it or does not answer, and the cache lacks it.
    """
    if Path(path).exists():
        return
    with _turn(path):
        _fetch(path)


def _fetch(path: str) -> None:
    from huggingface_hub import HfApi, snapshot_download

    wanted = ["*.json", "*.txt", "*.model", "*.jinja"]
    try:
        names = HfApi().list_repo_files(path)
        weights = "*.safetensors" if any(name.endswith(".safetensors") for name in names) else "*.bin"
        snapshot_download(
            path, allow_patterns=[*wanted, weights], ignore_patterns=["consolidated*", "original/*"]
        )
    except Exception as error:  # the hub's client raises whatever its transport does
        try:
            snapshot_download(path, allow_patterns=wanted, local_files_only=True)
        except Exception:
            raise InputError(f"Cannot download {path!r}: {first_line(error)}") from None


def revision_of(path: str) -> str:
    """Return what tells one state of a checkpoint from another.

    That is the commit of one from the hub, and of a directory a digest of the content of its configuration,
    tokenizer and weights.
    """
    if not Path(path).exists():
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(path, "config.json")
        return Path(found).parent.name if isinstance(found, str) else ""
    digest = hashlib.sha256()
    for file in sorted(Path(path).iterdir()):
        if file.suffix in _STATE and file.is_file():
            stat = file.stat()
            digest.update(f"{file.name} {_content(file, stat.st_size, stat.st_mtime_ns)} ".encode())
    return digest.hexdigest()[:16]


@lru_cache(maxsize=1024)
def _content(file: Path, size: int, changed: int) -> str:
    """A digest of a file; of gigabytes of weights it takes seconds, so once in a process."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


@contextmanager
def _turn(path: str) -> Iterator[None]:
    """Alone among the processes that share the hub's cache."""
    from huggingface_hub import constants

    lock = Path(constants.HF_HUB_CACHE) / f".vtr_ray-{path.replace('/', '--')}.lock"
    with ExitStack() as stack:
        with suppress(OSError):  # a cache that is not written, or a file system without locks
            lock.parent.mkdir(parents=True, exist_ok=True)
            fcntl.flock(stack.enter_context(lock.open("w")), fcntl.LOCK_EX)
        yield


def _check_split(path: str, model: Any) -> None:
    """Refuse what the GPUs cannot hold: layers on the CPU or the disk would make every trial slow."""
    places = getattr(model, "hf_device_map", None) or {"": model.device}  # no map: all in one place
    elsewhere = sorted({str(place) for place in places.values()} & {"cpu", "disk", "meta"})
    if elsewhere:
        raise InputError(
            f"{path} does not fit on the {torch.cuda.device_count()} GPUs of this process (the rest would be "
            f"on {', '.join(elsewhere)}); give each actor more (--gpus-per-actor)."
        )


def load_config(path: str) -> Any:
    """The configuration alone: a cheap look before anything heavy starts.

    Raises:
        InputError: unknown path, a family that is not supported, or a projector that does not fit.
    """
    import transformers

    local = Path(path).exists()
    if local and not (Path(path) / "config.json").is_file():
        raise InputError(f"No config.json in {path}; give a checkpoint's directory or a hub id.")
    try:
        config = transformers.AutoConfig.from_pretrained(
            path, trust_remote_code=False, local_files_only=local
        )
    except Exception as error:  # each family validates with exceptions of its own
        raise InputError(f"Cannot load a model from {path!r}: {first_line(error)}") from None
    family_of(config)
    projector_settings(config)
    return config


def _check_projector(path: str, report: dict[str, Any]) -> None:
    """Refuse a checkpoint saved with another projector: transformers would fill in random weights."""
    wrong = sorted(
        name
        for kind in ("missing_keys", "unexpected_keys")
        for name in report[kind]
        if "multi_modal_projector" in name
    )
    if wrong:
        raise InputError(
            f"{path} was saved with another projector than its vtr_ray_projector ({wrong[0]} does not fit); "
            "correct its config.json."
        )


def device_of(device: str) -> torch.device:
    """The device of that name as `load_model` takes it. Raises InputError for one that cannot be used."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"Device {device!r} cannot be used: {first_line(error)}") from None
    return place


def dtype_of(dtype: str, config: Any, place: torch.device) -> torch.dtype:
    """The dtype of that name as `load_model` takes it. Raises InputError for an unknown one."""
    if dtype != "auto":
        named = getattr(torch, dtype, None)
        if not (isinstance(named, torch.dtype) and named.is_floating_point):
            raise InputError(f"dtype is {dtype!r}; use auto, float32, bfloat16 or float16.")
        return named
    own = getattr(config, "dtype", None) or config.get_text_config(decoder=True).dtype or torch.float32
    own = getattr(torch, own) if isinstance(own, str) else own
    # Half precision on a CPU is emulated: slower than float32, and less exact.
    return torch.float32 if place.type == "cpu" and own.itemsize < 4 else own
