"""Reassignments: begun, seen, called off; what is refused is refused in Kafka's words."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import trio

from kafka_wire.errors import ErrorCode
from kafka_wire.messages.admin import (
    AlterPartitionReassignmentsRequest,
    ListPartitionReassignmentsRequest,
    ListPartitionReassignmentsTopics,
    ReassignablePartition,
    ReassignableTopic,
)
from kafka_wire.messages.metadata import MetadataRequest
from kbroker.testing.broker import memory_broker, memory_cluster
from kbroker.testing.client import BareClient
from tests.api.test_fetch import fetch_request, values
from tests.api.test_produce import batch, produce


async def reassign(
    client: BareClient, replicas: Sequence[int] | None, topic: str = "t", index: int = 0, *, may_change: bool = True
) -> tuple[ErrorCode, str | None]:
    wanted = ReassignablePartition(partition_index=index, replicas=None if replicas is None else list(replicas))
    request = AlterPartitionReassignmentsRequest(
        timeout_ms=10_000,
        allow_replication_factor_change=may_change,
        topics=[ReassignableTopic(name=topic, partitions=[wanted])],
    )
    answer = await client.call(request, 1)
    assert (answer.error_code, answer.error_message) == (ErrorCode.NONE, None)
    assert answer.allow_replication_factor_change is may_change
    (row,) = answer.responses[0].partitions
    return ErrorCode(row.error_code), row.error_message


async def under_way(
    client: BareClient, *topics: ListPartitionReassignmentsTopics
) -> dict[tuple[str, int], tuple[list[int], ...]]:
    answer = await client.call(ListPartitionReassignmentsRequest(topics=list(topics) or None), 0)
    return {
        (topic.name, each.partition_index): (each.replicas, each.adding_replicas, each.removing_replicas)
        for topic in answer.topics
        for each in topic.partitions
    }


@pytest.mark.parametrize(
    ("replicas", "topic", "index", "code", "message"),
    [
        ((), "t", 0, ErrorCode.INVALID_REPLICA_ASSIGNMENT,
         "The manual partition assignment includes an empty replica list."),
        ((1, 1), "t", 0, ErrorCode.INVALID_REPLICA_ASSIGNMENT,
         "The manual partition assignment includes the broker 1 more than once."),
        ((1, 7), "t", 0, ErrorCode.INVALID_REPLICA_ASSIGNMENT,
         "The manual partition assignment includes broker 7, but no such broker is registered."),
        ((1,), "no", 0, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, "Unable to find a topic named no."),
        ((1,), "t", 5, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, "Unable to find partition t:5."),
        (None, "t", 0, ErrorCode.NO_REASSIGNMENT_IN_PROGRESS, None),
        ((1,), "t", 0, ErrorCode.NONE, None),
    ],
)  # fmt: skip
async def test_what_is_refused_is_refused_in_kafkas_words(
    replicas: Sequence[int] | None, topic: str, index: int, code: ErrorCode, message: str | None
) -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        assert await reassign(client, replicas, topic, index) == (code, message)
        assert await under_way(client) == {}


async def test_the_number_of_replicas_may_be_forbidden_to_change() -> None:
    async with memory_cluster(2, topics={"t": 1}) as cluster, cluster.client(1) as client:
        code, message = await reassign(client, (1, 2), may_change=False)
        assert code is ErrorCode.INVALID_REPLICATION_FACTOR
        assert message


async def test_a_partition_moves_with_its_records_and_is_served_by_its_new_leader() -> None:
    async with memory_cluster(3, topics={"t": 1}) as cluster:
        async with cluster.client(1) as client:
            answer = await client.call(MetadataRequest(topics=None), 12)
            (old,) = answer.topics[0].partitions[0].replica_nodes
        new = 1 + old % 3
        async with cluster.client(old) as client:
            assert (await produce(client, batch(b"moved"))).error_code == ErrorCode.NONE
            assert await reassign(client, (new,)) == (ErrorCode.NONE, None)
            with trio.fail_after(60):
                while await under_way(client):
                    await trio.sleep(0.05)
                while True:
                    answer = await client.call(MetadataRequest(topics=None), 12)
                    partition = answer.topics[0].partitions[0]
                    if (partition.leader_id, partition.replica_nodes, partition.isr_nodes) == (new, [new], [new]):
                        break
                    await trio.sleep(0.05)
        async with cluster.client(new) as client:
            assert values(await client.call(fetch_request({("t", 0): 0}), 12)) == [b"moved"]


async def test_what_is_under_way_is_listed_and_can_be_called_off() -> None:
    """To a broker that is not there: it is registered, so the reassignment begins, and does not end."""
    async with memory_cluster(3, topics={"t": 2}) as cluster:
        async with cluster.client(1) as client:
            answer = await client.call(MetadataRequest(topics=None), 12)
            by_leader = {each.leader_id: each.partition_index for each in answer.topics[0].partitions}
        index = by_leader.get(1, by_leader.get(2, 0))
        leader = next(id for id, at in by_leader.items() if at == index)
        gone = next(id for id in (3, 2) if id != leader)
        await cluster.stop(gone)
        async with cluster.client(leader) as client:
            assert await reassign(client, (gone,), index=index) == (ErrorCode.NONE, None)
            moving = {("t", index): ([gone, leader], [gone], [leader])}
            assert await under_way(client) == moving
            named = ListPartitionReassignmentsTopics(name="t", partition_indexes=[index, 9])
            absent = ListPartitionReassignmentsTopics(name="no", partition_indexes=[0])
            assert await under_way(client, absent, named) == moving
            other = ListPartitionReassignmentsTopics(name="t", partition_indexes=[1 - index])
            assert await under_way(client, other) == {}
            assert await reassign(client, None, index=index) == (ErrorCode.NONE, None)
            assert await under_way(client) == {}
            code, _ = await reassign(client, None, index=index)
            assert code is ErrorCode.NO_REASSIGNMENT_IN_PROGRESS
