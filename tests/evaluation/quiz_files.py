"""Files of small lmms-eval tasks: YAML, utils.py and parquet."""

import io
from pathlib import Path

import datasets
import numpy as np
from PIL import Image

UTILS = """
from lmms_eval.tasks.chartqa.utils import relaxed_correctness
from lmms_eval.tasks.pope.utils import pope_process_results


def existence(doc, results):
    return pope_process_results({**doc, "question_id": doc["id"]}, results)


def charts(doc, results):
    return {"relaxed_overall": float(relaxed_correctness(results[0], doc["answer"]))}
"""

COMMON = """
task: {name}
dataset_path: parquet
dataset_kwargs:
  data_files:
    test: {name}.parquet
test_split: test
output_type: generate_until
doc_to_visual: image
doc_to_text: question
doc_to_target: answer
generation_kwargs:
  max_new_tokens: {tokens}
  do_sample: false
"""

EXACT = (
    COMMON
    + """
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
metadata:
  score: exact_match
  exact_answer: true
"""
)

EXISTENCE = (
    COMMON
    + """
process_results: !function utils.existence
metric_list:
  - metric: pope_accuracy
    aggregation: !function lmms_eval.tasks.pope.utils.pope_aggregate_accuracy
    higher_is_better: true
  - metric: pope_f1_score
    aggregation: !function lmms_eval.tasks.pope.utils.pope_aggregate_f1_score
    higher_is_better: true
metadata:
  score: pope_accuracy
  exact_answer: true
"""
)

ANLS = (
    COMMON
    + """
metric_list:
  - metric: anls
    aggregation: mean
    higher_is_better: true
metadata:
  score: anls
  exact_answer: false
"""
)

CHARTS = (
    COMMON
    + """
process_results: !function utils.charts
metric_list:
  - metric: relaxed_overall
    aggregation: mean
    higher_is_better: true
metadata:
  score: relaxed_overall
  exact_answer: false
"""
)


def picture(index, size=(32, 32)):
    file = io.BytesIO()
    pixels = np.random.default_rng(index).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def write_task(
    folder: Path, yaml: str, name: str, rows: list[tuple[str, str]], images=None, tokens=8
) -> None:
    """rows: (question, answer) each. images: encoded; None: a document without one."""
    (folder / f"{name}.yaml").write_text(yaml.format(name=name, tokens=tokens))
    images = images or [picture(index) for index in range(len(rows))]
    features = datasets.Features(
        {"id": datasets.Value("string"), "image": datasets.Image(), "question": datasets.Value("string"),
         "answer": datasets.Value("string")}
    )  # fmt: skip
    records = [
        {
            "id": f"{name}-{i}",
            "image": image and {"bytes": image, "path": None},
            "question": question,
            "answer": answer,
        }
        for i, ((question, answer), image) in enumerate(zip(rows, images, strict=True))
    ]
    datasets.Dataset.from_list(records, features=features).to_parquet(folder / f"{name}.parquet")
