"""Groups whose coordinator dies: another broker takes them up, with what was committed."""

from __future__ import annotations

from typing import Any

from trio.testing import MockClock

from kafka_wire.errors import ErrorCode
from kafka_wire.messages import group_offsets as go
from kafka_wire.messages.groups import HeartbeatRequest
from kbroker.testing.broker import memory_cluster
from tests.api.anywhere import GROUP, anywhere, codes_in
from tests.api.group_tools import join, sync

CONFIG = {"offsets.topic.num.partitions": "6"}


def commit(group_id: str, offset: int, **member: Any) -> go.OffsetCommitRequest:
    partition = go.OffsetCommitRequestPartition(partition_index=0, committed_offset=offset, committed_metadata=None)
    return go.OffsetCommitRequest(
        group_id=group_id, topics=[go.OffsetCommitRequestTopic(name="t", partitions=[partition])], **member
    )


async def committed(client: Any, group_id: str) -> int:
    fetched = go.OffsetFetchRequest(group_id=group_id, topics=None)
    answer = await client.call(fetched, 7)
    assert answer.error_code == 0
    (topic,) = answer.topics
    return int(topic.partitions[0].committed_offset)


async def test_another_broker_takes_up_the_groups_of_one_that_dies(autojump_clock: MockClock) -> None:
    async with memory_cluster(3, topics={"t": 1}, config=CONFIG) as cluster, anywhere(cluster) as client:
        names = [f"group {n}" for n in range(12)]
        for number, name in enumerate(names):
            assert set(codes_in(await client.call(commit(name, number), 8))) == {ErrorCode.NONE}
        coordinators = {name: await client.coordinator(name, GROUP) for name in names}
        assert set(coordinators.values()) == {1, 2, 3}
        cluster.kill(1)
        assert [await committed(client, name) for name in names] == list(range(12))
        assert {await client.coordinator(name, GROUP) for name in names} == {2, 3}
        for number, name in enumerate(names):
            assert set(codes_in(await client.call(commit(name, 100 + number), 8))) == {ErrorCode.NONE}
        assert [await committed(client, name) for name in names] == list(range(100, 112))


async def test_a_member_stays_a_member_when_its_coordinator_dies(autojump_clock: MockClock) -> None:
    async with memory_cluster(3, topics={"t": 1}, config=CONFIG) as cluster, anywhere(cluster) as client:
        joined = await join(client, "g", session_timeout_ms=45_000)
        synced = await sync(client, "g", joined, {joined.member_id: b"mine"})
        assert (synced.error_code, bytes(synced.assignment)) == (0, b"mine")
        coordinator = await client.coordinator("g", GROUP)
        assert coordinator is not None
        cluster.kill(coordinator)
        beat = HeartbeatRequest(group_id="g", member_id=joined.member_id, generation_id=joined.generation_id)
        assert (await client.call(beat, 4)).error_code == 0
        assert await client.coordinator("g", GROUP) != coordinator
        member = {"member_id": joined.member_id, "generation_id_or_member_epoch": joined.generation_id}
        assert set(codes_in(await client.call(commit("g", 7, **member), 8))) == {ErrorCode.NONE}
        assert await committed(client, "g") == 7
