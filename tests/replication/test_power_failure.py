"""Machines that go down under their brokers, disks that are replaced: what was acknowledged is still there (R10)."""

from __future__ import annotations

from copy import deepcopy

import pytest
import trio
from trio.testing import MockClock

from kbroker.testing.broker import MemoryCluster
from tests.replication.test_failover import check, leader_of, three
from tests.replication.test_following import in_sync, others, partition


def power_failure(cluster: MemoryCluster, broker_id: int) -> None:
    """What the machine had not synced is gone, or half gone; when it is up again it has another boot id."""
    cluster.kill(broker_id)
    cluster.machines[broker_id].disk.power_loss()


@pytest.mark.parametrize("whose", ["leader", "follower"])
async def test_R10_a_broker_without_its_page_cache_does_not_count_before_it_has_caught_up(
    autojump_clock: MockClock, whose: str
) -> None:
    """It comes back at once, while its session lives on, and cannot reach the others. Then those die: nobody leads."""
    async with three() as (cluster, producer):
        for n in range(30):
            await producer.send(b"%d" % n)
        leader = await leader_of(cluster)
        assert leader is not None
        victim = leader if whose == "leader" else others(leader)[0]
        power_failure(cluster, victim)
        for other in others(victim):
            cluster.network.cut(f"b{victim}", f"b{other}")
        await cluster.start(victim)
        for other in others(victim):
            cluster.kill(other)
        await trio.sleep(20)
        assert await leader_of(cluster) is None
        cluster.network.heal()
        for other in others(victim):
            await cluster.start(other)
        await producer.send(b"after")
        await check(cluster, producer)


async def test_R10_two_of_three_may_lose_their_page_caches_one_after_the_other(autojump_clock: MockClock) -> None:
    """min.insync.replicas is 2: each record was on two machines, and no sooner is one back than another goes."""
    async with three() as (cluster, producer):
        for round in range(3):
            await producer.run(lambda count=len(producer.acknowledged) + 20: len(producer.acknowledged) >= count)
            power_failure(cluster, 1 + round)
            await cluster.start(1 + round)
            await in_sync(cluster, {1, 2, 3})
        await check(cluster, producer)


async def test_R10_a_replaced_disk_is_filled_before_it_counts(autojump_clock: MockClock) -> None:
    """Two brokers die, one after the other: the second is eligible still. Its disk is replaced, and the third dies."""
    async with three() as (cluster, producer):
        for n in range(10):
            await producer.send(b"%d" % n)
        first, second, third = 1, 2, 3
        for dying in (first, second):
            cluster.kill(dying)
            await trio.sleep(10)
        assert [(p.isr, p.elr) for p in [await partition(cluster)]] == [((third,), (second,))]
        machine = cluster.machines[second]
        machine.disk = type(machine.disk)(seed=99)  # empty, and its directory has another id
        cluster.kill(third)
        await trio.sleep(10)
        await cluster.start(second)
        await trio.sleep(5)
        assert await leader_of(cluster) is None
        await cluster.start(third)
        await cluster.start(first)
        await producer.send(b"after")
        await check(cluster, producer)


async def test_R10_an_older_copy_of_a_data_directory_does_not_count_before_it_has_caught_up(
    autojump_clock: MockClock,
) -> None:
    """All brokers die, the directory of one is put back from a backup, and it comes first: it must not lead."""
    async with three() as (cluster, producer):
        for n in range(10):
            await producer.send(b"%d" % n)
        await cluster.stop(1)
        backup = deepcopy(cluster.machines[1].disk)
        await cluster.start(1)
        await in_sync(cluster, {1, 2, 3})
        for n in range(10):
            await producer.send(b"%d" % n)
        for id in (1, 2, 3):
            cluster.kill(id)
        cluster.machines[1].disk = backup
        await cluster.start(1)
        await trio.sleep(20)
        assert await leader_of(cluster) is None
        await cluster.start(2)
        await cluster.start(3)
        await producer.send(b"after")
        await check(cluster, producer)
