"""Draws the embedded tasks' search and test splits and writes them as the parquet files that ship."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from vtr_ray.embedded import TASKS, TASKS_FOLDER
from vtr_ray.embedded.splits import SPLITS, Question, draw_split, size_of

_TEXT = ("id", "question", "answer")


def _png(question: Question) -> bytes:
    buffer = io.BytesIO()
    question.image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _write(questions: list[Question], path: Path) -> None:
    image = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    table = pa.table(
        {
            "id": [q.id for q in questions],
            "image": pa.array([{"bytes": _png(q), "path": f"{q.id}.png"} for q in questions], image),
            "question": [q.question for q in questions],
            "answer": [q.answer for q in questions],
        }
    )
    # What `datasets` reads to decode the column as images.
    features = {"image": {"_type": "Image"}, **{c: {"dtype": "string", "_type": "Value"} for c in _TEXT}}
    ordered = {name: features[name] for name in table.column_names}
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": ordered}})})
    temporary = path.with_suffix(".tmp")
    pq.write_table(table, temporary)
    temporary.rename(path)


if __name__ == "__main__":
    folder = TASKS_FOLDER / "data"
    folder.mkdir(parents=True, exist_ok=True)
    for task in TASKS:
        for split in SPLITS:
            path = folder / f"{task}_{split}.parquet"
            _write(draw_split(task, split), path)
            print(f"{path.name}: {size_of(task, split)} questions, {path.stat().st_size // 1024} KiB")
