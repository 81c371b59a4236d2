"""RequestMemory: bounds what all connections together hold of requests that have not fully arrived (B5).

A connection may send a request of up to `socket.request.max.bytes`; a thousand connections that each send most of one
must not take a hundred gigabytes. Whoever holds part of a large request is in line, in the order in which they began.
While all of them together stay below the bound everybody goes on; above it only the first in line does, so that one
request after the other is completed. A connection that keeps its place without sending is reaped (listener.py).
"""

from __future__ import annotations

import trio


class RequestMemory:
    """One broker's account of half-received large requests, by connection."""

    __slots__ = ("bytes_max", "bytes_held", "_held", "_room")

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self.bytes_held = 0
        self._held: dict[object, int] = {}  # in the order in which they began
        self._room = trio.Event()

    def note(self, holder: object, size: int) -> None:
        """Holder has size bytes of a request now; 0 when that is complete or the connection is gone."""
        before = self._held.get(holder, 0)
        if size:
            self._held[holder] = size
        else:
            self._held.pop(holder, None)
        self.bytes_held += size - before
        if size < before:
            self._room.set()
            self._room = trio.Event()

    def may_go_on(self, holder: object) -> bool:
        """Whether holder may receive more now."""
        return self.bytes_held <= self.bytes_max or next(iter(self._held)) is holder

    async def wait_turn(self, holder: object) -> None:
        """Wait until holder may receive more. The caller's own cancellation ends the wait."""
        while not self.may_go_on(holder):
            await self._room.wait()
