"""The signals that end a broker, or a supervisor of several."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

from kbroker.cli.errors import EXIT_INTERRUPTED

# SIGHUP: the terminal is gone. Windows has none.
SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
SAME_SIGNAL_S = 1.0  # signals so close together are one


class Signals:
    """The first signal stops the process cleanly; another one, later, ends it at once: the next start recovers.

    One that comes within a second belongs to the first: `timeout` and many a supervisor send it to the process and to
    its group, a terminal to everyone in the foreground. What was set to be ignored (`nohup`, `kbroker &` in a script)
    stays so.
    """

    def __init__(self, stop: Callable[[int], None], at_once: Callable[[], None] = lambda: None) -> None:
        """stop: called with the first signal's number; at_once: before the process is ended. Both between any two
        instructions of the main thread: they do what is safe there."""
        self._stop = stop
        self._at_once = at_once
        self._first_at: float | None = None

    def watch(self) -> None:
        """From now on, until the process ends."""
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, _frame: object) -> None:
        if self._first_at is None:
            self._first_at = time.monotonic()
            self._stop(number)
        elif time.monotonic() - self._first_at > SAME_SIGNAL_S:
            self._at_once()
            os._exit(EXIT_INTERRUPTED)


def signal_name(number: int) -> str:
    """ "SIGTERM"; a number for one without a name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
