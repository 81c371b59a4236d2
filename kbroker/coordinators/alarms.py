"""Alarms: when which core is to be woken, over all shards of a broker, in one heap.

A deadline moves with every heartbeat, nearly always later. So an entry is made only when a deadline comes earlier than
the one that is set; one that comes too early finds the new deadline, and sets it. There is about one entry a core in
the heap, and a heartbeat costs a comparison.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count
from typing import Generic, TypeVar

import trio

from kbroker.coordinators.shard import Shard
from kbroker.env import Clock

TICK_S = 0.5  # how late an alarm may be when liveness jumps ahead

S = TypeVar("S", bound=Shard)


class Alarms(Generic[S]):
    """Deadlines in liveness seconds. `Shard.alarms` holds what is set, by name."""

    __slots__ = ("_bell", "_heap", "_numbers")

    def __init__(self) -> None:
        self._bell = trio.Event()  # rings when the next alarm is earlier than it was
        self._heap: list[tuple[float, int, S, str]] = []
        self._numbers = count()

    def note(self, shard: S, name: str, deadline: float | None) -> None:
        """A core has this deadline now."""
        if deadline is None:
            return
        present = shard.alarms.get(name)
        if present is not None and present <= deadline:
            return
        shard.alarms[name] = deadline
        heapq.heappush(self._heap, (deadline, next(self._numbers), shard, name))
        if self._heap[0][0] == deadline:
            self._bell.set()

    async def run(self, clock: Clock, ring: Callable[[S, str], None]) -> None:
        """Ring each alarm when it is due; until cancelled."""
        while True:
            self._bell = trio.Event()
            while (due := self._pop_due(clock.liveness())) is not None:
                ring(*due)
                await trio.lowlevel.checkpoint()
            if not self._heap:
                await self._bell.wait()
            else:
                with trio.move_on_after(min(max(self._heap[0][0] - clock.liveness(), 0.0), TICK_S)):
                    await self._bell.wait()

    def _pop_due(self, now: float) -> tuple[S, str] | None:
        """A core whose alarm is due, not set any more; None when there is none."""
        heap = self._heap
        while heap and heap[0][0] <= now:
            deadline, _, shard, name = heapq.heappop(heap)
            if shard.closed is None and shard.alarms.get(name) == deadline:
                del shard.alarms[name]
                return shard, name
        return None
