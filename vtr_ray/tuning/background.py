"""A thread that keeps something outside in step with a run directory, and never holds the search up."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Mirroring:
    """Calls `work(final)` in a background thread after each `notify`, the last time with `final=True`.

    start: called once, at the beginning. Neither may raise to any effect: a failure is kept as `problem`, and
    `work` is called again after `pause` seconds. Notifications meanwhile become one.
    """

    def __init__(
        self,
        start: Callable[[], object],
        work: Callable[[bool], object],
        name: str,
        pause: float = 15.0,
    ) -> None:
        self.problem: str | None = None
        self._pause, self._patience = pause, 0.0
        self._start, self._work = start, work
        self._changed, self._closing = threading.Event(), threading.Event()
        # A daemon: a server that never answers must not keep the program from ending.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def notify(self) -> None:
        """The run directory has changed. Returns at once."""
        self._changed.set()

    def close(self, timeout: float) -> str | None:
        """Do what is left, for at most `timeout` seconds; what went wrong, None: nothing.

        What fails is tried again for a third of that time: a server may just be starting.
        """
        self._patience = time.monotonic() + timeout / 3
        self._closing.set()
        self._changed.set()
        self._thread.join(timeout)
        if self._thread.is_alive():
            self.problem = self.problem or f"no answer within {timeout:.0f} s"
        return self.problem

    def _run(self) -> None:
        self._try(self._start)
        while True:
            self._changed.wait()
            self._changed.clear()
            final = self._closing.is_set()
            self._try(self._work, final)
            if final and (self.problem is None or time.monotonic() > self._patience):
                return
            if self.problem is not None:
                if final:
                    time.sleep(min(1.0, self._pause))
                else:
                    self._closing.wait(self._pause)
                self._changed.set()  # what is missing does not wait for the next trial

    def _try(self, call: Callable[..., object], *arguments: object) -> None:
        try:
            call(*arguments)
            self.problem = None
        except Exception as error:  # whatever it is, it is not the search's concern
            self.problem = first_line(error)


def first_line(error: BaseException) -> str:
    """Kind and first line of an error's message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200] if lines else ''}"
