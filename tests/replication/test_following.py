"""Replication from end to end: three brokers in memory, one of which leads."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

from kafka_wire.errors import ErrorCode
from kbroker.api.replica_fetch import ReplicaFetch
from kbroker.cluster.image import PartitionImage
from kbroker.cluster.store import Unavailable
from kbroker.testing.broker import MemoryCluster, memory_cluster
from kbroker.testing.client import BareClient
from tests.api.test_fetch import fetch_request, values
from tests.api.test_internal import image_of
from tests.api.test_produce import batch, produce, produce_request

LOG = "00000000000000000000.log"
CONFIG = {"replica.lag.time.max.ms": "10000", "min.insync.replicas": "2"}


@asynccontextmanager
async def three(
    partitions: int = 1, replicas: int = 3, **config: str
) -> AsyncIterator[tuple[MemoryCluster, int, BareClient]]:
    """A cluster, who leads t-0, and a client of that broker. config: dots as `__`."""
    differing = {name.replace("__", "."): value for name, value in config.items()}
    async with memory_cluster(
        3, topics={"t": partitions}, replication_factor=replicas, config={**CONFIG, **differing}
    ) as cluster:
        leader = (await partition(cluster)).leader
        async with cluster.client(leader) as client:
            yield cluster, leader, client


async def partition(cluster: MemoryCluster, index: int = 0) -> PartitionImage:
    return (await image_of(cluster)).topics["t"].partitions[index]


def others(leader: int) -> list[int]:
    return [id for id in (1, 2, 3) if id != leader]


def on_disk(cluster: MemoryCluster, broker_id: int, index: int = 0) -> bytes:
    disk = cluster.machines[broker_id].disk
    return disk.read(f"t-{index}/{LOG}") if disk.exists(f"t-{index}/{LOG}") else b""


async def have_the_same(cluster: MemoryCluster, index: int = 0, brokers: tuple[int, ...] = (1, 2, 3)) -> bytes:
    """Until these brokers have the same bytes."""
    with trio.fail_after(60):
        while len({on_disk(cluster, id, index) for id in brokers}) > 1:
            await trio.sleep(0.05)
    return on_disk(cluster, brokers[0], index)


async def in_sync(cluster: MemoryCluster, isr: set[int], index: int = 0) -> None:
    """Until these brokers are in sync."""
    with trio.fail_after(120):
        while set((await partition(cluster, index)).isr) != isr:
            await trio.sleep(0.05)
    await trio.sleep(0.1)  # the leader knows it as well


async def test_R6_what_is_acknowledged_is_on_every_replica_byte_for_byte(autojump_clock: MockClock) -> None:
    async with three() as (cluster, _, client):
        for n in range(5):
            answer = await produce(client, batch(b"%d" % n, b"x" * 100_000 * n))
            assert (answer.error_code, answer.base_offset) == (0, 2 * n)
            assert len({on_disk(cluster, id) for id in (1, 2, 3)}) == 1
        assert len(on_disk(cluster, 1)) > 1_000_000


async def test_an_acknowledgement_takes_one_answer_to_each_follower(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: list[ReplicaFetch] = []
    original = ReplicaFetch.answer
    monkeypatch.setattr(ReplicaFetch, "answer", lambda self: answers.append(self) or original(self))
    async with three(replica__fetch__wait__max__ms="60000") as (_, __, client):
        await trio.sleep(2)  # followers are hurried where a leadership begins
        for n in range(10):
            answers.clear()
            assert (await produce(client, batch(b"%d" % n))).error_code == 0
            assert len(answers) == 2


async def test_R6_overlapping_produces_are_answered_in_order(autojump_clock: MockClock) -> None:
    async with three() as (cluster, leader, client):
        cluster.network.cut(f"b{others(leader)[0]}", f"b{leader}")
        for n in range(20):
            await client.send(produce_request(batch(b"%d" % n)), 9)
        with trio.move_on_after(0.5) as scope:
            await client.receive_frame()
        assert scope.cancelled_caught, "a member of the ISR does not have it"
        cluster.network.heal()
        for n in range(20):
            answer = (await client.receive(0, 9)).responses[0].partition_responses[0]  # type: ignore[arg-type]
            assert (answer.error_code, answer.base_offset) == (0, n)


async def test_R6_a_follower_that_is_cut_off_leaves_the_isr_and_comes_back(autojump_clock: MockClock) -> None:
    async with three() as (cluster, leader, client):
        gone = others(leader)[0]
        cluster.network.isolate(f"b{gone}")
        began = trio.current_time()
        answer = await produce(client, batch(b"a"), timeout_ms=60_000)
        assert answer.error_code == 0
        assert 8 <= trio.current_time() - began <= 16  # lag max, and half of it until somebody looks
        await in_sync(cluster, {1, 2, 3} - {gone})
        cluster.network.heal()
        await in_sync(cluster, {1, 2, 3})
        assert await have_the_same(cluster)


async def test_R6_with_too_few_in_sync_nothing_is_taken(autojump_clock: MockClock) -> None:
    async with three() as (cluster, leader, client):
        for id in others(leader):
            cluster.network.isolate(f"b{id}")
        assert (await produce(client, batch(b"a"), timeout_ms=60_000)).error_code in (
            ErrorCode.NOT_ENOUGH_REPLICAS_AFTER_APPEND,
            ErrorCode.REQUEST_TIMED_OUT,
        )
        await in_sync(cluster, {leader})
        assert (await partition(cluster)).partition_epoch == 1, "who is silent does not come back for having it all"
        assert (await produce(client, batch(b"b"))).error_code == ErrorCode.NOT_ENOUGH_REPLICAS
        response = await client.call(fetch_request({("t", 0): 0}), 12)
        assert values(response) == []  # L7: nothing above the high watermark
        cluster.network.heal()
        await in_sync(cluster, {1, 2, 3})
        assert (await produce(client, batch(b"c"))).error_code == 0
        assert values(await client.call(fetch_request({("t", 0): 0}), 12)) == [b"a", b"c"]


async def test_R7_a_follower_killed_and_started_again_catches_up(autojump_clock: MockClock) -> None:
    async with three() as (cluster, leader, client):
        gone = others(leader)[0]
        assert (await produce(client, batch(b"before"))).error_code == 0
        cluster.kill(gone)
        assert (await produce(client, batch(b"meanwhile"), timeout_ms=60_000)).error_code == 0
        await cluster.start(gone)
        await in_sync(cluster, {1, 2, 3})
        assert (await produce(client, batch(b"after"))).error_code == 0
        assert await have_the_same(cluster)


async def test_F10_a_follower_whose_disk_is_full_comes_back_when_there_is_room(autojump_clock: MockClock) -> None:
    async with three() as (cluster, leader, client):
        full = others(leader)[0]
        volume = cluster.machines[full].disk.volume
        volume.capacity = cluster.machines[full].disk.used
        assert (await produce(client, batch(b"x" * 10_000), timeout_ms=60_000)).error_code == 0
        assert full not in (await partition(cluster)).isr
        volume.capacity += 1_000_000
        await in_sync(cluster, {1, 2, 3})
        assert await have_the_same(cluster)


async def test_B4_damage_on_the_leaders_disk_stops_one_partition_and_no_other(autojump_clock: MockClock) -> None:
    async with three(partitions=6) as (cluster, leader, client):
        led = [index for index in range(6) if (await partition(cluster, index)).leader == leader]
        other = led[-1]
        gone = others(leader)[0]
        cluster.kill(gone)
        for index in (0, other):
            assert (await produce(client, batch(b"value"), index=index, timeout_ms=60_000)).error_code == 0
        whole = on_disk(cluster, leader)
        inode = cluster.machines[leader].disk.volume.inode(f"t-0/{LOG}")
        inode.data[-1] ^= 1
        await cluster.start(gone)
        await in_sync(cluster, {1, 2, 3}, other)
        await trio.sleep(5)
        assert on_disk(cluster, gone) == b""
        inode.data[-1] ^= 1
        assert on_disk(cluster, leader) == whole
        await in_sync(cluster, {1, 2, 3})
        assert await have_the_same(cluster)


async def test_F7_data_flows_while_the_store_is_silent(autojump_clock: MockClock) -> None:
    async with three() as (cluster, leader, client):
        for way in cluster.ways.values():
            way.failure = Unavailable("cut")
        for n in range(30):
            answer = await produce(client, batch(b"a"), timeout_ms=5000)
            assert (answer.error_code, answer.base_offset) == (0, 2 * n)
            assert (await produce(client, batch(b"b"), acks=1)).error_code == 0
            await trio.sleep(1)
            response = await client.call(fetch_request({("t", 0): 2 * n}), 12)
            assert response.responses[0].partitions[0].error_code == 0


async def test_the_high_watermark_reaches_the_followers_without_records(autojump_clock: MockClock) -> None:
    async with three(replica__selector__class="org.apache.kafka.common.replica.RackAwareReplicaSelector") as (
        cluster,
        leader,
        client,
    ):
        assert (await produce(client, batch(b"a"))).error_code == 0
        async with cluster.client(others(leader)[0]) as reader:
            response = await reader.call(fetch_request({("t", 0): 0}, max_wait_ms=5000), 12)
            assert values(response) == [b"a"]
            response = await reader.call(fetch_request({("t", 0): 0}), 10)
            assert response.responses[0].partitions[0].error_code == ErrorCode.NOT_LEADER_OR_FOLLOWER


@pytest.mark.parametrize("size", [100, 3_000_000])
async def test_a_follower_far_behind_catches_up_in_bounded_answers(size: int, autojump_clock: MockClock) -> None:
    async with three(replica__fetch__max__bytes="100000", log__segment__bytes="1048576") as (cluster, leader, client):
        gone = others(leader)[0]
        cluster.kill(gone)
        await in_sync(cluster, {1, 2, 3} - {gone})
        for _ in range(10):
            assert (await produce(client, batch(b"x" * (size // 10)), acks=1, timeout_ms=60_000)).error_code == 0
        await cluster.start(gone)
        await in_sync(cluster, {1, 2, 3})
        disk = cluster.machines[leader].disk
        names = [name for name in disk.list_dir("t-0") if name.endswith(".log")]
        assert all(cluster.machines[gone].disk.read(f"t-0/{name}") == disk.read(f"t-0/{name}") for name in names)
