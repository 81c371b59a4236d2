"""Creating, growing, deleting topics and their records, through a whole broker in memory."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from kafka_wire.errors import ErrorCode
from kafka_wire.messages.metadata import MetadataRequest, MetadataRequestTopic
from kafka_wire.messages.topics import (
    CreatableReplicaAssignment,
    CreatableTopic,
    CreatableTopicConfig,
    CreatePartitionsRequest,
    CreatePartitionsTopic,
    CreateTopicsRequest,
    DeleteRecordsPartition,
    DeleteRecordsRequest,
    DeleteRecordsTopic,
    DeleteTopicsRequest,
    DeleteTopicState,
    DescribeLogDirsRequest,
)
from kbroker.api.context import APPLY_WAIT_S
from kbroker.api.topics import DELETE_RECORDS_TIMEOUT_S, TIMEOUT_MS_MAX
from kbroker.log.directory import LogDirectory
from kbroker.replication.manager import ReplicaManager
from kbroker.testing.broker import memory_broker
from kbroker.testing.client import BareClient
from tests.api.test_produce import batch, produce


async def topic_id_of(client: BareClient, name: str) -> bytes:
    response = await client.call(MetadataRequest(topics=[MetadataRequestTopic(name=name)]), 12)
    return bytes(response.topics[0].topic_id)


async def create(client: BareClient, name: str, partitions: int = 1, *, version: int = 7, **options: Any) -> Any:
    factor, configs = options.pop("replication_factor", 1), options.pop("configs", {})
    topic = CreatableTopic(
        name=name,
        num_partitions=partitions,
        replication_factor=factor,
        assignments=[],
        configs=[CreatableTopicConfig(name=key, value=value) for key, value in configs.items()],
    )
    request = CreateTopicsRequest(topics=[topic], timeout_ms=5000, validate_only=options.pop("validate_only", False))
    return (await client.call(request, version)).topics[0]


async def call_delete(client: BareClient, name: str) -> Any:
    return (await client.call(DeleteTopicsRequest(topic_names=[name], timeout_ms=5000), 5)).responses[0]


@pytest.mark.parametrize("version", range(2, 8))
async def test_R_a_topic_is_usable_when_create_returns(version: int) -> None:
    async with memory_broker() as broker, broker.client() as client:
        result = await create(client, "orders", 3, version=version)
        assert result.error_code == 0
        for index in range(3):
            assert (await produce(client, batch(b"a"), topic="orders", index=index)).base_offset == 0


async def test_create_answers_with_defaults_id_and_configs() -> None:
    async with memory_broker(config={"num.partitions": "4"}) as broker, broker.client() as client:
        result = await create(client, "t", -1, replication_factor=-1, configs={"retention.ms": "1000"})
        assert (result.num_partitions, result.replication_factor) == (4, 1)
        assert result.topic_id == await topic_id_of(client, "t") != bytes(16)
        assert {c.name: c.value for c in result.configs}["retention.ms"] == "1000"


@pytest.mark.parametrize(
    ("name", "options", "code"),
    [
        ("bad name!", {}, ErrorCode.INVALID_TOPIC_EXCEPTION),
        ("..", {}, ErrorCode.INVALID_TOPIC_EXCEPTION),
        ("x" * 250, {}, ErrorCode.INVALID_TOPIC_EXCEPTION),
        ("t", {}, ErrorCode.TOPIC_ALREADY_EXISTS),
        ("u", {"partitions": 0}, ErrorCode.INVALID_PARTITIONS),
        ("u", {"replication_factor": 2}, ErrorCode.INVALID_REPLICATION_FACTOR),
        ("u", {"configs": {"retention.mss": "1"}}, ErrorCode.INVALID_CONFIG),
        ("u", {"configs": {"retention.ms": "soon"}}, ErrorCode.INVALID_CONFIG),
    ],
)
async def test_refusals_name_the_reason(name: str, options: dict[str, Any], code: ErrorCode) -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        result = await create(client, name, **options)
        assert result.error_code == code and result.error_message


async def test_validate_only_creates_nothing_and_answers_an_id_as_kafka_does() -> None:
    async with memory_broker() as broker, broker.client() as client:
        for _ in range(2):
            result = await create(client, "t", validate_only=True)
            assert (result.error_code, result.num_partitions) == (0, 1)
            assert result.topic_id != bytes(16)


async def test_a_refused_topic_has_an_empty_list_of_configs() -> None:
    async with memory_broker() as broker, broker.client() as client:
        assert (await create(client, "a b")).configs == []


async def test_partitions_assigned_twice_and_kafkas_own_log_are_refused() -> None:
    async with memory_broker() as broker, broker.client() as client:
        twice = [CreatableReplicaAssignment(partition_index=0, broker_ids=[broker.ready.node_id])] * 2
        topic = CreatableTopic(name="t", num_partitions=-1, replication_factor=-1, assignments=twice, configs=[])
        result = (await client.call(CreateTopicsRequest(topics=[topic], timeout_ms=5000), 7)).topics[0]
        assert result.error_code == ErrorCode.INVALID_REPLICA_ASSIGNMENT
        assert result.error_message == "Found multiple manual partition assignments for partition 0"
        assert (await create(client, "__cluster_metadata")).error_code == ErrorCode.INVALID_REQUEST


async def test_delete_by_name_and_by_id() -> None:
    async with memory_broker(topics={"a": 1, "b": 1}) as broker, broker.client() as client:
        assert (await call_delete(client, "a")).error_code == 0
        assert (await call_delete(client, "a")).error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        state = DeleteTopicState(name=None, topic_id=await topic_id_of(client, "b"))
        response = await client.call(DeleteTopicsRequest(topics=[state], timeout_ms=5000), 6)
        assert (response.responses[0].error_code, response.responses[0].name) == (0, "b")
        response = await client.call(DeleteTopicsRequest(topics=[state], timeout_ms=5000), 6)
        assert response.responses[0].error_code == ErrorCode.UNKNOWN_TOPIC_ID


async def test_what_is_to_be_deleted_is_named_in_one_way_and_once() -> None:
    async with memory_broker(topics={"a": 1, "b": 1}) as broker, broker.client() as client:
        a, b, unknown = await topic_id_of(client, "a"), await topic_id_of(client, "b"), b"\1" * 16

        async def delete(*topics: tuple[str | None, bytes]) -> list[tuple[str | None, bytes, int]]:
            states = [DeleteTopicState(name=name, topic_id=topic_id) for name, topic_id in topics]
            response = await client.call(DeleteTopicsRequest(topics=states, timeout_ms=5000), 6)
            return [(r.name, bytes(r.topic_id), r.error_code) for r in response.responses]

        bad, none = ErrorCode.INVALID_REQUEST, bytes(16)
        assert await delete(("a", a)) == [("a", a, bad)]
        assert await delete(("a", b)) == [("a", b, bad)]
        assert await delete((None, none)) == [(None, none, bad)]
        assert await delete(("a", none), ("a", none)) == [("a", none, bad)]
        assert await delete((None, a), (None, a)) == [(None, a, bad)]
        assert await delete((None, a), ("a", none)) == [("a", a, bad)]
        assert await delete(("c", none), ("c", none)) == [("c", none, bad)]
        assert await delete((None, unknown)) == [(None, unknown, ErrorCode.UNKNOWN_TOPIC_ID)]
        assert await delete(("a", none), ("a", none), ("b", none)) == [("a", none, bad), ("b", b, 0)]
        assert await topic_id_of(client, "a") == a


async def test_a_name_given_twice_is_neither_deleted_nor_grown() -> None:
    async with memory_broker(topics={"a": 1}) as broker, broker.client() as client:
        request = DeleteTopicsRequest(topic_names=["a", "a"], timeout_ms=5000)
        (result,) = (await client.call(request, 5)).responses
        assert (result.error_code, result.error_message) == (ErrorCode.INVALID_REQUEST, "Duplicate topic name.")
        wishes = [
            CreatePartitionsTopic(name=name, count=n, assignments=None) for name, n in (("a", 2), ("x", 2), ("a", 3))
        ]
        grown = await client.call(CreatePartitionsRequest(topics=wishes, timeout_ms=5000, validate_only=False), 3)
        assert [(r.name, r.error_code, r.error_message) for r in grown.results] == [
            ("a", ErrorCode.INVALID_REQUEST, "Duplicate topic name."),
            ("x", ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, None),  # the code's own text is not repeated, as in Kafka
        ]
        assert (await produce(client, batch(b"a"), topic="a", index=1)).error_code != 0


async def test_R13_a_recreated_topic_is_empty_and_has_a_new_id() -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        await produce(client, batch(b"old"))
        old = await topic_id_of(client, "t")
        await call_delete(client, "t")
        await create(client, "t")
        assert await topic_id_of(client, "t") != old
        assert (await produce(client, batch(b"new"))).base_offset == 0


async def test_partitions_are_added_and_never_taken() -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:

        async def grow(count: int, name: str = "t") -> int:
            topic = CreatePartitionsTopic(name=name, count=count, assignments=None)
            request = CreatePartitionsRequest(topics=[topic], timeout_ms=5000, validate_only=False)
            return int((await client.call(request, 3)).results[0].error_code)

        assert await grow(3) == 0
        assert (await produce(client, batch(b"a"), index=2)).base_offset == 0
        assert await grow(3) == await grow(2) == ErrorCode.INVALID_PARTITIONS
        assert await grow(3, "absent") == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION


async def test_delete_records_moves_the_log_start() -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        for _ in range(4):
            await produce(client, batch(b"a"))

        async def delete(offset: int, index: int = 0) -> tuple[int, int]:
            partition = DeleteRecordsPartition(partition_index=index, offset=offset)
            topic = DeleteRecordsTopic(name="t", partitions=[partition])
            response = await client.call(DeleteRecordsRequest(topics=[topic], timeout_ms=5000), 2)
            result = response.topics[0].partitions[0]
            return result.error_code, result.low_watermark

        assert await delete(2) == (0, 2)
        assert await delete(1) == (0, 2)
        assert await delete(5) == (ErrorCode.OFFSET_OUT_OF_RANGE, -1)
        assert await delete(-1) == (0, 4)
        assert await delete(0, index=9) == (ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, -1)


async def test_no_deletion_of_records_is_waited_for_without_end(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk never answers: the client's time counts, but for the least that an fsync is given."""
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        await produce(client, batch(b"a"))
        monkeypatch.setattr(LogDirectory, "move_starts", lambda self, starts: trio.sleep_forever())
        topic = DeleteRecordsTopic(name="t", partitions=[DeleteRecordsPartition(partition_index=0, offset=1)])
        for timeout_ms, waited_s in ((0, DELETE_RECORDS_TIMEOUT_S), (9_000, 9), (2**31 - 1, TIMEOUT_MS_MAX / 1000)):
            begun = trio.current_time()
            response = await client.call(DeleteRecordsRequest(topics=[topic], timeout_ms=timeout_ms), 2)
            result = response.topics[0].partitions[0]
            assert (result.error_code, result.low_watermark) == (ErrorCode.REQUEST_TIMED_OUT, -1)
            assert trio.current_time() - begun == pytest.approx(waited_s)


