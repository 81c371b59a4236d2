"""TxnOffsetCommit, through a whole broker in memory: with its coordinator, its markers, and the groups it is for."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from kafka_wire.errors import ErrorCode, KafkaError
from kafka_wire.messages.consumer_groups import ConsumerGroupHeartbeatRequest
from kafka_wire.messages.group_offsets import OffsetFetchRequest, OffsetFetchRequestTopic
from kafka_wire.messages.transactions import (
    AddOffsetsToTxnRequest,
    TxnOffsetCommitRequest,
    TxnOffsetCommitRequestPartition,
    TxnOffsetCommitRequestTopic,
)
from kbroker.api.brokers import ClusterBrokers
from kbroker.testing.broker import memory_broker
from kbroker.testing.client import BareClient
from tests.api.group_tools import commit, committed, enter, find, join
from tests.api.transaction_tools import Producer, set_transaction_version

UNSTABLE = (-1, ErrorCode.UNSTABLE_OFFSET_COMMIT)


async def add_offsets(producer: Producer, group: str = "g") -> int:
    request = AddOffsetsToTxnRequest(
        transactional_id=producer.name, producer_id=producer.id, producer_epoch=producer.epoch, group_id=group
    )
    return int((await producer.client.call(request, 3)).error_code)


def commit_request(producer: Producer, group: str, offset: int, **options: Any) -> TxnOffsetCommitRequest:
    """TxnOffsetCommit of one topic: the first `count` partitions."""
    topic, count, metadata = options.pop("topic", "t"), options.pop("count", 1), options.pop("metadata", "")
    partitions = [
        TxnOffsetCommitRequestPartition(partition_index=n, committed_offset=offset, committed_metadata=metadata)
        for n in range(count)
    ]
    fields = {"transactional_id": producer.name, "producer_id": producer.id, "producer_epoch": producer.epoch}
    topics = [TxnOffsetCommitRequestTopic(name=topic, partitions=partitions)]
    return TxnOffsetCommitRequest(**{"group_id": group, "topics": topics, **fields, **options})


async def commit_offset(producer: Producer, offset: int, *, group: str = "g", version: int = 4, **options: Any) -> int:
    """TxnOffsetCommit of one partition; its error."""
    answer = await producer.client.call(commit_request(producer, group, offset, **options), version)
    return int(answer.topics[0].partitions[0].error_code)


async def stable(client: BareClient, group: str = "g", index: int = 0) -> tuple[int, int]:
    """(offset, error) of a partition, as who requires stable offsets is told."""
    asked = [OffsetFetchRequestTopic(name="t", partition_indexes=[index])]
    answer = await client.call(OffsetFetchRequest(group_id=group, topics=asked, require_stable=True), 7)
    assert answer.error_code == 0, answer
    row = answer.topics[0].partitions[0]
    return row.committed_offset, row.error_code


UNSTABLE = (-1, ErrorCode.UNSTABLE_OFFSET_COMMIT)


async def begun(client: BareClient) -> Producer:
    """A producer whose transaction has the group's partition."""
    await find(client, "g")
    producer = await Producer(client).init()
    assert await add_offsets(producer) == 0
    return producer


@pytest.mark.parametrize(("version", "level"), [*((version, 2) for version in range(6)), (0, 0), (4, 0), (4, 1)])
@pytest.mark.parametrize("is_commit", [True, False])
async def test_T6_offsets_of_every_version_count_when_the_transaction_is_committed(
    version: int, level: int, is_commit: bool
) -> None:
    async with memory_broker(topics={"t": 2}) as broker, broker.client() as client:
        await set_transaction_version(client, level)
        producer = await begun(client)
        assert await commit(client, "g", 5) == 0
        assert await commit_offset(producer, 8, version=version, metadata="note") == 0
        assert await committed(client, "g") == (5, "", 0)
        assert await stable(client) == UNSTABLE
        assert await producer.end(commit=is_commit) == 0
        assert await committed(client, "g") == ((8, "note", 0) if is_commit else (5, "", 0))
        assert await stable(client) == ((8, 0) if is_commit else (5, 0))


