"""Leaders that stop, die or fail: others lead, nothing acknowledged is lost, and clients wait for seconds at most."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import TypeVar

import pytest
import trio
from trio.testing import MockClock

from kafka_wire.errors import ErrorCode
from kafka_wire.messages.admin import (
    AlterPartitionReassignmentsRequest,
    ReassignablePartition,
    ReassignableTopic,
)
from kafka_wire.messages.metadata import MetadataRequest
from kafka_wire.messages.produce_fetch import PartitionProduceResponse
from kbroker.cluster.registration import Registration
from kbroker.cluster.store import Unavailable
from kbroker.testing.broker import MemoryCluster, memory_cluster
from tests.api.test_fetch import fetch_request, values
from tests.api.test_produce import batch, produce
from tests.replication.test_following import CONFIG, LOG, have_the_same, in_sync, others, partition

T = TypeVar("T")
RETRIABLE = {
    ErrorCode.NOT_LEADER_OR_FOLLOWER, ErrorCode.LEADER_NOT_AVAILABLE, ErrorCode.REQUEST_TIMED_OUT,
    ErrorCode.NOT_ENOUGH_REPLICAS, ErrorCode.NOT_ENOUGH_REPLICAS_AFTER_APPEND, ErrorCode.KAFKA_STORAGE_ERROR,
    ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, ErrorCode.NOT_COORDINATOR, ErrorCode.COORDINATOR_NOT_AVAILABLE,
    ErrorCode.COORDINATOR_LOAD_IN_PROGRESS,
}  # fmt: skip
BROKEN = (trio.EndOfChannel, trio.BrokenResourceError, trio.ClosedResourceError, OSError)


class Producer:
    """Produces as clients do: to whom Metadata says leads, again when that was wrong; idempotent."""

    def __init__(self, cluster: MemoryCluster, producer_id: int = 7) -> None:
        self.cluster = cluster
        self.producer_id = producer_id
        self.acknowledged: list[tuple[int, bytes]] = []
        self.gap = 0.0  # the longest time between two acknowledgements
        self.errors: list[int] = []
        self._last = trio.current_time()

    async def run(self, until: Callable[[], bool], pause_s: float = 0.02) -> None:
        while not until():
            await self.send(b"%d" % len(self.acknowledged))
            await trio.sleep(pause_s)

    async def send(self, value: bytes) -> None:
        """Send one record until it is acknowledged."""
        sequence = len(self.acknowledged)
        records = batch(value, producer_id=self.producer_id, producer_epoch=0, base_sequence=sequence)
        with trio.fail_after(60):
            while (answer := await self._attempt(records)) is None:
                await trio.sleep(0.1)
        self.acknowledged.append((answer.base_offset, value))
        self.gap = max(self.gap, trio.current_time() - self._last)
        self._last = trio.current_time()

    async def _attempt(self, records: bytearray) -> PartitionProduceResponse | None:
        leader = await leader_of(self.cluster)
        if leader is None:
            return None
        try:
            with trio.move_on_after(5):
                async with self.cluster.client(leader) as client:
                    answer = await produce(client, records, timeout_ms=3000)
                    if not answer.error_code:
                        return answer
                    self.errors.append(answer.error_code)
                    assert answer.error_code in RETRIABLE, ErrorCode(answer.error_code)
        except BROKEN:
            self.errors.append(-1)
        return None


async def leader_of(cluster: MemoryCluster, topic: str = "t", index: int = 0) -> int | None:
    """Who leads, as the first broker says that can be asked, and knows."""
    for id in tuple(cluster.brokers):
        try:
            async with cluster.client(id) as client:
                with trio.move_on_after(1):
                    told = await client.call(MetadataRequest(topics=None), 12)
                    found = next(each for each in told.topics if each.name == topic).partitions[index]
                    if found.leader_id >= 0:
                        return found.leader_id
        except BROKEN:
            continue
    return None


async def read_all(cluster: MemoryCluster) -> list[bytes | None]:
    """What consumers see."""
    leader = await leader_of(cluster)
    assert leader is not None
    found: list[bytes | None] = []
    async with cluster.client(leader) as client:
        while more := values(await client.call(fetch_request({("t", 0): len(found)}, max_wait_ms=500), 12)):
            found += more
    return found


@asynccontextmanager
async def three(**config: str) -> AsyncIterator[tuple[MemoryCluster, Producer]]:
    differing = {name.replace("__", "."): value for name, value in config.items()}
    async with memory_cluster(3, topics={"t": 1}, replication_factor=3, config={**CONFIG, **differing}) as cluster:
        yield cluster, Producer(cluster)


async def check(cluster: MemoryCluster, producer: Producer) -> None:
    """All three are in sync again and have what was acknowledged, once, where it was said to be."""
    await in_sync(cluster, {1, 2, 3})
    await have_the_same(cluster)
    found = await read_all(cluster)
    assert found == [value for _, value in producer.acknowledged]
    assert [offset for offset, _ in producer.acknowledged] == list(range(len(found)))


@pytest.mark.slow
async def test_R3_a_leader_that_is_killed_has_a_successor_with_all_that_was_acknowledged(
    autojump_clock: MockClock,
) -> None:
    async with three() as (cluster, producer):
        for _ in range(3):
            await producer.run(lambda count=len(producer.acknowledged) + 50: len(producer.acknowledged) >= count)
            leader = await leader_of(cluster)
            assert leader is not None
            cluster.kill(leader)
            await producer.send(b"after")
            assert producer.gap <= 8.0
            await cluster.start(leader)
            await in_sync(cluster, {1, 2, 3})
        await check(cluster, producer)


@pytest.mark.slow
async def test_F1_a_leader_that_stops_in_order_is_missed_by_nobody(autojump_clock: MockClock) -> None:
    async with three() as (cluster, producer):
        stopped = False
        async with trio.open_nursery() as nursery:
            nursery.start_soon(producer.run, lambda: stopped)
            for id in (1, 2, 3):
                await trio.sleep(1)
                await cluster.stop(id)
                await cluster.start(id)
                await in_sync(cluster, {1, 2, 3})
            stopped = True
        assert producer.gap <= 0.5
        await check(cluster, producer)


async def test_F11_a_leader_whose_disk_fails_gives_the_partition_up_within_five_seconds(
    autojump_clock: MockClock,
) -> None:
    async with three() as (cluster, producer):
        await producer.send(b"before")
        leader = await leader_of(cluster)
        assert leader is not None
        cluster.machines[leader].disk.fail("append", "t-0/*.log")
        await producer.send(b"0")
        assert producer.gap <= 5.0
        assert await leader_of(cluster) != leader
        assert leader not in (await partition(cluster)).isr
        await cluster.stop(leader)
        await cluster.start(leader)
        await producer.send(b"1")
        await check(cluster, producer)


async def test_all_killed_at_once_come_back_with_all_that_was_acknowledged(autojump_clock: MockClock) -> None:
    async with three() as (cluster, producer):
        await producer.run(lambda: len(producer.acknowledged) >= 20)
        for id in (1, 2, 3):
            cluster.kill(id)
        async with trio.open_nursery() as nursery:
            for id in (1, 2, 3):
                nursery.start_soon(cluster.start, id)
        await producer.send(b"20")
        await check(cluster, producer)


async def test_a_session_that_is_lost_ends_leaderships_and_following_and_both_begin_anew(
    autojump_clock: MockClock,
) -> None:
    async with three() as (cluster, producer):
        await producer.run(lambda: len(producer.acknowledged) >= 10)
        for id in (1, 2, 3):
            for lease in tuple(cluster.store._leases):
                await cluster.store.revoke(lease)
            await producer.run(lambda count=10 * (id + 1): len(producer.acknowledged) >= count)
        await check(cluster, producer)


async def test_F6_a_leader_that_is_cut_off_from_the_store_sends_its_clients_to_the_next(
    autojump_clock: MockClock,
) -> None:
    """It does not know, nor does the client, who still reaches it and asks it first."""
    async with three() as (cluster, producer):
        await producer.run(lambda: len(producer.acknowledged) >= 10)
        leader = await leader_of(cluster)
        assert leader is not None
        cluster.brokers = {leader: cluster.brokers[leader], **cluster.brokers}  # it is the first to be asked
        cluster.ways[leader].failure = Unavailable("cut")
        await producer.run(lambda: len(producer.acknowledged) >= 50, pause_s=0.3)
        assert await leader_of(cluster) not in (leader, None)
        assert producer.gap <= 8
        cluster.ways[leader].failure = None
        await check(cluster, producer)


async def test_F7_while_the_store_is_silent_to_all_a_leader_whose_followers_ask_is_named(
    autojump_clock: MockClock,
) -> None:
    async with three() as (cluster, producer):
        await producer.run(lambda: len(producer.acknowledged) >= 10)
        leader = await leader_of(cluster)
        for way in cluster.ways.values():
            way.failure = Unavailable("cut")
        await producer.run(lambda: len(producer.acknowledged) >= 50, pause_s=0.3)
        assert await leader_of(cluster) == leader
        assert producer.gap <= 1
        for way in cluster.ways.values():
            way.failure = None
        await check(cluster, producer)


@pytest.mark.parametrize("leads", [True, False])
async def test_L4_a_replica_that_is_damaged_is_filled_anew_by_the_others(
    leads: bool, autojump_clock: MockClock
) -> None:
    async with three() as (cluster, producer):
        await producer.run(lambda: len(producer.acknowledged) >= 10)
        leader = await leader_of(cluster)
        assert leader is not None
        damaged = leader if leads else others(leader)[0]
        cluster.kill(damaged)
        disk = cluster.machines[damaged].disk
        disk.volume.inode(f"t-0/{LOG}").data[70] ^= 1
        await producer.send(b"10")
        await cluster.start(damaged)
        await check(cluster, producer)
        assert any(name.startswith("t-0.") and name.endswith("-stray") for name in disk.list_dir(""))


async def test_L4_a_log_that_is_looked_at_again_is_not_moved_aside_meanwhile(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When it is handed over, the new image has a damaged log opened once more, which takes a worker its time."""
    hand_over = Registration.hand_over

    async def slowly(work: Callable[[], T]) -> T:
        await trio.sleep(0.1)
        return work()

    async def told_late(self: Registration, partitions: Iterable[tuple[str, int]] | None = None) -> None:
        await hand_over(self, partitions)
        await trio.sleep(0.05)

    async with three() as (cluster, producer):
        await producer.run(lambda: len(producer.acknowledged) >= 10)
        leader = await leader_of(cluster)
        assert leader is not None
        cluster.kill(leader)
        cluster.machines[leader].disk.volume.inode(f"t-0/{LOG}").data[70] ^= 1
        monkeypatch.setattr("kbroker.testing.broker.inline", slowly)
        monkeypatch.setattr(Registration, "hand_over", told_late)
        await cluster.start(leader)
        await check(cluster, producer)


