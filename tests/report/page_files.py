"""Run directories made up for tests: a search on a known function, an evaluation with samples."""

from __future__ import annotations

import base64
import io
import json
import time
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from vtr_ray import strategies
from vtr_ray.schedule import Schedule
from vtr_ray.search import GSearch
from vtr_ray.search.synthetic import draw
from vtr_ray.tuning.directory import Entry, RunDirectory, Settings

LAYERS, TOKENS, GRID = 12, 144, (12, 12)
TASKS = {"scenes": "GQA-like", "text": "TextVQA-like", "charts": "ChartQA-like"}
# Per strategy: the share of right answers by task.
RIGHT = {
    "no reduction": (0.955, 0.975, 1.0),
    "G-Search": (0.945, 0.965, 0.985),
    "FastV": (0.94, 0.83, 0.97),
    "FastV, random tokens": (0.85, 0.35, 0.8),
    "P-Sigmoid": (0.95, 0.96, 0.97),
    "P-Sigmoid, one cut": (0.95, 0.97, 0.99),  # more than all others of its cost: yet on no front
    "VTW": (0.7, 0.2, 0.9),
}


def write_search(path: Path, seed: int = 1003, trials: int | None = None, **settings: Any) -> Schedule:
    """A G-Search's directory, or what one leaves that was cut after some trials; gives the best schedule."""
    search, world = GSearch(LAYERS, TOKENS, **settings), draw("sampled", seed)
    known = Settings("gsearch", {"model": "embedded", "weight": 0.01}, 0, "toy")
    with RunDirectory(path, known, search.state_dict()) as run:
        while not search.finished and (trials is None or len(run.entries) < trials):
            trial = search.ask()
            assert trial is not None
            score, scores = world(trial.schedule.rates), tuple(world.scores(trial.schedule.rates))
            bound = min(0.0, score - world([1.0] * LAYERS)) if search.needs_bound else None
            search.tell(trial, score, bound, scores)
            said = search.describe(trial)
            entry = Entry(
                *(trial.id, trial.layer, trial.rate, trial.schedule, score, 0.1, said["objective"]),
                time=time.time(),
                bound=said.get("bound"),
                scores=scores,
            )
            run.append(entry)
        if search.finished:
            run.save_schedule(search.best)
    return search.best


def evaluation(found: Schedule, search: str | None = None) -> dict[str, Any]:
    """What `evaluation.json` holds."""
    cost = found.memory_cost
    fastv = strategies.at_memory_cost("fastv", LAYERS, cost)
    curve = strategies.at_memory_cost("p_sigmoid", LAYERS, cost, k=0.8)
    schedules = {
        "no reduction": strategies.none(LAYERS),
        "G-Search": found,
        "FastV": fastv,
        "FastV, random tokens": strategies.random(fastv, 0),
        "P-Sigmoid": curve,
        "P-Sigmoid, one cut": strategies.one_cut(curve),
        "VTW": strategies.at_memory_cost("vtw", LAYERS, cost),
    }

    def measured(value: float, half: float = 0.02) -> dict[str, Any]:
        low, high = max(0.0, value - half), min(1.0, value + half)
        return {"value": value, "low": low, "high": high, "figures": {"exact_match": value}}

    rows, pairs = {}, []
    for name, schedule in schedules.items():
        right = RIGHT[name]
        average = measured(sum(right) / len(right), 0.012)
        rows[name] = {
            "schedule": schedule.to_dict(),
            "search": search if name == "G-Search" else None,
            "memory_cost": schedule.memory_cost,
            "tflops": 0.0002 + 0.0009 * schedule.memory_cost,
            "prefill_ms": 20.0 + 4 * schedule.memory_cost,
            "decode_ms": 3.5,
            "average": {key: average[key] for key in ("value", "low", "high")},
            "benchmarks": {task: measured(value) for task, value in zip(TASKS, right, strict=True)},
        }
        if name != "no reduction":
            for number, benchmark in enumerate((*TASKS, "average")):
                is_average = benchmark == "average"
                whole = RIGHT["no reduction"]
                less = (
                    average["value"] - sum(whole) / len(whole)
                    if is_average
                    else right[number] - whole[number]
                )
                pairs.append(
                    {
                        "first": name,
                        "second": "no reduction",
                        "benchmark": benchmark,
                        "difference": less,
                        "low": less - 0.015,
                        "high": less + 0.015,
                        "p": 0.001 if abs(less) > 0.015 else 0.4,
                        "test": "bootstrap" if is_average else "mcnemar",
                        "significant": abs(less) > 0.015,
                    }
                )
    return {
        "kind": "evaluation",
        "version": 1,
        "id": "0f3c",
        "created": 1795600000.0,
        "model": "embedded",
        "suite": "embedded",
        "layers": LAYERS,
        "vision_tokens": TOKENS,
        "benchmarks": {
            task: {"title": task, "group": group, "metric": "exact match", "documents": 200, "note": ""}
            for task, group in TASKS.items()
        },
        "missing": {"easy_vqa": "its data set is not here"},
        "strategies": rows,
        "pairs": pairs,
    }


def samples(content: dict[str, Any], count: int = 3, grid: tuple[int, int] | None = GRID) -> dict[str, Any]:
    """What `samples.json` holds: tokens near the middle of the picture live longest."""
    tokens = TOKENS if grid else 40
    middle = sorted(range(tokens), key=lambda t: ((t // 12 - 5) ** 2 + (t % 12 - 7) ** 2, t))
    found = []
    for number in range(count):
        answers = {}
        for name, row in content["strategies"].items():
            counts = Schedule.from_dict(row["schedule"]).counts(tokens)
            kept = [sorted(middle[:n]) for n in counts]
            wrong = name == "VTW" or (name == "FastV" and number == 1)
            answers[name] = {"answer": "red" if wrong else "blue", "score": float(not wrong), "kept": kept}
        found.append(
            {
                "task": list(TASKS)[number % 3],
                "document": 10 * number,
                "question": f"What colour is the square of picture {number}?",
                "target": "blue",
                "image": picture(number),
                "tokens": tokens,
                "grid": grid,
                "strategies": answers,
            }
        )
    return {"samples": found}


def picture(number: int = 0, size: tuple[int, int] = (96, 96)) -> str:
    image = Image.new("RGB", size, (244, 240, 230))
    pen = ImageDraw.Draw(image)
    pen.rectangle((48, 32, 72, 56), fill=(30, 60, 220))
    pen.ellipse((8 + 4 * number, 60, 30 + 4 * number, 82), fill=(220, 30, 30))
    file = io.BytesIO()
    image.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def write_evaluation(path: Path, content: dict[str, Any], chosen: dict[str, Any] | None = None) -> Path:
    path.mkdir(parents=True)
    (path / "evaluation.json").write_text(json.dumps(content))
    if chosen is not None:
        (path / "samples.json").write_text(json.dumps(chosen))
    return path


def write_all(folder: Path) -> tuple[Path, Path]:
    """A search and the evaluation that names it."""
    search = folder / "gsearch-20261125-101500"
    content = evaluation(write_search(search), str(search))
    return search, write_evaluation(folder / "evaluate-20261125-110000", content, samples(content))
