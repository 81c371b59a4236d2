"""G3: a group moves with the leader of its partition of __consumer_offsets."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from kafka_wire.errors import ErrorCode
from kafka_wire.messages.group_offsets import (
    OffsetFetchRequest,
    OffsetFetchRequestGroup,
    OffsetFetchRequestTopics,
    OffsetFetchResponseGroup,
)
from kbroker.cluster.store import Unavailable
from kbroker.testing.broker import MemoryCluster, memory_cluster
from kbroker.testing.client import BareClient
from tests.api.group_tools import beat, commit, enter, find
from tests.replication.test_failover import BROKEN, RETRIABLE

GROUP = "g"
CONFIG = {"offsets.topic.num.partitions": "3", "min.insync.replicas": "2"}


async def coordinator(cluster: MemoryCluster) -> int:
    """Who coordinates the group, as the first broker says that knows."""
    while True:
        for id in tuple(cluster.brokers):
            try:
                async with cluster.client(id) as client:
                    with trio.move_on_after(2):
                        found = (await find(client, GROUP)).coordinators[0]
                        if not found.error_code and found.node_id in cluster.brokers:
                            return int(found.node_id)
            except BROKEN:
                continue
        await trio.sleep(0.1)


async def ask(
    cluster: MemoryCluster, question: Callable[[BareClient], Awaitable[Any]], error: Callable[[Any], int]
) -> Any:
    """The coordinator's answer, once there is one that is not to be asked for again."""
    with trio.fail_after(60):
        while True:
            try:
                async with cluster.client(await coordinator(cluster)) as client:
                    with trio.move_on_after(5):
                        answer = await question(client)
                        if error(answer) not in RETRIABLE:
                            return answer
            except BROKEN:
                pass
            await trio.sleep(0.1)


async def offsets(client: BareClient) -> OffsetFetchResponseGroup:
    """What the group has committed."""
    topics = [OffsetFetchRequestTopics(name="t", partition_indexes=[0])]
    request = OffsetFetchRequest(groups=[OffsetFetchRequestGroup(group_id=GROUP, topics=topics)])
    answer: OffsetFetchResponseGroup = (await client.call(request, 8)).groups[0]
    return answer


@pytest.mark.parametrize("is_killed", [True, False])
async def test_G3_a_group_goes_on_committing_when_its_coordinator_is_gone(
    is_killed: bool, autojump_clock: MockClock
) -> None:
    async with memory_cluster(3, topics={"t": 1}, replication_factor=3, config=CONFIG) as cluster:
        await ask(cluster, lambda client: commit(client, GROUP, 0), lambda code: code)  # the topic is there now
        member = await ask(
            cluster, lambda client: enter(client, GROUP, session_timeout_ms=30_000), lambda joined: joined.error_code
        )
        committed = 0
        longest = 0.0
        for _ in range(3):
            for _ in range(20):
                began = trio.current_time()
                code = await ask(
                    cluster,
                    lambda client, next=committed + 1: commit(client, GROUP, next, joined=member),
                    lambda code: code,
                )
                assert code == ErrorCode.NONE, "the member is still one"
                longest = max(longest, trio.current_time() - began)
                committed += 1
            gone = await coordinator(cluster)
            if is_killed:
                cluster.kill(gone)
            else:
                await cluster.stop(gone)
            told = await ask(cluster, offsets, lambda told: told.error_code)
            assert told.topics[0].partitions[0].committed_offset == committed, "G7: it never goes back"
            code = await ask(cluster, lambda client: beat(client, GROUP, member), lambda code: code)
            assert code == ErrorCode.NONE
            await cluster.start(gone)
        assert longest <= (8.0 if is_killed else 1.0)


async def test_R14_a_coordinator_that_is_cut_off_from_the_store_does_not_name_itself(autojump_clock: MockClock) -> None:
    async with memory_cluster(3, topics={"t": 1}, replication_factor=3, config=CONFIG) as cluster:
        await ask(cluster, lambda client: commit(client, GROUP, 0), lambda code: code)
        old = await coordinator(cluster)
        cluster.ways[old].failure = Unavailable("cut")
        await trio.sleep(15)
        async with cluster.client(old) as client:
            (told,) = (await find(client, GROUP)).coordinators
            assert (told.error_code, told.node_id) == (ErrorCode.COORDINATOR_NOT_AVAILABLE, -1)
        for other in {1, 2, 3} - {old}:
            async with cluster.client(other) as client:
                (told,) = (await find(client, GROUP)).coordinators
                assert not told.error_code and told.node_id != old
        assert await ask(cluster, lambda client: commit(client, GROUP, 1), lambda code: code) == ErrorCode.NONE
        cluster.ways[old].failure = None
        await trio.sleep(15)
        async with cluster.client(old) as client:
            assert not (await find(client, GROUP)).coordinators[0].error_code
