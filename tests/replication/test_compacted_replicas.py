"""Replicas of a compacted topic: each compacts for itself, and one that was away gets what is left from its leader."""

from __future__ import annotations

import trio
from trio.testing import MockClock

from kafka_wire.records import Record, build_batch, headers, read_records
from kbroker.testing.broker import MemoryCluster, memory_cluster
from kbroker.testing.client import BareClient
from tests.api.test_produce import produce
from tests.api.test_topics import create
from tests.replication.test_following import in_sync, others, partition

CONFIGS = {
    "cleanup.policy": "compact",
    "min.cleanable.dirty.ratio": "0.1",
    "internal.segment.bytes": "1000",
    "min.insync.replicas": "1",
}


def held(cluster: MemoryCluster, broker_id: int) -> list[Record]:
    """The records in a replica's files."""
    disk = cluster.machines[broker_id].disk
    found: list[Record] = []
    for name in disk.list_dir("t-0"):
        if name.endswith(".log"):
            data = disk.read(f"t-0/{name}")
            for position, _ in headers(data):
                found += read_records(data, position, max_bytes=1 << 20)
    return found


async def write(client: BareClient, first: int, count: int) -> None:
    """Records of twelve keys, the value of each its number."""
    for number in range(first, first + count):
        data = build_batch([(-1, b"key-%d" % (number % 12), b"%d:" % number + b"x" * 60)])
        assert (await produce(client, data, acks=-1, topic="t")).error_code == 0


async def compacted(cluster: MemoryCluster, brokers: tuple[int, ...], end: int) -> dict[bytes | None, int]:
    """Until each of these has little more than what is newest; that, by key, is the same on all of them."""
    with trio.fail_after(120):
        while any(len(held(cluster, id)) > 30 or held(cluster, id)[-1].offset != end - 1 for id in brokers):
            await trio.sleep(0.5)
    first, *rest = [{record.key: record.offset for record in held(cluster, id)} for id in brokers]
    assert all(each == first for each in rest)
    return first


async def test_L9_each_replica_compacts_for_itself_and_all_keep_the_same_newest_values(
    autojump_clock: MockClock,
) -> None:
    config = {"log.cleaner.backoff.ms": "500", "replica.lag.time.max.ms": "10000"}
    async with memory_cluster(3, config=config) as cluster:
        async with cluster.client(1) as admin:
            assert (await create(admin, "t", replication_factor=3, configs=CONFIGS)).error_code == 0
        leader = (await partition(cluster)).leader
        away, stays = others(leader)
        async with cluster.client(leader) as client:
            await write(client, 0, 100)
            newest = await compacted(cluster, (1, 2, 3), 100)
            assert sorted(newest.values()) == list(range(88, 100))
            cluster.kill(away)
            await in_sync(cluster, {leader, stays})
            await write(client, 100, 100)
            await compacted(cluster, (leader, stays), 200)
            await cluster.start(away)  # what it lacks has gaps by now
            await in_sync(cluster, {1, 2, 3})
        cluster.kill(leader)
        with trio.fail_after(60):
            while (await partition(cluster)).leader in (leader, -1):
                await trio.sleep(0.1)
        async with cluster.client((await partition(cluster)).leader) as client:
            await write(client, 200, 30)
            newest = await compacted(cluster, (away, stays), 230)
            assert sorted(newest.values()) == list(range(218, 230))
