"""A coordinator without a broker around it: logs on a memory disk, partitions led by hand, a picture of the cluster."""

from __future__ import annotations

from collections.abc import AsyncIterator, Coroutine, Iterable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, TypeAlias, cast

import trio

from kafka_wire.errors import ErrorCode
from kafka_wire.messages.groups import SyncGroupRequest
from kbroker.cluster.image import ClusterImage, PartitionImage, TopicImage
from kbroker.cluster.registration import Registration
from kbroker.config import BrokerConfig, topic_config
from kbroker.groups import offset_requests
from kbroker.groups.coordinator import OFFSETS_TOPIC, GroupCoordinator
from kbroker.groups.group import Committer
from kbroker.groups.offset_requests import Committed
from kbroker.groups.offsets import Changes
from kbroker.groups.shard import GroupShard
from kbroker.groups.storage.records import OffsetCommitValue
from kbroker.log.directory import LogDirectory
from kbroker.replication.partition import Partition
from kbroker.testing.broker import Machine
from tests.coordinators.running import running
from tests.log.tools import log_for
from tests.replication.tools import image

TOPIC_ID = b"offsets-topic-id"
Change: TypeAlias = "tuple[str, str, int, OffsetCommitValue | None]"  # group, topic, partition, value

ANYBODY = Committer("", None, -1, 8)


class Rig:
    """A coordinator of one partition, as the broker of id 1."""

    def __init__(self, machine: Machine, config: BrokerConfig | None = None) -> None:
        self.machine = machine
        self.env = machine.env()
        self.config = config or BrokerConfig()
        self.logs = LogDirectory(self.env, self.config)
        self.logs.open()
        self.image = ClusterImage(topics={"t": topic("t", b"t" * 16), OFFSETS_TOPIC: topic(OFFSETS_TOPIC, TOPIC_ID)})
        registration = SimpleNamespace(image=self.image, broker=SimpleNamespace(id=1))
        self.registration = registration
        self.coordinator = GroupCoordinator(self.env, cast(Registration, registration), self.logs, lambda: self.config)
        settings = topic_config({"cleanup.policy": "compact"}, self.config)
        log = log_for(self.logs, OFFSETS_TOPIC, 0, TOPIC_ID, settings)
        self.partition = Partition(OFFSETS_TOPIC, 0, TOPIC_ID, log, 1)

    def lead(self, epoch: int) -> None:
        self.partition.lead(image(epoch, (1,)))
        self.coordinator.lead(self.partition)

    @property
    def shard(self) -> GroupShard:
        return self.coordinator.shard("any")

    async def loaded(self) -> GroupShard:
        """Wait until the shard is active."""
        with trio.fail_after(60):
            while not all(shard.is_active for shard in self.coordinator.runtime.leading.shards):
                await trio.lowlevel.checkpoint()
        return self.shard

    def commit(self, group: str, *changes: Change) -> Any:
        """Commit as somebody without a group; the error, or a coroutine of it."""
        committed = offset_requests.commit(self.coordinator, group, ANYBODY, of(changes or (change(group, 0),)))
        return committed.error if isinstance(committed, Committed) else self._error(committed)

    async def _error(self, committed: Coroutine[Any, Any, Committed]) -> ErrorCode:
        return (await committed).error

    def offset(self, group: str, index: int = 0) -> int:
        ((_, partitions),) = offset_requests.fetch(self.coordinator, group, [("t", [index])], require_stable=True)
        (found,) = (each.value for each in partitions)
        return -1 if found is None else found.offset


def topic(name: str, topic_id: bytes) -> TopicImage:
    return TopicImage(name, topic_id, (PartitionImage(topic_id, 0, (1,), (1,), 1, 1, 1),), {})


def of(changes: Iterable[Change]) -> Changes:
    """Changes of one group, as the coordinator takes them."""
    made: dict[str, dict[int, OffsetCommitValue | None]] = {}
    for _, topic_name, partition, value in changes:
        made.setdefault(topic_name, {})[partition] = value
    return made


def given_by(request: SyncGroupRequest) -> dict[str, bytes]:
    """The assignments of a request, as a group takes them."""
    return {each.member_id: bytes(each.assignment) for each in request.assignments}


def change(group: str, offset: int, index: int = 0, **fields: Any) -> Change:
    return (group, "t", index, OffsetCommitValue(offset=offset, commit_timestamp=1, topic_id=b"t" * 16, **fields))


@asynccontextmanager
async def rig(
    machine: Machine | None = None,
    *,
    epoch: int = 1,
    config: dict[str, str] | None = None,
    failing_reads: int = 0,
    flipped: tuple[str, int] | None = None,
) -> AsyncIterator[Rig]:
    """A running coordinator that leads its partition in that epoch; stopped as by kill -9.

    flipped: (file, position) of a bit that is another one, once the log is open.
    """
    made = Rig(machine or Machine(), BrokerConfig().with_values(config or {}))
    if flipped is not None:
        made.env.disk.volume.inode(flipped[0]).data[flipped[1]] ^= 0x40  # type: ignore[attr-defined]
    if failing_reads:
        made.env.disk.fail("pread", "*.log", times=failing_reads)  # type: ignore[attr-defined]
    async with running(made, made.coordinator.run, epoch):
        yield made
