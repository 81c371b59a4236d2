"""A number that only grows, and the tasks waiting for it to grow. This is what kbroker has in place of a purgatory.

A produce that waits for replicas, a fetch that waits for data: each is its handler's own task, waiting here under a
cancel scope. A bell (a `trio.Event`, say) may hang on many watermarks, and a watermark have many bells. Closing a
watermark wakes everyone with the reason, so the end of a leadership answers its waiters.
"""

from __future__ import annotations

from typing import Protocol

import trio


class Bell(Protocol):
    """What a watermark rings: a `trio.Event`, or what notes which of many rang."""

    def set(self) -> None:
        """Ring; must not wait, nor change the watermark."""


class Watermark:
    """A value (an offset) that never goes back while open."""

    __slots__ = ("value", "error", "_bells")

    def __init__(self, value: int = 0) -> None:
        self.value = value
        self.error: Exception | None = None  # why it was closed; None while open
        self._bells: dict[Bell, None] | None = None  # ordered, for the simulator; most watermarks have none

    def advance(self, value: int) -> None:
        """Raise the value and wake the waiters; a lower or equal value changes nothing."""
        if value > self.value:
            self.value = value
            if self._bells:
                self.ring()

    def close(self, error: Exception) -> None:
        """End it: every present and future wait raises error."""
        if self.error is None:
            self.error = error
            self.ring()

    def check(self) -> None:
        """Raise the closing error, if closed."""
        if self.error is not None:
            raise self.error.with_traceback(None)  # else each time it is raised would make it longer

    def attach(self, bell: Bell) -> None:
        """Have bell set at the next advance or close. The caller must `detach` it."""
        if self._bells is None:
            self._bells = {}
        self._bells[bell] = None

    def detach(self, bell: Bell) -> None:
        """Stop ringing bell; unknown bells are ignored."""
        if self._bells is not None:
            self._bells.pop(bell, None)
            if not self._bells:
                self._bells = None

    async def wait_past(self, value: int) -> None:
        """Wait until the value is greater than value. The caller bounds the wait with a cancel scope.

        Raises the closing error.
        """
        while self.value <= value:
            self.check()
            bell = trio.Event()
            self.attach(bell)
            try:
                await bell.wait()
            finally:
                self.detach(bell)
        self.check()

    def ring(self) -> None:
        """Set all bells; also for something that goes with the value, and has changed."""
        for bell in tuple(self._bells or ()):
            bell.set()
