"""Every config that may change while the broker runs does, in a way that a client or the disk shows, without a restart.

Each row does something, changes one config, and does it again: what is seen must be another thing. A topic's key is
changed at the topic, and at the broker by the name of the default that topics inherit (KIP-226).
"""

from __future__ import annotations

import struct
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any, NamedTuple

import pytest
import trio

from kafka_wire.errors import ErrorCode
from kafka_wire.messages.configs import (
    IncrementalAlterableConfig,
    IncrementalAlterConfigsRequest,
    IncrementalAlterConfigsResource,
)
from kafka_wire.messages.consumer_groups import ConsumerGroupHeartbeatRequest
from kafka_wire.messages.offsets import ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic
from kafka_wire.messages.produce_fetch import (
    FetchPartition,
    FetchRequest,
    FetchTopic,
    PartitionProduceData,
    ProduceRequest,
    TopicProduceData,
)
from kafka_wire.messages.topics import CreatableTopic, CreatableTopicConfig, CreateTopicsRequest
from kafka_wire.primitives import crc32c
from kafka_wire.records import Record, RecordLike, build_batch, headers, read_header, read_records
from kbroker.config import TABLE, ConfigKey, Scope, Update
from kbroker.testing.broker import MemoryBroker, memory_broker
from kbroker.testing.client import BareClient
from tests.api.group_tools import find
from tests.api.transaction_tools import Producer
from tests.replication.tools import add_replica

HOUR_MS = 3_600_000
SETTINGS = {"log.retention.check.interval.ms": "10000"}
TWO_LOOKS_S = 25.0  # the broker looks at what is too old twice
GZIP = 1
PRODUCERS = iter(range(7, 1 << 30))  # a new one for each look
SOME_TEXT = b"".join(b"%d is a number, " % (n * n) for n in range(600))


class Scene:
    """A broker, a client of it, and a topic t of one partition."""

    def __init__(self, broker: MemoryBroker, client: BareClient) -> None:
        self.broker, self.client = broker, client

    async def produce(self, batch: bytes | bytearray | None = None, acks: int = 1) -> Any:
        """The answer for a batch, as a rule of one record of now."""
        data = [PartitionProduceData(index=0, records=batch or self.batch())]
        request = ProduceRequest(
            acks=acks, timeout_ms=1000, topic_data=[TopicProduceData(name="t", partition_data=data)]
        )
        return (await self.client.call(request, 9)).responses[0].partition_responses[0]

    def batch(
        self, value: bytes | None = b"value", key: bytes | None = b"key", after_ms: int = 0, **options: Any
    ) -> bytearray:
        records: list[RecordLike] = [(self.broker.clock.data_ms() + after_ms, key, value)]
        return build_batch(records, **options)

    def delayed(self) -> bytearray:
        """A record to be delivered in an hour."""
        fields = (("kbroker-deliver-after", b"%d" % HOUR_MS),)
        return build_batch([(self.broker.clock.data_ms(), b"key", b"value", fields)])

    async def code(self, batch: bytes | bytearray | None = None, acks: int = 1) -> ErrorCode:
        return ErrorCode((await self.produce(batch, acks)).error_code)

    async def last_stored(self) -> bytes:
        """The bytes of the batch that is produced now, as they are stored."""
        offset = (await self.produce(self.batch(SOME_TEXT))).base_offset
        part = FetchPartition(partition=0, fetch_offset=offset, partition_max_bytes=1 << 20)
        request = FetchRequest(max_wait_ms=0, min_bytes=0, topics=[FetchTopic(topic="t", partitions=[part])])
        return bytes((await self.client.call(request, 11)).responses[0].partitions[0].records)

    async def earliest(self) -> int:
        part = ListOffsetsPartition(partition_index=0, timestamp=-2)
        request = ListOffsetsRequest(replica_id=-1, topics=[ListOffsetsTopic(name="t", partitions=[part])])
        found: int = (await self.client.call(request, 7)).topics[0].partitions[0].offset
        return found

    def files(self, suffix: str) -> list[str]:
        """The partition's files that end so, by name."""
        return sorted(name for name in self.broker.disk.list_dir("t-0") if name.endswith(suffix))


