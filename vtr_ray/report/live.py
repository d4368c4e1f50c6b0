"""The live display of a search: one line in a terminal, a line per trial elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from vtr_ray.efficiency.units import TERA, FlopsUnit
from vtr_ray.report.comparison import Row, row_line
from vtr_ray.tuning.directory import Entry
from vtr_ray.tuning.progress import Progress

_RECENT = 6


class Display:
    """Shows each trial: what was tried, E, objective, best, costs, elapsed and remaining time.

    A context manager. columns: what of a trial tells what was tried: "layer", "rate" or fields of the
    ledger; of the last one the best trial's stands beside it. flops: the field of the ledger whose TFLOPs
    are shown, in the unit. score: the heading of E.
    """

    def __init__(
        self,
        console: Console,
        columns: Sequence[str] = ("layer", "rate"),
        flops: str = "tflops",
        unit: FlopsUnit = TERA,
        score: str = "E",
    ) -> None:
        self._console, self._flops, self._unit = console, flops, unit
        self._layer = [name for name in columns if name == "layer"]  # stands first
        self._columns = [name for name in columns if name != "layer"]
        self._widths = {
            **dict.fromkeys([*self._layer, "trial"], 5),
            **{name: max(7, len(name)) for name in [*self._columns, score]},
            "objective": 10,
            f"best {columns[-1]}": 11,
            "memory cost": 11,
            unit.name: 9,
            "elapsed": 8,
            "remaining": 10,
        }
        self._live = Live(console=console, refresh_per_second=8) if console.is_terminal else None
        self._recent: list[Progress] = []

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        else:
            self._console.print(self._line(self._widths), highlight=False, soft_wrap=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def __call__(self, progress: Progress) -> None:
        """Takes one finished trial."""
        if self._live is None:
            self._console.print(self._line(self._cells(progress)), highlight=False, soft_wrap=True)
            return
        self._recent = [*self._recent, progress][-_RECENT:]
        table = Table(box=None, padding=(0, 2, 0, 0))
        for name in self._widths:
            table.add_column(name, justify="right")
        for one in self._recent:
            table.add_row(*self._cells(one))
        bar = ProgressBar(total=progress.total, completed=progress.done, width=40)
        line = Text(f" {progress.done} of at most {progress.total} trials")
        row = Table.grid()
        row.add_row(bar, line)
        self._live.update(Group(table, row))

    def _line(self, cells: Iterable[str]) -> str:
        return " ".join(cell.rjust(width) for cell, width in zip(cells, self._widths.values(), strict=True))

    def _cells(self, progress: Progress) -> list[str]:
        entry, best = progress.entry, progress.best
        return [
            *(_cell(_value(entry, name)) for name in self._layer),
            str(entry.trial),
            *(_cell(_value(entry, name)) for name in self._columns),
            _score(entry),
            _cell(entry.objective, ".4f"),
            _cell(_value(best, self._columns[-1])) if best is not None else "-",
            _cell(entry.fields.get("memory_cost", entry.schedule.memory_cost)),
            "-" if (tflops := entry.fields.get(self._flops)) is None else self._unit.show(tflops),
            _clock(progress.elapsed),
            _clock(progress.remaining) if progress.remaining is not None else "?",
        ]


@contextmanager
def comparing(console: Console, labels: str = "given") -> Iterator[Callable[[Row], None]]:
    """Gives what shows the finished rows of a comparison: a status in a terminal, a line each elsewhere.

    labels: of the samples, see `SampleSet.labels`.
    """
    if not console.is_terminal:
        yield lambda row: console.print(row_line(row, labels), highlight=False, soft_wrap=True, markup=False)
        return
    with console.status("comparing schedules") as status:
        yield lambda row: status.update(row_line(row, labels))


def _value(entry: Entry, name: str) -> float | None:
    return getattr(entry, name) if name in ("layer", "rate") else entry.fields.get(name)


def _cell(value: float | None, form: str = ".3f") -> str:
    return "-" if value is None else format(value, "d" if isinstance(value, int) else form)


def _score(entry: Entry) -> str:
    if entry.stopped and entry.bound is not None:
        return f"<{entry.bound:.3f}"
    return _cell(entry.score, ".4f") if entry.error is None else "failed"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
