"""Reads curves.json, which record_curves.py writes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

FILE = Path(__file__).with_name("curves.json")


def recorded() -> tuple[int, dict[int, np.ndarray]]:
    """Vision tokens, and by searched layer each sample's score at 0, 1, ... tokens: [tokens + 1, samples]."""
    content = json.loads(FILE.read_text(encoding="utf-8"))
    scores = {
        line["layer"]: np.array(
            [[content["scores"][letter] for letter in point] for point in line["outcomes"]]
        )
        for line in content["layers"]
    }
    return content["vision_tokens"], scores
