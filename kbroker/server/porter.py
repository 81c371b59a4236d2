"""The porter: sees to connections whose answer may be there, as something rang for it or its time has come.

    ring ──▶ rung ──┬─ within the step of some connection ─▶ served when that is answered: a few of them
                    └─ else, and the others ─▶ served by the porter's task, in turns
    expect ─▶ an alarm ─▶ its time comes ─▶ rung

So a follower is sent what a producer has just appended when the step is over that appended it, and the producer is
answered after the step in which the last follower says that it has it: no task is woken for either. One for all
connections of a broker, whatever listener they came in on.
"""

from __future__ import annotations

import heapq
import itertools
import math
from typing import Protocol

import trio

SERVED_A_TURN = 4  # connections
TURN_S = 0.0005  # beyond, no further one is served in this turn
ALARMS_A_TURN = 64


class Served(Protocol):
    """A connection that waits for an answer."""

    def serve(self) -> None:
        """Look whether the answer is there, and send it; nothing, if there is none to wait for. Raises nothing."""

    def due_s(self) -> float:
        """When to look in any case, on trio's clock; infinity where there is nothing to wait for."""


class Porter:
    """One broker's. `run` once."""

    __slots__ = ("_rung", "_alarms", "_alarm_of", "_numbers", "_is_near", "_bell", "_until")

    def __init__(self) -> None:
        self._rung: dict[Served, None] = {}
        self._alarms: list[tuple[float, int, list[Served]]] = []  # a heap; the list is empty when nobody waits for it
        self._alarm_of: dict[Served, tuple[float, list[Served]]] = {}  # the earliest of each
        self._numbers = itertools.count()
        self._is_near = False  # somebody is about to serve what rings
        self._bell = trio.Event()
        self._until = -math.inf  # the task sleeps until then, if nothing rings

    def ring(self, connection: Served) -> None:
        """Have a connection served soon."""
        self._rung[connection] = None
        if not self._is_near:
            self._bell.set()

    def expect(self, connection: Served, due_s: float) -> None:
        """Have a connection served at that time, too. It has one alarm, however often it waits."""
        earliest = self._alarm_of.get(connection)
        if earliest is not None:
            if earliest[0] <= due_s:
                return
            earliest[1].clear()
        holder = [connection]
        self._alarm_of[connection] = due_s, holder
        heapq.heappush(self._alarms, (due_s, next(self._numbers), holder))
        if due_s < self._until:
            self._bell.set()

    def forget(self, connection: Served) -> None:
        """A connection is closed."""
        self._rung.pop(connection, None)
        earliest = self._alarm_of.pop(connection, None)
        if earliest is not None:
            earliest[1].clear()

    def come(self) -> None:
        """A step begins, which may ring: `serve` is called when it is answered."""
        self._is_near = True

    def serve(self) -> None:
        """Serve a few of those that were rung for; the task serves the others."""
        if self._rung:
            self._serve_some()
            if self._rung:
                self._bell.set()
        self._is_near = False

    async def run(self) -> None:
        """See to what rings, and to alarms, until cancelled."""
        while True:
            self._take_alarms()
            if self._rung:
                self.come()
                self.serve()
                await trio.lowlevel.checkpoint()
                continue
            self._bell = trio.Event()
            self._until = self._alarms[0][0] if self._alarms else math.inf
            with trio.CancelScope(deadline=self._until):
                await self._bell.wait()
            self._until = -math.inf

    def _serve_some(self) -> None:
        rung, turn_ends_at = self._rung, trio.current_time() + TURN_S
        for _ in range(SERVED_A_TURN):
            connection = next(iter(rung))
            del rung[connection]
            connection.serve()
            if not rung or trio.current_time() >= turn_ends_at:
                return

    def _take_alarms(self) -> None:
        """Whose time has come is rung for; who waits for something later by now is told so then."""
        now = trio.current_time()
        for _ in range(ALARMS_A_TURN):
            if not self._alarms or (self._alarms[0][0] > now and self._alarms[0][2]):
                return
            holder = heapq.heappop(self._alarms)[2]
            for connection in holder:
                del self._alarm_of[connection]
                due_s = connection.due_s()
                if due_s <= now:
                    self._rung[connection] = None
                elif due_s < math.inf:
                    self.expect(connection, due_s)
