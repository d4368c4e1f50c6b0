"""A written page, read again."""

from __future__ import annotations

import csv
import io
from html.parser import HTMLParser
from pathlib import Path

from vtr_ray.report.page import Inputs, read_runs, write_page

VOID = {"meta", "link", "br", "input", "img"}


class Reader(HTMLParser):
    """Elements with their attributes; fails where they are not nested."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open:
            self.texts.setdefault(self._open[-1], []).append(data)

    def all(self, tag: str, **attributes: str) -> list[dict[str, str | None]]:
        wanted = attributes.items()
        return [found for name, found in self.elements if name == tag and wanted <= found.items()]


class Made:
    """A page with what it was made of."""

    def __init__(self, runs: list[Path], folder: Path) -> None:
        folder.mkdir()
        self.inputs: Inputs = read_runs(runs)
        self.folder = folder
        self.text = write_page(self.inputs, folder).read_text()
        self.html = Reader(self.text)

    def data(self, name: str) -> list[dict[str, str]]:
        return list(csv.DictReader(io.StringIO((self.folder / "data" / f"{name}.csv").read_text())))
