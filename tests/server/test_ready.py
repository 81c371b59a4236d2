"""What holds once a broker says that it is ready."""

from __future__ import annotations

import trio
from trio.testing import MockClock

from kafka_wire.messages.metadata import DescribeClusterRequest
from kbroker.cluster.registration import RETRY_S
from kbroker.cluster.store import Unavailable
from kbroker.server.broker import SHOWN_WAIT_S
from kbroker.testing.broker import MemoryCluster, memory_cluster


async def brokers_shown(cluster: MemoryCluster, by: int) -> list[int]:
    async with cluster.client(by) as client:
        told = await client.call(DescribeClusterRequest(include_cluster_authorized_operations=False), 1)
        return sorted(each.broker_id for each in told.brokers)


async def test_each_broker_shows_the_one_that_is_ready(autojump_clock: MockClock) -> None:
    """Clients ask any of them: `kbroker cluster brokers` right after a start."""
    async with memory_cluster(2) as cluster:
        await cluster.stop(2)
        cluster.ways[1].failure = Unavailable("late")

        async def come_back() -> None:
            await trio.sleep(RETRY_S / 2)
            cluster.ways[1].failure = None

        async with trio.open_nursery() as nursery:
            nursery.start_soon(come_back)
            await cluster.start(2)
            assert await brokers_shown(cluster, by=1) == [1, 2]


async def test_one_that_stands_still_holds_a_start_up_for_a_moment_only(autojump_clock: MockClock) -> None:
    async with memory_cluster(2) as cluster:
        await cluster.stop(2)
        cluster.ways[1].failure = Unavailable("cut")
        began = trio.current_time()
        await cluster.start(2)
        assert trio.current_time() - began <= SHOWN_WAIT_S + 0.1
        assert await brokers_shown(cluster, by=2) == [1, 2]
