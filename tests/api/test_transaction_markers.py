"""WriteTxnMarkers: each partition for itself, answered when committed; whoever sends it."""

from __future__ import annotations

from types import CoroutineType, SimpleNamespace
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from kafka_wire.errors import ErrorCode
from kafka_wire.messages.groups import FindCoordinatorRequest
from kafka_wire.messages.internal import (
    WritableTxnMarker,
    WritableTxnMarkerTopic,
    WriteTxnMarkersRequest,
    WriteTxnMarkersResponse,
)
from kafka_wire.records import build_batch
from kbroker.api.transaction_markers import write_txn_markers
from kbroker.testing.broker import Machine, memory_broker
from kbroker.testing.client import BareClient
from kbroker.testing.clock import SteeredClock
from tests.api.test_produce import produce
from tests.replication.test_partition import NODE, Session, shared
from tests.replication.test_stable import begin
from tests.replication.tools import image


def marker(
    *places: tuple[str, int], producer: int = 7, epoch: int = 0, coordinator: int = 0, commit: bool = True, txn: int = 0
) -> WritableTxnMarker:
    topics: dict[str, list[int]] = {}
    for topic, index in places:
        topics.setdefault(topic, []).append(index)
    return WritableTxnMarker(
        producer_id=producer,
        producer_epoch=epoch,
        coordinator_epoch=coordinator,
        transaction_result=commit,
        transaction_version=txn,
        topics=[WritableTxnMarkerTopic(name=name, partition_indexes=indexes) for name, indexes in topics.items()],
    )


def codes(response: WriteTxnMarkersResponse) -> dict[tuple[int, str, int], int]:
    return {
        (one.producer_id, topic.name, each.partition_index): each.error_code
        for one in response.markers
        for topic in one.topics
        for each in topic.partitions
    }


async def write(client: BareClient, *markers: WritableTxnMarker, version: int = 2) -> dict[tuple[int, str, int], int]:
    return codes(await client.call(WriteTxnMarkersRequest(markers=list(markers)), version))


async def idempotent(client: BareClient, sequence: int, *, epoch: int) -> int:
    data = build_batch([(0, b"k", b"v")], producer_id=7, producer_epoch=epoch, base_sequence=sequence)
    code: int = (await produce(client, data)).error_code
    return code


@pytest.mark.parametrize("version", [1, 2])
async def test_each_partition_is_answered_for_itself(version: int) -> None:
    async with memory_broker(topics={"t": 2, "u": 1}) as broker, broker.client() as client:
        places = ("t", 0), ("absent", 0), ("t", 1), ("t", 2), ("u", 0), ("u", -1)
        unknown = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        assert await write(client, marker(*places), version=version) == {
            (7, "t", 0): 0, (7, "t", 1): 0, (7, "t", 2): unknown, (7, "absent", 0): unknown,
            (7, "u", 0): 0, (7, "u", -1): unknown,
        }  # fmt: skip
        assert (await produce(client, build_batch([(0, b"k", b"v")]))).base_offset == 1  # behind the marker


async def test_nothing_asked_is_nothing_answered() -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        assert (await client.call(WriteTxnMarkersRequest(markers=[]), 1)).markers == []
        assert (await client.call(WriteTxnMarkersRequest(markers=[marker()]), 1)).markers == []


async def test_a_partition_named_twice_in_a_marker_gets_it_once() -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        assert await write(client, marker(("t", 0), ("t", 0))) == {(7, "t", 0): 0}
        assert (await produce(client, build_batch([(0, b"k", b"v")]))).base_offset == 1


async def test_the_later_word_about_a_producer_counts() -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        response = await client.call(
            WriteTxnMarkersRequest(markers=[marker(("t", 0), coordinator=5), marker(("t", 0), coordinator=4)]), 1
        )
        assert len(response.markers) == 1
        assert codes(response) == {(7, "t", 0): ErrorCode.TRANSACTION_COORDINATOR_FENCED}


