"""What the tasks' YAML cannot say: lmms-eval's own POPE and ChartQA rules, and clips as folders of frames."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from lmms_eval.tasks.chartqa.utils import relaxed_correctness
from lmms_eval.tasks.pope.utils import pope_process_results


def existence(doc: dict[str, Any], results: list[str]) -> dict[str, Any]:
    """POPE's accuracy and, over the whole set, F1."""
    figures: dict[str, Any] = pope_process_results({**doc, "question_id": doc["id"]}, results)
    return {name: figures[name] for name in ("pope_accuracy", "pope_f1_score")}


def charts(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """ChartQA's relaxed accuracy: numbers within 5 %."""
    return {"relaxed_overall": float(relaxed_correctness(results[0], doc["answer"]))}


def clip(doc: dict[str, Any]) -> list[str]:
    """The folder of a clip's frames, `0.png` first, in the user's cache; written when it is first asked for.

    A folder appears whole or not at all, whoever else writes it or is killed while writing.
    """
    frames: list[bytes] = doc["frames"]
    digest = hashlib.sha256(b"".join(hashlib.sha256(frame).digest() for frame in frames)).hexdigest()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vtr_ray" / "clips"
    folder = cache / digest[:32]
    if not folder.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(dir=cache, prefix=".part-"))
        try:
            for index, frame in enumerate(frames):
                (part / f"{index}.png").write_bytes(frame)
            part.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was quicker
                raise
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return [str(folder)]
