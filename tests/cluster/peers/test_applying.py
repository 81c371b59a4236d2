"""A change of the cluster is told when every broker has carried it out, of those that can be asked."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

from kafka_wire.errors import ErrorCode
from kafka_wire.messages.metadata import MetadataRequest, MetadataRequestTopic
from kafka_wire.messages.topics import (
    CreatableTopic,
    CreatePartitionsRequest,
    CreatePartitionsTopic,
    CreateTopicsRequest,
    DeleteTopicsRequest,
    DeleteTopicState,
)
from kbroker.cluster.peers.applying import OTHERS_WAIT_S
from kbroker.cluster.peers.links import Links
from kbroker.cluster.store import Unavailable
from kbroker.testing.broker import MemoryCluster, memory_broker, memory_cluster
from kbroker.testing.client import BareClient


async def create(client: BareClient, name: str, partitions: int = 3, timeout_ms: int = 30_000) -> int:
    """The code."""
    topic = CreatableTopic(name=name, num_partitions=partitions, replication_factor=1, assignments=[], configs=[])
    answer = await client.call(CreateTopicsRequest(topics=[topic], timeout_ms=timeout_ms), 7)
    return int(answer.topics[0].error_code)


async def partitions_seen(cluster: MemoryCluster, broker_id: int, name: str) -> int:
    async with cluster.client(broker_id) as client:
        request = MetadataRequest(topics=[MetadataRequestTopic(name=name)], allow_auto_topic_creation=False)
        (topic,) = (await client.call(request, 12)).topics
        return len(topic.partitions)


@asynccontextmanager
async def slow_to_see(cluster: MemoryCluster, broker_id: int, seconds: float) -> AsyncIterator[None]:
    """A broker to which the store does not speak for some seconds."""
    way = cluster.ways[broker_id]
    way.failure = Unavailable("slow")

    async def later() -> None:
        await trio.sleep(seconds)
        way.failure = None

    async with trio.open_nursery() as nursery:
        nursery.start_soon(later)
        yield


async def test_a_new_topic_is_told_when_every_broker_has_it(autojump_clock: MockClock) -> None:
    async with memory_cluster(3) as cluster, cluster.client(1) as client, slow_to_see(cluster, 3, 2):
        begun = trio.current_time()
        assert await create(client, "t") == 0
        assert 2 <= trio.current_time() - begun < 3
        assert [await partitions_seen(cluster, each, "t") for each in (1, 2, 3)] == [3, 3, 3]


async def test_new_partitions_are_told_when_every_broker_has_them(autojump_clock: MockClock) -> None:
    async with memory_cluster(3, topics={"t": 3}) as cluster, cluster.client(1) as client, slow_to_see(cluster, 3, 2):
        grow = CreatePartitionsTopic(name="t", count=5, assignments=None)
        answer = await client.call(CreatePartitionsRequest(topics=[grow], timeout_ms=30_000), 3)
        assert answer.results[0].error_code == 0
        assert [await partitions_seen(cluster, each, "t") for each in (1, 2, 3)] == [5, 5, 5]


async def test_a_deletion_is_told_when_no_broker_has_the_topic_any_more(autojump_clock: MockClock) -> None:
    async with memory_cluster(3, topics={"t": 3}) as cluster, cluster.client(1) as client, slow_to_see(cluster, 3, 2):
        delete = DeleteTopicsRequest(topics=[DeleteTopicState(name="t")], timeout_ms=30_000)
        assert (await client.call(delete, 6)).responses[0].error_code == 0
        assert [await partitions_seen(cluster, each, "t") for each in (1, 2, 3)] == [0, 0, 0]


async def test_what_is_refused_is_told_at_once(autojump_clock: MockClock) -> None:
    async with memory_cluster(2, topics={"t": 1}) as cluster, cluster.client(1) as client:
        async with slow_to_see(cluster, 2, 2):
            begun = trio.current_time()
            assert await create(client, "t") == ErrorCode.TOPIC_ALREADY_EXISTS
            assert trio.current_time() == begun


async def test_a_broker_that_cannot_be_asked_is_not_waited_for(autojump_clock: MockClock) -> None:
    async with memory_cluster(3) as cluster, cluster.client(1) as client:
        cluster.kill(3)
        begun = trio.current_time()
        assert await create(client, "t") == 0
        assert trio.current_time() - begun < 1


async def test_a_broker_that_does_not_answer_is_waited_for_no_longer_than_a_few_seconds(
    autojump_clock: MockClock,
) -> None:
    async with memory_cluster(3) as cluster, cluster.client(1) as client:
        cluster.network.cut("b1", "b3")
        begun = trio.current_time()
        assert await create(client, "t") == 0
        assert trio.current_time() - begun == pytest.approx(OTHERS_WAIT_S, abs=0.1)


async def test_waiting_for_others_makes_no_change_late(autojump_clock: MockClock) -> None:
    async with memory_cluster(2) as cluster, cluster.client(1) as client:
        cluster.network.cut("b1", "b2")
        begun = trio.current_time()
        assert await create(client, "t", timeout_ms=1000) == 0
        assert trio.current_time() - begun == pytest.approx(1, abs=0.1)


async def test_a_broker_is_not_waited_for_when_its_session_ends(autojump_clock: MockClock) -> None:
    async with memory_cluster(3) as cluster, cluster.client(1) as client:
        cluster.network.cut("b1", "b3")
        cluster.kill(3)
        await trio.sleep(4)
        begun = trio.current_time()
        assert await create(client, "t") == 0
        assert trio.current_time() - begun < OTHERS_WAIT_S - 1


async def test_one_broker_alone_asks_nobody(monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock) -> None:
    asked: list[int] = []
    monkeypatch.setattr(Links, "ask", lambda self, broker_id, *question: asked.append(broker_id))
    async with memory_broker() as broker, broker.client() as client:
        assert await create(client, "t") == 0
    assert asked == []
