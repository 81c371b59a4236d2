"""Limits of connections are for clients: no crowd of them keeps brokers from each other."""

from __future__ import annotations

from contextlib import AsyncExitStack

import trio
from trio.testing import MockClock

from kafka_wire.messages.internal import IntroduceRequest, WaitAppliedRequest, WaitAppliedResponse
from kafka_wire.messages.metadata import MetadataRequest
from kbroker.cluster.peers.introductions import introduce
from kbroker.server.listener import REAPER_INTERVAL_S, TRIAL_S, TRIALS_MAX
from kbroker.testing.broker import MemoryCluster, memory_cluster
from kbroker.testing.client import BareClient
from tests.api.test_internal import claim, image_of, meeting
from tests.cluster.peers.test_applying import create, slow_to_see

LIMIT = 3
LIMITED = {"max.connections": str(LIMIT)}


async def crowd(
    cluster: MemoryCluster, stack: AsyncExitStack, broker_id: int = 1, count: int = LIMIT
) -> list[BareClient]:
    """Clients that are served."""
    clients = [await stack.enter_async_context(cluster.client(broker_id)) for _ in range(count)]
    for client in clients:
        await client.call(MetadataRequest(topics=[]), 12)
    return clients


async def is_hung_up(client: BareClient) -> bool:
    with trio.move_on_after(0.001):
        try:
            await client.receive_frame()
        except (trio.EndOfChannel, trio.BrokenResourceError):
            return True
    return False


async def test_brokers_come_in_beyond_the_limits_for_clients(autojump_clock: MockClock) -> None:
    async with memory_cluster(2, config=LIMITED) as cluster, AsyncExitStack() as stack:
        await crowd(cluster, stack)
        async with cluster.client(2) as client, slow_to_see(cluster, 1, 2):
            begun = trio.current_time()
            assert await create(client, "t") == 0
            assert trio.current_time() - begun >= 2, "broker 2 has asked broker 1"


async def test_brokers_are_not_counted(autojump_clock: MockClock) -> None:
    async with memory_cluster(2, config=LIMITED) as cluster, AsyncExitStack() as stack:
        image = await image_of(cluster)
        for _ in range(2 * LIMIT):
            client = await stack.enter_async_context(cluster.client(1))
            await introduce(client.call, meeting(image), image.secret)
        for client in await crowd(cluster, stack):
            await client.call(MetadataRequest(topics=[]), 12)
        await client.stream.aclose()
        await crowd(cluster, stack, count=1)


async def test_a_client_beyond_the_limit_may_do_nothing(autojump_clock: MockClock) -> None:
    async with memory_cluster(2, config=LIMITED) as cluster, AsyncExitStack() as stack:
        await crowd(cluster, stack)
        async with cluster.client(1) as one_more:
            await one_more.send(MetadataRequest(topics=[]), 12)
            assert await is_hung_up(one_more)


async def test_who_is_on_trial_may_do_everything_once_it_has_proven_to_be_a_broker(autojump_clock: MockClock) -> None:
    async with memory_cluster(2, config=LIMITED) as cluster, AsyncExitStack() as stack:
        await crowd(cluster, stack)
        image = await image_of(cluster)
        async with cluster.client(1) as client:
            await introduce(client.call, meeting(image), image.secret)
            assert await client.call(WaitAppliedRequest(revision=1, timeout_ms=1000), 0) == WaitAppliedResponse()
            await trio.sleep(3 * REAPER_INTERVAL_S)
            assert await client.call(WaitAppliedRequest(revision=1, timeout_ms=1000), 0) == WaitAppliedResponse()
        async with cluster.client(1) as client:
            await client.call(claim(meeting(image)), 0)
            await client.send(IntroduceRequest(proof=b"guess"), 0)
            assert await is_hung_up(client)


async def test_a_trial_is_short(autojump_clock: MockClock) -> None:
    async with memory_cluster(2, config=LIMITED) as cluster, AsyncExitStack() as stack:
        await crowd(cluster, stack)
        async with cluster.client(1) as client:
            await trio.sleep(TRIAL_S + REAPER_INTERVAL_S)
            assert await is_hung_up(client)


async def test_no_crowd_on_trial_keeps_a_broker_out(autojump_clock: MockClock) -> None:
    async with memory_cluster(2, config=LIMITED) as cluster, AsyncExitStack() as stack:
        await crowd(cluster, stack)
        waiting = [await stack.enter_async_context(cluster.client(1)) for _ in range(TRIALS_MAX)]
        assert not await is_hung_up(waiting[0])
        image = await image_of(cluster)
        async with cluster.client(1) as client:
            await introduce(client.call, meeting(image), image.secret)
            assert await is_hung_up(waiting[0])
            assert not await is_hung_up(waiting[1])


async def test_a_broker_alone_hangs_up_at_once(autojump_clock: MockClock) -> None:
    async with memory_cluster(1, config=LIMITED) as cluster, AsyncExitStack() as stack:
        await crowd(cluster, stack)
        async with cluster.client(1) as client:
            assert await is_hung_up(client)
