"""Orders: compactions that somebody has asked for, and waits for. Owns what became of the last of them.

    place ──▶ going on, as a task of its own ──▶ over: kept for who asks again, as long as there are not many newer ones

A compaction may take longer than a client waits for an answer. It goes on when the client has gone. Of one that is over
nothing is kept but what became of it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import trio

from kafka_wire.errors import KafkaError
from kbroker.log.cleaner.cleaner import Cleaner, Outcome
from kbroker.log.log import PartitionLog
from kbroker.watermark import Watermark

KEPT_MAX = 1000


@dataclass(slots=True, eq=False)
class Order:
    """One compaction."""

    id: int
    done: trio.Event = field(default_factory=trio.Event)
    outcome: Outcome | KafkaError | None = None  # once it is done


class Orders:
    """Those of one data directory."""

    def __init__(self, cleaner: Cleaner) -> None:
        self._cleaner = cleaner
        self._orders: dict[int, Order] = {}  # in the order of their ids
        self._going_on: dict[PartitionLog, Order] = {}
        self._last_id = 0
        self._nursery: trio.Nursery | None = None

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Carry orders out, until cancelled."""
        try:
            async with trio.open_nursery() as self._nursery:
                task_status.started()
                await trio.sleep_forever()
        finally:
            self._nursery = None

    def place(self, log: PartitionLog, committed: Watermark) -> Order:
        """Have a log compacted (Cleaner.compact_all). One that goes on is joined: it may leave out what came since."""
        going_on = self._going_on.get(log)
        if going_on is not None:
            return going_on
        self._last_id += 1
        order = self._orders[self._last_id] = self._going_on[log] = Order(self._last_id)
        for id in list(self._orders)[:-KEPT_MAX]:
            if self._orders[id].done.is_set():
                del self._orders[id]
        assert self._nursery is not None
        self._nursery.start_soon(self._carry_out, order, log, committed)
        return order

    def find(self, id: int) -> Order | None:
        """The order of that id, if it is remembered."""
        return self._orders.get(id)

    async def _carry_out(self, order: Order, log: PartitionLog, committed: Watermark) -> None:
        try:
            order.outcome = await self._cleaner.compact_all(log, committed)
        except KafkaError as error:
            order.outcome = error
        del self._going_on[log]
        order.done.set()
