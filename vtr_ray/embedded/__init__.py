"""The small trained models that ship with the project, and their benchmark tasks.

The LLaVA, its variants with another projector, and an InternVL; six tasks of images and one of videos.
"""

from collections.abc import Sequence
from pathlib import Path

from vtr_ray.errors import InputError

NAME = "embedded"
_HERE = Path(__file__).parent

MODEL = _HERE / "model"
VARIANTS = ("deco", "tokenpacker")
INTERNVL = "internvl"
TASKS_FOLDER = _HERE / "tasks"
SEARCH_SAMPLES, TEXT_TOKENS, ANSWER_TOKENS = 510, 9, 2  # of the search split: how many; medians
TASKS = ("easy_vqa", "scenes", "existence", "text", "documents", "charts")
VIDEO_TASKS = ("clips",)  # for models that take videos: `embedded:internvl`


def model_folder(variant: str = "") -> Path:
    """Where a checkpoint ships: of a variant, with another projector; of the InternVL; "": of the LLaVA."""
    return _HERE / f"model-{variant}" if variant else MODEL


def names(model: str) -> bool:
    """Whether a model's name on the command line means what ships: `embedded`, `embedded:deco`."""
    return model.partition(":")[0] == NAME


def checkpoint(model: str) -> str:
    """Where a model named on the command line is: the shipped one's directory, else what was given.

    Raises InputError: an embedded model that does not ship.
    """
    if not names(model):
        return model
    shipped = {NAME: MODEL, **{f"{NAME}:{name}": model_folder(name) for name in (*VARIANTS, INTERNVL)}}
    known = {name: folder for name, folder in shipped.items() if (folder / "config.json").is_file()}
    if model not in known:
        raise InputError(f"no model {model!r} ships; use one of: {', '.join(known)}")
    return str(known[model])


def search_tasks(tasks: Sequence[str] = TASKS) -> list[str]:
    """lmms-eval names of the tasks' search splits."""
    return [f"vtr_{task}_search" for task in tasks]


def test_tasks(tasks: Sequence[str] = TASKS) -> list[str]:
    """lmms-eval names of the tasks' test splits."""
    return [f"vtr_{task}" for task in tasks]
