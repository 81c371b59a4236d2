"""Transactions whose coordinators and partitions are on different brokers: questions and markers go between them."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from kafka_wire.errors import ErrorCode
from kafka_wire.messages.group_offsets import OffsetFetchRequest
from kafka_wire.messages.transactions import (
    AddOffsetsToTxnRequest,
    TxnOffsetCommitRequest,
    TxnOffsetCommitRequestPartition,
    TxnOffsetCommitRequestTopic,
)
from kbroker.testing.broker import MemoryCluster, memory_cluster
from tests.api.anywhere import GROUP, TRANSACTION, anywhere, codes_in
from tests.api.test_internal import image_of
from tests.api.transaction_tools import NEW, OLD, Producer, committed

CONFIG = {
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "6",
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "6",
    "min.insync.replicas": "1",
}
PARTITIONS = range(3)


async def names_by_coordinator(client: Any, count: int = 60) -> dict[int, str]:
    """A transactional id for each broker to coordinate."""
    found: dict[int, str] = {}
    for n in range(count):
        with trio.fail_after(60):
            while (broker_id := await client.coordinator(f"tx{n}", TRANSACTION)) is None:
                await trio.sleep(0.1)
        found.setdefault(broker_id, f"tx{n}")
    assert sorted(found) == [1, 2, 3]
    return found


async def leaders(cluster: MemoryCluster) -> dict[int, int]:
    return {each.index: each.leader for each in (await image_of(cluster)).topics["t"].partitions}


async def wait_committed(client: Any, expected: dict[int, list[int]]) -> None:
    """Until that is what readers of committed records are given of each partition."""
    with trio.fail_after(60):
        while {index: await committed(client, index=index) for index in expected} != expected:
            await trio.sleep(0.1)


async def wait_committed_count(client: Any, count: int) -> None:
    """Until so many records are read of each partition. A marker may be there twice where a coordinator died."""
    with trio.fail_after(60):
        while {len(await committed(client, index=index)) for index in PARTITIONS} != {count}:
            await trio.sleep(0.1)


@pytest.mark.parametrize("version", [NEW, OLD])
async def test_T2_markers_reach_every_broker(version: int, autojump_clock: MockClock) -> None:
    async with memory_cluster(3, topics={"t": 3}, config=CONFIG) as cluster, anywhere(cluster) as client:
        assert sorted((await leaders(cluster)).values()) == [1, 2, 3]
        for number, name in enumerate((await names_by_coordinator(client)).values()):
            producer = await Producer(client, name).init()
            if version == OLD:
                assert await producer.add(*PARTITIONS) == [0, 0, 0]
            for index in PARTITIONS:
                assert (await producer.produce(index=index, version=version)).error_code == 0
            assert [len(await committed(client, index=index)) for index in PARTITIONS] == [number] * 3
            assert await producer.end(version=5 if version == NEW else 3) == 0
            await wait_committed(client, {index: [2 * n for n in range(number + 1)] for index in PARTITIONS})


@pytest.mark.parametrize("version", [NEW, OLD])
async def test_a_transaction_may_begin_while_the_one_before_is_ending_elsewhere(
    version: int, autojump_clock: MockClock
) -> None:
    """It waits for that, a few milliseconds here: who is told to come again does so after 20, or 100."""
    async with memory_cluster(3, topics={"t": 3}, config=CONFIG) as cluster, anywhere(cluster) as client:
        name = (await names_by_coordinator(client))[1]
        producer = await Producer(client, name).init()
        client.refusals.clear()
        begun = trio.current_time()
        for _ in range(10):
            if version == OLD:
                assert await producer.add(*PARTITIONS) == [0, 0, 0]
            for index in PARTITIONS:
                assert (await producer.produce(index=index, version=version)).error_code == 0
            assert await producer.end(version=5 if version == NEW else 3) == 0
        assert client.refusals == []
        assert trio.current_time() - begun < 10 * 0.02


async def test_a_transaction_that_does_not_end_is_told_of_after_a_short_time(autojump_clock: MockClock) -> None:
    async with memory_cluster(3, topics={"t": 3}, config=CONFIG) as cluster, anywhere(cluster) as client:
        name = (await names_by_coordinator(client))[1]
        producer = await Producer(client, name).init()
        assert await producer.add(*PARTITIONS) == [0, 0, 0]
        for other in (2, 3):
            cluster.network.cut("b1", f"b{other}")
        assert await producer.end() == 0
        async with cluster.client(1) as coordinator:
            producer.client = coordinator
            begun = trio.current_time()
            assert set(await producer.add(0)) == {ErrorCode.CONCURRENT_TRANSACTIONS}
            assert 0.1 <= trio.current_time() - begun < 0.3


async def test_T4_a_batch_that_was_not_added_is_refused_by_the_word_of_another_broker(
    autojump_clock: MockClock,
) -> None:
    async with memory_cluster(3, topics={"t": 3}, config=CONFIG) as cluster, anywhere(cluster) as client:
        for name in (await names_by_coordinator(client)).values():
            producer = await Producer(client, name).init()
            await producer.add(0)
            codes = [(await producer.produce(index=index, version=OLD)).error_code for index in PARTITIONS]
            assert codes == [0, ErrorCode.TRANSACTION_ABORTABLE, ErrorCode.TRANSACTION_ABORTABLE]
            assert await producer.end(commit=False) == 0


async def test_T2_a_partition_whose_broker_is_dead_has_its_marker_when_it_is_back(autojump_clock: MockClock) -> None:
    async with memory_cluster(3, topics={"t": 3}, config=CONFIG) as cluster, anywhere(cluster) as client:
        name = (await names_by_coordinator(client))[1]
        led = await leaders(cluster)
        producer = await Producer(client, name).init()
        for index in PARTITIONS:
            assert (await producer.produce(index=index, version=NEW)).error_code == 0
        cluster.kill(2)
        assert await producer.end(version=5) == 0  # it is decided, and will come true
        await wait_committed(client, {index: [0] for index, leader in led.items() if leader != 2})
        await trio.sleep(20)  # its session ends: the partition has no leader for a while
        await cluster.start(2)
        await wait_committed(client, {index: [0] for index in PARTITIONS})


async def test_T2_a_coordinator_that_dies_before_its_markers_are_written_goes_on_when_it_is_back(
    autojump_clock: MockClock,
) -> None:
    async with memory_cluster(3, topics={"t": 3}, config=CONFIG) as cluster, anywhere(cluster) as client:
        name = (await names_by_coordinator(client))[1]
        led = await leaders(cluster)
        producer = await Producer(client, name).init()
        for index in PARTITIONS:
            assert (await producer.produce(index=index, version=NEW)).error_code == 0
        for other in (2, 3):
            cluster.network.cut("b1", f"b{other}")  # what it has to say does not get through
        assert await producer.end(version=5) == 0
        cluster.kill(1)
        cluster.network.heal()
        await trio.sleep(20)
        far = {index: [] for index, leader in led.items() if leader != 1}
        await wait_committed(client, far)
        await cluster.start(1)
        await wait_committed(client, {index: [0] for index in PARTITIONS})


async def test_a_coordinator_that_cannot_be_asked_is_asked_again(autojump_clock: MockClock) -> None:
    async with memory_cluster(3, topics={"t": 3}, config=CONFIG) as cluster, anywhere(cluster) as client:
        name = (await names_by_coordinator(client))[1]
        (far,) = [index for index, leader in (await leaders(cluster)).items() if leader == 2]
        producer = await Producer(client, name).init()
        cluster.kill(1)

        async def come_back() -> None:
            await trio.sleep(3)
            await cluster.start(1)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(come_back)
            assert (await producer.produce(index=far, version=NEW)).error_code == 0
        assert ErrorCode.NOT_ENOUGH_REPLICAS in client.refusals
        assert await producer.end(version=5) == 0
        await wait_committed(client, {far: [0]})


async def test_offsets_of_groups_of_other_brokers_are_committed_with_the_transaction(
    autojump_clock: MockClock,
) -> None:
    async with memory_cluster(3, topics={"t": 3}, config=CONFIG) as cluster, anywhere(cluster) as client:
        name = (await names_by_coordinator(client))[1]
        producer = await Producer(client, name).init()
        groups = [f"group {n}" for n in range(8)]
        who = {"transactional_id": name, "producer_id": producer.id, "producer_epoch": producer.epoch}
        for group_id in groups:
            answer = await client.call(AddOffsetsToTxnRequest(group_id=group_id, **who), 3)
            assert answer.error_code == 0
            offset = TxnOffsetCommitRequestPartition(partition_index=0, committed_offset=7, committed_metadata=None)
            topics = [TxnOffsetCommitRequestTopic(name="t", partitions=[offset])]
            answer = await client.call(TxnOffsetCommitRequest(group_id=group_id, topics=topics, **who), 3)
            assert set(codes_in(answer)) == {ErrorCode.NONE}
        assert {await client.coordinator(group_id, GROUP) for group_id in groups} == {1, 2, 3}
        assert await producer.end() == 0
        with trio.fail_after(60):
            for group_id in groups:
                while (await client.call(OffsetFetchRequest(group_id=group_id, topics=None), 7)).topics == []:
                    await trio.sleep(0.1)


REPLICATED = {"transaction.state.log.num.partitions": "6", "offsets.topic.num.partitions": "6"}


@pytest.mark.parametrize("is_decided", [True, False])
async def test_T2_another_broker_takes_up_the_transactions_of_one_that_dies(
    is_decided: bool, autojump_clock: MockClock
) -> None:
    """Decided ones come true; the producer of one that is open goes on, at the new coordinator."""
    async with (
        memory_cluster(3, topics={"t": 3}, replication_factor=3, config=REPLICATED) as cluster,
        anywhere(cluster) as client,
    ):
        name = (await names_by_coordinator(client))[1]
        producer = await Producer(client, name).init()
        for index in PARTITIONS:
            assert (await producer.produce(index=index, version=NEW)).error_code == 0
        if is_decided:
            assert (await client.ask(1, producer.ending(commit=True), 5)).error_code == 0
        cluster.kill(1)
        assert await producer.end(version=5) == 0  # where it was decided, the same request again
        await wait_committed(client, {index: [0] for index in PARTITIONS})
        assert await client.coordinator(name, TRANSACTION) in (2, 3)
        for index in PARTITIONS:
            assert (await producer.produce(index=index, version=NEW)).error_code == 0
        assert await producer.end(version=5) == 0
        await wait_committed_count(client, 2)
