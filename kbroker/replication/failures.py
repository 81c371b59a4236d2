"""Failures: partitions whose logs serve nothing here, and what becomes of them.

    its log fails, or cannot be opened ──▶ handed over: others lead, and are in sync without it
                                               │ there is nobody else: it waits for people
                                               ▼
    damaged at its opening (L4) ──▶ moved aside ──▶ begun anew, filled by its leader

A log that failed is of no use to others. Every second, until it has been written, this broker hands over its part in
the partition, if somebody else is in sync (Kafka: ReplicaManager.handleLogDirFailure). A log that a start found to be
damaged is never cut to where it is whole, to lead with that; as soon as others have everything, and this broker counts
for nothing, it makes room for a new one. One that failed while it was used waits for a restart: its disk is in doubt.

A log that is ahead of the cluster's metadata is neither: it is the metadata that went back, for all replicas alike, and
what they have is what it must not be judged by (R11).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping

import trio

from kafka_wire.errors import KafkaError
from kbroker.cluster.image import ClusterImage, PartitionImage
from kbroker.env import Clock
from kbroker.log.checkpoints import Key
from kbroker.log.errors import CorruptLog, LogAhead
from kbroker.replication.partition import Partition

LOOK_S, LOOKED_AT_A_TURN = 1.0, 1000  # between two looks for logs that have failed; logs looked at in a turn


class Failures:
    """Made once; `run` once."""

    def __init__(
        self,
        node_id: int,
        clock: Clock,
        partitions: Mapping[Key, Partition],
        image: Callable[[], ClusterImage],
        hand_over: Callable[[Iterable[Key]], Awaitable[None]],
    ) -> None:
        """partitions: those with a log. image: as far as it is carried out. hand_over: of the Registration."""
        self.offline: dict[Key, OSError | KafkaError] = {}  # should be in `partitions`; why they are not
        self._node_id = node_id
        self._clock = clock
        self._partitions = partitions
        self._image = image
        self._hand_over = hand_over
        self._bell = trio.Event()

    def note(self, key: Key, error: OSError | KafkaError) -> None:
        """The log of a partition cannot be opened."""
        self.offline[key] = error
        self._bell.set()

    def forget(self, key: Key) -> None:
        """It could, or nobody wants it any more."""
        self.offline.pop(key, None)

    async def run(self, begin_anew: Callable[[Key], None]) -> None:
        """See to it until cancelled. begin_anew: what a partition is to do with a log that is damaged."""
        while True:
            refused = [key for key, error in self.offline.items() if not isinstance(error, LogAhead)]
            failed = [*refused, *await self._failed()]
            if to_hand_over := [key for key in failed if self._is_needless(self._image_of(key))]:
                await self._hand_over(to_hand_over)
            for key in refused:
                is_damaged = isinstance(self.offline.get(key), CorruptLog)
                if is_damaged and self._counts_for_nothing(self._image_of(key)):
                    begin_anew(key)
            with trio.move_on_after(LOOK_S):
                await self._bell.wait()
            self._bell = trio.Event()

    async def _failed(self) -> list[Key]:
        """Partitions whose logs have failed since they were opened."""
        failed = []
        for number, (key, partition) in enumerate(tuple(self._partitions.items()), start=1):
            if partition.log.offline is not None and self._partitions.get(key) is partition:
                failed.append(key)
            if not number % LOOKED_AT_A_TURN:
                await trio.lowlevel.checkpoint()
        return failed

    def _image_of(self, key: Key) -> PartitionImage | None:
        topic = self._image().topics.get(key[0])
        return topic.own_partitions[key[1]] if topic is not None and key[1] < len(topic.own_partitions) else None

    def _is_needless(self, image: PartitionImage | None) -> bool:
        """Whether this broker is in the ISR, and not alone."""
        return image is not None and self._node_id in image.isr and len(image.isr) > 1

    def _counts_for_nothing(self, image: PartitionImage | None) -> bool:
        """Whether nobody takes this broker for one that has anything of the partition, and another has everything."""
        return (
            image is not None
            and self._node_id in image.replicas
            and self._node_id not in (*image.isr, *image.elr, image.leader, image.last_leader)
            and image.leader in self._image().brokers
        )