async def test_T5_a_client_of_transaction_version_2_tells_nobody_before_it_commits_offsets() -> None:
    async with memory_broker(topics={"t": 2}) as broker, broker.client() as client:
        await find(client, "g")
        producer = await Producer(client).init()
        for offset in (8, 9):
            epoch = producer.epoch
            assert await commit_offset(producer, offset, version=5) == 0
            assert await stable(client) == UNSTABLE
            assert await producer.end(version=5) == 0
            assert await stable(client) == (offset, 0)
            assert producer.epoch == epoch + 1
            late = await commit_offset(producer, 99, version=5, producer_epoch=epoch)
            assert late == ErrorCode.INVALID_PRODUCER_EPOCH, "a message that was late joins no later transaction"


async def test_T4_a_transaction_that_does_not_have_the_group_commits_nothing_for_it() -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        await find(client, "g")
        producer = await Producer(client).init()
        for version, code in ((3, ErrorCode.INVALID_TXN_STATE), (4, ErrorCode.TRANSACTION_ABORTABLE)):
            assert await commit_offset(producer, 8, version=version) == code
        assert await stable(client) == (-1, 0)
        assert await add_offsets(producer) == 0
        assert await commit_offset(producer, 8) == 0


async def test_P3_who_is_fenced_commits_nothing() -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        old = await begun(client)
        assert await old.end() == 0
        new = await Producer(client).init()
        assert await commit_offset(old, 8) == ErrorCode.INVALID_PRODUCER_EPOCH
        assert await add_offsets(new) == 0
        assert await commit_offset(new, 9) == 0
        assert await commit_offset(old, 8) == ErrorCode.INVALID_PRODUCER_EPOCH
        assert await new.end() == 0
        assert await stable(client) == (9, 0)


async def test_who_is_nobody_commits_nothing() -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        producer = await begun(client)
        unknown = ErrorCode.INVALID_PRODUCER_ID_MAPPING
        assert await commit_offset(producer, 8, transactional_id="other") == unknown
        assert await commit_offset(producer, 8, producer_id=99) == unknown
        assert await commit_offset(producer, 8, producer_id=-1, producer_epoch=-1) == unknown
        assert await commit_offset(producer, 8, transactional_id="") == ErrorCode.INVALID_REQUEST
        assert await commit_offset(producer, 8, group="") == ErrorCode.INVALID_GROUP_ID
        assert await stable(client) == (-1, 0)


async def test_each_partition_that_cannot_be_committed_is_told_for_itself() -> None:
    async with memory_broker(topics={"t": 2}, config={"offset.metadata.max.bytes": "5"}) as broker:
        async with broker.client() as client:
            producer = await begun(client)
            request = commit_request(producer, "g", 8, count=3)
            request.topics[0].partitions[1].committed_metadata = "123456"
            request.topics += commit_request(producer, "g", 8, topic="absent").topics
            answer = await client.call(request, 3)
            assert [(topic.name, [each.error_code for each in topic.partitions]) for topic in answer.topics] == [
                ("t", [0, ErrorCode.OFFSET_METADATA_TOO_LARGE, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION]),
                ("absent", [ErrorCode.UNKNOWN_TOPIC_OR_PARTITION]),
            ]
            assert await producer.end() == 0
            assert (await stable(client), await stable(client, index=1)) == ((8, 0), (-1, 0))
            nothing = TxnOffsetCommitRequest(
                transactional_id="", group_id="", producer_id=-1, producer_epoch=-1, topics=[]
            )
            assert (await client.call(nothing, 3)).topics == []


async def test_without_verification_nobody_is_asked() -> None:
    config = {"transaction.partition.verification.enable": "false"}
    async with memory_broker(topics={"t": 1}, config=config) as broker, broker.client() as client:
        await find(client, "g")
        producer = Producer(client, "nobody")
        producer.id, producer.epoch = 1000, 0
        assert await commit_offset(producer, 8) == 0
        assert await stable(client) == UNSTABLE
        assert await commit_offset(producer, 8, producer_id=-1) == ErrorCode.UNKNOWN_SERVER_ERROR
        asked = await commit_offset(producer, 8, producer_id=1001, version=5)
        assert asked == ErrorCode.COORDINATOR_NOT_AVAILABLE, "it would have to be added"


# -- KIP-447: who may commit for a group ------------------------------------------------------------------------------


