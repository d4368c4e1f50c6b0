"""`vtr-ray convert`: an original-layout InternVL2 checkpoint becomes one that everything else here loads."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from vtr_ray.convert import Converted
from vtr_ray.convert import convert as convert_checkpoint


def convert(source: Path, out: Path | None, console: Console) -> Converted:
    """Converts, and prints what was written and what to run next."""
    with console.status(f"converting {source}"):
        done = convert_checkpoint(source, out)
    files = done.weights[0] if len(done.weights) == 1 else f"{len(done.weights)} weight files"
    console.print(
        f"Wrote {done.path}: {done.tensors} tensors as {files} ({done.size / 1e9:.2f} GB, language model "
        f"{done.language_model}), configuration, tokenizer and processor.",
        soft_wrap=True,
        highlight=False,
    )
    console.print(
        f"Next: vtr-ray gsearch --model {done.path} --samples FILE.json", soft_wrap=True, highlight=False
    )
    return done
