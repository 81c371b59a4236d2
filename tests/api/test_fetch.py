"""Fetch, through a whole broker in memory."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from kafka_wire.api import ApiKey
from kafka_wire.errors import ErrorCode
from kafka_wire.messages.produce_fetch import (
    FetchPartition,
    FetchRequest,
    FetchResponse,
    FetchTopic,
    ForgottenTopic,
)
from kafka_wire.records import headers, read_records
from kbroker.testing.broker import MemoryBroker, memory_broker
from kbroker.testing.client import BareClient
from tests.api.test_produce import batch, produce
from tests.api.test_topics import call_delete, topic_id_of

MAX = 1 << 20


def fetch_request(
    offsets: dict[tuple[str | bytes, int], int],
    *,
    max_wait_ms: int = 0,
    min_bytes: int = 1,
    max_bytes: int = MAX,
    partition_max_bytes: int = MAX,
    **options: Any,
) -> FetchRequest:
    topics = []
    for (name, index), offset in offsets.items():
        partition = FetchPartition(partition=index, fetch_offset=offset, partition_max_bytes=partition_max_bytes)
        if isinstance(name, bytes):
            topics.append(FetchTopic(topic_id=name, partitions=[partition]))
        else:
            topics.append(FetchTopic(topic=name, partitions=[partition]))
    return FetchRequest(max_wait_ms=max_wait_ms, min_bytes=min_bytes, max_bytes=max_bytes, topics=topics, **options)


def values(response: FetchResponse) -> list[bytes | None]:
    found = []
    for topic in response.responses:
        for partition in topic.partitions:
            for position, _ in headers(partition.records):
                found += [r.value for r in read_records(partition.records, position, max_bytes=MAX)]
    return found


def shape(response: FetchResponse) -> list[tuple[str, int, int]]:
    return [(t.topic, p.partition_index, p.error_code) for t in response.responses for p in t.partitions]


@pytest.mark.parametrize("version", range(4, 18))
async def test_every_version_returns_what_was_produced(version: int) -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        await produce(client, batch(b"a", b"b"))
        await produce(client, batch(b"c"))
        name = await topic_id_of(client, "t") if version >= 13 else "t"
        response = await client.call(fetch_request({(name, 0): 0}), version)
        assert values(response) == [b"a", b"b", b"c"]
        partition = response.responses[0].partitions[0]
        assert (partition.high_watermark, partition.last_stable_offset) == (3, 3)
        assert partition.preferred_read_replica == -1 and partition.diverging_epoch is None


async def test_may_begin_before_the_offset_but_only_with_whole_batches() -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        await produce(client, batch(b"a", b"b"))
        await produce(client, batch(b"c"))
        assert values(await client.call(fetch_request({("t", 0): 1}), 11)) == [b"a", b"b", b"c"]
        assert values(await client.call(fetch_request({("t", 0): 2}), 11)) == [b"c"]


async def test_empty_is_zero_bytes_never_null() -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        for version in (4, 11, 12):
            partition = (await client.call(fetch_request({("t", 0): 0}), version)).responses[0].partitions[0]
            assert partition.records is not None and len(partition.records) == 0


async def test_the_first_batch_comes_whole_however_small_the_limits() -> None:
    async with memory_broker(topics={"t": 2}) as broker, broker.client() as client:
        for index in (0, 1):
            await produce(client, batch(b"x" * 1000), index=index)
            await produce(client, batch(b"y" * 1000), index=index)
        request = fetch_request({("t", 0): 0, ("t", 1): 0}, max_bytes=10, partition_max_bytes=10)
        response = await client.call(request, 11)
        assert values(response) == [b"x" * 1000]
        assert shape(response) == [("t", 0, 0), ("t", 1, 0)]


@pytest.mark.parametrize("offset", [-1, 2, 99])
async def test_offset_out_of_range(offset: int) -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        await produce(client, batch(b"a"))
        response = await client.call(fetch_request({("t", 0): offset}, max_wait_ms=5000), 11)
        assert shape(response) == [("t", 0, ErrorCode.OFFSET_OUT_OF_RANGE)]


async def test_a_long_poll_ends_when_data_come(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    async with memory_broker(topics={"t": 2}) as broker, broker.client() as client, broker.client() as producer:

        async def later() -> None:
            await trio.sleep(1)
            await produce(producer, batch(b"now"), index=1)

        nursery.start_soon(later)
        began = trio.current_time()
        response = await client.call(fetch_request({("t", 0): 0, ("t", 1): 0}, max_wait_ms=60_000), 11)
        assert values(response) == [b"now"]
        assert trio.current_time() - began < 2


async def test_a_long_poll_ends_at_max_wait(autojump_clock: MockClock) -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        began = trio.current_time()
        assert values(await client.call(fetch_request({("t", 0): 0}, max_wait_ms=5000), 11)) == []
        assert trio.current_time() - began == pytest.approx(5)


async def test_min_bytes_waits_for_more(autojump_clock: MockClock) -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        await produce(client, batch(b"a"))
        began = trio.current_time()
        response = await client.call(fetch_request({("t", 0): 0}, max_wait_ms=3000, min_bytes=10_000), 11)
        assert values(response) == [b"a"]
        assert trio.current_time() - began == pytest.approx(3)


async def test_deleting_the_topic_ends_a_long_poll(autojump_clock: MockClock) -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client, broker.client() as admin:
        await client.send(fetch_request({("t", 0): 0}, max_wait_ms=60_000), 11)
        await trio.sleep(1)
        await call_delete(admin, "t")
        response = await client.receive(ApiKey.FETCH, 11)
        assert trio.current_time() < 30
        assert shape(response)[0][2] in (ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, ErrorCode.NOT_LEADER_OR_FOLLOWER)


async def test_R11_a_wrong_leader_epoch_is_refused() -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        for believed, code in ((0, ErrorCode.NONE), (1, ErrorCode.UNKNOWN_LEADER_EPOCH)):
            request = fetch_request({("t", 0): 0})
            request.topics[0].partitions[0].current_leader_epoch = believed
            assert shape(await client.call(request, 11)) == [("t", 0, code)]


async def test_R13_an_unknown_topic_id_is_named_so() -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        response = await client.call(fetch_request({(b"i" * 16, 0): 0}), 13)
        assert response.responses[0].partitions[0].error_code == ErrorCode.UNKNOWN_TOPIC_ID


class TestSessions:
    """KIP-227 on the wire."""

    async def open(self, client: BareClient, broker: MemoryBroker) -> int:
        response = await client.call(fetch_request({("t", 0): 0, ("t", 1): 0}, session_epoch=0), 11)
        assert len(shape(response)) == 2 and response.session_id > 0
        return int(response.session_id)

    async def test_only_news_is_sent(self) -> None:
        async with memory_broker(topics={"t": 2}) as broker, broker.client() as client:
            session = await self.open(client, broker)
            quiet = await client.call(fetch_request({}, session_id=session, session_epoch=1), 11)
            assert shape(quiet) == []
            await produce(client, batch(b"a"), index=1)
            news = await client.call(fetch_request({}, session_id=session, session_epoch=2), 11)
            assert shape(news) == [("t", 1, 0)] and values(news) == [b"a"]

    async def test_a_forgotten_partition_is_gone(self) -> None:
        async with memory_broker(topics={"t": 2}) as broker, broker.client() as client:
            session = await self.open(client, broker)
            await produce(client, batch(b"a"), index=1)
            forget = [ForgottenTopic(topic="t", partitions=[1])]
            request = fetch_request({}, session_id=session, session_epoch=1, forgotten_topics_data=forget)
            assert shape(await client.call(request, 11)) == []

    async def test_wrong_epochs_and_ids_are_told(self) -> None:
        async with memory_broker(topics={"t": 2}) as broker, broker.client() as client:
            session = await self.open(client, broker)
            for id, epoch, code in (
                (session, 7, ErrorCode.INVALID_FETCH_SESSION_EPOCH),
                (session + 1, 1, ErrorCode.FETCH_SESSION_ID_NOT_FOUND),
            ):
                request = fetch_request({}, session_id=id, session_epoch=epoch)
                assert (await client.call(request, 11)).error_code == code

    async def test_no_session_where_none_is_wanted(self) -> None:
        async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
            response = await client.call(fetch_request({("t", 0): 0}, session_epoch=-1), 11)
            assert response.session_id == 0
