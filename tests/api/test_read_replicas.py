"""KIP-392: consumers read from a replica in their own rack, and followers serve them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

from kafka_wire.errors import ErrorCode
from kafka_wire.messages.produce_fetch import FetchPartitionData, FetchRequest, FetchResponse
from kbroker.config.broker_keys import LEADER_SELECTOR, RACK_AWARE_SELECTOR
from kbroker.testing.broker import MemoryCluster, memory_cluster
from kbroker.testing.client import BareClient
from tests.api.test_fetch import fetch_request, values
from tests.api.test_produce import batch, produce
from tests.replication.test_following import in_sync, others, partition


@asynccontextmanager
async def racks(selector: str = RACK_AWARE_SELECTOR) -> AsyncIterator[tuple[MemoryCluster, int, BareClient]]:
    """Three brokers in racks r1, r2, r3; who leads t-0; and a client of that one."""
    config = {"replica.lag.time.max.ms": "10000"}
    if selector:
        config["replica.selector.class"] = selector
    async with memory_cluster(
        3, topics={"t": 1}, replication_factor=3, config=config, own_config=lambda id: {"broker.rack": f"r{id}"}
    ) as cluster:
        leader = (await partition(cluster)).leader
        async with cluster.client(leader) as client:
            assert (await produce(client, batch(b"a"))).error_code == 0
            yield cluster, leader, client


def row(response: FetchResponse) -> FetchPartitionData:
    (topic,) = response.responses
    (found,) = topic.partitions
    return found


async def fetch(client: BareClient, offset: int, rack: str, version: int = 12, **options: int) -> FetchPartitionData:
    return row(await client.call(fetch_request({("t", 0): offset}, rack_id=rack, **options), version))  # type: ignore[arg-type]


async def test_a_consumer_is_sent_to_a_replica_in_its_rack_and_reads_there(autojump_clock: MockClock) -> None:
    async with racks() as (cluster, leader, client):
        follower = others(leader)[0]
        told = await fetch(client, 0, f"r{follower}", max_wait_ms=60_000)
        assert (told.error_code, told.preferred_read_replica, bytes(told.records)) == (0, follower, b"")
        assert told.high_watermark == 1
        async with cluster.client(follower) as reader:
            there = await reader.call(fetch_request({("t", 0): 0}, rack_id=f"r{follower}", max_wait_ms=500), 12)
            assert values(there) == [b"a"]
            assert row(there).preferred_read_replica == -1


@pytest.mark.parametrize(
    ("selector", "rack", "version"),
    [
        ("", "follower", 12),
        (LEADER_SELECTOR, "follower", 12),
        (RACK_AWARE_SELECTOR, "leader", 12),
        (RACK_AWARE_SELECTOR, "elsewhere", 12),
        (RACK_AWARE_SELECTOR, "", 12),
        (RACK_AWARE_SELECTOR, "follower", 10),
    ],
)
async def test_otherwise_the_leader_serves(selector: str, rack: str, version: int, autojump_clock: MockClock) -> None:
    async with racks(selector) as (_, leader, client):
        name = {"follower": f"r{others(leader)[0]}", "leader": f"r{leader}"}.get(rack, rack)
        told = await fetch(client, 0, name, version)
        assert told.preferred_read_replica == -1 and len(told.records) > 0


async def test_it_is_said_in_each_answer_of_a_session(autojump_clock: MockClock) -> None:
    async with racks() as (_, leader, client):
        rack = f"r{others(leader)[0]}"
        full = await client.call(fetch_request({("t", 0): 0}, rack_id=rack, session_epoch=0), 12)
        assert row(full).preferred_read_replica == others(leader)[0]
        for epoch in (1, 2):
            more: FetchResponse = await client.call(
                FetchRequest(
                    max_wait_ms=0, min_bytes=1, max_bytes=1000, topics=[], rack_id=rack,
                    session_id=full.session_id, session_epoch=epoch,
                ),
                12,
            )  # fmt: skip
            assert row(more).preferred_read_replica == others(leader)[0]


async def test_who_is_not_in_sync_or_gone_is_read_by_nobody(autojump_clock: MockClock) -> None:
    async with racks() as (cluster, leader, client):
        gone, other = others(leader)
        cluster.kill(gone)
        await in_sync(cluster, {leader, other})
        assert (await fetch(client, 0, f"r{gone}")).preferred_read_replica == -1
        assert (await fetch(client, 0, f"r{other}")).preferred_read_replica == other


async def test_a_follower_answers_when_what_was_waited_for_is_committed(autojump_clock: MockClock) -> None:
    async with racks() as (cluster, leader, client):
        async with cluster.client(others(leader)[0]) as reader, trio.open_nursery() as nursery:
            began = trio.current_time()

            async def write() -> None:
                await trio.sleep(3)
                assert (await produce(client, batch(b"b"))).error_code == 0

            nursery.start_soon(write)
            told = await reader.call(fetch_request({("t", 0): 1}, max_wait_ms=30_000), 12)
            assert values(told) == [b"b"]
            assert trio.current_time() - began < 3.2


async def test_a_follower_does_not_judge_what_is_above_its_end_and_refuses_other_epochs(
    autojump_clock: MockClock,
) -> None:
    async with racks() as (cluster, leader, _), cluster.client(others(leader)[0]) as reader:
        assert (await fetch(reader, 5, "")).error_code == ErrorCode.OFFSET_NOT_AVAILABLE
        request = fetch_request({("t", 0): 0})
        request.topics[0].partitions[0].current_leader_epoch = 77
        assert row(await reader.call(request, 12)).error_code == ErrorCode.UNKNOWN_LEADER_EPOCH
        request.topics[0].partitions[0].current_leader_epoch = (await partition(cluster)).leader_epoch
        request.topics[0].partitions[0].last_fetched_epoch = (await partition(cluster)).leader_epoch
        assert row(await reader.call(request, 12)).error_code == ErrorCode.NONE
        assert (await fetch(reader, 0, "", 10)).error_code == ErrorCode.NOT_LEADER_OR_FOLLOWER