def lying(batch: bytearray, count: int) -> bytearray:
    """A batch that says it has so many records."""
    struct.pack_into(">i", batch, 23, count - 1)
    struct.pack_into(">i", batch, 57, count)
    struct.pack_into(">I", batch, 17, crc32c(memoryview(batch)[21:]))
    return batch


# what can be seen ----------------------------------------------------------------------------------------------------


async def codec(scene: Scene) -> int:
    return read_header(await scene.last_stored()).compression


async def stored_bytes(scene: Scene) -> int:
    return len(await scene.last_stored())


async def code_of_keyless(scene: Scene) -> ErrorCode:
    return await scene.code(scene.batch(key=None))


async def code_of_wrong_count(scene: Scene) -> ErrorCode:
    return await scene.code(lying(scene.batch(b"x" * 100), 3))


async def code_of_wrong_count_gzip(scene: Scene) -> ErrorCode:
    return await scene.code(lying(scene.batch(b"x" * 100, compression=GZIP), 3))


async def code_of_a_kilobyte(scene: Scene) -> ErrorCode:
    return await scene.code(scene.batch(b"x" * 1000))


async def offset_of_delayed(scene: Scene) -> int:
    found: int = (await scene.produce(scene.delayed())).base_offset
    return found


async def code_of_delayed(scene: Scene) -> ErrorCode:
    return await scene.code(scene.delayed())


async def code_of_an_hour_ago(scene: Scene) -> ErrorCode:
    return await scene.code(scene.batch(after_ms=-HOUR_MS))


async def code_of_in_two_minutes(scene: Scene) -> ErrorCode:
    return await scene.code(scene.batch(after_ms=120_000))


async def has_append_time(scene: Scene) -> bool:
    return bool((await scene.produce()).log_append_time_ms >= 0)


async def code_of_acks_all(scene: Scene) -> ErrorCode:
    """Of a partition of two replicas, only one of which is in sync."""
    await add_replica(scene.broker, 7)
    return await scene.code(acks=-1)


async def is_synced(scene: Scene) -> bool:
    """Whether a produced batch is on the disk at once: its fsync fails, and the producer is told."""
    scene.broker.disk.fail("sync", "*.log")
    code = await scene.code()
    scene.broker.disk.heal()
    return code is not ErrorCode.NONE


async def is_synced_later(scene: Scene) -> bool:
    """Whether it is after ten seconds: that fsync fails, and the partition goes offline."""
    for _ in range(2):  # the first one may owe a flush of what was before
        assert await scene.code() is ErrorCode.NONE
    scene.broker.disk.fail("sync", "*.log", times=100)
    await trio.sleep(10)
    scene.broker.disk.heal()
    return await scene.code() is not ErrorCode.NONE


async def lasts_a_day(scene: Scene) -> bool:
    """Whether a record is still there a day later."""
    offset: int = (await scene.produce()).base_offset
    scene.broker.clock.jump_data(24 * HOUR_MS)
    await trio.sleep(TWO_LOOKS_S)  # one look makes another segment, the next deletes the old one
    return await scene.earliest() <= offset


async def outlasts_megabytes(scene: Scene) -> bool:
    """Whether a record is still there when two megabytes came after it."""
    offset: int = (await scene.produce()).base_offset
    for _ in range(5):
        await scene.produce(scene.batch(b"x" * 500_000))
    await trio.sleep(TWO_LOOKS_S)
    return await scene.earliest() <= offset


async def rolled(scene: Scene, what: Callable[[Scene], Awaitable[None]]) -> bool:
    """Whether something began another segment."""
    await scene.produce()
    count = len(scene.files(".log"))
    await what(scene)
    return len(scene.files(".log")) > count


async def rolls_by_size(scene: Scene) -> bool:
    async def megabytes(scene: Scene) -> None:
        for _ in range(5):
            await scene.produce(scene.batch(b"x" * 500_000))

    return await rolled(scene, megabytes)


async def rolls_by_kilobytes(scene: Scene) -> bool:
    async def kilobytes(scene: Scene) -> None:
        for _ in range(5):
            await scene.produce(scene.batch(b"x" * 500))

    return await rolled(scene, kilobytes)


async def rolls_by_index(scene: Scene) -> bool:
    async def entries(scene: Scene) -> None:
        for _ in range(10):
            await scene.produce(scene.batch(b"x" * 5000))

    return await rolled(scene, entries)


