"""Produce, through a whole broker in memory."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from kafka_wire.api import ApiKey
from kafka_wire.errors import ErrorCode
from kafka_wire.messages.produce_fetch import (
    PartitionProduceData,
    PartitionProduceResponse,
    ProduceRequest,
    TopicProduceData,
)
from kafka_wire.records import build_batch, control_batch
from kbroker.testing.broker import memory_broker
from kbroker.testing.client import BareClient


def produce_request(batch: Any, *, acks: int = -1, topic: str = "t", index: int = 0) -> ProduceRequest:
    data = PartitionProduceData(index=index, records=batch)
    return ProduceRequest(acks=acks, timeout_ms=1000, topic_data=[TopicProduceData(name=topic, partition_data=[data])])


async def produce(client: BareClient, batch: Any, *, version: int = 9, **where: Any) -> PartitionProduceResponse:
    response = await client.call(produce_request(batch, **where), version)
    answer: PartitionProduceResponse = response.responses[0].partition_responses[0]
    return answer


def batch(*values: bytes, **options: Any) -> bytearray:
    return build_batch([(b"k", value) for value in values], **options)


@pytest.mark.parametrize("version", range(3, 12))
@pytest.mark.parametrize("acks", [1, -1])
async def test_every_version_appends(version: int, acks: int) -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        assert (await produce(client, batch(b"a", b"b"), version=version, acks=acks)).base_offset == 0
        answer = await produce(client, batch(b"c"), version=version, acks=acks)
        assert (answer.error_code, answer.base_offset, answer.log_append_time_ms) == (0, 2, -1)


async def test_acks_0_is_not_answered() -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        await client.send(produce_request(batch(b"a"), acks=0), 9)
        assert (await produce(client, batch(b"b"))).base_offset == 1


async def test_acks_0_failure_closes_the_connection() -> None:
    async with memory_broker(topics={"t": 1}) as broker:
        async with broker.client() as client:
            await client.send(produce_request(batch(b"a"), acks=0, topic="absent"), 9)
            with pytest.raises(trio.EndOfChannel):
                await client.receive_frame()
        async with broker.client() as other:
            assert (await produce(other, batch(b"b"))).base_offset == 0


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        (None, ErrorCode.INVALID_RECORD),
        (b"", ErrorCode.INVALID_RECORD),
        (batch(b"a") + batch(b"b"), ErrorCode.INVALID_RECORD),
        (batch(b"a")[:-1], ErrorCode.CORRUPT_MESSAGE),
        (batch(b"a")[:-1] + b"!", ErrorCode.CORRUPT_MESSAGE),
        (
            control_batch(0, producer_id=1, producer_epoch=0, coordinator_epoch=0, timestamp=0, transactional=False),
            ErrorCode.INVALID_RECORD,
        ),
        (batch(b"x" * 2_000_000), ErrorCode.MESSAGE_TOO_LARGE),
        (batch(b"a", transactional=True, producer_id=1, producer_epoch=0), ErrorCode.INVALID_TXN_STATE),
    ],
    ids=["null", "empty", "two-batches", "cut", "crc", "control", "too-large", "transactional"],
)
async def test_B4_a_bad_batch_is_refused_and_the_connection_goes_on(wrong: Any, code: ErrorCode) -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        answer = await produce(client, wrong)
        assert (answer.error_code, answer.base_offset) == (code, -1)
        assert (await produce(client, batch(b"fine"))).base_offset == 0


async def test_unknown_partitions_and_topics() -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        for where in ({"topic": "absent"}, {"index": 1}, {"index": -1}):
            assert (await produce(client, batch(b"a"), **where)).error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION


async def test_unknown_acks() -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        assert (await produce(client, batch(b"a"), acks=2)).error_code == ErrorCode.INVALID_REQUIRED_ACKS


async def test_zstd_needs_version_7() -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        zstd = batch(b"a", compression=4)
        assert (await produce(client, zstd, version=6)).error_code == ErrorCode.UNSUPPORTED_COMPRESSION_TYPE
        assert (await produce(client, zstd, version=7)).error_code == ErrorCode.NONE


async def test_R6_acks_all_needs_min_isr() -> None:
    async with memory_broker(topics={"t": 1}, config={"min.insync.replicas": "2"}) as broker, broker.client() as client:
        assert (await produce(client, batch(b"a"))).error_code == ErrorCode.NOT_ENOUGH_REPLICAS
        assert (await produce(client, batch(b"a"), acks=1)).base_offset == 0


async def test_P1_a_retried_batch_is_acknowledged_with_its_first_offset() -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        first = batch(b"a", producer_id=9, producer_epoch=0, base_sequence=0)
        second = batch(b"b", producer_id=9, producer_epoch=0, base_sequence=1)
        gap = batch(b"c", producer_id=9, producer_epoch=0, base_sequence=7)
        assert [(await produce(client, each)).base_offset for each in (first, second, first, second)] == [0, 1, 0, 1]
        assert (await produce(client, gap)).error_code == ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER


async def test_log_append_time_is_answered(autojump_clock: MockClock) -> None:
    config = {"log.message.timestamp.type": "LogAppendTime"}
    async with memory_broker(topics={"t": 1}, config=config) as broker, broker.client() as client:
        assert (await produce(client, batch(b"a"))).log_append_time_ms == broker.clock.data_ms()


@pytest.mark.parametrize("acks", [1, -1])
async def test_flush_messages_holds_the_answer_until_the_disk_has_it(acks: int) -> None:
    config = {"log.flush.interval.messages": "1"}
    async with memory_broker(topics={"t": 1}, config=config) as broker, broker.client() as client:
        assert (await produce(client, batch(b"a"), acks=acks)).base_offset == 0
        broker.disk.fail("sync", "t-0/*")
        assert (await produce(client, batch(b"b"), acks=acks)).error_code == ErrorCode.KAFKA_STORAGE_ERROR


async def test_answers_of_a_pipelined_connection_keep_their_order(autojump_clock: MockClock) -> None:
    """Answers that wait for a flush do not hold up the handling of those behind, and nobody overtakes."""
    config = {"log.flush.interval.messages": "1"}
    async with memory_broker(topics={"t": 1}, config=config) as broker, broker.client() as client:
        for n in range(20):
            await client.send(produce_request(batch(b"%d" % n), acks=1 if n % 3 else -1), 9)
        offsets = []
        for _ in range(20):
            response = await client.receive(ApiKey.PRODUCE, 9)
            offsets.append(response.responses[0].partition_responses[0].base_offset)
        assert offsets == list(range(20))


async def test_ENOSPC_refuses_and_recovers_without_restart() -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        assert (await produce(client, batch(b"a"))).base_offset == 0
        broker.disk.capacity = broker.disk.used
        assert (await produce(client, batch(b"b"))).error_code == ErrorCode.KAFKA_STORAGE_ERROR
        broker.disk.capacity = 1 << 30
        assert (await produce(client, batch(b"c"))).base_offset == 1
