"""ProducerIds: hands out producer ids one by one from blocks of the cluster's (P4).

A block is asked for when the last one is used up; what is left of a block when the broker stops is never given out.
"""

from __future__ import annotations

from collections.abc import Iterator

import trio

from kafka_wire.errors import ErrorCode, KafkaError
from kbroker.cluster.admin import Admin

BLOCK_S = 20.0


class ProducerIds:
    """This broker's supply of producer ids."""

    __slots__ = ("_admin", "_block", "_turn")

    def __init__(self, admin: Admin) -> None:
        self._admin = admin
        self._block: Iterator[int] = iter(())
        self._turn = trio.Lock()

    async def next(self) -> int:
        """An id nobody else was or will be given. Raises KafkaError REQUEST_TIMED_OUT if the store does not answer.

        However many wait for the same block, none waits longer than for one.
        """
        with trio.move_on_after(BLOCK_S):
            async with self._turn:
                producer_id = next(self._block, None)
                if producer_id is None:
                    self._block = iter(await self._admin.allocate_producer_ids())
                    producer_id = next(self._block)
                return producer_id
        raise KafkaError(ErrorCode.REQUEST_TIMED_OUT, "No block of producer ids could be had in time.")
