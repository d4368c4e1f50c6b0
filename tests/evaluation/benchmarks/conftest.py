"""The embedded model, and tasks that look like MME, HallusionBench and MathVista to their own functions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pytest
from quiz_files import EXACT, picture, write_task

from vtr_ray import embedded
from vtr_ray.models import load_model

HEAD = """
task: {name}
dataset_path: parquet
dataset_kwargs:
  data_files:
    test: {name}.parquet
test_split: test
output_type: generate_until
doc_to_visual: {visual}
doc_to_target: answer
generation_kwargs:
  max_new_tokens: 8
  do_sample: false
metadata:
  - version: 0.0
"""

MME = (
    HEAD
    + """
doc_to_text: question
process_results: !function lmms_eval.tasks.mme.utils.mme_process_results
metric_list:
  - metric: mme_perception_score
    aggregation: !function lmms_eval.tasks.mme.utils.mme_aggregate_results
    higher_is_better: true
  - metric: mme_cognition_score
    aggregation: !function lmms_eval.tasks.mme.utils.mme_aggregate_results
    higher_is_better: true
"""
)

HALLUSION = (
    HEAD
    + """
doc_to_text: question
process_results: !function lmms_eval.tasks.hallusion_bench.evaluate_hb.hb_process_results
metric_list:
  - metric: aAcc
    aggregation: !function lmms_eval.tasks.hallusion_bench.evaluate_hb.hb_aggregation_result_aAcc
    higher_is_better: true
  - metric: qAcc
    aggregation: !function lmms_eval.tasks.hallusion_bench.evaluate_hb.hb_aggregation_result_qAcc
    higher_is_better: true
"""
)

MATHVISTA = (
    HEAD
    + """
doc_to_text: !function lmms_eval.tasks.mathvista.utils.mathvista_doc_to_text
process_results: !function lmms_eval.tasks.mathvista.utils.mathvista_process_results
metric_list:
  - metric: llm_as_judge_eval
    aggregation: !function lmms_eval.tasks.mathvista.utils.mathvista_aggregate_results
    higher_is_better: true
lmms_eval_specific_kwargs:
  default:
    shot_type: "format-prompt"
    shot: 0
    use_caption: false
    use_ocr: false
"""
)

GROUP = """
group: quiz
task:
  - colours
  - shapes
aggregate_metric_list:
  - metric: exact_match
    aggregation: mean
    weight_by_size: true
"""


@pytest.fixture(scope="session")
def network() -> tuple[Any, Any]:
    """Model and processor."""
    return load_model(embedded.checkpoint("embedded"), device="cpu")


def _write(folder: Path, yaml: str, name: str, rows: list[dict[str, Any]], visual: str = "image") -> None:
    records = [{**row, visual: {"bytes": picture(place), "path": None}} for place, row in enumerate(rows)]
    data = datasets.Dataset.from_list(records).cast_column(visual, datasets.Image())
    data.to_parquet(str(folder / f"{name}.parquet"))
    (folder / f"{name}.yaml").write_text(yaml.format(name=name, visual=visual))


@pytest.fixture(scope="session")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tasks of these names under a folder of one's own: what `--include-path` names."""
    folder = tmp_path_factory.mktemp("own")
    _write(folder, MME, "mme", [
        {"question": f"Is it {place}?", "answer": "Yes" if place % 2 else "No",
         "question_id": f"q{place // 2}", "category": ("existence", "OCR", "code_reasoning")[place // 2 % 3]}
        for place in range(24)
    ])  # fmt: skip
    _write(folder, HALLUSION, "hallusion_bench_image", [
        {"question": f"Is it {place}?", "answer": "", "gt_answer": str(place % 2), "category": "VD",
         "subcategory": "illusion", "set_id": str(place // 4), "figure_id": "1",
         "question_id": str(place % 4)}
        for place in range(16)
    ])  # fmt: skip
    _write(folder, MATHVISTA, "mathvista_testmini_format", [
        {"pid": str(place), "question": f"How many {place}?", "query": "How many?", "answer": "two",
         "question_type": "multi_choice" if place % 2 else "free_form", "unit": "",
         "answer_type": "text" if place % 2 else "integer",
         "choices": ["one", "two"] if place % 2 else None, "precision": 0.0, "caption": "", "ocr": "",
         "metadata": dict.fromkeys(
             ("split", "language", "source", "category", "task", "context", "grade"), "x"
         ) | {"skills": ["x"]}}
        for place in range(10)
    ], visual="decoded_image")  # fmt: skip
    colours = ["red", "green", "blue", "yellow"]
    write_task(folder, EXACT, "colours", [(f"what color is shape {i} ?", colours[i % 4]) for i in range(12)])
    write_task(folder, EXACT, "shapes", [(f"what is there at {i} ?", "circle") for i in range(5)])
    (folder / "quiz.yaml").write_text(GROUP)
    (folder / "pair.yaml").write_text(GROUP.partition("aggregate")[0].replace("quiz", "pair"))
    return folder
