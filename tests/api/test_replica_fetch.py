"""Fetch as followers ask it: sessions with a leader, what is news, what is noted and what is not."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from kafka_wire.errors import ErrorCode
from kafka_wire.messages.configs import (
    IncrementalAlterableConfig,
    IncrementalAlterConfigsRequest,
    IncrementalAlterConfigsResource,
)
from kafka_wire.messages.produce_fetch import (
    FetchableTopicResponse,
    FetchPartition,
    FetchPartitionData,
    FetchRequest,
    FetchResponse,
    FetchTopic,
    ForgottenTopic,
    ReplicaState,
)
from kbroker.api import replica_fetch
from kbroker.cluster.peers.introductions import introduce
from kbroker.replication.fetcher import Fetcher, Limits, Position
from kbroker.replication.partition import Partition
from kbroker.testing.broker import MemoryBroker, memory_broker
from kbroker.testing.client import BareClient
from tests.api.partitions import Find, led
from tests.api.test_internal import image_of, meeting
from tests.api.test_produce import batch, produce
from tests.replication.tools import add_replica

REPLICA = 5
TOPIC, BROKER = 2, 4  # config resources
LIMITS = Limits(0, 1, 10_000_000, 1_000_000)
__all__ = ["led"]


class Follower:
    """A broker that fetches from the only other one, as it is told."""

    def __init__(self, client: BareClient, topic_id: bytes) -> None:
        self.client = client
        self.topic_id = topic_id
        self.session_id = self.epoch = 0

    async def fetch(
        self,
        *named: FetchPartition,
        forgotten: tuple[int, ...] = (),
        max_wait_ms: int = 0,
        min_bytes: int = 1,
        max_bytes: int = 1 << 20,
        topic_id: bytes | None = None,
    ) -> FetchResponse:
        """The answer; the session goes on from it."""
        topics = [FetchTopic(topic_id=topic_id or self.topic_id, partitions=list(named))] if named else []
        gone = [ForgottenTopic(topic_id=self.topic_id, partitions=list(forgotten))] if forgotten else []
        request = FetchRequest(
            replica_state=ReplicaState(replica_id=REPLICA, replica_epoch=1), max_wait_ms=max_wait_ms,
            min_bytes=min_bytes, max_bytes=max_bytes, session_id=self.session_id, session_epoch=self.epoch,
            topics=topics, forgotten_topics_data=gone,
        )  # fmt: skip
        response: FetchResponse = await self.client.call(request, 17)
        if not response.error_code:
            self.session_id, self.epoch = response.session_id, self.epoch + 1
        return response


def at(
    offset: int, index: int = 0, *, last_epoch: int = -1, epoch: int = 0, bytes_max: int = 1 << 20
) -> FetchPartition:
    return FetchPartition(
        partition=index,
        fetch_offset=offset,
        current_leader_epoch=epoch,
        last_fetched_epoch=last_epoch,
        partition_max_bytes=bytes_max,
    )


def rows(response: FetchResponse) -> dict[int, FetchPartitionData]:
    assert response.error_code == 0
    found: dict[int, FetchPartitionData] = {}
    for topic in response.responses:
        assert isinstance(topic, FetchableTopicResponse)
        found |= {row.partition_index: row for row in topic.partitions}
    return found


@asynccontextmanager
async def followed(partitions: int = 1, **config: str) -> AsyncIterator[tuple[MemoryBroker, BareClient, Follower]]:
    """A leader, one of its clients, and its follower. config: dots as `__`."""
    settings = {name.replace("__", "."): value for name, value in config.items()}
    async with memory_broker(topics={"t": partitions}, config=settings) as broker:
        await add_replica(broker, REPLICA)
        image = await image_of(broker.machine)
        async with broker.client() as client, broker.client() as theirs:
            await introduce(theirs.call, meeting(image, broker_id=REPLICA), image.secret)
            yield broker, client, Follower(theirs, image.topics["t"].id)


async def test_a_session_sends_what_is_news_once() -> None:
    async with followed(3) as (_, client, follower):
        for index in (0, 2):
            assert (await produce(client, batch(b"a"), index=index, acks=1)).error_code == 0
        found = rows(await follower.fetch(at(0, 0), at(0, 1), at(0, 2)))
        assert [index for index, row in found.items() if row.records] == [0, 2]
        assert rows(await follower.fetch(at(1, 0, last_epoch=0), at(1, 2, last_epoch=0))).keys() <= {0, 2}
        assert rows(await follower.fetch()) == {}
        assert (await produce(client, batch(b"b"), index=1, acks=1)).error_code == 0
        found = rows(await follower.fetch())
        assert [index for index, row in found.items() if row.records] == [1]


async def test_a_follower_reads_up_to_the_end_and_is_told_the_high_watermark_with_the_next_answer(led: Find) -> None:
    async with followed() as (_, client, follower):
        partition = led("t", 0)
        assert (await produce(client, batch(b"a", b"b"), acks=1)).error_code == 0
        row = rows(await follower.fetch(at(0)))[0]
        assert (len(row.records) > 0, row.high_watermark, row.log_start_offset) == (True, 2, 0)
        partition.log.advance_start(1)
        assert (await produce(client, batch(b"c"), acks=1)).error_code == 0
        row = rows(await follower.fetch(at(2, last_epoch=0)))[0]
        assert (row.high_watermark, row.log_start_offset) == (3, 1)


async def test_it_waits_for_news(autojump_clock: MockClock) -> None:
    async with followed() as (_, client, follower):
        await follower.fetch(at(0))
        began = trio.current_time()
        assert rows(await follower.fetch(max_wait_ms=5000)) == {}
        assert trio.current_time() - began == pytest.approx(5)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(produce_later, client, 2)
            row = rows(await follower.fetch(max_wait_ms=5000))[0]
        assert len(row.records) > 0
        assert trio.current_time() - began == pytest.approx(7)


async def produce_later(client: BareClient, seconds: float, size: int = 1) -> None:
    await trio.sleep(seconds)
    assert (await produce(client, batch(b"x" * size), acks=1)).error_code == 0


async def test_it_waits_for_as_many_bytes_as_are_asked_for(autojump_clock: MockClock) -> None:
    async with followed() as (_, client, follower):
        await produce(client, batch(b"a"), acks=1)
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            for seconds in range(1, 4):
                nursery.start_soon(produce_later, client, seconds, 1000)
            row = rows(await follower.fetch(at(0), max_wait_ms=60_000, min_bytes=2500))[0]
        assert 2500 <= len(row.records) < 4000
        assert trio.current_time() - began == pytest.approx(3)


async def test_no_partition_starves_another() -> None:
    async with followed(3) as (_, client, follower):
        for _ in range(4):
            for index in range(3):
                await produce(client, batch(b"x" * 1000), index=index, acks=1)
        offsets = [0, 0, 0]
        found = rows(await follower.fetch(*(at(0, index, bytes_max=1000) for index in range(3)), max_bytes=1500))
        order = []
        for _ in range(12):
            read = [index for index, row in found.items() if row.records]
            order += read
            for index in read:
                offsets[index] += 1
            named = [at(offsets[index], index, last_epoch=0, bytes_max=1000) for index in read]
            found = rows(await follower.fetch(*named, max_bytes=1500))
        assert order == [0, 1, 2] * 4


async def test_R1_a_follower_that_diverges_is_told_where_and_counts_for_nothing(led: Find) -> None:
    async with followed() as (_, client, follower):
        partition = led("t", 0)
        assert (await produce(client, batch(b"a"), acks=1)).error_code == 0
        row = rows(await follower.fetch(at(9, last_epoch=0)))[0]
        assert row.diverging_epoch is not None
        assert (row.diverging_epoch.epoch, row.diverging_epoch.end_offset, row.error_code) == (0, 1, 0)
        assert partition.followers[REPLICA].session is None
        assert rows(await follower.fetch()) == {}  # until it says where it is by now
        await follower.fetch(at(1, last_epoch=0))
        assert partition.followers[REPLICA].end == 1


async def test_who_is_behind_the_log_start_is_told_it(led: Find) -> None:
    async with followed() as (_, client, follower):
        await produce(client, batch(b"a"), acks=1)
        await produce(client, batch(b"b"), acks=1)
        led("t", 0).log.advance_start(1)
        for last_epoch in (-1, 0):
            row = rows(await follower.fetch(at(0, last_epoch=last_epoch)))[0]
            assert (row.error_code, row.log_start_offset) == (ErrorCode.OFFSET_OUT_OF_RANGE, 1)


async def test_R11_epochs_that_differ_are_refused_and_the_partition_leaves_the_session(led: Find) -> None:
    async with followed() as (_, client, follower):
        for epoch, code in ((1, ErrorCode.UNKNOWN_LEADER_EPOCH), (7, ErrorCode.UNKNOWN_LEADER_EPOCH)):
            assert rows(await follower.fetch(at(0, epoch=epoch)))[0].error_code == code
        await follower.fetch(at(0))
        partition = led("t", 0)
        partition.resign()
        assert rows(await follower.fetch(max_wait_ms=60_000))[0].error_code == ErrorCode.NOT_LEADER_OR_FOLLOWER
        assert rows(await follower.fetch()) == {}
        assert rows(await follower.fetch(at(0, epoch=0)))[0].error_code == ErrorCode.NOT_LEADER_OR_FOLLOWER


async def test_what_is_not_there_is_said_so() -> None:
    async with followed() as (_, client, follower):
        row = rows(await follower.fetch(at(0, index=7)))[7]
        assert row.error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        row = rows(await follower.fetch(at(0), topic_id=b"x" * 16))[0]
        assert row.error_code == ErrorCode.UNKNOWN_TOPIC_ID


async def test_sessions_are_resumed_in_order_or_not_at_all() -> None:
    async with followed() as (_, client, follower):
        await follower.fetch(at(0))
        follower.epoch = 7
        assert (await follower.fetch()).error_code == ErrorCode.INVALID_FETCH_SESSION_EPOCH
        follower.session_id, follower.epoch = 99, 1
        assert (await follower.fetch()).error_code == ErrorCode.FETCH_SESSION_ID_NOT_FOUND
        follower.session_id = follower.epoch = 0
        assert (await follower.fetch(at(0))).error_code == 0


async def test_a_new_session_ends_the_one_before(led: Find) -> None:
    async with followed(2) as (_, client, follower):
        await follower.fetch(at(0, 0), at(0, 1))
        old = led("t", 1).followers[REPLICA].session
        follower.session_id = follower.epoch = 0
        await follower.fetch(at(0, 0))
        assert led("t", 1).followers[REPLICA].session is None
        assert led("t", 0).followers[REPLICA].session not in (None, old)
        assert led("t", 1).log.end._bells is None


async def test_what_is_forgotten_is_heard_of_no_more(led: Find) -> None:
    async with followed() as (_, client, follower):
        await follower.fetch(at(0))
        await follower.fetch(forgotten=(0, 9))
        assert led("t", 0).followers[REPLICA].session is None
        await produce(client, batch(b"a"), acks=1)
        assert rows(await follower.fetch()) == {}


async def throttle(broker: MemoryBroker, client: BareClient, replicas: str, rate: int) -> None:
    resources = [(BROKER, str(broker.ready.node_id), "leader.replication.throttled.rate", str(rate))]
    resources += [(TOPIC, "t", "leader.replication.throttled.replicas", replicas)]
    wishes = [
        IncrementalAlterConfigsResource(
            resource_type=type,
            resource_name=name,
            configs=[IncrementalAlterableConfig(name=key, config_operation=0, value=value)],
        )
        for type, name, key, value in resources
    ]
    answer = await client.call(IncrementalAlterConfigsRequest(resources=wishes), 1)
    assert [each.error_code for each in answer.responses] == [0, 0]


@pytest.mark.parametrize(("replicas", "seconds"), [("*", 20), ("0:1", 20), ("0:5", 0), ("1:1", 0), ("", 0)])
async def test_a_throttle_holds_back_replicas_that_are_not_in_sync(
    replicas: str, seconds: int, autojump_clock: MockClock
) -> None:
    async with followed() as (broker, client, follower):
        await throttle(broker, client, replicas, 1000)
        began = trio.current_time()
        for _ in range(11):
            await produce(client, batch(b"x" * 2000), acks=1)
        offset = 0
        named = [at(0, bytes_max=2000)]
        while offset < 11:
            found = rows(await follower.fetch(*named, max_wait_ms=500))
            named = []
            if found and found[0].records:
                offset += 1
                named = [at(offset, last_epoch=0, bytes_max=2000)]
        assert trio.current_time() - began == pytest.approx(seconds, abs=2.5)


def calls_made(function: Any, *arguments: Any) -> tuple[int, Any]:
    """How many calls a function takes, and what it returns."""
    count = 0

    def note(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(note)
    try:
        result = function(*arguments)
    finally:
        sys.setprofile(None)
    return count, result


async def idle_calls(partitions: int, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many calls one request of an idle session costs the leader."""
    counts = []

    def counted(request: FetchRequest, context: Any) -> Any:
        count, answer = calls_made(replica_fetch.replica_fetch, request, context)
        counts.append(count)
        return answer

    monkeypatch.setattr("kbroker.api.fetch.replica_fetch", counted)
    async with followed(partitions) as (_, _, follower):
        for first in range(0, partitions, 500):
            await follower.fetch(*(at(0, index) for index in range(first, min(first + 500, partitions))))
        await follower.fetch()
        await follower.fetch()
    return counts[-1]


