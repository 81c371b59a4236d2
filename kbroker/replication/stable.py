"""The last stable offset as something to wait for, made when somebody does.

It hangs on the high watermark, which it can only follow: what makes it move is a marker that is committed. So a
partition nobody waits for in this way pays nothing, and one whose transaction stays open wakes none of its readers with
each append.
"""

from __future__ import annotations

from collections.abc import Callable

from kbroker.watermark import Bell, Watermark


class StableOffset(Watermark):
    """A last stable offset. It ends when the high watermark does, and lets go of that when nobody waits any more."""

    __slots__ = ("follows", "_last_stable_offset")

    def __init__(self, high_watermark: Watermark, last_stable_offset: Callable[[], int]) -> None:
        super().__init__(last_stable_offset())
        self.follows = high_watermark
        self._last_stable_offset = last_stable_offset
        self.error = high_watermark.error

    def attach(self, bell: Bell) -> None:
        """Have bell set at the next advance or close. The caller must `detach` it."""
        super().attach(bell)
        self.follows.attach(self)
        self.set()  # it may have moved while nobody waited

    def detach(self, bell: Bell) -> None:
        """Stop ringing bell; unknown bells are ignored."""
        super().detach(bell)
        if self._bells is None:
            self.follows.detach(self)

    def set(self) -> None:
        """The high watermark rings: it moved, or it was closed."""
        if self.follows.error is not None:
            self.close(self.follows.error)
        else:
            self.advance(self._last_stable_offset())