@pytest.mark.parametrize(("timeout_ms", "waited_s"), [(3_000, 3), (2**31 - 1, APPLY_WAIT_S)])
async def test_a_change_that_is_not_carried_out_here_in_time_is_no_success(
    timeout_ms: int, waited_s: float, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was written, and may be carried out later; refusals are told all the same."""
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        monkeypatch.setattr(ReplicaManager, "wait_applied", lambda self: trio.sleep_forever())
        wishes = [CreatableTopic(name=name, num_partitions=1, replication_factor=1) for name in ("t", "u")]
        names = [DeleteTopicState(name=name) for name in ("t", "absent")]
        for request, version, codes in (
            (CreateTopicsRequest(topics=wishes, timeout_ms=timeout_ms), 7, [36, 7]),
            (DeleteTopicsRequest(topics=names, timeout_ms=timeout_ms), 6, [7, 3]),
        ):
            begun = trio.current_time()
            response = await client.call(request, version)
            answers = response.topics if isinstance(request, CreateTopicsRequest) else response.responses
            assert [answer.error_code for answer in answers] == codes
            assert trio.current_time() - begun == pytest.approx(waited_s)


async def test_the_last_word_about_a_partitions_records_counts() -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        for _ in range(4):
            await produce(client, batch(b"a"))
        asked = [
            DeleteRecordsTopic(name="t", partitions=[DeleteRecordsPartition(partition_index=0, offset=n) for n in each])
            for each in ((3, 1), (), (2,))
        ]
        response = await client.call(DeleteRecordsRequest(topics=asked, timeout_ms=5000), 2)
        assert [(p.low_watermark, p.error_code) for t in response.topics for p in t.partitions] == [(2, 0)]


async def test_log_dirs_tell_sizes() -> None:
    async with memory_broker(topics={"t": 2}) as broker, broker.client() as client:
        sent = batch(b"a")
        await produce(client, sent, index=1)
        result = (await client.call(DescribeLogDirsRequest(topics=None), 4)).results[0]
        sizes = {p.partition_index: p.partition_size for p in result.topics[0].partitions}
        assert sizes == {0: 0, 1: len(sent)}
        assert result.total_bytes > result.usable_bytes >= 0
