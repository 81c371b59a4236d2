"""A coordination store that was restored from an older copy, while brokers ran: what they have stays where it is."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import trio

from kafka_wire.messages.transactions import InitProducerIdRequest
from kafka_wire.records import headers, read_records
from kbroker.cluster.admin import Admin
from kbroker.cluster.keys import CLUSTER, Keys
from kbroker.cluster.store import Entry, Put
from kbroker.cluster.stores.adopting import LogEnd, decide, read_image, write
from kbroker.cluster.stores.memory import MemoryStore
from kbroker.server.identity import PRODUCER_IDS
from kbroker.testing.broker import MemoryCluster, SteeredClock, memory_cluster
from tests.api.test_produce import batch, produce
from tests.replication.test_failover import leader_of
from tests.replication.test_following import CONFIG, have_the_same, in_sync, on_disk, partition

KEYS = Keys(CLUSTER)


def copied(cluster: MemoryCluster) -> list[Entry]:
    return [entry for entry in cluster.store._entries.values() if not entry.lease]


def restore(cluster: MemoryCluster, copy: Sequence[Entry]) -> None:
    """The store is away, and comes back as it was."""
    older = MemoryStore(SteeredClock())
    older._apply([Put(entry.key, entry.value) for entry in copy])
    cluster.store = older
    for machine in cluster.machines.values():
        machine.store = older
    for way in cluster.ways.values():
        way._store = older


async def test_a_topic_that_an_older_store_does_not_know_is_not_deleted(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with memory_cluster(2, topics={"t": 1}, replication_factor=2, config=CONFIG) as cluster:
        copy = copied(cluster)
        await cluster.create({"u": 1}, 2)
        leader = await leader_of(cluster, "u")
        assert leader is not None
        async with cluster.client(leader) as client:
            assert (await produce(client, batch(b"v"), topic="u")).error_code == 0
        restore(cluster, copy)
        await trio.sleep(120)
        assert "went back" in caplog.text and caplog.text.count("u-0, of which the cluster knows nothing") == 2
        for broker in cluster.brokers.values():
            assert broker.disk.exists("u-0")


async def given(cluster: MemoryCluster, broker_id: int, count: int) -> list[int]:
    """Producer ids that a broker gives out."""
    found = []
    async with cluster.client(broker_id) as client:
        for _ in range(count):
            answer = await client.call(InitProducerIdRequest(transactional_id=None, transaction_timeout_ms=0), 4)
            assert answer.error_code == 0
            found.append(answer.producer_id)
    return found


@pytest.mark.parametrize("restarted", [(), (1,), (2,), (1, 2)])
async def test_P4_after_an_older_store_no_producer_id_is_given_out_again(
    autojump_clock: trio.testing.MockClock,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    restarted: tuple[int, ...],
) -> None:
    monkeypatch.setattr(Admin.allocate_producer_ids, "__defaults__", (2,))  # ids in a block
    async with memory_cluster(2, config=CONFIG) as cluster:
        ids = [*await given(cluster, 1, 2), *await given(cluster, 2, 2)]
        copy = copied(cluster)
        ids += [*await given(cluster, 2, 5), *await given(cluster, 1, 2)]
        for id in restarted:
            await cluster.stop(id)
        restore(cluster, copy)
        for id in restarted:
            await cluster.start(id)
        await trio.sleep(60)
        for id in (1, 2):
            ids += await given(cluster, id, 3)
        assert len(set(ids)) == len(ids)
        assert "producer ids go on at" in caplog.text


async def test_P4_who_knows_of_more_ids_than_an_older_store_has_it_go_on_for_all(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Admin.allocate_producer_ids, "__defaults__", (2,))
    async with memory_cluster(2, config=CONFIG) as cluster:
        copy = copied(cluster)
        ids = await given(cluster, 2, 5)
        await cluster.stop(1)
        cluster.machines[1].disk.remove(PRODUCER_IDS)
        restore(cluster, copy)
        await trio.sleep(60)
        await cluster.start(1)
        ids += [*await given(cluster, 1, 3), *await given(cluster, 2, 3)]
        assert len(set(ids)) == len(ids)


def ends_of(cluster: MemoryCluster, id: int, topic_id: bytes) -> LogEnd:
    """How far a broker's log of t-0 goes."""
    last = [header for _, header in headers(on_disk(cluster, id))][-1:]
    epoch, end = (last[0].leader_epoch, last[0].next_offset) if last else (-1, 0)
    return LogEnd(id, topic_id, 0, epoch, end)


async def test_R11_a_cluster_goes_on_with_an_older_store_that_was_brought_up_to_the_logs(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with memory_cluster(3, topics={"t": 1}, replication_factor=3, config=CONFIG) as cluster:
        acknowledged, copy = [], copied(cluster)

        async def produce_some() -> None:
            leader = await leader_of(cluster, "t")
            assert leader is not None
            async with cluster.client(leader) as client:
                for _ in range(3):
                    value = b"%d" % len(acknowledged)
                    assert (await produce(client, batch(value), timeout_ms=60_000)).error_code == 0
                    acknowledged.append(value)

        await produce_some()
        lagging = (await partition(cluster)).leader % 3 + 1
        others = [id for id in (1, 2, 3) if id != lagging]
        for id in others:
            cluster.network.cut(f"b{lagging}", f"b{id}")
        await produce_some()  # without it
        for id in others:
            await cluster.stop(id)
            await cluster.start(id)
            await trio.sleep(10)
            await produce_some()
        cluster.network.heal()
        topic_id = (await partition(cluster)).topic_id
        for id in (lagging, *others):
            await cluster.stop(id)
        restore(cluster, copy)
        ends = [ends_of(cluster, id, topic_id) for id in (1, 2, 3)]
        told = decide(await read_image(cluster.store, KEYS), ends, [1, 2, 3])
        assert told.adopted and not told.missing
        await write(cluster.store, cluster.machines[1].clock, KEYS, told.adopted)
        for id in (lagging, *others):  # who has least comes first
            await cluster.start(id)
        await in_sync(cluster, {1, 2, 3})
        await produce_some()
        found = await have_the_same(cluster)
        assert [r.value for at, _ in headers(found) for r in read_records(found, at, max_bytes=1 << 20)] == acknowledged
