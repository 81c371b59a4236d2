"""Nothing that is pending is deleted; what is in the way is carried on."""

from __future__ import annotations

import trio

from kafka_wire.messages.configs import (
    IncrementalAlterableConfig,
    IncrementalAlterConfigsRequest,
    IncrementalAlterConfigsResource,
)
from kafka_wire.messages.topics import (
    DeleteRecordsPartition,
    DeleteRecordsPartitionResult,
    DeleteRecordsRequest,
    DeleteRecordsTopic,
    DeleteTopicsRequest,
    DeleteTopicState,
)
from kbroker.testing.broker import MemoryBroker, memory_broker, memory_cluster
from kbroker.testing.client import BareClient
from tests.delay.test_delivery import leading
from tests.delay.tools import after, at_once, cancel, create, id_of, produce, read, send, values, wait_for

SETTINGS = {"log.retention.check.interval.ms": "10000", "log.flush.scheduler.interval.ms": "1000"}


def log_of(broker: MemoryBroker) -> list[str]:
    return sorted(name for name in broker.disk.list_dir("t-0") if name.endswith(".log"))


async def try_to_delete_records(client: BareClient, offset: int) -> DeleteRecordsPartitionResult:
    part = DeleteRecordsPartition(partition_index=0, offset=offset)
    request = DeleteRecordsRequest(topics=[DeleteRecordsTopic(name="t", partitions=[part])], timeout_ms=10_000)
    answer: DeleteRecordsPartitionResult = (await client.call(request, 2)).topics[0].partitions[0]
    return answer


async def delete_records(client: BareClient, offset: int) -> int:
    answer = await try_to_delete_records(client, offset)
    assert answer.error_code == 0, answer
    return answer.low_watermark


async def alter(client: BareClient, name: str, value: str) -> None:
    change = IncrementalAlterableConfig(name=name, config_operation=0, value=value)
    wanted = IncrementalAlterConfigsResource(resource_type=2, resource_name="t", configs=[change])
    answer = await client.call(IncrementalAlterConfigsRequest(resources=[wanted], validate_only=False), 1)
    assert answer.responses[0].error_code == 0, answer


async def test_D2_what_is_pending_outlives_the_retention_of_its_segment(autojump_clock: object) -> None:
    async with memory_broker(config=SETTINGS) as broker:
        async with broker.client() as client:
            await create(client, retention__ms="60000", segment__ms="10000")
            await send(client, after(600_000, b"a"), after(500_000, b"b", b"x"), after(700_000, b"c"))
            await send(client, cancel(b"x"))
        for n in range(40):
            await trio.sleep(10)
            async with broker.client() as client:
                await send(client, at_once(b"%d" % n), at=broker.clock.data_ms())
        assert int(log_of(broker)[0][:20]) > 3  # its segment is gone
        await trio.sleep(210)
        async with broker.client() as client:
            assert await delivered(client, broker) == [(b"a", 0)]
            await trio.sleep(90)
            assert (await delivered(client, broker))[-1] == (b"c", 2)


async def delivered(client: BareClient, broker: MemoryBroker) -> list[tuple[bytes | None, int]]:
    """What was delivered, as far as it is there."""
    await produce(client, at_once(b"end"), at=broker.clock.data_ms())
    await trio.sleep(20)  # what is too old by now is gone, and so it stays for a while
    start = (await produce(client, at_once(b"end"), at=broker.clock.data_ms())).log_start_offset
    return [(each.value, id_of(each)) for each in await read(client, offset=start) if each.headers]


async def test_D2_what_is_pending_outlives_delete_records(autojump_clock: object) -> None:
    async with memory_cluster(1) as cluster:
        async with cluster.client(1) as client:
            await create(client, segment__ms="10000")
            await send(client, after(60_000, b"a"), after(70_000, b"b"))
            await send(client, at_once(b"x"))
            await trio.sleep(11)
            await send(client, at_once(b"y"), at=cluster.machines[1].clock.data_ms())
            assert await delete_records(client, 4) == 4
        await trio.sleep(2)
        cluster.kill(1)
        await cluster.start(1)
        async with cluster.client(1) as client:
            await trio.sleep(120)
            found = await read(client, offset=4)
            assert [(each.value, id_of(each)) for each in found] == [(b"a", 0), (b"b", 1)]


async def test_what_was_delivered_holds_nothing(autojump_clock: object) -> None:
    async with memory_broker(config=SETTINGS) as broker, broker.client() as client:
        await create(client, retention__ms="60000", segment__ms="10000")
        await send(client, after(1000, b"a"))
        await wait_for(client, 1)
        for n in range(20):
            await trio.sleep(10)
            await send(client, at_once(b"%d" % n), at=broker.clock.data_ms())
        assert int(log_of(broker)[0][:20]) > 2


