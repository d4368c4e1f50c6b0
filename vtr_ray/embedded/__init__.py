"""The small trained LLaVA that ships with the project, its variants, and its six benchmark tasks."""

from pathlib import Path

from vtr_ray.errors import InputError

NAME = "embedded"
_HERE = Path(__file__).parent

MODEL = _HERE / "model"
VARIANTS = ("deco", "tokenpacker")
TASKS_FOLDER = _HERE / "tasks"
SEARCH_SAMPLES, TEXT_TOKENS, ANSWER_TOKENS = 510, 10, 2  # of the search split: how many; medians
TASKS = ("easy_vqa", "scenes", "existence", "text", "documents", "charts")


def model_folder(variant: str = "") -> Path:
    """Where a variant's checkpoint ships: the model with another projector; "": the model itself."""
    return _HERE / f"model-{variant}" if variant else MODEL


def names(model: str) -> bool:
    """Whether a model's name on the command line means what ships: `embedded`, `embedded:deco`."""
    return model.partition(":")[0] == NAME


def checkpoint(model: str) -> str:
    """Where a model named on the command line is: the shipped one's directory, else what was given.

    Raises InputError: an embedded variant that does not ship.
    """
    if not names(model):
        return model
    _, colon, variant = model.partition(":")
    folder = model_folder(variant)
    if (colon and variant not in VARIANTS) or not folder.is_dir():
        known = ", ".join([NAME, *(f"{NAME}:{name}" for name in VARIANTS)])
        raise InputError(f"no model {model!r} ships; use one of: {known}")
    return str(folder)


def search_tasks() -> list[str]:
    """lmms-eval names of the tasks' search splits."""
    return [f"vtr_{task}_search" for task in TASKS]


def test_tasks() -> list[str]:
    """lmms-eval names of the tasks' test splits."""
    return [f"vtr_{task}" for task in TASKS]
