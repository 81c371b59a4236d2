"""Leading: the shards of the partitions of an internal topic that this broker leads.

    partition 17 led here in epoch 5 ──lead──▶ Shard, loading ──replay──▶ Shard, active ──┐
                 resigned, or led in epoch 6 ──────────────────────────▶ closed ◀─────────┘
                                     └─▶ failed: tried again, ever more seldom

Which shard there is, is decided by the leader epoch alone: an epoch that is led already changes nothing, a later one
starts over from the log (G3). Until the replay has reached the log's end and all of that is committed, requests are
answered COORDINATOR_LOAD_IN_PROGRESS.

It is enough that the partition's leader is heard by its followers (R14): what a coordinator decides counts when it is
written with acks=all, and what it tells is at most a moment old. So groups and transactions go on while the store is
silent.

A load that fails, and a partition whose log cannot be opened, are told once, and answered NOT_COORDINATOR: clients
look elsewhere, and other partitions are unharmed. (Kafka: CoordinatorRuntime, FAILED.) The load is tried again as long
as the partition is led, since damage can be mended while the broker runs: by DeleteRecords up to behind it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from typing import Generic, TypeVar

import trio

from kafka_wire.errors import ErrorCode, KafkaError, ProtocolError
from kbroker.cluster.image import NO_LEADER
from kbroker.coordinators.replay import replay
from kbroker.coordinators.routing import InternalTopic, partition_of
from kbroker.coordinators.shard import Shard
from kbroker.env import Env
from kbroker.replication.partition import Partition
from kbroker.turns import Work, finish

RETRY_S = 1.0  # after a load failed; twice as long each time
RETRY_MAX_S = 60.0
ADVICE = "Who asks for what is kept there is answered NOT_COORDINATOR; docs/recovery.md tells how to go on"

S = TypeVar("S", bound=Shard)
log = logging.getLogger("kbroker.coordinators")


class Leading(Generic[S]):
    """Owns the shards: makes them, has them loaded, and closes them."""

    def __init__(
        self,
        env: Env,
        topic: InternalTopic,
        make: Callable[[Partition], S],
        start: Callable[..., None],
        on_active: Callable[[S], Work[None]],
    ) -> None:
        """
        Args:
            make: a new shard of a partition, in its present epoch.
            start: runs an async function with its arguments as a task, or not when the broker goes down.
            on_active: what there is to do when a shard that was loaded is active.
        """
        self.env = env
        self.topic = topic
        self._make = make
        self._start = start
        self._on_active = on_active
        self._shards: dict[int, S] = {}
        self._lost: set[int] = set()  # partitions that should be led here, if their logs could be opened

    @property
    def shards(self) -> Collection[S]:
        """Of all partitions led here, loading ones too."""
        return self._shards.values()

    def active(self) -> list[S]:
        """Those that are loaded."""
        return [shard for shard in self._shards.values() if shard.is_active]

    def shard(self, name: str) -> S:
        """The active shard that a name belongs to.

        Raises KafkaError: COORDINATOR_NOT_AVAILABLE, NOT_COORDINATOR, COORDINATOR_LOAD_IN_PROGRESS.
        """
        topic = self.topic.image
        if topic is None:
            if not self.topic.is_creating:
                self._start(self._create_quietly)
            raise KafkaError(ErrorCode.COORDINATOR_NOT_AVAILABLE)
        index = partition_of(name, len(topic.partitions))
        found = self._shards.get(index)
        if found is not None:
            if not found.partition.is_heard:
                raise KafkaError(ErrorCode.NOT_COORDINATOR)  # there may be another one by now (R14)
            if found.is_active:
                return found
            raise KafkaError(ErrorCode.NOT_COORDINATOR if found.has_failed else ErrorCode.COORDINATOR_LOAD_IN_PROGRESS)
        leader = topic.partitions[index].leader
        if leader == self.topic.registration.broker.id and index not in self._lost:
            raise KafkaError(ErrorCode.COORDINATOR_LOAD_IN_PROGRESS)
        raise KafkaError(ErrorCode.COORDINATOR_NOT_AVAILABLE if leader == NO_LEADER else ErrorCode.NOT_COORDINATOR)

    def at(self, index: int) -> S:
        """The active shard of a partition.

        Raises KafkaError: NOT_LEADER_OR_FOLLOWER, COORDINATOR_LOAD_IN_PROGRESS.
        """
        found = self._shards.get(index)
        if found is None or not found.partition.is_heard:
            raise KafkaError(ErrorCode.NOT_LEADER_OR_FOLLOWER)
        if not found.is_active:
            raise KafkaError(ErrorCode.COORDINATOR_LOAD_IN_PROGRESS)
        return found

    async def _create_quietly(self) -> None:
        try:
            await self.topic.ensure()
        except KafkaError:
            pass  # the next request will try again

    # -- leading and resigning ----------------------------------------------------------------------------------------

    def lead(self, partition: Partition) -> None:
        """A partition of the topic is led here in its leader epoch. Idempotent; older epochs change nothing (G3)."""
        self._lost.discard(partition.index)
        present = self._shards.get(partition.index)
        if present is not None:
            if present.partition is partition and present.epoch >= partition.leader_epoch:
                return
            present.close(ErrorCode.NOT_COORDINATOR)
        self._begin(partition)

    def _begin(self, partition: Partition) -> None:
        shard = self._shards[partition.index] = self._make(partition)
        if partition.log.start_offset == partition.log.end.value:
            shard.is_active = True  # there is nothing to load
        else:
            self._start(self._load, shard)

    def resign(self, index: int) -> None:
        """A partition is not led here (any more)."""
        self._lost.discard(index)
        present = self._shards.pop(index, None)
        if present is not None:
            present.close(ErrorCode.NOT_COORDINATOR)

    def lose(self, index: int) -> None:
        """The log of a partition cannot be opened. Who opened it has told why."""
        self.resign(index)
        self._lost.add(index)

    def restart(self, shard: S, code: ErrorCode) -> None:
        """Memory is ahead of the log: answer who waits, and load again if the partition is still led."""
        shard.close(code)
        if self._shards.get(shard.index) is shard:
            del self._shards[shard.index]
            if shard.partition.leading:
                self._begin(shard.partition)

    # -- loading ------------------------------------------------------------------------------------------------------

    async def _load(self, shard: S) -> None:
        """Bring a shard up, however often it takes. What is in the way is told, though not again and again."""
        pause_s, told = RETRY_S, ""
        while shard.closed is None:
            try:
                await self._load_once(shard)
                if shard.has_failed:
                    shard.has_failed = False
                    log.info("%s is loaded after all", shard)
                return
            except (KafkaError, ProtocolError, OSError) as error:
                if shard.closed is None and str(error) != told:
                    log.error("%s cannot be loaded: %s. %s", shard, error, ADVICE)
                told = str(error)
            except Exception as error:
                if repr(error) != told:
                    log.exception("%s cannot be loaded. %s", shard, ADVICE)
                told = repr(error)
            shard.has_failed = True
            await self.env.clock.sleep(pause_s)
            pause_s = min(2 * pause_s, RETRY_MAX_S)

    async def _load_once(self, shard: S) -> None:
        partition, began = shard.partition, trio.current_time()
        end = partition.log.end.value
        found = await replay(partition.log, end, self.env.offload, shard.key_of)
        shard.logged, shard.kept = found.records, len(found.live) + len(found.open)
        await finish(shard.restore(found.live))
        await finish(shard.restore_open(found.open))
        if partition.high_watermark.value < end:
            await partition.high_watermark.wait_past(end - 1)  # bounded by the leadership, whose end closes it
        if shard.owes_flush:  # an earlier process did: what it says is about to be acted on
            await partition.log.flush(self.env.offload)
        if shard.closed is not None:
            return
        shard.is_active = True
        await finish(self._on_active(shard))
        log.debug(
            "%s: %s loaded from %d records in %.0f ms",
            shard, shard.summary(), found.records, (trio.current_time() - began) * 1000,
        )  # fmt: skip
