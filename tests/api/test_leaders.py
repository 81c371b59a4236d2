"""What brokers of a cluster tell of each other: who leads, where it is reached, and on which listener."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

from kafka_wire.errors import ErrorCode
from kafka_wire.messages.groups import FindCoordinatorRequest
from kafka_wire.messages.metadata import (
    DescribeClusterRequest,
    DescribeTopicPartitionsRequest,
    DescribeTopicPartitionsTopic,
    MetadataRequest,
    MetadataRequestTopic,
)
from kbroker.testing.broker import MemoryCluster, memory_broker, memory_cluster
from kbroker.testing.client import BareClient
from tests.api.test_fetch import fetch_request
from tests.api.test_internal import image_of
from tests.api.test_produce import batch, produce_request

INSIDE = {
    "listener__security__protocol__map": "PLAINTEXT:PLAINTEXT,INSIDE:PLAINTEXT",
    "inter__broker__listener__name": "INSIDE",
}


async def leaders(cluster: MemoryCluster, topic: str = "t") -> dict[int, int]:
    """Leader by partition."""
    return {each.index: each.leader for each in (await image_of(cluster)).topics[topic].partitions}


@pytest.mark.parametrize("version", [9, 10, 12])
async def test_K951_a_producer_that_asks_the_wrong_broker_is_told_the_right_one(
    version: int, autojump_clock: MockClock
) -> None:
    async with memory_cluster(3, topics={"t": 3}) as cluster, cluster.client(1) as client:
        led = await leaders(cluster)
        wrong = [index for index, leader in led.items() if leader != 1]
        assert len(wrong) == 2
        for index in wrong:
            answer = await client.call(produce_request(batch(b"a"), index=index), version)
            (row,) = answer.responses[0].partition_responses
            assert row.error_code == ErrorCode.NOT_LEADER_OR_FOLLOWER
            if version < 10:
                assert (row.current_leader, answer.node_endpoints) == (None, [])
            else:
                assert (row.current_leader.leader_id, row.current_leader.leader_epoch) == (led[index], 0)
                (node,) = answer.node_endpoints
                assert (node.node_id, node.host, node.port) == (led[index], f"b{led[index]}", 9092)


async def test_K951_a_consumer_that_asks_the_wrong_broker_is_told_the_right_one(autojump_clock: MockClock) -> None:
    async with memory_cluster(2, topics={"t": 2}) as cluster, cluster.client(1) as client:
        (index,) = [index for index, leader in (await leaders(cluster)).items() if leader == 2]
        topic_id = (await image_of(cluster)).topics["t"].id
        answer = await client.call(fetch_request({(topic_id, index): 0}, max_wait_ms=0), 16)
        assert answer.responses[0].partitions[0].current_leader.leader_id == 2
        assert [(node.node_id, node.host) for node in answer.node_endpoints] == [(2, "b2")]


async def described(client: BareClient, version: int) -> tuple[dict[int, str], dict[int, tuple[int, int, list[int]]]]:
    """Brokers with their hosts; partitions of t with code, leader and offline replicas."""
    request = MetadataRequest(topics=[MetadataRequestTopic(name="t")], allow_auto_topic_creation=False)
    answer = await client.call(request, version)
    assert answer.controller_id in {broker.node_id for broker in answer.brokers} or version == 0
    return {broker.node_id: f"{broker.host}:{broker.port}" for broker in answer.brokers}, {
        row.partition_index: (row.error_code, row.leader_id, row.offline_replicas)
        for row in answer.topics[0].partitions
    }


@asynccontextmanager
async def one_of_two_on_the_listener() -> AsyncIterator[MemoryCluster]:
    """Clients come in on a listener that broker 2 does not have."""
    async with memory_cluster(2, topics={"t": 2}) as cluster:
        for broker_id, listeners in ((1, "PLAINTEXT://b1:9092,INSIDE://b1:9093"), (2, "INSIDE://b2:9093")):
            await cluster.stop(broker_id)
            await cluster.start(broker_id, listeners=listeners, **INSIDE)
        yield cluster


@pytest.mark.parametrize(("version", "code"), [(5, ErrorCode.LEADER_NOT_AVAILABLE), (6, ErrorCode.LISTENER_NOT_FOUND)])
async def test_a_broker_that_lacks_the_clients_listener_is_left_out(
    version: int, code: ErrorCode, autojump_clock: MockClock
) -> None:
    async with one_of_two_on_the_listener() as cluster:
        led = await leaders(cluster)
        async with cluster.client(1) as client:
            brokers, partitions = await described(client, version)
            assert brokers == {1: "b1:9092"}
            for index, leader in led.items():
                assert partitions[index] == ((0, 1, []) if leader == 1 else (code, -1, [2]))
            answer = await client.call(DescribeClusterRequest(), 1)
            assert [broker.broker_id for broker in answer.brokers] == [1]


async def test_a_topic_is_described_though_its_leader_is_not_on_the_listener(autojump_clock: MockClock) -> None:
    async with one_of_two_on_the_listener() as cluster:
        led = await leaders(cluster)
        async with cluster.client(1) as client:
            request = DescribeTopicPartitionsRequest(
                topics=[DescribeTopicPartitionsTopic(name="t")], response_partition_limit=10
            )
            (topic,) = (await client.call(request, 0)).topics
            assert {row.partition_index: row.leader_id for row in topic.partitions} == {
                index: 1 if leader == 1 else -1 for index, leader in led.items()
            }
            assert {row.error_code for row in topic.partitions} == {0}
            keys = [f"group {n}" for n in range(20)]
            with trio.fail_after(60):
                await client.call(FindCoordinatorRequest(key_type=0, coordinator_keys=keys), 4)
                answer = await client.call(FindCoordinatorRequest(key_type=0, coordinator_keys=keys), 4)
            assert {(each.error_code, each.host) for each in answer.coordinators} == {
                (0, "b1"),
                (ErrorCode.COORDINATOR_NOT_AVAILABLE, ""),
            }


async def test_without_an_advertised_address_brokers_are_where_the_client_came_in(autojump_clock: MockClock) -> None:
    async with memory_broker(config={"listeners": "PLAINTEXT://:9092"}) as broker, broker.client() as client:
        (told,) = (await client.call(MetadataRequest(topics=[]), 12)).brokers
        assert told.host == client.stream.peer[0]
