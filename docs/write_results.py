"""Writes `docs/results.md` from studies: `python docs/write_results.py RUN...`.

RUN: folders of `vtr-ray study`, or `runs:/RUN_ID` of MLflow. Each one's figures, tables and `study.json` go
to `docs/results/`, in place of what was there of that study and model; the page shows all that are there,
with sentences and verdicts as `judge` has them of the recorded tables today. `--page FILE` writes another.
"""

from __future__ import annotations

import json
import shutil
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from vtr_ray.store import RUN
from vtr_ray.studies.judging import judge
from vtr_ray.studies.verdict import WORDS
from vtr_ray.tracking import fetch_run

HERE = Path(__file__).parent
ORDER = (
    "correlation", "attention", "curves", "tradeoff", "budgets", "exchange", "ontop", "training",
    "benchmarks", "efficiency", "video",
)  # fmt: skip
LONG = 24  # rows; longer tables are in the CSV and JSON alone
_FLOPS = {"TFLOPs": "GFLOPs", "TMACs": "GMACs"}
_SMALL = 0.1  # of either
RESULTS = HERE / "results"
WEIGHTS = """\
## On the paper's models

No weights of the paper's models were at hand here, and no GPU. On a cluster that has both, each of these
searches, evaluates and prints its numbers beside the paper's (`split.json`: `vtr-ray samples
llava_v1_5_mix665k.json`):

```
{commands}
```
"""
LLAVA, OURS = "llava-hf/llava-1.5-7b-hf", "--samples split.json --images DIR --actors 8"
COMMANDS = (
    f"vtr-ray reproduce --table 1 --model {LLAVA} {OURS}",
    f"vtr-ray reproduce --table 2 --model DECO_CHECKPOINT --model TOKENPACKER_CHECKPOINT {OURS}",
    f"vtr-ray reproduce --table 3 --model {LLAVA} {OURS}",
    f"vtr-ray reproduce --table 4 --model {LLAVA} --model INTERNVL2_8B {OURS}",
    f"vtr-ray reproduce --table 6 --model llava-hf/llava-1.5-13b-hf {OURS}",
    f"vtr-ray reproduce --table 8 --model {LLAVA} {OURS}",
    f"vtr-ray reproduce --table 9 --model {LLAVA} {OURS}",
    f"vtr-ray reproduce --table 10 --model {LLAVA} --dtype bfloat16 {OURS}",
    f"vtr-ray reproduce --table 11 --model INTERNVL2_8B {OURS}",
)


def main(runs: list[str], page: Path) -> None:
    """Keeps what the runs hold, then writes the page."""
    RESULTS.mkdir(exist_ok=True)
    with TemporaryDirectory() as fetched:
        for run in runs:
            _keep(fetch_run(run, Path(fetched)) if run.startswith(RUN) else Path(run))
    studies = [_judged(json.loads(path.read_text(encoding="utf-8"))) for path in RESULTS.glob("*.json")]
    studies.sort(key=lambda one: (ORDER.index(one["study"]), one["model"]))
    versions = sorted({(one["versions"]["torch"], one["versions"]["transformers"]) for one in studies})
    lines = [
        "# The paper's studies on the embedded models",
        "",
        "Written by `python docs/write_results.py RUN...` from runs of `vtr-ray study` "
        f"({', '.join(f'torch {torch}, transformers {transformers}' for torch, transformers in versions)}, "
        "CPU). The models have three to four million parameters: what holds or fails here says how the "
        "studies behave, not how a 7B model does.",
        "",
        "Each claim is tested as an inequality, which stands in italics above what was measured. It *holds*, "
        "it *does not hold*, or it *cannot be told* from these numbers. Intervals are of 95 %; one cut: the "
        "found schedule's ranking and memory cost, in a single cut before layer 3.",
        "",
        "| study | paper | model | the paper's claim | here |",
        "| --- | --- | --- | --- | --- |",
        *(
            f"| [{one['title']}](#{_anchor(one)}) | {one['paper']} | {one['model']} | {one['claim']} | "
            f"{WORDS[one['holds']]} |"
            for one in studies
        ),
        "",
    ]
    for one in studies:
        lines += _section(one)
    lines.append(WEIGHTS.format(commands="\n".join(COMMANDS)))
    page.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    print(f"wrote {page}")


def _judged(content: dict[str, Any]) -> dict[str, Any]:
    """A recorded study with today's inequality, verdict and sentences; its tables stay as recorded."""
    judged = judge(content).to_dict()
    return content | {name: judged[name] for name in ("claim", "inequality", "holds", "sentences")}


def _keep(folder: Path) -> None:
    content = json.loads((folder / "study.json").read_text(encoding="utf-8"))
    name = f"{_slug(content['model'])}-{content['study']}"
    for old in (path for path in RESULTS.iterdir() if _of(path, name)):
        old.unlink()
    figures = sorted(folder.glob("*.png"))
    for figure in figures:
        for file in (figure, figure.with_suffix(".csv")):
            shutil.copy(file, RESULTS / f"{_slug(content['model'])}-{file.name}")
    (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _of(path: Path, name: str) -> bool:
    return path.stem == name or path.stem.startswith(f"{name}-")


def _section(one: dict[str, Any]) -> list[str]:
    lines = [
        f"## {_heading(one)}",
        "",
        f"*{one['paper']}.* {one['claim']} **{_capital(WORDS[one['holds']])} here.**",
        "",
    ]
    lines += [f"*{one['inequality']}*", "", *one["sentences"], ""]
    name = f"{_slug(one['model'])}-{one['study']}"
    for figure in sorted(path for path in RESULTS.glob("*.png") if _of(path, name)):
        lines += [f"![{one['title']}](results/{figure.name})", ""]
    for table in one["tables"].values():
        if len(table["rows"]) <= LONG:
            columns, rows = _scaled(table)
            lines += ["| " + " | ".join(columns) + " |", "| --- " * len(columns) + "|"]
            lines += ["| " + " | ".join(_cell(value) for value in row) + " |" for row in rows]
            lines += [""]
    return lines


def _heading(one: dict[str, Any]) -> str:
    return f"{one['title']}, {one['model']}"


def _anchor(one: dict[str, Any]) -> str:
    kept = "".join(letter for letter in _heading(one).lower() if letter.isalnum() or letter in " -_")
    return kept.replace(" ", "-")


def _slug(text: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in text.lower())


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _scaled(table: dict[str, Any]) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows; FLOPs and MACs of toys in thousandths of the unit."""
    columns, rows = list(table["columns"]), [list(row) for row in table["rows"]]
    for place, column in enumerate(columns):
        if column in _FLOPS and max((row[place] for row in rows), default=1.0) < _SMALL:
            columns[place] = _FLOPS[column]
            for row in rows:
                row[place] *= 1000
    return columns, rows


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    arguments = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    arguments.add_argument("runs", nargs="*", metavar="RUN")
    arguments.add_argument("--page", type=Path, default=HERE / "results.md")
    given = arguments.parse_args()
    main(given.runs, given.page)
