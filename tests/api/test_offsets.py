"""ListOffsets, OffsetForLeaderEpoch and InitProducerId, through a whole broker in memory."""

from __future__ import annotations

import pytest

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
from kbroker.testing.broker import Machine, memory_broker
from kbroker.testing.client import BareClient
from tests.api.test_produce import produce


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