async def rolls_within_a_day(scene: Scene) -> bool:
    async def a_day(scene: Scene) -> None:
        scene.broker.clock.jump_data(24 * HOUR_MS)
        await scene.produce()

    return await rolled(scene, a_day)


async def rolls_within_most_of_a_day(scene: Scene) -> bool:
    async def hours(scene: Scene) -> None:
        scene.broker.clock.jump_data(23 * HOUR_MS)
        await scene.produce()

    return await rolled(scene, hours)


async def is_removed_soon(scene: Scene) -> bool:
    """Whether the files of deleted segments are gone soon."""
    assert not await outlasts_megabytes(scene)
    await trio.sleep(TWO_LOOKS_S)
    return not scene.files(".deleted")


async def index_bytes(scene: Scene) -> int:
    """Of the index of a segment that ten batches of 500 bytes came to."""
    for _ in range(10):
        await scene.produce(scene.batch(b"x" * 500))
    name = scene.files(".log")[-1]
    for _ in range(5):
        await scene.produce(scene.batch(b"x" * 500_000))
    return scene.broker.disk.size(f"t-0/{name.replace('.log', '.index')}")


# compaction: of a topic with the configs of COMPACT


async def write_over(scene: Scene) -> bytes:
    """A record that is deleted, and sixty of one key, which close some segments; and time for the cleaner. The key."""
    key = b"k%d" % next(PRODUCERS)
    await trio.sleep(30)  # whatever was about to be done is over
    for n in range(40):
        await scene.produce(scene.batch(b"x" * 100, key=key if n else key + b" deleted"))
    await scene.produce(scene.batch(None, key=key + b" deleted"))
    for _ in range(20):
        await scene.produce(scene.batch(b"x" * 100, key=key))
    await trio.sleep(60)
    return key


def stored(scene: Scene) -> list[Record]:
    """What the files of the partition hold."""
    found: list[Record] = []
    for name in scene.files(".log"):
        data = scene.broker.disk.read(f"t-0/{name}")
        for position, header in headers(data):
            found += [] if header.is_control else read_records(data, position, max_bytes=1 << 20)
    return found


async def is_compacted(scene: Scene) -> bool:
    """Whether of sixty records of a key only some are left, soon after they were written."""
    key = await write_over(scene)
    return [record.key for record in stored(scene)].count(key) < 30


async def forgets_deletions(scene: Scene) -> bool:
    """Whether the tombstone of a key is gone soon."""
    key = await write_over(scene)
    await write_over(scene)
    return not any(record.key == key + b" deleted" for record in stored(scene))


# groups


async def heartbeat(scene: Scene, member: str, epoch: int, **fields: Any) -> Any:
    joins: dict[str, Any] = {}
    if epoch == 0:
        joins = {"rebalance_timeout_ms": 60_000, "subscribed_topic_names": ["t"], "topic_partitions": []}
    request = ConsumerGroupHeartbeatRequest(group_id="g", member_id=member, member_epoch=epoch, **joins, **fields)
    return await scene.client.call(request, 1)


async def interval_ms(scene: Scene) -> int:
    await find(scene.client, "g")
    found: int = (await heartbeat(scene, "m", 0)).heartbeat_interval_ms
    return found


async def lives_without_a_word(scene: Scene) -> bool:
    """Whether a member that is silent for 50 seconds is still one."""
    await find(scene.client, "g")
    joined = await heartbeat(scene, "m", 0)
    await trio.sleep(50)
    return bool((await heartbeat(scene, "m", joined.member_epoch)).error_code == 0)


async def code_after_silence(scene: Scene) -> ErrorCode:
    """What becomes of a producer's sequence with a gap when it was silent for an hour."""
    producer = next(PRODUCERS)
    assert await scene.code(scene.batch(base_sequence=0, producer_id=producer, producer_epoch=0)) is ErrorCode.NONE
    scene.broker.clock.jump_data(HOUR_MS)
    await trio.sleep(TWO_LOOKS_S)
    return await scene.code(scene.batch(base_sequence=50, producer_id=producer, producer_epoch=0))


async def code_of_what_was_not_added(scene: Scene) -> ErrorCode:
    """Of a batch whose transaction does not have the partition: whether it is verified."""
    producer = await Producer(scene.client, f"tx-{next(PRODUCERS)}").init()
    return ErrorCode((await producer.produce(version=10)).error_code)


# the rows ------------------------------------------------------------------------------------------------------------