async def test_P3_a_marker_of_an_old_epoch_or_coordinator_changes_nothing() -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        assert await idempotent(client, 0, epoch=3) == 0
        assert await write(client, marker(("t", 0), epoch=2)) == {(7, "t", 0): ErrorCode.INVALID_PRODUCER_EPOCH}
        assert await write(client, marker(("t", 0), epoch=3, coordinator=5)) == {(7, "t", 0): 0}
        fenced = {(7, "t", 0): ErrorCode.TRANSACTION_COORDINATOR_FENCED}
        assert await write(client, marker(("t", 0), epoch=3, coordinator=4, commit=False)) == fenced
        assert await idempotent(client, 1, epoch=3) == 0  # goes on where it was


async def test_a_marker_is_durable_when_it_is_answered_where_every_message_is_flushed() -> None:
    machine = Machine()
    config = {"log.flush.interval.messages": "1"}
    async with memory_broker(topics={"t": 1}, machine=machine, config=config) as broker, broker.client() as client:
        assert await write(client, marker(("t", 0))) == {(7, "t", 0): 0}
        machine.disk.power_loss()
    async with memory_broker(machine=machine, config=config) as broker, broker.client() as client:
        assert (await produce(client, build_batch([(0, b"k", b"v")]))).base_offset == 1


async def test_a_marker_of_a_later_epoch_fences_the_producer() -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        assert await idempotent(client, 0, epoch=3) == 0
        assert await write(client, marker(("t", 0), epoch=4)) == {(7, "t", 0): 0}
        assert await idempotent(client, 1, epoch=3) == ErrorCode.INVALID_PRODUCER_EPOCH
        assert await idempotent(client, 0, epoch=4) == 0


async def test_a_group_coordinator_writes_the_markers_of_its_partitions() -> None:
    async with memory_broker(config={"offsets.topic.num.partitions": "2"}) as broker, broker.client() as client:
        await client.call(FindCoordinatorRequest(key="g", key_type=0), 3)
        places = ("__consumer_offsets", 0), ("__consumer_offsets", 1), ("__consumer_offsets", 2)
        found = await write(client, marker(*places))
        while ErrorCode.NOT_LEADER_OR_FOLLOWER in found.values():  # its partitions are being loaded
            found = await write(client, marker(*places))
        assert list(found.values()) == [0, 0, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION]


class Replicated:
    """Services of a partition with a second replica, which may lag."""

    def __init__(self) -> None:
        self.held = shared(Session())
        self.env = SimpleNamespace(clock=SteeredClock())
        self.config = SimpleNamespace(get_int=lambda name: 30_000)

    def partition(self, topic: str, index: int) -> Any:
        return self.held

    def ask(self, **options: Any) -> Any:
        request = WriteTxnMarkersRequest(markers=[marker(("t", 0), producer=5, **options)])
        return write_txn_markers(request, SimpleNamespace(services=self))  # type: ignore[arg-type]


async def test_T3_a_marker_is_answered_when_it_is_committed() -> None:
    services = Replicated()
    begin(services.held)
    answer = services.ask()
    assert isinstance(answer, CoroutineType)
    async with trio.open_nursery() as nursery:
        done: list[Any] = []

        async def wait() -> None:
            done.append(codes(await answer))

        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        assert not done
        services.held.lead(image(services.held.leader_epoch, (NODE,)))  # the other falls out of the ISR
        await trio.testing.wait_all_tasks_blocked()
    assert done == [{(5, "t", 0): 0}]


async def test_a_marker_that_is_not_committed_in_time_is_told_so(autojump_clock: MockClock) -> None:
    services = Replicated()
    begin(services.held)
    assert codes(await services.ask()) == {(5, "t", 0): ErrorCode.REQUEST_TIMED_OUT}
    assert trio.current_time() == pytest.approx(30, abs=0.1)


async def test_R14_a_leadership_that_ends_is_told_as_such() -> None:
    services = Replicated()
    begin(services.held)
    answer = services.ask()
    services.held.resign()
    assert codes(await answer) == {(5, "t", 0): ErrorCode.NOT_LEADER_OR_FOLLOWER}