async def test_what_is_pending_when_delay_is_switched_off_is_still_delivered(autojump_clock: object) -> None:
    async with memory_cluster(1) as cluster:
        async with cluster.client(1) as client:
            await create(client)
            await send(client, after(30_000, b"a"), after(60_000, b"b"))
            await alter(client, "kbroker.delay.enable", "false")
            assert await send(client, after(60_000, b"c")) == 2  # a record like any other
            await wait_for(client, 2, 40)
        cluster.kill(1)
        await cluster.start(1)
        async with cluster.client(1) as client:
            assert [each.value for each in await wait_for(client, 3, 60)] == [b"c", b"a", b"b"]


async def test_a_topic_that_is_deleted_takes_along_what_is_pending(autojump_clock: object) -> None:
    async with memory_broker() as broker, broker.client() as client:
        await create(client)
        await send(client, after(30_000, b"old"))
        await trio.sleep(15)
        topic = DeleteTopicState(name="t", topic_id=bytes(16))
        answer = await client.call(DeleteTopicsRequest(topics=[topic], timeout_ms=10_000), 6)
        assert answer.responses[0].error_code == 0
        await create(client)
        await send(client, after(40_000, b"new"))
        await trio.sleep(60)
        assert await values(client) == [b"new"]


async def test_a_partition_that_goes_elsewhere_takes_along_what_is_pending(autojump_clock: object) -> None:
    from kafka_wire.messages.admin import (
        AlterPartitionReassignmentsRequest,
        ReassignablePartition,
        ReassignableTopic,
    )

    async with memory_cluster(2) as cluster:
        async with cluster.client(1) as client:
            await create(client)
        leader = await leading(cluster)
        async with cluster.client(leader) as client:
            await send(client, after(30_000, b"a"), after(60_000, b"b"))
            other = 3 - leader
            part = ReassignablePartition(partition_index=0, replicas=[other])
            request = AlterPartitionReassignmentsRequest(
                timeout_ms=10_000, topics=[ReassignableTopic(name="t", partitions=[part])]
            )
            assert (await client.call(request, 0)).error_code == 0
        with trio.fail_after(20):
            while await leading(cluster) != other:
                await trio.sleep(0.5)
        async with cluster.client(other) as client:
            assert [each.value for each in await wait_for(client, 2, 80)] == [b"a", b"b"]


async def test_deliveries_wait_for_replicas(autojump_clock: object) -> None:
    async with memory_cluster(2, config={"replica.lag.time.max.ms": "3000"}) as cluster:
        async with cluster.client(1) as client:
            await create(client, replicas=2, min__insync__replicas="2")
        leader = await leading(cluster)
        async with cluster.client(leader) as client:
            await send(client, after(20_000, b"a"))
            other = 3 - leader
            cluster.kill(other)
            await trio.sleep(60)
            assert await values(client) == []
            await cluster.start(other)
            assert len(await wait_for(client, 1, 30)) == 1
            await trio.sleep(20)
            assert await values(client) == [b"a"]


async def test_deliveries_wait_while_the_disk_is_full(autojump_clock: object) -> None:
    async with memory_broker() as broker, broker.client() as client:
        await create(client)
        await send(client, after(20_000, b"a"))
        await trio.sleep(10)
        room, broker.disk.capacity = broker.disk.capacity, 0
        await trio.sleep(60)
        assert await values(client) == []
        broker.disk.capacity = room
        assert len(await wait_for(client, 1, 10)) == 1
        await trio.sleep(20)
        assert await values(client) == [b"a"]


async def test_D3_what_an_unclean_election_cuts_is_neither_delivered_nor_in_the_way(autojump_clock: object) -> None:
    settings = {"replica.lag.time.max.ms": "3000", "unclean.leader.election.enable": "true"}
    async with memory_cluster(2, config=settings) as cluster:
        async with cluster.client(1) as client:
            await create(client, replicas=2)
        first = await leading(cluster)
        other = 3 - first
        async with cluster.client(first) as client:
            await send(client, after(150_000, b"both"))
            cluster.kill(other)
            await trio.sleep(20)
            await send(client, after(100_000, b"lost"), after(120_000, b"lost, too"))
            await trio.sleep(20)  # saved
        cluster.kill(first)
        await cluster.start(other)
        with trio.fail_after(60):
            while await leading(cluster) != other:
                await trio.sleep(0.5)
        async with cluster.client(other) as client:
            await send(client, at_once(b"x"), at_once(b"y"), at_once(b"z"))
            await cluster.start(first)
            await trio.sleep(20)
        cluster.kill(other)
        with trio.fail_after(60):
            while await leading(cluster) != first:
                await trio.sleep(0.5)
        async with cluster.client(first) as client:
            await send(client, after(1000, b"new"))
            found = await wait_for(client, 5, 200)
            await trio.sleep(20)
            assert [each.value for each in await read(client)] == [b"x", b"y", b"z", b"new", b"both"], found
