"""Descriptors: what to do when this process has no file descriptor left.

A few are kept in reserve, open on nothing. When a file has to be opened and there is none left, one of the reserve is
given up for it. When a client comes and there is none left, the owner of the log files is asked to close those used
least; if that is no help, one of the reserve serves to accept the client and hang up on it, which is better than to
leave it waiting in the backlog. The reserve is filled up again from what the owner of the log files closes.

A shortage is told when it begins and when it is over.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

import trio

T = TypeVar("T")

RESERVE = 16
OVER_S = 60.0  # a shortage is over when there was none for so long
EXHAUSTED = (errno.EMFILE, errno.ENFILE)

log = logging.getLogger("kbroker.descriptors")


class Descriptors:
    """The reserve of one process. Any thread may call `give` and `retry`; the rest belongs to the event loop."""

    def __init__(self, reserve: int = RESERVE) -> None:
        self._reserve = reserve
        self._spare: list[int] = []
        self._release: Callable[[int], int] = lambda count: 0
        self._token: trio.lowlevel.TrioToken | None = None  # of the run that fills the reserve up again
        self._thread = 0  # the event loop's
        self._last_short: float | None = None  # when there was none left, in a shortage that is not over

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        while self._spare:
            close(self._spare.pop())

    def start(self) -> None:
        """Set the reserve aside, from within a trio run; idempotent."""
        self._token = trio.lowlevel.current_trio_token()
        self._thread = threading.get_ident()
        self.fill()

    def when_short(self, release: Callable[[int], int]) -> None:
        """Whom to ask for descriptors: release(count) closes so many files that are used least, and says how many."""
        self._release = release

    def retry(self, function: Callable[[], T]) -> T:
        """What function returns. If it fails for lack of a descriptor, it is called again with one of the reserve."""
        try:
            return function()
        except OSError as error:
            if error.errno not in EXHAUSTED or not self.give():
                raise
        return function()

    def give(self) -> bool:
        """Give up one of the reserve. False when there is none left either."""
        if not self._spare and self._thread == threading.get_ident():
            self.fill()  # else that is for the loop to do, soon
        try:
            os.close(self._spare.pop())
        except IndexError:
            return False
        if self._token is not None:
            with suppress(trio.RunFinishedError):
                self._token.run_sync_soon(self.fill, idempotent=True)
        return True

    def make_room(self) -> bool:
        """Have files closed, as somebody else needs descriptors. Whether that helped."""
        self._note_shortage()
        return self._release(self._reserve) > 0

    def fill(self) -> None:
        """Fill the reserve up, with descriptors that others do not need as much if need be."""
        asked = False
        while len(self._spare) < self._reserve:
            try:
                self._spare.append(os.open(os.devnull, os.O_RDONLY))
            except OSError:
                if asked or not self._release(self._reserve - len(self._spare)):
                    self._note_shortage()
                    return
                asked = True
                self._note_shortage()

    def look(self) -> None:
        """Called now and then, while nothing is missing: tell when a shortage is over."""
        if self._last_short is not None and trio.current_time() >= self._last_short + OVER_S:
            self._last_short = None
            log.info("there are enough file descriptors again")

    def _note_shortage(self) -> None:
        if self._last_short is None:
            log.warning(
                "no file descriptor is left (ulimit -n): the log files used least are closed, "
                "and clients are refused where that is not enough"
            )
        self._last_short = trio.current_time()
