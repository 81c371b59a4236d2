"""Alarms: when which group is to be woken, over all groups of a broker, in one heap.

A group's deadline moves with every heartbeat, nearly always later. So an entry is made only when a deadline comes
earlier than the one that is set; one that comes too early finds the new deadline, and sets it. There is about one entry
a group in the heap, and a heartbeat costs a comparison.
"""

from __future__ import annotations

import heapq
from itertools import count

import trio

from kbroker.coordinators.shard import Shard


class Alarms:
    """Deadlines in liveness seconds. `Shard.alarms` holds what is set, group by group."""

    __slots__ = ("bell", "_heap", "_numbers")

    def __init__(self) -> None:
        self.bell = trio.Event()  # rings when the next alarm is earlier than it was
        self._heap: list[tuple[float, int, Shard, str]] = []
        self._numbers = count()

    def note(self, shard: Shard, group_id: str, deadline: float | None) -> None:
        """A group has this deadline now."""
        if deadline is None:
            return
        present = shard.alarms.get(group_id)
        if present is not None and present <= deadline:
            return
        shard.alarms[group_id] = deadline
        heapq.heappush(self._heap, (deadline, next(self._numbers), shard, group_id))
        if self._heap[0][0] == deadline:
            self.bell.set()

    @property
    def next(self) -> float | None:
        """When the first alarm is due."""
        return self._heap[0][0] if self._heap else None

    def pop_due(self, now: float) -> tuple[Shard, str] | None:
        """A group whose alarm is due, not set any more; None when there is none."""
        heap = self._heap
        while heap and heap[0][0] <= now:
            deadline, _, shard, group_id = heapq.heappop(heap)
            if shard.closed is None and shard.alarms.get(group_id) == deadline:
                del shard.alarms[group_id]
                return shard, group_id
        return None
