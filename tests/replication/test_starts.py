"""DeleteRecords of a replicated partition: all replicas have given it up before that is said (KIP-107)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from kafka_wire.errors import ErrorCode
from kafka_wire.messages.topics import (
    DeleteRecordsPartition,
    DeleteRecordsPartitionResult,
    DeleteRecordsRequest,
    DeleteRecordsTopic,
)
from kbroker.replication.manager import ReplicaManager
from kbroker.replication.starts import LOOKED_AT_A_TURN, wait_started
from kbroker.testing.broker import MemoryCluster, memory_cluster
from kbroker.testing.client import BareClient
from kbroker.testing.clock import SteeredClock
from tests.api.test_produce import batch, produce
from tests.delay.test_delivery import leading


@pytest.fixture
def managers(monkeypatch: pytest.MonkeyPatch) -> dict[int, ReplicaManager]:
    """Of the latest process of each broker."""
    found: dict[int, ReplicaManager] = {}
    make = ReplicaManager.__init__

    def noted(self: ReplicaManager, node_id: int, *rest: Any) -> None:
        make(self, node_id, *rest)
        found[node_id] = self

    monkeypatch.setattr(ReplicaManager, "__init__", noted)
    return found


@asynccontextmanager
async def replicated() -> AsyncIterator[tuple[MemoryCluster, int]]:
    """Three brokers, a topic of one partition with ten records, and who leads it."""
    async with memory_cluster(3, topics={"t": 1}, replication_factor=3) as cluster:
        leader = await leading(cluster)
        async with cluster.client(leader) as client:
            for _ in range(10):
                await produce(client, batch(b"x"), acks=-1)
        yield cluster, leader


async def delete(client: BareClient, offset: int) -> DeleteRecordsPartitionResult:
    part = DeleteRecordsPartition(partition_index=0, offset=offset)
    request = DeleteRecordsRequest(topics=[DeleteRecordsTopic(name="t", partitions=[part])], timeout_ms=10_000)
    row: DeleteRecordsPartitionResult = (await client.call(request, 2)).topics[0].partitions[0]
    return row


def starts(cluster: MemoryCluster, managers: dict[int, ReplicaManager]) -> list[int]:
    return [managers[id].partitions["t", 0].log.start_offset for id in cluster.brokers]


async def test_L8_what_is_deleted_is_deleted_everywhere_when_that_is_said(
    autojump_clock: MockClock, managers: dict[int, ReplicaManager]
) -> None:
    async with replicated() as (cluster, leader), cluster.client(leader) as client:
        begun_s = trio.current_time()
        assert (await delete(client, 7)).low_watermark == 7
        assert starts(cluster, managers) == [7, 7, 7]
        assert trio.current_time() - begun_s < 0.3
        assert (await delete(client, 3)).low_watermark == 7


async def test_followers_of_many_partitions_are_told_in_turns(autojump_clock: MockClock) -> None:
    told: list[int] = []
    partition: Any = SimpleNamespace(
        leading=True, low_watermark=lambda is_alive: 0, follower_ids=(2,), topic_id=b"", index=0
    )
    sessions: Any = SimpleNamespace(tell_start=lambda ids, key, now_s: told.append(key[1]))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait_started, [(partition, 1)] * 1000, lambda id: True, sessions, SteeredClock())
        most = 0
        while (before := len(told)) < 1000:
            await trio.lowlevel.checkpoint()
            most = max(most, len(told) - before)
        nursery.cancel_scope.cancel()
    assert most <= 2 * LOOKED_AT_A_TURN  # trio may give one of them two turns in a row


async def test_L8_a_follower_that_cannot_be_reached_holds_that_up_until_it_is_dead(
    autojump_clock: MockClock, managers: dict[int, ReplicaManager]
) -> None:
    async with replicated() as (cluster, leader), cluster.client(leader) as client:
        other = leader % 3 + 1
        cluster.network.cut(f"b{other}", f"b{leader}")
        row = await delete(client, 7)
        assert (row.error_code, row.low_watermark) == (ErrorCode.REQUEST_TIMED_OUT, -1)
        cluster.kill(other)
        with trio.fail_after(60):
            while (await delete(client, 7)).error_code == ErrorCode.REQUEST_TIMED_OUT:
                pass
        assert starts(cluster, managers) == [7, 7]
        cluster.network.heal()
        await cluster.start(other)
        with trio.fail_after(60):
            while starts(cluster, managers) != [7, 7, 7]:
                await trio.sleep(0.1)
