"""Retention on all replicas of a partition: leaders decide, and so does each follower by itself (L8)."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from kafka_wire.messages.offsets import ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic
from kafka_wire.records import build_batch
from kbroker.testing.broker import MemoryCluster, memory_cluster
from tests.api.test_produce import produce

DAY_MS = 86_400_000
CONFIG = {
    "log.retention.ms": str(DAY_MS),
    "log.segment.bytes": "1048576",
    "log.retention.check.interval.ms": "1000",
    "default.replication.factor": "2",
}
EARLIEST = -2


def bases(cluster: MemoryCluster, broker_id: int) -> list[int]:
    names = cluster.machines[broker_id].disk.list_dir("t-0")
    return [int(name[:20]) for name in names if name.endswith(".log")]


async def start_of(cluster: MemoryCluster, broker_id: int) -> tuple[int, int]:
    """(error, earliest offset) as a broker tells."""
    partition = ListOffsetsPartition(partition_index=0, timestamp=EARLIEST)
    request = ListOffsetsRequest(replica_id=-1, topics=[ListOffsetsTopic(name="t", partitions=[partition])])
    async with cluster.client(broker_id) as client:
        (found,) = (await client.call(request, 4)).topics[0].partitions
    return found.error_code, found.offset


@pytest.mark.parametrize("jumping", [(1,), (2,), (1, 2)])
async def test_L8_what_the_leader_deletes_goes_on_its_followers_and_these_go_by_their_own_clocks_too(
    jumping: tuple[int, ...], autojump_clock: MockClock
) -> None:
    async with memory_cluster(2, topics={"t": 1}, replication_factor=2, config=CONFIG) as cluster:
        leader = 1 if (await start_of(cluster, 1))[0] == 0 else 2
        async with cluster.client(leader) as client:
            for _ in range(12):
                now_ms = cluster.machines[leader].clock.data_ms()
                batch = build_batch([(b"k", b"x" * 400_000)], timestamp=now_ms)
                assert (await produce(client, batch, topic="t", acks=-1)).error_code == 0
        await trio.sleep(40)
        assert bases(cluster, 1) == bases(cluster, 2) and len(bases(cluster, 1)) == 6
        for id in jumping:
            cluster.machines[id].clock.jump_data(2 * DAY_MS)
        await trio.sleep(40)
        for id in (1, 2):
            told = [10] if leader in jumping else [0, 2, 4, 6, 8, 10]  # it closes no segment for that alone
            assert bases(cluster, id) == ([12] if id in jumping else told), id
        follower = 3 - leader
        before = (await start_of(cluster, leader))[1]
        cluster.kill(follower)
        await cluster.start(follower)
        cluster.kill(leader)  # the follower leads, and does not begin any lower
        await trio.sleep(40)
        error, start = await start_of(cluster, follower)
        assert error == 0 and start >= before
