"""A coordination store that was restored from an older copy, while brokers ran: what they have stays where it is."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import trio

from kbroker.cluster.store import Entry, Put
from kbroker.cluster.stores.memory import MemoryStore
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
