"""Produce, through a whole broker in memory."""

from __future__ import annotations

import struct
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from kafka_wire import primitives
from kafka_wire.api import ApiKey
from kafka_wire.errors import ErrorCode
from kafka_wire.messages.configs import (
    IncrementalAlterableConfig,
    IncrementalAlterConfigsRequest,
    IncrementalAlterConfigsResource,
)
from kafka_wire.messages.offsets import ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic
from kafka_wire.messages.produce_fetch import (
    PartitionProduceData,
    PartitionProduceResponse,
    ProduceRequest,
    TopicProduceData,
)
from kafka_wire.messages.topics import (
    DeleteRecordsPartition,
    DeleteRecordsRequest,
    DeleteRecordsTopic,
    DeleteTopicsRequest,
)
from kafka_wire.records import HEADER_SIZE, build_batch, control_batch
from kafka_wire.walk import RECORDS_AT_ONCE
from kbroker.api.produce import RECORD_ERRORS_MAX
from kbroker.testing.broker import memory_broker
from kbroker.testing.client import BareClient
from kbroker.testing.clock import EPOCH_MS
from kbroker.turns import PAUSES_A_TURN
from tests.replication.tools import add_replica


def produce_request(
    *batches: Any, acks: int = -1, topic: str = "t", index: int = 0, timeout_ms: int = 1000, **fields: Any
) -> ProduceRequest:
    data = [PartitionProduceData(index=index, records=batch) for batch in batches]
    topics = [TopicProduceData(name=topic, partition_data=data)]
    return ProduceRequest(acks=acks, timeout_ms=timeout_ms, topic_data=topics, **fields)


async def produce(client: BareClient, batch: Any, *, version: int = 9, **where: Any) -> PartitionProduceResponse:
    response = await client.call(produce_request(batch, **where), version)
    answer: PartitionProduceResponse = response.responses[0].partition_responses[0]
    return answer


def batch(*values: bytes, **options: Any) -> bytearray:
    return build_batch([(b"k", value) for value in values], **options)


@pytest.mark.parametrize("version", range(3, 13))
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
        (batch(b"a")[:-1], ErrorCode.INVALID_RECORD),
        (batch(b"a")[:-1] + b"!", ErrorCode.CORRUPT_MESSAGE),
        (
            control_batch(0, producer_id=1, producer_epoch=0, coordinator_epoch=0, timestamp=0, transactional=False),
            ErrorCode.INVALID_RECORD,
        ),
        (batch(b"x" * 2_000_000), ErrorCode.MESSAGE_TOO_LARGE),
        (
            batch(b"a", transactional=True, producer_id=1, producer_epoch=0),
            ErrorCode.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
        ),
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
        assert (await produce(client, batch(b"a"))).error_code == ErrorCode.NONE  # all replicas there are
        await add_replica(broker, 7)
        assert (await produce(client, batch(b"a"))).error_code == ErrorCode.NOT_ENOUGH_REPLICAS
        assert (await produce(client, batch(b"a"), acks=1)).base_offset == 1


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


async def test_ENOSPC_refuses_and_recovers_without_restart(caplog: pytest.LogCaptureFixture) -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        assert (await produce(client, batch(b"a"))).base_offset == 0
        broker.disk.capacity = broker.disk.used
        for _ in range(3):
            assert (await produce(client, batch(b"b"))).error_code == ErrorCode.KAFKA_STORAGE_ERROR
        (told,) = caplog.messages  # people are told, once
        assert "partition t-0: no space left for t-0/" in told
        broker.disk.capacity = 1 << 30
        assert (await produce(client, batch(b"c"))).base_offset == 1


def many(count: int, at: int = EPOCH_MS, **options: Any) -> bytearray:
    """A batch of so many tiny records."""
    return build_batch([(at, b"k", b"v")] * count, **options)


LONG = 8 * PAUSES_A_TURN * RECORDS_AT_ONCE  # records: far more than one turn reads


@pytest.mark.parametrize("compression", [0, 1, 4])
@pytest.mark.parametrize("acks", [1, -1])
async def test_a_long_look_at_records_changes_no_order(compression: int, acks: int, autojump_clock: MockClock) -> None:
    """What is sent behind a batch that takes many turns is appended behind it, and answered behind it."""
    config = {"kbroker.produce.validate.compressed": "full", "message.max.bytes": "10000000"}
    async with memory_broker(topics={"t": 1}, config=config) as broker, broker.client() as client:
        await client.send(produce_request(many(LONG, compression=compression), acks=acks), 9)
        for n in range(5):
            await client.send(produce_request(batch(b"%d" % n), acks=acks), 9)
        await client.send(produce_request(many(LONG, compression=compression), acks=0), 9)
        await client.send(produce_request(batch(b"last"), acks=acks), 9)
        offsets = []
        for _ in range(7):
            response = await client.receive(ApiKey.PRODUCE, 9)
            offsets.append(response.responses[0].partition_responses[0].base_offset)
        assert offsets == [0, *range(LONG, LONG + 5), 2 * LONG + 5]


