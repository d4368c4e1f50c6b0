"""The small trained LLaVA that ships with the project, and its six benchmark tasks."""

from pathlib import Path

_HERE = Path(__file__).parent

MODEL = _HERE / "model"
TASKS_FOLDER = _HERE / "tasks"
TASKS = ("easy_vqa", "scenes", "existence", "text", "documents", "charts")


def search_tasks() -> list[str]:
    """lmms-eval names of the tasks' search splits."""
    return [f"vtr_{task}_search" for task in TASKS]


def test_tasks() -> list[str]:
    """lmms-eval names of the tasks' test splits."""
    return [f"vtr_{task}" for task in TASKS]