class Row(NamedTuple):
    """What is seen before and after a key has a value. `given` are other configs of the topic."""

    key: str
    value: str
    see: Callable[[Scene], Awaitable[Any]]
    before: Any
    after: Any  # or a test of what is seen before and after
    given: Mapping[str, str] = {}


def differ(before: Any, after: Any) -> bool:
    return bool(before != after)


def grow(before: Any, after: Any) -> bool:
    return bool(before < after)


OK = ErrorCode.NONE
TOPIC_ROWS = [
    Row("cleanup.policy", "compact", code_of_keyless, OK, ErrorCode.INVALID_RECORD),
    Row("compression.type", "zstd", codec, 0, 4),
    Row("compression.gzip.level", "1", stored_bytes, None, grow, {"compression.type": "gzip"}),
    Row("compression.lz4.level", "1", stored_bytes, None, grow, {"compression.type": "lz4"}),
    Row("compression.zstd.level", "19", stored_bytes, None, differ, {"compression.type": "zstd"}),
    Row("file.delete.delay.ms", "0", is_removed_soon, False, True,
        {"segment.bytes": "1048576", "retention.bytes": "1"}),
    Row("flush.messages", "1", is_synced, False, True),
    Row("flush.ms", "1000", is_synced_later, False, True),
    Row("index.interval.bytes", "0", index_bytes, None, grow, {"segment.bytes": "1048576"}),
    Row("kbroker.delay.enable", "true", offset_of_delayed, 0, -1),
    Row("kbroker.delay.max.ms", "1000", code_of_delayed, OK, ErrorCode.INVALID_RECORD,
        {"kbroker.delay.enable": "true"}),
    Row("kbroker.produce.validate", "header", code_of_wrong_count, ErrorCode.INVALID_RECORD, OK),
    Row("kbroker.produce.validate.compressed", "full", code_of_wrong_count_gzip, OK, ErrorCode.INVALID_RECORD),
    Row("max.message.bytes", "900", code_of_a_kilobyte, OK, ErrorCode.MESSAGE_TOO_LARGE),
    Row("message.timestamp.before.max.ms", "60000", code_of_an_hour_ago, OK, ErrorCode.INVALID_TIMESTAMP),
    Row("message.timestamp.after.max.ms", "60000", code_of_in_two_minutes, OK, ErrorCode.INVALID_TIMESTAMP),
    Row("message.timestamp.type", "LogAppendTime", has_append_time, False, True),
    Row("min.insync.replicas", "2", code_of_acks_all, OK, ErrorCode.NOT_ENOUGH_REPLICAS),
    Row("retention.bytes", "1048576", outlasts_megabytes, True, False, {"segment.bytes": "1048576"}),
    Row("retention.ms", "3600000", lasts_a_day, True, False),
    Row("segment.bytes", "1048576", rolls_by_size, False, True),
    Row("segment.index.bytes", "32", rolls_by_index, False, True),
    Row("segment.jitter.ms", "86400000", rolls_within_most_of_a_day, False, True, {"segment.ms": "86400000"}),
    Row("segment.ms", "3600000", rolls_within_a_day, False, True),
    Row("internal.segment.bytes", "1000", rolls_by_kilobytes, False, True),
]  # fmt: skip
COMPACT = {"cleanup.policy": "compact", "internal.segment.bytes": "1000"}
COMPACT_LATE = {**COMPACT, "min.cleanable.dirty.ratio": "1"}  # which it never is
TOPIC_ROWS += [
    Row("delete.retention.ms", "0", forgets_deletions, False, True, COMPACT),
    Row("max.compaction.lag.ms", "1000", is_compacted, False, True, COMPACT_LATE),
    Row("min.cleanable.dirty.ratio", "1", is_compacted, True, False, COMPACT),
    Row("min.compaction.lag.ms", "3600000", is_compacted, True, False, COMPACT),
]
GROUP_ROWS = [
    Row("consumer.heartbeat.interval.ms", "6000", interval_ms, 5000, 6000),
    Row("consumer.session.timeout.ms", "60000", lives_without_a_word, False, True),
]
BROKER_ROWS = [
    Row("log.cleaner.backoff.ms", "3600000", is_compacted, True, False, COMPACT),
    Row("log.cleaner.threads", "0", is_compacted, True, False, COMPACT),
    Row("producer.id.expiration.ms", "600000", code_after_silence, ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER, OK),
    Row("transaction.partition.verification.enable", "false", code_of_what_was_not_added,
        ErrorCode.INVALID_TXN_STATE, OK),
]  # fmt: skip
ELSEWHERE = {
    "kbroker.tags.enable": "tests/log/derived/test_tags.py",
    "kbroker.view.filter": "t is no view: tests/api/test_views.py",
    "kbroker.view.lag.ms": "tests/api/test_views.py",
    "kbroker.view.mode": "tests/api/test_views.py",
    "kbroker.view.source": "tests/api/test_views.py",
    "kbroker.view.tags": "tests/api/test_views.py",
    "log.cleaner.dedupe.buffer.size": "tests/log/cleaner/test_limits.py",
    "log.cleaner.io.max.bytes.per.second": "a pass takes longer: tests/log/cleaner/test_limits.py",
    "max.connections": "tests/server/test_dynamic_configs.py",
    "max.connections.per.ip": "tests/server/test_dynamic_configs.py",
    "kbroker.scrub.bytes.per.second": "nobody sees how fast a log is read behind the scenes; test_dynamic_configs.py",
    "consumer.assignment.interval.ms": "assignments of small groups are made at once, whatever it is",
    "group.consumer.assignment.interval.ms": "as the group's",
    "unclean.leader.election.enable": "tests/replication/test_proven.py, and the tests of elections",
    "leader.replication.throttled.rate": "tests/replication/test_throttles.py",
    "leader.replication.throttled.replicas": "tests/replication/test_throttles.py",
    "follower.replication.throttled.rate": "tests/replication/test_throttles.py",
    "follower.replication.throttled.replicas": "tests/replication/test_throttles.py",
}


