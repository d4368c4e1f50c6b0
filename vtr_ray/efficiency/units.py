"""FLOPs as people read them: a unit for each table, column or figure, four significant digits."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class FlopsUnit:
    """A unit of FLOPs. name: "TFLOPs", "GFLOPs" or "MFLOPs". per_tera: how many of it are one TFLOP."""

    name: str
    per_tera: float

    @property
    def macs(self) -> str:
        """Return the unit of multiply-adds of the same size: "TMACs" beside "TFLOPs"."""
        return self.name.replace("FLOPs", "MACs")

    def of(self, tflops: float) -> float:
        """Return a number of TFLOPs in this unit."""
        return tflops * self.per_tera

    def show(self, tflops: float) -> str:
        """Return a number of TFLOPs in this unit as text, without the unit's name."""
        return significant(self.of(tflops))


TERA = FlopsUnit("TFLOPs", 1.0)
_UNITS = (TERA, FlopsUnit("GFLOPs", 1e3), FlopsUnit("MFLOPs", 1e6))


def flops_unit(tflops: Iterable[float | None]) -> FlopsUnit:
    """Return the largest unit in which the largest of the values, in TFLOPs, is at least 1.

    None values do not count; without any value the unit is TFLOPs.
    """
    largest = max((value for value in tflops if value is not None), default=1.0)
    return next((unit for unit in _UNITS if unit.of(largest) >= 1.0), _UNITS[-1])


def flops_text(tflops: float) -> str:
    """Return a number of TFLOPs with the unit that suits it: "496.9 MFLOPs"."""
    unit = flops_unit([tflops])
    return f"{unit.show(tflops)} {unit.name}"


def significant(value: float, digits: int = 4) -> str:
    """Return a number with so many significant digits, never in scientific notation."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    exponent = int(f"{value:.{digits - 1}e}".partition("e")[2])  # of the rounded number: 9.9999 is 10.00
    return f"{value:.{max(0, digits - 1 - exponent)}f}"
