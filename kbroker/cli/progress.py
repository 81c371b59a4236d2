"""How far a long command is: one line on stderr that is written over, for people at a terminal only."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType

from kbroker.cli.times import span

REDRAW_S = 0.1
ERASE = "\r\x1b[K"


class Progress:
    """A line such as `43%  1.2 of 2.8 GB  48.1 MB/s  12 s left`, gone when the block ends.

    total: how much there is to do, None where nobody knows. text: a number of it in words, such as `bytes_text`.
    """

    def __init__(self, total: int | None, text: Callable[[int], str | None]) -> None:
        self._total, self._text = total, text
        self._shown = sys.stderr.isatty()
        self._began = time.monotonic()
        self._next = self._began + REDRAW_S  # what is done in a moment needs no line

    def __enter__(self) -> Progress:
        return self

    def at(self, done: int, more: str = "") -> None:
        """So much is done; more: what else there is to say, behind it. Cheap: called for every piece of work."""
        if not self._shown or (now := time.monotonic()) < self._next:
            return
        self._next = now + REDRAW_S
        sys.stderr.write(ERASE + self.line(done, now - self._began) + (f"  {more}" if more else ""))
        sys.stderr.flush()

    def clear(self) -> None:
        """Make room for somebody else's line."""
        if self._shown and self._next > self._began + REDRAW_S:
            sys.stderr.write(ERASE)
            sys.stderr.flush()

    def line(self, done: int, seconds: float) -> str:
        """What is written when so much is done after so many seconds."""
        rate = done / seconds if seconds > 0 else 0
        said, speed = self._text(done) or "", f"{self._text(int(rate))}/s"
        if not self._total:
            return f"{said}  {speed}"
        number, _, unit = said.rpartition(" ")
        total = self._text(self._total) or ""
        said = number if total.endswith(f" {unit}") else said  # "3 of 8 records"
        left_s = (self._total - done) / rate if rate else 0
        parts = [f"{min(100, 100 * done // self._total):3d}%", f"{said} of {total}", speed]
        return "  ".join([*parts, f"{span(int(1000 * left_s))} left"] if left_s >= 1 else parts)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.clear()
