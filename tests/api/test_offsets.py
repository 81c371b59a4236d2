"""ListOffsets, OffsetForLeaderEpoch and InitProducerId, through a whole broker in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import pytest
import trio
from trio.testing import MockClock

from kafka_wire.api import ApiKey
from kafka_wire.errors import ErrorCode
from kafka_wire.messages.offsets import (
    ListOffsetsPartition,
    ListOffsetsRequest,
    ListOffsetsTopic,
    OffsetForLeaderEpochRequest,
    OffsetForLeaderPartition,
    OffsetForLeaderTopic,
)
from kafka_wire.messages.transactions import InitProducerIdRequest
from kafka_wire.records import build_batch
from kbroker.api.context import Services
from kbroker.env import Env
from kbroker.log.content import lookup
from kbroker.replication.partition import Partition
from kbroker.testing.broker import Machine, memory_broker
from kbroker.testing.client import BareClient
from kbroker.turns import PAUSES_A_TURN, STRIDE
from tests.api.steps import Steps
from tests.api.test_produce import produce

T = TypeVar("T")


async def ask(client: BareClient, timestamp: int, *, version: int = 7, index: int = 0) -> tuple[int, int, int]:
    partition = ListOffsetsPartition(partition_index=index, timestamp=timestamp)
    topic = ListOffsetsTopic(name="t", partitions=[partition])
    response = await client.call(ListOffsetsRequest(replica_id=-1, topics=[topic]), version)
    answer = response.topics[0].partitions[0]
    return answer.error_code, answer.offset, answer.timestamp


async def fill(client: BareClient, now_ms: int) -> None:
    for n, codec in enumerate((0, 1, 4)):
        records = [(now_ms + 10 * n + k, b"k", b"v") for k in range(3)]
        assert (await produce(client, build_batch(records, compression=codec))).error_code == 0


@pytest.mark.parametrize("version", range(1, 11))
async def test_earliest_latest_and_by_time(version: int) -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        now = broker.clock.data_ms()
        await fill(client, now)
        assert (await ask(client, -1, version=version))[:2] == (0, 9)
        assert (await ask(client, -2, version=version))[:2] == (0, 0)
        assert await ask(client, now + 11, version=version) == (0, 4, now + 11)
        assert await ask(client, now + 13, version=version) == (0, 6, now + 20)
        assert await ask(client, now + 23, version=version) == (0, -1, -1)


async def test_special_timestamps_by_version() -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        now = broker.clock.data_ms()
        await fill(client, now)
        assert await ask(client, -3, version=7) == (0, 8, now + 22)
        assert (await ask(client, -4, version=8))[:2] == (0, 0)
        assert (await ask(client, -5, version=9))[:2] == (0, -1)
        for timestamp, version in ((-3, 6), (-4, 7), (-5, 8), (-6, 10)):
            assert (await ask(client, timestamp, version=version))[0] == ErrorCode.UNSUPPORTED_VERSION


async def test_an_empty_partition_has_no_largest_timestamp() -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        assert await ask(client, -3) == (0, -1, -1)
        assert (await ask(client, -1, index=5))[0] == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION


async def list_offsets(client: BareClient, *asked: tuple[str, list[tuple[int, int]]], **options: Any) -> list[Any]:
    """Ask topics for (partition, timestamp); (topic, [(partition, error, offset, leader epoch)]) of the answer."""
    epoch = options.pop("leader_epoch", -1)
    topics = [
        ListOffsetsTopic(
            name=name,
            partitions=[
                ListOffsetsPartition(partition_index=i, timestamp=t, current_leader_epoch=epoch) for i, t in rows
            ],
        )
        for name, rows in asked
    ]
    response = await client.call(ListOffsetsRequest(**{"replica_id": -1, "topics": topics, **options}), 7)
    return [
        (t.name, [(p.partition_index, p.error_code, p.offset, p.leader_epoch) for p in t.partitions])
        for t in response.topics
    ]


async def test_odd_requests_are_answered_as_kafka_does() -> None:
    """As recorded from Apache Kafka 4.3: t-0 has records, t-1 none."""
    async with memory_broker(topics={"t": 2}) as broker, broker.client() as client:
        await fill(client, broker.clock.data_ms())
        twice, none = (0, ErrorCode.INVALID_REQUEST, -1, -1), (1, 0, 0, 0)
        assert await list_offsets(client, ("t", [(0, -1), (1, -2), (0, -2)])) == [("t", [twice, none])]
        assert await list_offsets(client, ("t", [(0, -1)]), ("t", [(0, -1), (1, -1)])) == [("t", [twice, none])]
        assert await list_offsets(client, ("t", []), ("x", [(0, -1)])) == [("x", [(0, 3, -1, -1)])]
        assert await list_offsets(client) == []
        assert await list_offsets(client, ("t", [(0, -1)]), leader_epoch=9) == [("t", [(0, 75, -1, -1)])]
        assert await list_offsets(client, ("t", [(0, -1)]), leader_epoch=-2) == [("t", [(0, 74, -1, -1)])]
        assert await list_offsets(client, ("t", [(0, -1)]), isolation_level=9) == [("t", [(0, -1, -1, -1)])]
        for replica in (-2, 5):
            assert await list_offsets(client, ("t", [(0, -1)]), replica_id=replica) == [("t", [(0, 0, 9, 0)])]
        assert await list_offsets(client, ("t", [(0, 2**63 - 1)])) == [("t", [(0, 0, -1, -1)])]


@pytest.mark.parametrize(
    ("version", "code"), [(4, ErrorCode.LEADER_NOT_AVAILABLE), (5, ErrorCode.OFFSET_NOT_AVAILABLE)]
)
async def test_K207_no_offset_is_told_that_may_be_behind_what_was_told_before(
    version: int, code: ErrorCode, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        now = broker.clock.data_ms()
        await fill(client, now)
        monkeypatch.setattr(Partition, "is_catching_up", True)
        assert (await ask(client, -1, version=version))[0] == code
        assert (await ask(client, now + 1000, version=version))[0] == code
        assert (await ask(client, -2, version=version))[:2] == (0, 0)
        assert (await ask(client, now + 11, version=version))[:2] == (0, 4)


async def test_a_search_that_outlives_the_leadership_is_no_answer(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    held: list[Partition] = []
    real = Partition.check_leader
    monkeypatch.setattr(Partition, "check_leader", lambda self, *args: (held.append(self), real(self, *args))[1])
    async with memory_broker(topics={"t": 1}, machine=SlowDisk()) as broker, broker.client() as client:
        now = broker.clock.data_ms()
        await produce(client, build_batch([(now, b"k", b"v" * 100_000)] * 2))
        topics = [ListOffsetsTopic(name="t", partitions=[ListOffsetsPartition(partition_index=0, timestamp=now)])]
        await client.send(ListOffsetsRequest(replica_id=-1, topics=topics), 7)
        await trio.sleep(0.5)
        held[-1].resign()
        answer = await client.receive(ApiKey.LIST_OFFSETS, 7)
        assert answer.topics[0].partitions[0].error_code == ErrorCode.NOT_LEADER_OR_FOLLOWER


class SlowDisk(Machine):
    """A machine whose workers take a second for everything."""

    def env(self) -> Env:
        env = super().env()

        async def offload(work: Callable[[], T]) -> T:
            await trio.sleep(1)
            return await env.offload(work)

        return replace(env, offload=offload)


async def test_searches_end_with_the_requests_time(autojump_clock: MockClock) -> None:
    machine = SlowDisk()
    async with memory_broker(topics={"t": 3}, machine=machine) as broker, broker.client() as client:
        now = broker.clock.data_ms()
        for index in range(3):
            await produce(client, build_batch([(now, b"k", b"v" * 100_000)] * 2), index=index)
        asked = [ListOffsetsPartition(partition_index=i, timestamp=t) for i, t in ((0, -1), (1, now), (2, now))]
        topics = [ListOffsetsTopic(name="t", partitions=asked)]
        for timeout_ms, codes in ((1500, [0, 0, ErrorCode.REQUEST_TIMED_OUT]), (0, [0, 0, 0])):
            request = ListOffsetsRequest(replica_id=-1, topics=topics, timeout_ms=timeout_ms)
            response = await client.call(request, 10)
            assert [row.error_code for row in response.topics[0].partitions] == codes


async def test_a_disk_that_fails_is_told_for_that_partition_alone(caplog: pytest.LogCaptureFixture) -> None:
    async with memory_broker(topics={"t": 2}) as broker, broker.client() as client:
        now = broker.clock.data_ms()
        for index in range(2):
            await produce(client, build_batch([(now, b"k", b"v" * 100_000)] * 2), index=index)
        broker.disk.fail("pread", "t-0/*", times=100)
        for timestamp in (now, -3):
            (answer,) = await list_offsets(client, ("t", [(0, timestamp), (1, timestamp), (0 + 7, timestamp)]))
            assert [row[1] for row in answer[1]] == [ErrorCode.KAFKA_STORAGE_ERROR, 0, 3]
        assert [text.split(":")[0] for text in caplog.messages] == ["the disk refuses clients of partition t-0"]


@pytest.mark.slow
async def test_searches_in_batches_of_50_000_records_hold_nobody_up(nursery: trio.Nursery) -> None:
    """In turns: the loop is never held for longer than a turn of record heads."""
    machine = Machine()
    async with memory_broker(topics={"t": 1}, machine=machine) as broker, broker.client() as client:
        now, count = broker.clock.data_ms(), 50_000
        for n in range(3):
            await produce(client, build_batch([(now + n * count + k, None, b"v") for k in range(count)], compression=4))
        steps = Steps(nursery)
        real = lookup.stamps
        with pytest.MonkeyPatch.context() as patch:
            step = steps.counted(lambda stamp: stamp)
            patch.setattr(lookup, "stamps", lambda *args: map(step, real(*args)))
            for n in range(3):
                wanted = n * count + count - 1
                assert await ask(client, now + wanted) == (0, wanted, now + wanted)
        assert steps.calls == 3 * count
        assert steps.longest <= 2 * lookup.RECORDS_AT_ONCE * PAUSES_A_TURN
        nursery.cancel_scope.cancel()


async def test_many_partitions_are_looked_up_once_each_and_in_turns(
    monkeypatch: pytest.MonkeyPatch, nursery: trio.Nursery
) -> None:
    count = 5000
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        steps = Steps(nursery)
        monkeypatch.setattr(Services, "reading", steps.counted(Services.reading))
        (answer,) = await list_offsets(client, ("t", [(index, -1) for index in range(count)]))
        assert [row[0] for row in answer[1]] == list(range(count))
        asked = [OffsetForLeaderPartition(partition=index, leader_epoch=0) for index in range(count)]
        request = OffsetForLeaderEpochRequest(topics=[OffsetForLeaderTopic(topic="t", partitions=asked)])
        ends = await client.call(request, 4)
        assert [row.partition for row in ends.topics[0].partitions] == list(range(count))
        assert steps.calls == 2 * count
        assert steps.longest <= 2 * STRIDE * PAUSES_A_TURN
        nursery.cancel_scope.cancel()


async def test_R4_epoch_ends_across_restarts() -> None:
    machine = Machine()
    for _ in range(3):
        async with memory_broker(topics={"t": 1}, machine=machine) as broker, broker.client() as client:
            await fill(client, broker.clock.data_ms())
    async with memory_broker(machine=machine) as broker, broker.client() as client:

        async def end_of(epoch: int, version: int = 4) -> tuple[int, int]:
            asked = OffsetForLeaderPartition(partition=0, leader_epoch=epoch)
            request = OffsetForLeaderEpochRequest(topics=[OffsetForLeaderTopic(topic="t", partitions=[asked])])
            answer = (await client.call(request, version)).topics[0].partitions[0]
            assert answer.error_code == 0
            return answer.leader_epoch, answer.end_offset

        assert [await end_of(epoch) for epoch in range(4)] == [(0, 9), (1, 18), (2, 27), (3, 27)]
        assert await end_of(3, version=2) == (3, 27)
        assert await end_of(9) == (-1, -1)


@pytest.mark.parametrize("version", range(6))
async def test_P4_producer_ids_are_unique_across_restarts(version: int) -> None:
    machine = Machine()
    ids = []
    for _ in range(2):
        async with memory_broker(machine=machine) as broker, broker.client() as client:
            for _ in range(3):
                request = InitProducerIdRequest(transactional_id=None, transaction_timeout_ms=0)
                response = await client.call(request, version)
                assert (response.error_code, response.producer_epoch) == (0, 0)
                ids.append(response.producer_id)
    assert len(set(ids)) == 6


@pytest.mark.parametrize(
    ("producer_id", "epoch", "code"), [(5, -1, 42), (-1, 0, 42), (5, 0, 0), (-1, -1, 0), (-2, -2, 0)]
)
async def test_a_producer_id_comes_with_an_epoch_or_not_at_all(producer_id: int, epoch: int, code: int) -> None:
    async with memory_broker() as broker, broker.client() as client:
        request = InitProducerIdRequest(
            transactional_id=None, transaction_timeout_ms=0, producer_id=producer_id, producer_epoch=epoch
        )
        response = await client.call(request, 4)
        assert response.error_code == code
        assert (response.producer_id == -1, response.producer_epoch == -1) == (bool(code), bool(code))
