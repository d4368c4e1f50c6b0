"""One checkpoint from the original InternVL2 layout to the native one, whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from vtr_ray.convert.layout import INTERNLM2, Layout
from vtr_ray.convert.mapping import Mapping
from vtr_ray.convert.processor import build_processor, generation_config
from vtr_ray.convert.tokenizer import build_tokenizer
from vtr_ray.convert.weights import HEADS, check_coverage, outline, weight_files, write_weights
from vtr_ray.errors import InputError


@dataclass(frozen=True)
class Converted:
    """What was written: the directory, its weight files, bytes and number of tensors of the original."""

    path: Path
    weights: list[str]
    size: int
    tensors: int
    language_model: str


def convert(source: Path, out: Path | None = None) -> Converted:
    """Writes weights, configuration, tokenizer and processor in the native layout.

    Everything is checked before the first byte is written, into a temporary directory beside `out` that
    gets its name at the end.

    Args:
        source: directory of an original InternVL2 checkpoint; it is only read.
        out: a directory that does not exist or is empty; default: `SOURCE-native` beside the source.

    Raises InputError on a source that is not such a checkpoint, whole and readable, or an `out` in use.
    """
    if not source.is_dir():
        raise InputError(f"{source} is no directory; download the checkpoint and give its directory.")
    source = source.resolve()
    out = source.with_name(f"{source.name}-native") if out is None else out.absolute()
    _check_out(out)
    layout = Layout.read(source)
    tokenizer = build_tokenizer(source)
    processor = build_processor(layout, tokenizer)
    generation = generation_config(layout, tokenizer, source)
    files = weight_files(source)
    tensors = outline(files)
    tied = bool(layout.llm_config.get("tie_word_embeddings")) and not any(head in tensors for head in HEADS)
    dtype = str(next(iter(tensors.values())).dtype).removeprefix("torch.") if tensors else "float32"
    config = layout.native(processor.image_token_id, tied, dtype)
    mapping = Mapping(config, internlm2=layout.architecture == INTERNLM2)
    size = check_coverage(tensors, mapping, config)
    if max(processor.image_token_ids) >= config.text_config.vocab_size:
        raise InputError(f"The tokenizer in {source} has more tokens than the model has embeddings.")
    with _whole(out) as folder:
        config.save_pretrained(folder)
        generation.save_pretrained(folder)
        processor.save_pretrained(folder)
        names = write_weights(files, mapping, folder, size)
    return Converted(out, names, size, len(tensors), config.text_config.model_type)


def _check_out(out: Path) -> None:
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise InputError(f"{out} exists and is not empty; give another --out or remove it.")


@contextmanager
def _whole(out: Path) -> Iterator[Path]:
    """A new directory that becomes `out` on success, and nothing otherwise."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise InputError(f"Cannot write to {out.parent}: {error.strerror}.") from None
    try:
        yield folder
        _open_to_others(folder)
        try:
            folder.rename(out)
        except OSError as error:
            raise InputError(f"Cannot write to {out}: {error.strerror}.") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _open_to_others(folder: Path) -> None:
    """Temporary directories and safetensors files are their owner's alone; a checkpoint follows the umask."""
    mask = os.umask(0)
    os.umask(mask)
    folder.chmod(0o777 & ~mask)
    for file in folder.iterdir():
        file.chmod(0o666 & ~mask)