async def test_T6_a_stale_generation_of_a_classic_group_commits_nothing() -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        producer = await begun(client)
        joined: Any = await enter(client, "g", group_instance_id="i")

        async def code(**options: Any) -> int:
            who = {"generation_id": joined.generation_id, "member_id": joined.member_id, "group_instance_id": "i"}
            return await commit_offset(producer, 8, version=3, **{**who, **options})

        assert await code(generation_id=joined.generation_id - 1) == ErrorCode.ILLEGAL_GENERATION
        assert await code(member_id="other") == ErrorCode.FENCED_INSTANCE_ID
        assert await code(group_instance_id="other") == ErrorCode.UNKNOWN_MEMBER_ID
        assert await code(member_id="other", group_instance_id=None) == ErrorCode.UNKNOWN_MEMBER_ID
        assert await stable(client) == (-1, 0)
        assert await code() == 0
        assert await commit_offset(producer, 9, version=2) == 0, "old versions say nothing of themselves"


async def test_T6_who_was_replaced_while_its_transaction_is_open_commits_nothing_more() -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client, broker.client() as other:
        producer = await begun(client)
        joined: Any = await enter(client, "g", session_timeout_ms=10_000)
        who = {"generation_id": joined.generation_id, "member_id": joined.member_id}
        assert await commit_offset(producer, 8, **who) == 0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: join(other, "g"))
            await wait_all_tasks_blocked()
            again: Any = await join(client, "g", member_id=joined.member_id)
        assert again.generation_id > joined.generation_id
        assert await commit_offset(producer, 9, **who) == ErrorCode.ILLEGAL_GENERATION
        assert await stable(client) == UNSTABLE, "whoever takes over waits for the first"
        assert await producer.end() == 0
        assert await stable(client) == (8, 0)


@pytest.mark.parametrize("version", [4, 9])
async def test_T6_a_group_that_is_not_there_has_no_generation(version: int) -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        producer = await begun(client)
        code = await commit_offset(producer, 8, generation_id=3, member_id="m")
        assert code == ErrorCode.ILLEGAL_GENERATION
        assert await stable(client) == (-1, 0)


async def test_T6_a_stale_epoch_of_a_consumer_group_commits_nothing() -> None:
    async with memory_broker(topics={"t": 2}) as broker, broker.client() as client:
        producer = await begun(client)
        beat = ConsumerGroupHeartbeatRequest(
            group_id="g", member_id="m", member_epoch=0, rebalance_timeout_ms=10_000, topic_partitions=[],
            subscribed_topic_names=["t"],
        )  # fmt: skip
        epoch = (await client.call(beat, 1)).member_epoch
        assert epoch > 0

        async def code(**options: Any) -> int:
            return await commit_offset(producer, 8, **{"generation_id": epoch, "member_id": "m", **options})

        assert await code(generation_id=epoch + 1) == ErrorCode.ILLEGAL_GENERATION
        assert await code(generation_id=epoch - 1) == ErrorCode.ILLEGAL_GENERATION
        assert await code(member_id="other") == ErrorCode.UNKNOWN_MEMBER_ID
        assert await code(generation_id=-1, member_id="", group_instance_id="i") == ErrorCode.UNKNOWN_MEMBER_ID
        assert await stable(client) == (-1, 0)
        assert await code() == 0
        assert await code(generation_id=-1, member_id="") == 0, "it says nothing of itself"


# -- the coordinator that is asked ------------------------------------------------------------------------------------


@pytest.mark.parametrize("told", [ErrorCode.REQUEST_TIMED_OUT, ErrorCode.BROKER_NOT_AVAILABLE])
@pytest.mark.parametrize("is_late", [True, False])
async def test_a_coordinator_that_does_not_answer_is_asked_again_by_the_client(
    told: ErrorCode, is_late: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail_later(*_: object) -> None:
        raise KafkaError(told)

    def fail(*_: object) -> Any:
        if is_late:
            return fail_later()
        raise KafkaError(told)

    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        producer = await begun(client)
        with monkeypatch.context() as broken:
            broken.setattr(ClusterBrokers, "ask", fail)
            assert await commit_offset(producer, 8, version=2) == ErrorCode.COORDINATOR_LOAD_IN_PROGRESS
            assert await commit_offset(producer, 8, version=1) == ErrorCode.COORDINATOR_NOT_AVAILABLE
        assert await stable(client) == (-1, 0)
        assert await commit_offset(producer, 8) == 0
