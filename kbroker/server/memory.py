"""What all connections together hold in memory, bounded (B5): requests that arrive, answers that are not read.

A connection may send a request of up to `socket.request.max.bytes`; a thousand connections that each send most of one
must not take a hundred gigabytes. Whoever holds a request that has not been handled is in line, in the order in which
they began. While all of them together stay below the bound everybody goes on; above it, of those that hold much only
the first in line does, so that one request after the other is completed. Whoever keeps that place without sending is
reaped (listener.py).

Answers cannot wait for memory: a client that reads would wait for those that do not. Above the bound, who has been owed
something for longest is hung up on.
"""

from __future__ import annotations

from typing import Protocol

import trio

SMALL_MAX = 131072  # bytes; who holds no more than this goes on, as it cannot be what fills the memory


class RequestMemory:
    """One broker's account of requests that have arrived in part, or whole and are not handled, by connection."""

    __slots__ = ("bytes_max", "bytes_held", "_held", "_room")

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self.bytes_held = 0
        self._held: dict[object, int] = {}  # in the order in which they began
        self._room: trio.Event | None = None  # for those who wait

    def note(self, holder: object, size: int) -> None:
        """Holder has size bytes now; 0 when all is handled or the connection is gone."""
        before = self._held.get(holder, 0)
        if size:
            self._held[holder] = size
        else:
            self._held.pop(holder, None)
        self.bytes_held += size - before
        if size < before and self._room is not None:
            self._room.set()
            self._room = None

    def may_go_on(self, holder: object) -> bool:
        """Whether holder may receive more now."""
        if self.bytes_held <= self.bytes_max or self._held.get(holder, 0) <= SMALL_MAX:
            return True
        return next(each for each, size in self._held.items() if size > SMALL_MAX) is holder

    async def wait_turn(self, holder: object) -> None:
        """Wait until holder may receive more. The caller's own cancellation ends the wait."""
        while not self.may_go_on(holder):
            if self._room is None:
                self._room = trio.Event()
            await self._room.wait()


class Debtor(Protocol):
    """Who holds answers that its peer does not read."""

    def evict(self) -> None:
        """Hang up, and forget them."""


class AnswerMemory:
    """One broker's account of answers that are made and cannot be sent, by connection."""

    __slots__ = ("bytes_max", "bytes_held", "_held")

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self.bytes_held = 0
        self._held: dict[Debtor, int] = {}  # in the order in which they began

    def note(self, holder: Debtor, size: int) -> None:
        """Holder has size bytes now; 0 when all is sent or the connection is gone. Above the bound, the first goes."""
        self.bytes_held += size - self._held.get(holder, 0)
        if size:
            self._held[holder] = size
        else:
            self._held.pop(holder, None)
        while self.bytes_held > self.bytes_max and len(self._held) > 1:
            first = next(iter(self._held))
            self.note(first, 0)
            first.evict()
