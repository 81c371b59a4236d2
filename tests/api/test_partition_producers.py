"""DescribeProducers, through a whole broker in memory."""

from __future__ import annotations

import pytest
import trio

from kafka_wire.errors import ErrorCode
from kafka_wire.messages.transactions import DescribeProducersRequest, DescribeProducersTopic
from kafka_wire.records import read_header
from kbroker.api import partition_producers
from kbroker.log.derived.transactions import Marker
from kbroker.testing.broker import memory_broker
from kbroker.testing.client import BareClient
from kbroker.testing.clock import EPOCH_MS
from kbroker.turns import PAUSES_A_TURN, STRIDE
from tests.api.partitions import Find, Producer, led
from tests.api.steps import Steps
from tests.api.test_produce import batch, produce
from tests.api.test_views import make_view

__all__ = ["led"]


async def ask(client: BareClient, *asked: tuple[str, list[int]]) -> dict[tuple[str, int], tuple[int, list[list[int]]]]:
    topics = [DescribeProducersTopic(name=name, partition_indexes=indexes) for name, indexes in asked]
    response = await client.call(DescribeProducersRequest(topics=topics), 0)
    found = {}
    for topic in response.topics:
        for row in topic.partitions:
            states = [
                [
                    each.producer_id, each.producer_epoch, each.last_sequence, each.last_timestamp,
                    each.coordinator_epoch, each.current_txn_start_offset,
                ]
                for each in row.active_producers
            ]  # fmt: skip
            assert (topic.name, row.partition_index) not in found
            found[topic.name, row.partition_index] = row.error_code, states
    return found


async def test_what_is_known_of_each_producer(led: Find) -> None:
    async with memory_broker(topics={"t": 2}) as broker, broker.client() as client:
        partition = led("t", 0)
        await produce(client, batch(b"a", b"b", timestamp=EPOCH_MS, producer_id=4, producer_epoch=2, base_sequence=7))
        Producer(5, EPOCH_MS).write(partition, b"open")
        written_ms = read_header(partition.log.read(2, 1000, 3)[0].read()).max_timestamp
        partition.write_marker(Marker(6, 3, 9, True), EPOCH_MS + 1)
        assert await ask(client, ("t", [0, 1, 0])) == {
            ("t", 0): (0, [
                [4, 2, 8, EPOCH_MS, -1, -1],
                [5, 0, 0, written_ms, -1, 2],
                [6, 3, -1, EPOCH_MS + 1, 9, -1],
            ]),
            ("t", 1): (0, []),
        }  # fmt: skip


async def test_a_view_has_the_producers_of_its_source(led: Find) -> None:
    """Tools that look at what they read, or at all topics of a broker, need not know which are views."""
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        await make_view(client, "v", "t", tags="eu")
        await produce(client, batch(b"a", timestamp=EPOCH_MS, producer_id=4, producer_epoch=2, base_sequence=7))
        answers = await ask(client, ("t", [0]), ("v", [0, 1]))
        assert answers["v", 0] == answers["t", 0] == (0, [[4, 2, 7, EPOCH_MS, -1, -1]])
        assert answers["v", 1] == (ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, [])


async def test_what_is_not_there_is_answered_as_kafka_does() -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        answers = await ask(client, ("t", [0, 1, -1]), ("absent", [0]), ("no/topic", [0]))
        assert {key: code for key, (code, _) in answers.items()} == {
            ("t", 0): 0,
            ("t", 1): ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
            ("t", -1): ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
            ("absent", 0): ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
            ("no/topic", 0): ErrorCode.INVALID_TOPIC_EXCEPTION,
        }


async def test_many_producers_are_told_in_turns(
    led: Find, monkeypatch: pytest.MonkeyPatch, nursery: trio.Nursery
) -> None:
    count = 3000
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        for producer_id in range(count):
            Producer(producer_id, EPOCH_MS).write(led("t", 0), b"x")
        steps = Steps(nursery)
        monkeypatch.setattr(partition_producers, "_state", steps.counted(partition_producers._state))
        assert len((await ask(client, ("t", [0] * 10)))["t", 0][1]) == steps.calls == count
        assert steps.longest <= 2 * STRIDE * PAUSES_A_TURN
        nursery.cancel_scope.cancel()
