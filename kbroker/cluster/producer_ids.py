"""ProducerIds: hands out producer ids one by one from blocks of the cluster's (P4).

A block is asked for when the last one is used up; what is left of a block when the broker stops is never given out.
The store counts the blocks, and might be restored from an older copy: so each broker keeps for itself how far it knows
them to be given out, of its own blocks before it uses them, and has the store go on from there (joining.py).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator

import trio

from kafka_wire.errors import ErrorCode, KafkaError
from kbroker.cluster.admin import Admin
from kbroker.cluster.image import ClusterImage

BLOCK_S = 20.0


class ProducerIds:
    """This broker's supply of producer ids. `run` once."""

    __slots__ = ("_admin", "_keep", "_kept", "_shown", "_block", "_turn", "_news")

    def __init__(self, admin: Admin, keep: Callable[[int], Awaitable[None]], kept: int = 0) -> None:
        """
        Args:
            keep: have it kept for good that ids below a number may be given out.
            kept: what was kept before.
        """
        self._admin = admin
        self._keep = keep
        self._kept = kept
        self._shown = 0  # given out by others, or by this broker
        self._block: Iterator[int] = iter(())
        self._turn = trio.Lock()
        self._news = trio.Event()

    def on_image(self, image: ClusterImage) -> None:
        """Be told of a new image."""
        if image.producer_ids > self._shown:
            self._shown = image.producer_ids
            self._news.set()

    async def run(self) -> None:
        """Keep what is shown, until cancelled."""
        while True:
            await self._news.wait()
            self._news = trio.Event()
            async with self._turn:
                await self._keep_below(self._shown)

    async def next(self) -> int:
        """An id nobody else was or will be given. Raises KafkaError REQUEST_TIMED_OUT if the store does not answer.

        However many wait for the same block, none waits longer than for one.
        """
        with trio.move_on_after(BLOCK_S):
            async with self._turn:
                producer_id = next(self._block, None)
                if producer_id is None:
                    block = await self._admin.allocate_producer_ids()
                    await self._keep_below(block.stop)
                    self._block = iter(block)
                    producer_id = next(self._block)
                return producer_id
        raise KafkaError(ErrorCode.REQUEST_TIMED_OUT, "No block of producer ids could be had in time.")

    async def _keep_below(self, end: int) -> None:
        if end > self._kept:
            await self._keep(end)
            self._kept = end
