"""Writes `docs/results.md` from studies: `python docs/write_results.py RUN...`.

RUN: folders of `vtr-ray study`, or `runs:/RUN_ID` of MLflow. Each study's figures go to `docs/results/`, its
tables into the text; studies of one kind stand together, model by model.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from vtr_ray.store import RUN
from vtr_ray.tracking import fetch_run

HERE = Path(__file__).parent
ORDER = ("correlation", "attention", "curves", "tradeoff", "budgets", "exchange", "ontop")
LONG = 24  # rows; longer tables are in the CSV alone


def main(runs: list[str]) -> None:
    """Writes the page and its figures."""
    with TemporaryDirectory() as fetched:
        folders = [fetch_run(run, Path(fetched)) if run.startswith(RUN) else Path(run) for run in runs]
        studies = [
            (json.loads((folder / "study.json").read_text(encoding="utf-8")), folder) for folder in folders
        ]
        studies.sort(key=lambda pair: (ORDER.index(pair[0]["study"]), pair[0]["model"]))
        shutil.rmtree(HERE / "results", ignore_errors=True)
        (HERE / "results").mkdir()
        versions = studies[0][0]["versions"]
        lines = [
            "# The paper's studies on the embedded models",
            "",
            "Written by `python docs/write_results.py RUN...` from runs of `vtr-ray study` "
            f"(torch {versions['torch']}, transformers {versions['transformers']}, CPU). The models have "
            "three million parameters: what holds or fails here says how the studies behave, not how a 7B "
            "model does.",
            "",
            "| study | paper | model | the paper's claim | here |",
            "| --- | --- | --- | --- | --- |",
            *(
                f"| [{one['title']}](#{_anchor(one)}) | {one['paper']} | {one['model']} | {one['claim']} | "
                f"{_verdict(one['holds'])} |"
                for one, _ in studies
            ),
            "",
        ]
        for one, folder in studies:
            lines += _section(one, folder)
    (HERE / "results.md").write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    print(f"wrote {HERE / 'results.md'}")


def _section(one: dict[str, Any], folder: Path) -> list[str]:
    lines = [f"## {_heading(one)}", "", f"*{one['paper']}.* {one['claim']} **{_verdict(one['holds'])}.**", ""]
    lines += [*one["sentences"], ""]
    for figure in sorted(folder.glob("*.png")):
        name = f"{_slug(one['model'])}-{figure.name}"
        shutil.copy(figure, HERE / "results" / name)
        shutil.copy(figure.with_suffix(".csv"), (HERE / "results" / name).with_suffix(".csv"))
        lines += [f"![{one['title']}](results/{name})", ""]
    for table in one["tables"].values():
        if len(table["rows"]) <= LONG:
            lines += ["| " + " | ".join(table["columns"]) + " |", "| --- " * len(table["columns"]) + "|"]
            lines += ["| " + " | ".join(_cell(value) for value in row) + " |" for row in table["rows"]]
            lines += [""]
    return lines


def _heading(one: dict[str, Any]) -> str:
    return f"{one['title']}, {one['model']}"


def _anchor(one: dict[str, Any]) -> str:
    kept = "".join(letter for letter in _heading(one).lower() if letter.isalnum() or letter in " -_")
    return kept.replace(" ", "-")


def _slug(text: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in text.lower())


def _verdict(holds: bool | None) -> str:
    return "Not decided here" if holds is None else "Holds here" if holds else "Does not hold here"


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main(sys.argv[1:])
