"""OffsetCommit, OffsetFetch and OffsetDelete, through a whole broker in memory."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from kafka_wire.codegen import encode
from kafka_wire.errors import ErrorCode
from kafka_wire.messages.group_admin import DescribeGroupsRequest, ListGroupsRequest
from kafka_wire.messages.group_offsets import (
    OffsetCommitRequest,
    OffsetCommitRequestTopic,
    OffsetDeleteRequest,
    OffsetDeleteRequestPartition,
    OffsetDeleteRequestTopic,
    OffsetFetchRequest,
    OffsetFetchRequestGroup,
    OffsetFetchRequestTopic,
    OffsetFetchRequestTopics,
)
from kafka_wire.messages.groups import JoinGroupResponse
from kafka_wire.messages.internal import ConsumerProtocolSubscription
from kafka_wire.messages.topics import CreatableTopic, CreateTopicsRequest, DeleteTopicsRequest, DeleteTopicState
from kbroker.testing.broker import Machine, memory_broker
from kbroker.testing.client import BareClient
from tests.api.group_tools import commit, committed, enter, find, leave, topic_id_of

UNKNOWN = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION


@pytest.mark.parametrize("version", range(1, 11))
async def test_commits_of_every_version_are_fetched(version: int) -> None:
    async with memory_broker(topics={"t": 2}) as broker, broker.client() as client:
        await find(client, "g")
        assert await commit(client, "g", 42, version=version, metadata="note") == 0
        for fetch_version in range(1, 11):
            assert await committed(client, "g", version=fetch_version) == (42, "note", 0)
            assert await committed(client, "g", index=1, version=fetch_version) == (-1, "", 0)
            assert await committed(client, "other", version=fetch_version) == (-1, "", 0)
            absent = ErrorCode.UNKNOWN_TOPIC_ID if fetch_version >= 10 else 0
            assert await committed(client, "g", topic="absent", version=fetch_version) == (-1, "", absent)


@pytest.mark.parametrize("version", range(2, 11))
async def test_null_topics_mean_all(version: int) -> None:
    async with memory_broker(topics={"t": 2, "u": 1}) as broker, broker.client() as client:
        await find(client, "g")
        await commit(client, "g", 1, index=1)
        await commit(client, "g", 2, topic="u")
        if version >= 8:
            groups = [OffsetFetchRequestGroup(group_id=each, topics=None) for each in ("g", "none")]
            answers = (await client.call(OffsetFetchRequest(groups=groups), version)).groups
            assert [(a.group_id, a.error_code) for a in answers] == [("g", 0), ("none", 0)]
            topics, others = answers[0].topics, answers[1].topics
        else:
            topics = (await client.call(OffsetFetchRequest(group_id="g", topics=None), version)).topics
            others = (await client.call(OffsetFetchRequest(group_id="none", topics=None), version)).topics
        names = {await topic_id_of(client, name): name for name in "tu"} if version >= 10 else {}
        found = {
            (names[bytes(t.topic_id)] if names else t.name, p.partition_index): p.committed_offset
            for t in topics
            for p in t.partitions
        }
        assert found == {("t", 1): 1, ("u", 0): 2} and not others


async def test_R13_an_offset_is_committed_and_fetched_for_the_topic_that_has_the_id() -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        await find(client, "g")
        old_id = await topic_id_of(client, "t")
        assert await commit(client, "g", 7, version=10) == 0
        await client.call(DeleteTopicsRequest(topics=[DeleteTopicState(name="t")], timeout_ms=5000), 6)
        again = CreatableTopic(name="t", num_partitions=1, replication_factor=1, assignments=[], configs=[])
        await client.call(CreateTopicsRequest(topics=[again], timeout_ms=5000), 7)
        assert await topic_id_of(client, "t") != old_id
        unknown = ErrorCode.UNKNOWN_TOPIC_ID
        for topic_id in (old_id, b"?" * 16):
            assert await commit(client, "g", 8, version=10, topic_id=topic_id) == unknown
            asked = [OffsetFetchRequestTopics(topic_id=topic_id, partition_indexes=[0, 1])]
            asked.append(OffsetFetchRequestTopics(topic_id=await topic_id_of(client, "t"), partition_indexes=[0]))
            group = OffsetFetchRequestGroup(group_id="g", topics=asked)
            answer = (await client.call(OffsetFetchRequest(groups=[group]), 10)).groups[0]
            assert answer.error_code == 0
            rows = {
                bytes(t.topic_id): [(p.committed_offset, p.error_code) for p in t.partitions] for t in answer.topics
            }
            assert rows == {topic_id: [(-1, unknown)] * 2, await topic_id_of(client, "t"): [(-1, 0)]}


async def test_errors_before_there_is_a_coordinator_in_every_shape() -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        asked = [OffsetFetchRequestTopic(name="t", partition_indexes=[0])]
        answer = await client.call(OffsetFetchRequest(group_id="g", topics=asked), 1)
        assert answer.topics[0].partitions[0].error_code == ErrorCode.COORDINATOR_NOT_AVAILABLE
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        answer = await client.call(OffsetFetchRequest(group_id="g", topics=asked), 7)
        assert (answer.error_code, answer.topics) == (ErrorCode.COORDINATOR_NOT_AVAILABLE, [])
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        topics = [OffsetFetchRequestTopics(name="t", partition_indexes=[0])]
        group = OffsetFetchRequestGroup(group_id="g", topics=topics)
        answer = (await client.call(OffsetFetchRequest(groups=[group]), 9)).groups[0]
        assert (answer.error_code, answer.topics) == (ErrorCode.COORDINATOR_NOT_AVAILABLE, [])
        assert await commit(client, "g", 1) in (0, ErrorCode.COORDINATOR_NOT_AVAILABLE)


async def test_what_cannot_be_committed() -> None:
    async with memory_broker(topics={"t": 1}, config={"offset.metadata.max.bytes": "5"}) as broker:
        async with broker.client() as client:
            await find(client, "g")
            assert await commit(client, "g", 1, topic="absent") == UNKNOWN
            assert await commit(client, "g", 1, index=1) == await commit(client, "g", 1, index=-1) == UNKNOWN
            assert await commit(client, "g", 1, metadata="123456") == ErrorCode.OFFSET_METADATA_TOO_LARGE
            assert await commit(client, "g", 1, metadata="12345") == 0
            assert await commit(client, "g", 2, metadata=None) == 0
            assert await committed(client, "g") == (2, "", 0)


@pytest.mark.parametrize(("version", "code"), [(8, ErrorCode.ILLEGAL_GENERATION), (9, ErrorCode.GROUP_ID_NOT_FOUND)])
async def test_G1_a_member_of_no_group_commits_nothing(version: int, code: ErrorCode) -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        await find(client, "g")
        joined = await enter(client, "other")
        assert await commit(client, "g", 1, joined=joined, version=version) == code
        assert await committed(client, "g") == (-1, "", 0)


async def test_G5_offsets_expire_when_the_group_has_been_empty_for_long(autojump_clock: MockClock) -> None:
    config = {"offsets.retention.minutes": "60", "offsets.retention.check.interval.ms": "1000"}
    async with memory_broker(topics={"t": 1}, config=config) as broker, broker.client() as client:
        await find(client, "g")
        joined = await enter(client, "g", session_timeout_ms=30_000)
        assert await commit(client, "g", 7, joined=joined) == 0
        assert await commit(client, "simple", 8) == 0
        assert await commit(client, "brief", 9, version=2, retention_time_ms=60_000) == 0
        broker.clock.jump_data(59 * 60_000)
        await trio.sleep(2)
        assert [(await committed(client, g))[0] for g in ("g", "simple", "brief")] == [7, 8, -1]
        broker.clock.jump_data(60_000)
        await trio.sleep(2)
        assert [(await committed(client, g))[0] for g in ("g", "simple")] == [7, -1]
        await leave(client, "g", joined)
        broker.clock.jump_data(59 * 60_000)
        await trio.sleep(2)
        assert (await committed(client, "g"))[0] == 7
        broker.clock.jump_data(60_000)
        await trio.sleep(2)
        assert (await committed(client, "g"))[0] == -1
        states = (await client.call(DescribeGroupsRequest(groups=["g", "simple"]), 5)).groups
        assert [each.group_state for each in states] == ["Dead", "Dead"]


async def test_offsets_of_a_deleted_topic_are_gone_for_good() -> None:
    machine = Machine()
    async with memory_broker(topics={"t": 1, "u": 1}, machine=machine) as broker, broker.client() as client:
        await find(client, "g")
        await commit(client, "g", 7)
        await commit(client, "g", 8, topic="u")
        await client.call(DeleteTopicsRequest(topic_names=["t"], timeout_ms=5000), 5)
        assert await committed(client, "g") == (-1, "", 0)
    async with memory_broker(topics={"t": 1}, machine=machine) as broker, broker.client() as client:
        assert await committed(client, "g") == (-1, "", 0)
        assert await committed(client, "g", topic="u") == (8, "", 0)


async def test_a_group_outlives_the_topic_of_its_only_offsets() -> None:
    """Until housekeeping comes round, as in Kafka."""
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        await find(client, "g")
        await commit(client, "g", 7)
        await client.call(DeleteTopicsRequest(topic_names=["t"], timeout_ms=5000), 5)
        assert await committed(client, "g") == (-1, "", 0)
        await wait_all_tasks_blocked(0.05)  # the offsets are removed
        await leave(client, "g", JoinGroupResponse(member_id="stranger"))  # changes nothing of that
        assert [each.group_id for each in (await client.call(ListGroupsRequest(), 4)).groups] == ["g"]


async def delete(client: BareClient, group: str, *places: tuple[str, int]) -> Any:
    topics = [
        OffsetDeleteRequestTopic(name=name, partitions=[OffsetDeleteRequestPartition(partition_index=index)])
        for name, index in places
    ]
    answer = await client.call(OffsetDeleteRequest(group_id=group, topics=topics), 0)
    return answer.error_code or [t.partitions[0].error_code for t in answer.topics]


async def test_offset_delete() -> None:
    async with memory_broker(topics={"t": 2, "u": 1}) as broker, broker.client() as client:
        await find(client, "g")
        assert await delete(client, "g", ("t", 0)) == ErrorCode.GROUP_ID_NOT_FOUND
        assert await delete(client, "", ("t", 0)) == ErrorCode.INVALID_GROUP_ID
        metadata = encode(ConsumerProtocolSubscription(topics=["t"]), 0)
        joined = await enter(client, "g", protocols={"range": b"\0\0" + metadata})
        for name in ("t", "u"):
            assert await commit(client, "g", 5, topic=name, joined=joined) == 0
        codes = await delete(client, "g", ("t", 0), ("u", 0), ("u", 4), ("absent", 0))
        assert codes == [ErrorCode.GROUP_SUBSCRIBED_TO_TOPIC, 0, UNKNOWN, UNKNOWN]
        assert [(await committed(client, "g", topic=name))[0] for name in ("t", "u")] == [5, -1]
        await leave(client, "g", joined)
        assert await delete(client, "g", ("t", 0), ("t", 1)) == [0, 0]
        assert (await committed(client, "g"))[0] == -1


async def test_a_topic_without_partitions_is_not_answered_if_it_is_known() -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        await find(client, "g")
        await commit(client, "g", 5)
        nothing = [OffsetCommitRequestTopic(name=name, partitions=[]) for name in ("t", "u")]
        answered = (await client.call(OffsetCommitRequest(group_id="g", topics=nothing), 9)).topics
        assert [(topic.name, topic.partitions) for topic in answered] == [("u", [])]
        forgotten = [OffsetDeleteRequestTopic(name=name, partitions=[]) for name in ("t", "u")]
        answered = (await client.call(OffsetDeleteRequest(group_id="g", topics=forgotten), 0)).topics
        assert [(topic.name, topic.partitions) for topic in answered] == [("u", [])]
