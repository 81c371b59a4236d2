"""Orders: compactions that somebody has asked for, and waits for. Owns what became of the last of them.

    place ──▶ going on, as a task of its own ──▶ over: kept for who asks again, as long as there are not many newer ones

A compaction may take longer than a client waits for an answer. It goes on when the client has gone.
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
    log: PartitionLog
    done: trio.Event = field(default_factory=trio.Event)
    outcome: Outcome | KafkaError | None = None  # once it is done


class Orders:
    """Those of one data directory."""

    def __init__(self, cleaner: Cleaner) -> None:
        self._cleaner = cleaner
        self._orders: dict[int, Order] = {}  # in the order of their ids
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
        """Have all of a log compacted that is in it by now, once that is committed. One that goes on is joined.

        Raises KafkaError when the disk refuses another segment.
        """
        for order in self._orders.values():
            if order.log is log and not order.done.is_set():
                return order
        log.roll()
        self._last_id += 1
        order = self._orders[self._last_id] = Order(self._last_id, log)
        for id in list(self._orders)[:-KEPT_MAX]:
            if self._orders[id].done.is_set():
                del self._orders[id]
        assert self._nursery is not None
        self._nursery.start_soon(self._carry_out, order, committed)
        return order

    def find(self, id: int) -> Order | None:
        """The order of that id, if it is remembered."""
        return self._orders.get(id)

    async def _carry_out(self, order: Order, committed: Watermark) -> None:
        try:
            await committed.wait_past(order.log.active.base_offset - 1)
            order.outcome = await self._cleaner.compact(order.log)
        except KafkaError as error:
            order.outcome = error
        order.done.set()