async def test_an_idle_session_costs_the_leader_the_same_whatever_is_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert await idle_calls(2, monkeypatch) == await idle_calls(1200, monkeypatch)


def test_an_idle_session_costs_the_follower_the_same_whatever_is_in_it() -> None:
    counts = []
    for partitions in (2, 10_000):
        session = Fetcher(2, 7)
        for index in range(partitions):
            session.follow((b"t" * 16, index), Position(0, -1, 0, 0))
        while True:
            request = session.request(0.0, LIMITS)
            assert request is not None
            session.take(FetchResponse(session_id=1))
            if not request.topics:
                break
        asked, request = calls_made(session.request, 0.0, LIMITS)
        taken, _ = calls_made(session.take, FetchResponse(session_id=1))
        counts.append((asked, taken))
    assert counts[0] == counts[1]


async def test_an_append_costs_a_leader_the_same_however_many_partitions_are_followed(
    led: Find, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = 0
    read = Partition.read_as_replica

    def counted(partition: Partition, *arguments: Any, **options: Any) -> Any:
        nonlocal reads
        reads += 1
        return read(partition, *arguments, **options)

    monkeypatch.setattr(Partition, "read_as_replica", counted)
    async with followed(300) as (_, client, follower):
        await follower.fetch(*(at(0, index) for index in range(300)))
        await produce(client, batch(b"a"), index=7, acks=1)
        assert len(rows(await follower.fetch())[7].records) > 0
    assert reads == 1
