"""The order of frames by the names of their files."""

from __future__ import annotations

import re
from collections.abc import Iterable
from decimal import Decimal
from pathlib import Path

_MINUS = r"(?:(?:^|(?<=[_=]))-)?"  # elsewhere it is a hyphen
_WHOLE = re.compile(rf"({_MINUS}\d+)")
_DECIMAL = re.compile(rf"({_MINUS}(?:(?<!\d)(?<!\d\.)\d+\.\d+(?!\d)(?!\.\d)|\d+))")  # none in 1.2.3

Key = list[tuple[int, Decimal, str]]


def natural_order(files: Iterable[Path]) -> list[Path]:
    """Return the files as a person would sort them by their names, without regard to suffix and case.

    Numbers count by their value, decimals included: `0.25.png`, `0.5.png`, `10.png`; `frame_2`, `frame_10`;
    `-0.5.png` comes before `0.png`. A point parts two whole numbers where there are several (`1.2.3`), and
    where decimals would make two names equal (`1.1` and `1.10`). So does a hyphen between numbers, as in
    `2024-01-02`.
    """
    ordered = sorted(files, key=lambda file: file.name)
    decimals = {file: _key(file, _DECIMAL) for file in ordered}
    wholes = {file: _key(file, _WHOLE) for file in ordered}
    fewer = len({tuple(key) for key in decimals.values()}) < len({tuple(key) for key in wholes.values()})
    return sorted(ordered, key=(wholes if fewer else decimals).__getitem__)


def _key(file: Path, number: re.Pattern[str]) -> Key:
    # Numbers before letters, as file managers show them; every second part is a number.
    parts = enumerate(number.split(file.stem.casefold()))
    return [(0, Decimal(part), "") if place % 2 else (1, Decimal(), part) for place, part in parts if part]
