"""What a waiting fetch hears of: how much there is by now for it to read.

    Hearing ── one Ear per partition, on its watermark ──▶ rung ──▶ counted again ──▶ enough?

An ear that rings is noted, once; only the partitions of such ears are looked at, and only counted, so that one append
costs the same to a fetch of one partition and of a hundred thousand. The end of a leadership, or a log that went
offline, ends the waiting. A reader of committed records hears of the last stable offset. (Kafka:
DelayedFetch.tryComplete.)
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import trio

from kafka_wire.errors import KafkaError
from kbroker.replication.partition import READ_UNCOMMITTED, Partition

if TYPE_CHECKING:
    from kbroker.views.view import ViewPartition

COUNTS_A_TURN = 256  # partitions counted before the loop sees to others


class Ear:
    """A bell on what bounds a reader of one partition. Its owner is the hearing."""

    __slots__ = ("hearing", "partition", "isolation", "watermark", "offset", "most", "length", "is_rung")

    def __init__(
        self,
        hearing: Hearing,
        partition: Partition | ViewPartition,
        offset: int,
        most: int,
        length: int,
        isolation: int,
    ) -> None:
        self.hearing = hearing
        self.partition = partition
        self.isolation = isolation
        self.watermark = partition.watermark(isolation)
        self.offset = offset
        self.most = most  # bytes that count
        self.length = length  # bytes there are from offset on, as last counted
        self.is_rung = False

    def set(self) -> None:
        """Ring."""
        if not self.is_rung:
            self.is_rung = True
            self.hearing.rung.append(self)
            self.hearing.bell.set()


class Hearing:
    """All ears of one fetch."""

    __slots__ = ("bytes_min", "length", "is_over", "ears", "rung", "bell")

    def __init__(self, bytes_min: int) -> None:
        self.bytes_min = bytes_min
        self.length = 0  # of what there is to read
        self.is_over = False  # something ends the waiting
        self.ears: list[Ear] = []
        self.rung: list[Ear] = []  # not counted since
        self.bell = trio.Event()

    def listen(
        self,
        partition: Partition | ViewPartition,
        offset: int,
        most: int,
        length: int,
        isolation: int = READ_UNCOMMITTED,
    ) -> Ear:
        """Hear of a partition, of which there are length bytes from offset on. No more than `most` bytes count."""
        ear = Ear(self, partition, offset, most, length, isolation)
        self.length += length
        self.ears.append(ear)
        ear.watermark.attach(ear)
        if ear.watermark.error is not None:
            ear.set()
        return ear

    @staticmethod
    def forget(ears: Iterable[Ear]) -> None:
        """Stop listening with these."""
        for ear in ears:
            ear.watermark.detach(ear)

    async def wait_enough(self) -> None:
        """Wait until there are bytes_min to read, or the waiting is over. The caller bounds the wait."""
        while not self.is_over:
            self._count()
            if self.length >= self.bytes_min:
                return
            if self.rung:
                await trio.lowlevel.checkpoint()
            elif not self.is_over:
                self.bell = trio.Event()
                await self.bell.wait()

    def _count(self) -> None:
        """Count again what rang, as much as goes into one turn."""
        for _ in range(min(len(self.rung), COUNTS_A_TURN)):
            ear = self.rung.pop()
            ear.is_rung = False
            try:
                ear.watermark.check()
                length = ear.partition.available(ear.offset, ear.most, ear.isolation)
            except KafkaError:
                self.is_over = True
                return
            self.length += length - ear.length
            ear.length = length
