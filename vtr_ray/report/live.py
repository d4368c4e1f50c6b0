"""The live display of a search: one line in a terminal, a line per trial elsewhere."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from vtr_ray.tuning.progress import Progress

_RECENT = 6


class Display:
    """Shows layer, trial, rate, E, objective, best, elapsed and remaining time; a context manager."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, refresh_per_second=8) if console.is_terminal else None
        self._recent: list[Progress] = []

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        else:
            self._console.print(
                "layer trial    rate       E  objective   best rate memory cost    TFLOPs  elapsed  remaining"
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def __call__(self, progress: Progress) -> None:
        """Takes one finished trial."""
        if self._live is None:
            self._console.print(" ".join(_cells(progress)), highlight=False, soft_wrap=True)
            return
        self._recent = [*self._recent, progress][-_RECENT:]
        table = Table(box=None, padding=(0, 2, 0, 0))
        for name in (
            "layer",
            "trial",
            "rate",
            "E",
            "objective",
            "best",
            "memory cost",
            "TFLOPs",
            "elapsed",
            "left",
        ):
            table.add_column(name, justify="right")
        for one in self._recent:
            table.add_row(*(cell.strip() for cell in _cells(one)))
        bar = ProgressBar(total=progress.total, completed=progress.done, width=40)
        line = Text(f" {progress.done} of at most {progress.total} trials")
        row = Table.grid()
        row.add_row(bar, line)
        self._live.update(Group(table, row))


def _cells(progress: Progress) -> list[str]:
    entry, best = progress.entry, progress.best
    return [
        f"{entry.layer if entry.layer is not None else '-':>5}",
        f"{entry.trial:>5}",
        f"{entry.rate:7.3f}" if entry.rate is not None else "      -",
        f"{entry.score:7.4f}" if entry.score is not None else " failed",
        f"{entry.objective:10.4f}" if entry.objective is not None else "         -",
        f"{best.rate:11.3f}" if best is not None and best.rate is not None else "          -",
        f"{entry.schedule.memory_cost:11.3f}",
        f"{entry.fields['tflops']:9.4g}" if "tflops" in entry.fields else "        -",
        f"{_clock(progress.elapsed):>8}",
        f"{_clock(progress.remaining) if progress.remaining is not None else '?':>10}",
    ]


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
