"""Files written to a temporary name and renamed, so that nobody ever reads half of one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from vtr_ray.errors import InputError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`, with its ending; on exit the file written there becomes `path`.

    After an error nothing stays behind. Raises InputError where it cannot be written.
    """
    temporary = path.parent / f".{os.getpid()}.{path.name}"
    try:
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from None
    finally:
        with suppress(OSError):  # renamed, or never there
            temporary.unlink()


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """A new empty folder beside `path`; on exit it becomes `path`, which must be empty or not be there.

    After an error nothing stays behind. Raises InputError where it cannot be written, or `path` holds files.
    """
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise InputError(f"{path} is there already; name another folder")
    temporary = path.parent / f".{os.getpid()}.{path.name}"
    try:
        temporary.mkdir(parents=True)
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