async def test_L4_the_last_replica_that_is_in_sync_is_kept_as_it_is(autojump_clock: MockClock) -> None:
    async with three(min__insync__replicas="1") as (cluster, producer):
        leader = await leader_of(cluster)
        assert leader is not None
        for id in others(leader):
            cluster.kill(id)
        await producer.run(lambda: len(producer.acknowledged) >= 10)
        cluster.kill(leader)
        disk = cluster.machines[leader].disk
        disk.volume.inode(f"t-0/{LOG}").data[70] ^= 1
        before = disk.read(f"t-0/{LOG}")
        for id in (1, 2, 3):
            await cluster.start(id)
        await trio.sleep(30)
        assert disk.read(f"t-0/{LOG}") == before
        assert (await partition(cluster)).isr == (leader,)


async def test_a_partition_moves_to_other_brokers_under_load_and_leaves_nothing_behind(
    autojump_clock: MockClock,
) -> None:
    async with memory_cluster(4, topics={"t": 1}, replication_factor=2, config=CONFIG) as cluster:
        producer, moved = Producer(cluster), False
        before = set((await partition(cluster)).replicas)
        after = {1, 2, 3, 4} - before
        async with trio.open_nursery() as nursery:
            nursery.start_soon(producer.run, lambda: moved)
            await trio.sleep(1)
            wish = ReassignablePartition(partition_index=0, replicas=sorted(after))
            topics = [ReassignableTopic(name="t", partitions=[wish])]
            async with cluster.client(1) as client:
                answer = await client.call(AlterPartitionReassignmentsRequest(timeout_ms=5000, topics=topics), 0)
                assert answer.responses[0].partitions[0].error_code == 0
            with trio.fail_after(60):
                while set((await partition(cluster)).replicas) != after:
                    await trio.sleep(0.1)
            await trio.sleep(2)
            moved = True
        assert producer.gap <= 2.0
        await in_sync(cluster, after)
        await have_the_same(cluster, brokers=tuple(after))
        assert await read_all(cluster) == [value for _, value in producer.acknowledged]
        assert not any(cluster.machines[id].disk.exists("t-0") for id in before)


async def test_without_controlled_shutdown_a_stop_waits_for_nobody(autojump_clock: MockClock) -> None:
    async with three(controlled__shutdown__enable="false") as (cluster, producer):
        await producer.send(b"0")
        leader = await leader_of(cluster)
        assert leader is not None
        stopping = trio.current_time()
        await cluster.stop(leader)
        assert trio.current_time() == pytest.approx(stopping)
        await producer.send(b"1")
