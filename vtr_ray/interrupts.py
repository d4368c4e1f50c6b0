"""SIGINT and SIGTERM as an exception that nobody on the way takes for his own."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(BaseException):
    """SIGINT or SIGTERM came. What was finished is on disk.

    No KeyboardInterrupt: typer ends the program on those by itself, with SIGINT's status and no word.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.signum = signum


@contextmanager
def interruptible() -> Iterator[None]:
    """SIGINT and SIGTERM raise KeyboardInterrupt in the main thread, which leaves the block as `Interrupted`.

    So it does where somebody inside took it away. Afterwards the old handlers are back.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    received: list[int] = []

    def handler(signum: int, frame: FrameType | None) -> None:
        received.append(signum)
        raise KeyboardInterrupt  # the only exception that a wait inside Ray lets through

    before = {signum: signal.signal(signum, handler) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
        if received:
            raise Interrupted(received[0])
    except KeyboardInterrupt:
        if not received:
            raise
        raise Interrupted(received[0]) from None
    finally:
        for signum, old in before.items():
            signal.signal(signum, old if old is not None else signal.SIG_DFL)
