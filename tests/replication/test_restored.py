"""A coordination store that was restored from an older copy, while brokers ran: what they have stays where it is."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import trio

from kafka_wire.messages.transactions import InitProducerIdRequest
from kbroker.cluster.admin import Admin
from kbroker.cluster.store import Entry, Put
from kbroker.cluster.stores.memory import MemoryStore
from kbroker.server.identity import PRODUCER_IDS
from kbroker.testing.broker import MemoryCluster, SteeredClock, memory_cluster
from tests.api.test_produce import batch, produce
from tests.replication.test_failover import leader_of
from tests.replication.test_following import CONFIG


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