async def test_acks_0_that_fails_after_a_long_look_closes_the_connection(autojump_clock: MockClock) -> None:
    async with memory_broker(topics={"t": 1}, config={"message.max.bytes": "10000000"}) as broker:
        async with broker.client() as client:
            late = many(LONG, at=broker.clock.data_ms() + 10**8)
            await client.send(produce_request(late, acks=0), 9)
            with pytest.raises(trio.EndOfChannel):
                await client.receive_frame()


async def test_others_are_served_while_records_are_read(autojump_clock: MockClock) -> None:
    """Another connection's request comes between the turns."""
    config = {"message.max.bytes": "10000000"}
    async with memory_broker(topics={"t": 2}, config=config) as broker, broker.client() as slow:
        async with broker.client() as quick:
            await slow.send(produce_request(many(2 * LONG)), 9)
            await trio.lowlevel.checkpoint()
            assert (await produce(quick, batch(b"a"), index=1)).base_offset == 0
            assert (await slow.receive(ApiKey.PRODUCE, 9)).responses[0].partition_responses[0].error_code == 0


async def test_a_topic_deleted_while_records_are_read_is_not_written(autojump_clock: MockClock) -> None:
    async with memory_broker(topics={"t": 1}, config={"message.max.bytes": "10000000"}) as broker:
        async with broker.client() as client, broker.client() as other:
            await client.send(produce_request(many(6 * LONG)), 9)
            await other.call(DeleteTopicsRequest(topic_names=["t"], timeout_ms=5000), 5)
            answer = (await client.receive(ApiKey.PRODUCE, 9)).responses[0].partition_responses[0]
            assert answer.error_code == ErrorCode.NOT_LEADER_OR_FOLLOWER


async def test_KIP_467_bad_records_are_named_with_index_and_reason() -> None:
    config = {"log.message.timestamp.after.max.ms": "1000"}
    async with memory_broker(topics={"t": 1}, config=config) as broker, broker.client() as client:
        late = broker.clock.data_ms() + 5000
        sent = build_batch([(late - 5000, b"k", b"v"), (late, b"k", b"v"), (late - 5000, b"k", b"v")])
        answer = await produce(client, sent)
        assert answer.error_code == ErrorCode.INVALID_TIMESTAMP
        assert [each.batch_index for each in answer.record_errors] == [1]
        why = answer.record_errors[0].batch_index_error_message or ""
        assert f"Timestamp {late} of message with offset 1 is out of range" in why
        assert f"1: Timestamp {late}" in (answer.error_message or "")
        assert answer.log_start_offset == 0


async def test_errors_of_a_whole_batch_name_no_record_and_tell_the_log_start() -> None:
    """Kafka: ReplicaManager.appendToLocalLog tells the log start with some errors, and not with others."""
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        for n in range(3):
            assert (await produce(client, batch(b"%d" % n))).log_start_offset == 0
        given_up = DeleteRecordsPartition(partition_index=0, offset=2)
        topic = DeleteRecordsTopic(name="t", partitions=[given_up])
        await client.call(DeleteRecordsRequest(topics=[topic], timeout_ms=5000), 2)
        assert (await produce(client, batch(b"a"))).log_start_offset == 2
        moved = batch(b"a")
        moved[7] = 1
        crc = batch(b"a")
        crc[-1] ^= 1
        for wrong, code, log_start in [
            (moved, ErrorCode.INVALID_RECORD, 2),
            (batch(b"a", producer_id=1, producer_epoch=0), ErrorCode.INVALID_RECORD, 2),
            (batch(b"c", producer_id=9, producer_epoch=0, base_sequence=0), ErrorCode.NONE, 2),
            (batch(b"c", producer_id=9, producer_epoch=0, base_sequence=7), ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER, 2),
            (crc, ErrorCode.CORRUPT_MESSAGE, -1),
            (b"", ErrorCode.INVALID_RECORD, -1),
            (batch(b"x" * 2_000_000), ErrorCode.MESSAGE_TOO_LARGE, -1),
        ]:
            answer = await produce(client, wrong)
            assert (answer.error_code, answer.log_start_offset, answer.record_errors) == (code, log_start, [])
            assert bool(answer.error_message) == bool(code)


