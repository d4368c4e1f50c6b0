"""Answers on disk, so that none is ever asked for twice: one SQLite file, safe for several processes."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from vtr_ray.errors import InputError

NAME = "responses.sqlite"
_WAIT = 60.0  # seconds for another process to finish its writing


class Responses:
    """Answers by the digest of all that decides them; a context manager.

    Every `put` is on disk when it returns. Damaged files are refused, not mended: they are a cache, and
    deleting one costs time only.

    Raises:
        InputError: a file that cannot be opened, or is no such cache.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._store = sqlite3.connect(path, timeout=_WAIT)
            with self._store:
                self._store.execute(
                    "CREATE TABLE IF NOT EXISTS responses (key TEXT PRIMARY KEY, answer TEXT)"
                )
        except (sqlite3.Error, OSError) as error:
            raise InputError(
                f"the answers in {path} cannot be used ({error}); delete it or name another"
            ) from None

    def get(self, keys: Mapping[str, str]) -> dict[str, str]:
        """Those of the answers that are known. keys: digests by any name; gives answers by these names."""
        found: dict[str, str] = {}
        for name, key in keys.items():
            row = self._store.execute("SELECT answer FROM responses WHERE key = ?", (key,)).fetchone()
            if row is not None:
                found[name] = row[0]
        return found

    def put(self, answers: Iterable[tuple[str, str]]) -> None:
        """Keep answers by their digests; one that is known stays."""
        with self._store:
            self._store.executemany("INSERT OR IGNORE INTO responses VALUES (?, ?)", answers)

    def close(self) -> None:
        """Safe to call twice."""
        self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def digest(**parts: Any) -> str:
    """Of JSON values by name."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