def updatable(scope: Scope) -> dict[str, ConfigKey]:
    return {
        name: key
        for name, key in TABLE[scope].items()
        if key.effect and (scope is not Scope.BROKER or key.update is not Update.READ_ONLY)
    }


def by_broker_name() -> Iterator[tuple[str, Row]]:
    """The rows of topics, by the broker's updatable names for their defaults."""
    for row in TOPIC_ROWS:
        for synonym in TABLE[Scope.TOPIC][row.key].synonyms:
            if synonym.name in updatable(Scope.BROKER):
                yield synonym.name, row


ROWS = [
    *(pytest.param(Scope.TOPIC, "t", row.key, row, id=f"topic-{row.key}") for row in TOPIC_ROWS),
    *(pytest.param(Scope.GROUP, "g", row.key, row, id=f"group-{row.key}") for row in GROUP_ROWS),
    *(pytest.param(Scope.BROKER, "", row.key, row, id=f"broker-{row.key}") for row in BROKER_ROWS),
    *(pytest.param(Scope.BROKER, "", name, row, id=f"broker-{name}") for name, row in by_broker_name()),
]


def test_every_config_that_may_change_is_shown_or_says_why_not() -> None:
    every = {name for scope in Scope for name in updatable(scope)}
    assert {row.values[2] for row in ROWS} | ELSEWHERE.keys() == every


@pytest.mark.parametrize(("scope", "resource", "name", "row"), ROWS)
async def test_a_change_takes_effect_without_a_restart(
    scope: Scope, resource: str, name: str, row: Row, autojump_clock: object
) -> None:
    async with memory_broker(config=SETTINGS) as broker, broker.client() as client:
        configs = [CreatableTopicConfig(name=key, value=value) for key, value in row.given.items()]
        topic = CreatableTopic(name="t", num_partitions=1, replication_factor=1, assignments=[], configs=configs)
        created = await client.call(CreateTopicsRequest(topics=[topic], timeout_ms=1000), 5)
        assert created.topics[0].error_code == 0, created
        scene = Scene(broker, client)
        before = await row.see(scene)
        change = IncrementalAlterableConfig(name=name, config_operation=0, value=row.value)
        wanted = IncrementalAlterConfigsResource(resource_type=scope, resource_name=resource, configs=[change])
        answer = await client.call(IncrementalAlterConfigsRequest(resources=[wanted], validate_only=False), 1)
        assert answer.responses[0].error_code == 0, answer
        after = await row.see(scene)
        if callable(row.after):
            assert row.after(before, after)
        else:
            assert (before, after) == (row.before, row.after)
