"""ListDelayed, through whole brokers in memory."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from kafka_wire.api import OWN_KEY_MIN, ApiKey
from kafka_wire.errors import ErrorCode
from kafka_wire.messages.delays import ListDelayedRequest, ListDelayedResponse
from kafka_wire.messages.metadata import ApiVersionsRequest
from kbroker.api import delays
from kbroker.delay import listing
from kbroker.testing.broker import memory_broker, memory_cluster
from kbroker.testing.client import BareClient
from tests.api.test_views import make_view
from tests.delay.tools import MINUTE_MS, after, cancel, create, now, send
from tests.replication.test_failover import leader_of

READ_S = 1.0  # by then a leader has read what was sent


async def ask(client: BareClient, topic: str = "t", index: int = 0, **options: Any) -> ListDelayedResponse:
    request = ListDelayedRequest(topic_name=topic, partition_index=index, **options)
    answer: ListDelayedResponse = await client.call(request, 0)
    return answer


async def pages(client: BareClient, limit: int, **options: Any) -> list[list[int]]:
    """The ids of all pages."""
    found, place = [], (-1, -1)
    while True:
        answer = await ask(client, limit=limit, after_due_ms=place[0], after_id=place[1], **options)
        assert answer.error_code == 0, answer
        found.append([each.id for each in answer.records])
        place = answer.next_due_ms, answer.next_id
        if place == (-1, -1):
            return found


async def test_what_is_pending_is_told_page_by_page_in_the_order_in_which_it_is_due(autojump_clock: object) -> None:
    async with memory_broker() as broker, broker.client() as client:
        await create(client)
        begun_ms = broker.clock.data_ms()
        for minutes in (3, 1, 5, 2, 4):
            await send(client, after(minutes * MINUTE_MS, b"x" * minutes, b"key-%d" % minutes))
        await trio.sleep(READ_S)
        assert await pages(client, 2) == [[1, 3], [0, 4], [2]]
        assert await pages(client, 5) == [[1, 3, 0, 4, 2]]
        answer = await ask(client)
        assert answer.pending == 5
        first = answer.records[0]
        assert (first.id, first.key, first.key_size, first.value_size, first.is_hurried) == (1, b"key-1", 5, 1, 0)
        assert 0 <= first.due_ms - begun_ms - MINUTE_MS < 1000


async def test_only_what_has_a_key_is_told_if_that_is_asked_for(autojump_clock: object) -> None:
    async with memory_broker() as broker, broker.client() as client:
        await create(client)
        await send(
            client, *(after(MINUTE_MS, b"v", b"ab"[n % 2 : n % 2 + 1]) for n in range(6)), after(1000, b"", None)
        )
        await trio.sleep(0.5)
        assert await pages(client, 100, key=b"b") == [[1, 3, 5]]
        assert await pages(client, 100, key=b"none") == [[]]
        (keyless,) = [each for each in (await ask(client)).records if each.id == 6]
        assert (keyless.key, keyless.key_size, keyless.value_size) == (None, -1, 0)


async def test_what_was_cancelled_or_delivered_is_not_told_any_more(autojump_clock: object) -> None:
    async with memory_broker() as broker, broker.client() as client:
        await create(client)
        await send(client, after(MINUTE_MS, b"v", b"a"), after(MINUTE_MS, b"v", b"b"), after(1000, b"v", b"c"))
        await send(client, cancel(b"a"))
        await trio.sleep(3)
        assert await pages(client, 100) == [[1]]
        await send(client, now(b"b"))
        await trio.sleep(READ_S)
        assert await pages(client, 100) == [[]]


async def test_a_page_of_large_records_ends_early_and_a_long_key_is_cut(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: object
) -> None:
    monkeypatch.setattr(listing, "BYTES_MAX", 250_000)
    async with memory_broker() as broker, broker.client() as client:
        await create(client)
        for n in range(5):
            await send(client, after(MINUTE_MS + n, b"x" * 100_000, b"k" * 5000))
        await trio.sleep(READ_S)
        assert await pages(client, 100) == [[0, 1, 2], [3, 4]]
        record = (await ask(client)).records[0]
        assert (record.key, record.key_size, record.value_size) == (b"k" * delays.KEY_SHOWN, 5000, 100_000)


async def test_the_largest_page_is_bounded(monkeypatch: pytest.MonkeyPatch, autojump_clock: object) -> None:
    monkeypatch.setattr(listing, "RECORDS_MAX", 3)
    async with memory_broker() as broker, broker.client() as client:
        await create(client)
        await send(client, *(after(MINUTE_MS, b"v") for _ in range(7)))
        await trio.sleep(READ_S)
        assert await pages(client, 2**31 - 1) == [[0, 1, 2], [3, 4, 5], [6]]


async def test_what_cannot_be_asked_is_told(autojump_clock: object) -> None:
    async with memory_broker(topics={"plain": 1}) as broker, broker.client() as client:
        await create(client)
        assert (await ask(client, limit=0)).error_code == ErrorCode.INVALID_REQUEST
        assert (await ask(client, limit=-5)).error_message == "The limit is -5; it has to be 1 at least."
        assert (await ask(client, "absent")).error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        assert (await ask(client, index=7)).error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        assert (await ask(client, index=-1)).error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        assert (await ask(client, "plain")) == ListDelayedResponse(), "nothing is delayed there"


async def test_a_view_has_nothing_pending_of_its_own(autojump_clock: object) -> None:
    async with memory_broker() as broker, broker.client() as client:
        await create(client)
        await make_view(client, "v", "t")
        assert (await ask(client, "v")).error_code == ErrorCode.INVALID_TOPIC_EXCEPTION


async def test_only_the_leader_tells(autojump_clock: object) -> None:
    async with memory_cluster(2) as cluster:
        async with cluster.client(1) as client:
            await create(client, replicas=2)
        leader = await leader_of(cluster)
        for id in (1, 2):
            async with cluster.client(id) as client:
                expected = ErrorCode.NONE if id == leader else ErrorCode.NOT_LEADER_OR_FOLLOWER
                assert (await ask(client)).error_code == expected


async def test_ApiVersions_does_not_tell_of_it() -> None:
    assert ApiKey.LIST_DELAYED >= OWN_KEY_MIN
    async with memory_broker() as broker, broker.client() as client:
        answer = await client.call(ApiVersionsRequest(client_software_name="t", client_software_version="1"), 3)
        assert ApiKey.LIST_DELAYED not in {each.api_key for each in answer.api_keys}