async def test_how_many_records_one_answer_names_is_bounded() -> None:
    config = {"log.message.timestamp.after.max.ms": "1000"}
    async with memory_broker(topics={"t": 1}, config=config) as broker, broker.client() as client:
        late = many(2000, at=broker.clock.data_ms() + 5000)
        response = await client.call(produce_request(*[bytes(late)] * 20), 9)
        answers = response.responses[0].partition_responses
        assert all(answer.error_code == ErrorCode.INVALID_TIMESTAMP for answer in answers)
        assert sum(len(answer.record_errors) for answer in answers) == RECORD_ERRORS_MAX


@pytest.mark.parametrize("compression", range(5))
async def test_look_up_by_time_finds_what_was_sent_without_a_largest_timestamp(compression: int) -> None:
    """Sarama up to 1.43.3, and with it kaf and watermill, send -1."""
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        sent = build_batch([(EPOCH_MS, b"k", b"a"), (EPOCH_MS + 700, b"k", b"b")], compression=compression)
        struct.pack_into(">q", sent, 35, -1)
        struct.pack_into(">I", sent, 17, primitives.crc32c(bytes(sent[21:])))
        assert (await produce(client, sent)).error_code == ErrorCode.NONE
        wanted = ListOffsetsPartition(partition_index=0, timestamp=EPOCH_MS + 1)
        topic = ListOffsetsTopic(name="t", partitions=[wanted])
        found = (await client.call(ListOffsetsRequest(replica_id=-1, topics=[topic]), 7)).topics[0].partitions[0]
        assert (found.error_code, found.offset, found.timestamp) == (0, 1, EPOCH_MS + 700)


async def test_a_partition_named_twice_gets_both_batches() -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        response = await client.call(produce_request(batch(b"a"), batch(b"b"), batch(b"c")), 9)
        assert [answer.base_offset for answer in response.responses[0].partition_responses] == [0, 1, 2]


async def test_a_topic_named_twice_gets_one_answer_and_one_without_partitions_none() -> None:
    async with memory_broker(topics={"t": 2, "u": 1}) as broker, broker.client() as client:
        wanted = [
            TopicProduceData(
                name=name, partition_data=[PartitionProduceData(index=n, records=batch(b"a")) for n in parts]
            )
            for name, parts in (("t", [0]), ("u", []), ("t", [1]))
        ]
        response = await client.call(ProduceRequest(acks=1, timeout_ms=1000, topic_data=wanted), 9)
        assert [(t.name, [p.index for p in t.partition_responses]) for t in response.responses] == [("t", [0, 1])]


@pytest.mark.parametrize("timeout_ms", [-5, 0, 2**31 - 1])
async def test_odd_timeouts(timeout_ms: int, autojump_clock: MockClock) -> None:
    """What can be answered at once is, and a flush is waited for in any case, as it is part of the append."""
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        assert (await produce(client, batch(b"a"), timeout_ms=timeout_ms)).base_offset == 0
    config = {"log.flush.interval.messages": "1"}
    async with memory_broker(topics={"t": 1}, config=config) as broker, broker.client() as client:
        for acks in (1, -1):
            answer = await produce(client, batch(b"a"), acks=acks, timeout_ms=timeout_ms)
            assert answer.error_code == ErrorCode.NONE


async def test_a_transactional_id_alone_changes_nothing() -> None:
    """Kafka looks at the batches."""
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        assert (await produce(client, batch(b"a"), transactional_id="x")).base_offset == 0
        sent = batch(b"a", transactional=True, producer_id=1, producer_epoch=0, base_sequence=0)
        answer = await produce(client, sent, transactional_id="x")
        assert answer.error_code == ErrorCode.NOT_ENOUGH_REPLICAS  # nobody to ask: no such topic as yet


async def alter(client: BareClient, kind: int, name: str, level: str | None) -> None:
    config = IncrementalAlterableConfig(
        name="kbroker.produce.validate", config_operation=0 if level else 1, value=level
    )
    resource = IncrementalAlterConfigsResource(resource_type=kind, resource_name=name, configs=[config])
    request = IncrementalAlterConfigsRequest(resources=[resource], validate_only=False)
    assert (await client.call(request, 1)).responses[0].error_code == 0


async def test_the_level_is_dynamic_broker_wide_and_per_topic() -> None:
    sent = batch(b"v", b"w", timestamp=1)  # else it is read in any case
    sent[HEADER_SIZE + (len(sent) - HEADER_SIZE) // 2 - 1] ^= 2  # a header count of the first record, which has none
    struct.pack_into(">I", sent, 17, primitives.crc32c(bytes(sent[21:])))
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        assert (await produce(client, bytes(sent))).error_code == ErrorCode.NONE
        for kind, name in ((2, "t"), (4, ""), (4, "1")):
            for level, code in (("full", ErrorCode.INVALID_RECORD), ("structure", ErrorCode.NONE)):
                await alter(client, kind, name, level)
                assert (await produce(client, bytes(sent))).error_code == code
            await alter(client, kind, name, None)
