"""ElectLeaders: preferred and unclean elections, for partitions that are named and for all."""

from __future__ import annotations

import pytest
import trio

from kafka_wire.errors import ErrorCode
from kafka_wire.messages.admin import ElectLeadersRequest, ElectLeadersTopic
from kafka_wire.messages.metadata import MetadataRequest
from kbroker.testing.broker import MemoryCluster, memory_broker, memory_cluster
from kbroker.testing.client import BareClient

Outcomes = dict[tuple[str, int], ErrorCode]
PREFERRED, UNCLEAN = 0, 1


def asked(topic: str, *partitions: int) -> ElectLeadersTopic:
    return ElectLeadersTopic(topic=topic, partitions=list(partitions))


async def elect(client: BareClient, *topics: ElectLeadersTopic, kind: int = PREFERRED, version: int = 2) -> Outcomes:
    request = ElectLeadersRequest(election_type=kind, topic_partitions=list(topics) or None, timeout_ms=10_000)
    answer = await client.call(request, version)
    assert answer.error_code == ErrorCode.NONE
    return {
        (topic.topic, each.partition_id): ErrorCode(each.error_code)
        for topic in answer.replica_election_results
        for each in topic.partition_result
    }


async def leaders(cluster: MemoryCluster, broker_id: int) -> dict[int, tuple[int, int]]:
    """Who leads each partition of t, and who is preferred to."""
    async with cluster.client(broker_id) as client:
        answer = await client.call(MetadataRequest(topics=None), 12)
    (topic,) = (topic for topic in answer.topics if topic.name == "t")
    return {each.partition_index: (each.leader_id, each.replica_nodes[0]) for each in topic.partitions}


@pytest.mark.parametrize("version", [0, 1, 2])
async def test_trap_30_an_election_that_is_not_needed_is_refused_for_each_partition(version: int) -> None:
    async with memory_broker(topics={"t": 2}) as broker, broker.client() as client:
        needless = {("t", 0): ErrorCode.ELECTION_NOT_NEEDED, ("t", 1): ErrorCode.ELECTION_NOT_NEEDED}
        assert await elect(client, asked("t", 0, 1), version=version) == needless
        if version:
            assert await elect(client, asked("t", 0, 1), kind=UNCLEAN, version=version) == needless
        assert await elect(client, version=version) == {}


async def test_what_is_not_there_is_told_by_its_name() -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        request = ElectLeadersRequest(topic_partitions=[asked("no", 0), asked("t", 1, -1)])
        answer = await client.call(request, 2)
        rows = [each for topic in answer.replica_election_results for each in topic.partition_result]
        assert {each.error_code for each in rows} == {ErrorCode.UNKNOWN_TOPIC_OR_PARTITION}
        assert [each.error_message for each in rows] == [
            "No such topic as no",
            "No such partition as t-1",
            "No such partition as t--1",
        ]


async def test_an_unknown_kind_of_election_is_refused_as_a_whole() -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        answer = await client.call(ElectLeadersRequest(election_type=2, topic_partitions=[asked("t", 0)]), 2)
        assert answer.error_code == ErrorCode.INVALID_REQUEST
        (row,) = answer.replica_election_results[0].partition_result
        assert (row.error_code, row.error_message) == (ErrorCode.INVALID_REQUEST, "Unknown election type 2")


async def test_preferred_replicas_lead_again_when_they_are_asked_to() -> None:
    async with memory_cluster(3, topics={"t": 3}, replication_factor=3) as cluster:
        await cluster.stop(2)
        assert 2 not in {leader for leader, _ in (await leaders(cluster, 1)).values()}
        await cluster.start(2)
        await in_sync(cluster)
        async with cluster.client(1) as client:
            outcomes = await elect(client)
        assert set(outcomes.values()) == {ErrorCode.NONE}
        assert all(leader == preferred for leader, preferred in (await leaders(cluster, 1)).values())


async def in_sync(cluster: MemoryCluster) -> None:
    """Until every replica of t is."""
    async with cluster.client(1) as client:
        with trio.fail_after(60):
            while True:
                answer = await client.call(MetadataRequest(topics=None), 12)
                if all(len(each.isr_nodes) == 3 for topic in answer.topics for each in topic.partitions):
                    return
                await trio.sleep(0.1)


async def test_a_preferred_replica_that_is_gone_cannot_be_elected() -> None:
    async with memory_cluster(3, topics={"t": 3}, replication_factor=3) as cluster:
        await cluster.stop(2)
        (index,) = (index for index, (_, preferred) in (await leaders(cluster, 1)).items() if preferred == 2)
        async with cluster.client(1) as client:
            assert await elect(client, asked("t", index)) == {("t", index): ErrorCode.PREFERRED_LEADER_NOT_AVAILABLE}
