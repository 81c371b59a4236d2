"""What all connections together hold in memory, bounded (B5): requests that arrive, answers that are not read.

A connection may send a request of up to `socket.request.max.bytes`; a thousand connections that each send most of one
must not take a hundred gigabytes. Whoever holds a request that has not been handled is in line, in the order in which
they began. While all of them together stay below the bound everybody goes on; above it, of those that hold much only
the first in line does, so that one request after the other is completed. Whoever keeps that place for long is hung up
on.

Answers cannot wait for memory: a client that reads would wait for those that do not. Above the bound, who has been owed
something for longest is hung up on.
"""

from __future__ import annotations

from typing import Protocol

import trio

SMALL_MAX = 131072  # bytes; who holds no more than this goes on, as it cannot be what fills the memory
HELD_MAX_S = 30.0  # that a request may take to arrive while others wait for its memory


class Holder(Protocol):
    """A connection."""

    def evict(self, reason: str) -> None:
        """Hang up, and forget what is held."""


class RequestMemory:
    """One broker's account of requests that have arrived in part, or whole and are not handled, by connection."""

    __slots__ = ("bytes_max", "bytes_held", "_held", "_began", "_room")

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self.bytes_held = 0
        self._held: dict[Holder, int] = {}  # in the order in which they began
        self._began: dict[Holder, float] = {}  # and when
        self._room: trio.Event | None = None  # for those who wait

    def note(self, holder: Holder, size: int) -> None:
        """Holder has size bytes now; 0 when all is handled or the connection is gone."""
        before = self._held.get(holder, 0)
        if size:
            self._held[holder] = size
            if not before:
                self._began[holder] = trio.current_time()
        elif before:
            del self._held[holder], self._began[holder]
        self.bytes_held += size - before
        if size < before and self._room is not None:
            self._room.set()
            self._room = None

    def may_go_on(self, holder: Holder) -> bool:
        """Whether holder may receive more now."""
        return self.bytes_held <= self.bytes_max or self._held.get(holder, 0) <= SMALL_MAX or holder is self._first()

    async def wait_turn(self, holder: Holder) -> None:
        """Wait until holder may receive more. The caller's own cancellation ends the wait."""
        while not self.may_go_on(holder):
            if self._room is None:
                self._room = trio.Event()
            await self._room.wait()

    def look_round(self) -> None:
        """Called every few seconds: while others wait, whoever has been at it for HELD_MAX_S is hung up on."""
        first = self._first()
        if self._room is None or first is None or self._began[first] > trio.current_time() - HELD_MAX_S:
            return
        first.evict("others wait for the memory of its request")
        self.note(first, 0)

    def _first(self) -> Holder | None:
        """Of those who hold much, who began first."""
        return next((holder for holder, size in self._held.items() if size > SMALL_MAX), None)


class AnswerMemory:
    """One broker's account of answers that are made and cannot be sent, by connection."""

    __slots__ = ("bytes_max", "bytes_held", "_held")

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self.bytes_held = 0
        self._held: dict[Holder, int] = {}  # in the order in which they began

    def note(self, holder: Holder, size: int) -> None:
        """Holder has size bytes now; 0 when all is sent or the connection is gone. Above the bound, the first goes."""
        self.bytes_held += size - self._held.get(holder, 0)
        if size:
            self._held[holder] = size
        else:
            self._held.pop(holder, None)
        while self.bytes_held > self.bytes_max and len(self._held) > 1:
            first = next(iter(self._held))
            self.note(first, 0)
            first.evict("it does not read its answers")
