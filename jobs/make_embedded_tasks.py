"""Draws the embedded tasks' search and test splits and writes them as the parquet files that ship."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from vtr_ray.embedded import TASKS, TASKS_FOLDER, VIDEO_TASKS
from vtr_ray.embedded.splits import SPLITS, Question, draw_split, size_of

_TEXT = ("id", "question", "answer")


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _write(questions: list[Question], path: Path, video: bool) -> None:
    columns: dict[str, object] = {"id": [q.id for q in questions]}
    # What `datasets` reads to decode a column as images; frames stay files, as a video's are.
    features: dict[str, object] = {c: {"dtype": "string", "_type": "Value"} for c in _TEXT}
    if video:
        frames = [[_png(frame) for frame in q.frames()] for q in questions]
        columns["frames"] = pa.array(frames, pa.list_(pa.binary()))
        features["frames"] = {"feature": {"dtype": "binary", "_type": "Value"}, "_type": "List"}
    else:
        image = pa.struct({"bytes": pa.binary(), "path": pa.string()})
        pictures = [{"bytes": _png(q.image), "path": f"{q.id}.png"} for q in questions]
        columns["image"] = pa.array(pictures, image)
        features["image"] = {"_type": "Image"}
    columns |= {"question": [q.question for q in questions], "answer": [q.answer for q in questions]}
    table = pa.table(columns)
    ordered = {name: features[name] for name in table.column_names}
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": ordered}})})
    temporary = path.with_suffix(".tmp")
    pq.write_table(table, temporary)
    temporary.rename(path)


if __name__ == "__main__":
    folder = TASKS_FOLDER / "data"
    folder.mkdir(parents=True, exist_ok=True)
    for task in (*TASKS, *VIDEO_TASKS):
        for split in SPLITS:
            path = folder / f"{task}_{split}.parquet"
            _write(draw_split(task, split), path, task in VIDEO_TASKS)
            print(f"{path.name}: {size_of(task, split)} questions, {path.stat().st_size // 1024} KiB")
