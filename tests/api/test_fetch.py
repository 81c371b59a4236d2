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
from kbroker.api import fetch_sessions
from kbroker.api.fetch import READS
from kbroker.replication.partition import Partition
from kbroker.testing.broker import Machine, MemoryBroker, memory_broker
from kbroker.testing.client import BareClient
from kbroker.turns import PAUSES_A_TURN
from tests.api.steps import Steps
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
    async with memory_broker(topics={"t": 1, "u": 1}) as broker, broker.client() as client, broker.client() as admin:
        await client.send(fetch_request({("t", 0): 0, ("u", 0): 0}, max_wait_ms=60_000), 11)
        await trio.sleep(1)
        await call_delete(admin, "t")
        response = await client.receive(ApiKey.FETCH, 11)
        assert trio.current_time() < 30
        assert sorted(shape(response)) == [("t", 0, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION), ("u", 0, 0)]


@pytest.mark.parametrize("version", [11, 13])
async def test_a_partition_that_is_not_there_does_not_end_the_wait_for_others(
    version: int, autojump_clock: MockClock
) -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        name: str | bytes = "t"
        unknown: dict[tuple[str | bytes, int], int] = {("absent", 0): 0, ("t", 7): 0, ("t", -1): 0}
        code = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        if version >= 13:
            name = await topic_id_of(client, "t")
            unknown, code = {(b"i" * 16, 0): 0}, ErrorCode.UNKNOWN_TOPIC_ID
        request = fetch_request({**unknown, (name, 0): 0}, max_wait_ms=5000)
        began = trio.current_time()
        response = await client.call(request, version)
        assert trio.current_time() - began == pytest.approx(5)
        found = [p for t in response.responses for p in t.partitions]
        assert [p.error_code for p in found] == [0] + [code] * len(unknown)  # they come last
        assert [p.high_watermark for p in found] == [0] + [-1] * len(unknown)

        began = trio.current_time()
        assert shape(await client.call(fetch_request(unknown, max_wait_ms=5000), version))[0][2] == code
        assert trio.current_time() == began  # there is nothing else to wait for


@pytest.mark.parametrize(
    ("options", "codes", "waits"),
    [
        ({"offset": 1}, [0, 0], True),
        ({"offset": 9}, [ErrorCode.OFFSET_OUT_OF_RANGE, 0], False),
        ({"offset": -1}, [ErrorCode.OFFSET_OUT_OF_RANGE, 0], False),
        ({"leader_epoch": 5}, [ErrorCode.UNKNOWN_LEADER_EPOCH, 0], False),
        ({"leader_epoch": -5}, [0, 0], True),
        ({"fetched_epoch": 5}, [ErrorCode.OFFSET_OUT_OF_RANGE, 0], False),
        ({"replica_id": -2}, [0, 0], True),
        ({"min_bytes": 0}, [0, 0], False),
        ({"min_bytes": -7}, [0, 0], False),
        ({"min_bytes": 2**31 - 1}, [0, 0], True),
        ({"min_bytes": 2**31 - 1, "max_bytes": 50, "offset": 0}, [0, 0], False),
        ({"max_wait_ms": -1}, [0, 0], False),
        ({"max_bytes": -5}, [0, 0], False),
        ({"max_bytes": -5, "offset": 0}, [ErrorCode.UNKNOWN_SERVER_ERROR, 0], False),
        ({"partition_max_bytes": -1, "offset": 0}, [ErrorCode.UNKNOWN_SERVER_ERROR, 0], False),
        ({"partition_max_bytes": 0, "offset": 0}, [0, 0], False),
        ({"isolation_level": 7}, [ErrorCode.UNKNOWN_SERVER_ERROR] * 2, False),
    ],
)
async def test_odd_requests_are_answered_as_kafka_does(
    options: dict[str, int], codes: list[int], waits: bool, autojump_clock: MockClock
) -> None:
    """As recorded from Apache Kafka 4.3: t-0 has a record, t-1 none; the odd value is meant for t-0."""
    options = {"max_wait_ms": 1000, **options}
    offset, leader_epoch = options.pop("offset", 1), options.pop("leader_epoch", -1)
    fetched_epoch = options.pop("fetched_epoch", -1)
    async with memory_broker(topics={"t": 2}) as broker, broker.client() as client:
        await produce(client, batch(b"a"))
        request = fetch_request({("t", 0): offset, ("t", 1): 0}, **options)
        request.topics[0].partitions[0].current_leader_epoch = leader_epoch
        request.topics[0].partitions[0].last_fetched_epoch = fetched_epoch
        began = trio.current_time()
        response = await client.call(request, 12)
        assert shape(response) == [("t", 0, codes[0]), ("t", 1, codes[1])]
        assert (trio.current_time() - began == pytest.approx(1)) == waits
        assert response.error_code == (ErrorCode.UNKNOWN_SERVER_ERROR if "isolation_level" in options else 0)


async def test_of_a_partition_named_twice_the_last_counts_in_the_place_of_the_first() -> None:
    async with memory_broker(topics={"t": 2}) as broker, broker.client() as client:
        for value in (b"a", b"b"):
            await produce(client, batch(value))
        request = fetch_request({("t", 0): 99, ("t", 1): 0})
        request.topics += fetch_request({("t", 0): 1}).topics
        response = await client.call(request, 11)
        assert shape(response) == [("t", 0, 0), ("t", 1, 0)] and values(response) == [b"b"]


async def test_a_negative_limit_holds_for_the_first_partition_alone() -> None:
    async with memory_broker(topics={"t": 3}) as broker, broker.client() as client:
        for index in (1, 2):
            await produce(client, batch(b"%d" % index), index=index)
        request = fetch_request({("t", 0): 0, ("t", 1): 0, ("t", 2): 0}, max_bytes=-1)
        response = await client.call(request, 11)
        assert shape(response) == [("t", 0, 0), ("t", 1, 0), ("t", 2, 0)] and values(response) == [b"1"]


async def test_neighbours_of_one_topic_share_an_entry() -> None:
    async with memory_broker(topics={"t": 2, "u": 1}) as broker, broker.client() as client:
        offsets: dict[tuple[str | bytes, int], int] = {("t", 0): 0, ("t", 1): 0, ("u", 0): 0, ("t", 9): 0}
        response = await client.call(fetch_request(offsets), 11)
        assert [(topic.topic, len(topic.partitions)) for topic in response.responses] == [("t", 2), ("u", 1), ("t", 1)]


async def test_old_clients_are_not_told_of_storage_errors() -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        for value in (b"a", b"b", b"c"):
            await produce(client, batch(value))
        broker.disk.fail("pread", times=100)
        request = fetch_request({("t", 0): 1}, partition_max_bytes=1)
        assert shape(await client.call(request, 5)) == [("t", 0, ErrorCode.NOT_LEADER_OR_FOLLOWER)]
        assert shape(await client.call(request, 6)) == [("t", 0, ErrorCode.KAFKA_STORAGE_ERROR)]


async def test_K951_a_fenced_client_is_told_who_leads() -> None:
    machine = Machine()
    for _ in range(2):  # the second start is leader epoch 1
        async with memory_broker(topics={"t": 1}, machine=machine) as broker, broker.client() as client:
            name = await topic_id_of(client, "t")
            request = fetch_request({(name, 0): 0})
            request.topics[0].partitions[0].current_leader_epoch = 0
            response = await client.call(request, 16)
    (data,) = response.responses[0].partitions
    assert data.error_code == ErrorCode.FENCED_LEADER_EPOCH
    assert (data.current_leader.leader_id, data.current_leader.leader_epoch) == (1, 1)
    assert [node.node_id for node in response.node_endpoints] == [1]


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


def noting(method: Any, looked: list[int]) -> Any:
    """The same method of a Partition, which notes whose it was."""

    def call(partition: Partition, *args: Any, **options: Any) -> Any:
        looked.append(partition.index)
        return method(partition, *args, **options)

    return call


class TestManyPartitions:
    """A fetch of many partitions holds the loop no longer than one of a few, and costs little while it waits."""

    COUNT = 1500
    ALL: dict[tuple[str | bytes, int], int] = {("t", index): 0 for index in range(COUNT)}

    async def test_reads_in_turns(self, monkeypatch: pytest.MonkeyPatch, nursery: trio.Nursery) -> None:
        async with memory_broker(topics={"t": self.COUNT}) as broker, broker.client() as client:
            await produce(client, batch(b"a"), index=7)
            steps = Steps(nursery)
            monkeypatch.setattr(Partition, "read", steps.counted(Partition.read))
            response = await client.call(fetch_request(self.ALL, max_wait_ms=1000), 11)
            assert len(shape(response)) == self.COUNT and values(response) == [b"a"]
            assert steps.calls == self.COUNT
            assert steps.longest <= 2 * READS * PAUSES_A_TURN
            nursery.cancel_scope.cancel()

    async def test_a_ring_costs_one_partition(self, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock) -> None:
        async with memory_broker(topics={"t": self.COUNT}) as broker:
            async with broker.client() as client, broker.client() as producer:
                await client.send(fetch_request(self.ALL, max_wait_ms=60_000, min_bytes=1000), 11)
                await trio.testing.wait_all_tasks_blocked()
                looked: list[int] = []
                for name in ("read", "available"):
                    monkeypatch.setattr(Partition, name, noting(getattr(Partition, name), looked))
                for index in (5, 900, 5):
                    await produce(producer, batch(b"x" * 100), index=index)
                    await trio.testing.wait_all_tasks_blocked()
                assert looked == [5, 900, 5]
                await produce(producer, batch(b"x" * 1000), index=1000)
                response = await client.receive(ApiKey.FETCH, 11)
                assert sum(map(len, values(response))) == 1300
                assert len(looked) == 4 + self.COUNT  # and once all of them, for the answer

    async def test_a_session_of_many(self, autojump_clock: MockClock) -> None:
        async with memory_broker(topics={"t": self.COUNT}) as broker, broker.client() as client:
            opening = await client.call(fetch_request(self.ALL, session_epoch=0), 11)
            assert len(shape(opening)) == self.COUNT
            await produce(client, batch(b"a"), index=1)
            session = opening.session_id
            news = await client.call(fetch_request({}, session_id=session, session_epoch=1, max_wait_ms=1000), 11)
            assert shape(news) == [("t", 1, 0)] and values(news) == [b"a"]
            half = [ForgottenTopic(topic="t", partitions=list(range(self.COUNT - 1)))]
            request = fetch_request({}, session_id=session, session_epoch=2, forgotten_topics_data=half)
            assert shape(await client.call(request, 11)) == []
            await produce(client, batch(b"b"), index=1)
            await produce(client, batch(b"c"), index=self.COUNT - 1)
            last = await client.call(fetch_request({}, session_id=session, session_epoch=3), 11)
            assert values(last) == [b"c"]


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

    async def test_a_session_names_topics_in_one_way(self) -> None:
        async with memory_broker(topics={"t": 2}) as broker, broker.client() as client:
            session = await self.open(client, broker)
            response = await client.call(fetch_request({}, session_id=session, session_epoch=1), 13)
            assert (response.error_code, response.session_id) == (ErrorCode.FETCH_SESSION_TOPIC_ID_ERROR, 0)

    async def test_a_session_begins_with_its_answer_and_ends_when_it_is_empty(self) -> None:
        async with memory_broker(topics={"t": 2}) as broker, broker.client() as client:
            for forgotten in ([], [ForgottenTopic(topic="t", partitions=[0, 5])]):
                opening = await client.call(fetch_request({}, session_epoch=0), 11)
                assert opening.session_id > 0
                options = {"session_id": opening.session_id, "forgotten_topics_data": forgotten}
                if forgotten:
                    adding = fetch_request({("t", 0): 0}, session_epoch=1, session_id=opening.session_id)
                    assert shape(await client.call(adding, 11)) == [("t", 0, 0)]
                ending = fetch_request({}, session_epoch=1 + len(forgotten), **options)
                response = await client.call(ending, 11)
                assert (response.session_id, response.error_code, response.responses) == (0, 0, [])
                response = await client.call(ending, 11)
                assert response.error_code == ErrorCode.FETCH_SESSION_ID_NOT_FOUND

    async def test_a_session_that_outgrows_the_cache_ends(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(fetch_sessions, "PARTITIONS_MAX", 2)
        async with memory_broker(topics={"t": 3}) as broker, broker.client() as client:
            session = await self.open(client, broker)
            again = fetch_request({("t", 1): 0}, session_id=session, session_epoch=1)
            assert (await client.call(again, 11)).session_id == session
            response = await client.call(fetch_request({("t", 2): 0}, session_id=session, session_epoch=2), 11)
            assert (response.session_id, len(shape(response))) == (0, 3)
            assert (await client.call(fetch_request(TestManyPartitions.ALL, session_epoch=0), 11)).session_id == 0

    async def test_an_error_is_told_every_time_and_waits_with_the_others(self, autojump_clock: MockClock) -> None:
        async with memory_broker(topics={"t": 2}) as broker, broker.client() as client:
            session = await self.open(client, broker)
            asked: dict[tuple[str | bytes, int], int] = {("absent", 0): 0}
            for epoch in (1, 2, 3):
                began = trio.current_time()
                request = fetch_request(asked, session_id=session, session_epoch=epoch, max_wait_ms=1000)
                expected = [("absent", 0, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION)]
                assert shape(await client.call(request, 11)) == expected
                assert trio.current_time() - began == pytest.approx(1)
                asked = {}

    async def test_a_request_that_was_sent_again_is_overtaken(self, autojump_clock: MockClock) -> None:
        async with memory_broker(topics={"t": 2}) as broker, broker.client() as client, broker.client() as again:
            session = await self.open(client, broker)
            await client.send(fetch_request({}, session_id=session, session_epoch=1, max_wait_ms=5000), 11)
            await trio.sleep(1)
            assert (await again.call(fetch_request({}, session_id=session, session_epoch=2), 11)).error_code == 0
            response = await client.receive(ApiKey.FETCH, 11)
            assert (response.error_code, response.session_id) == (ErrorCode.INVALID_FETCH_SESSION_EPOCH, session)

    async def test_a_client_that_leaves_while_it_waits_leaves_no_session(self) -> None:
        async with memory_broker(topics={"t": 2}, config={"max.incremental.fetch.session.cache.slots": "1"}) as broker:
            async with broker.client() as gone:
                await gone.send(fetch_request({("t", 0): 0}, session_epoch=0, max_wait_ms=60_000), 11)
                await trio.testing.wait_all_tasks_blocked()
            async with broker.client() as client:
                await self.open(client, broker)

    async def test_no_session_where_none_is_wanted(self) -> None:
        async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
            response = await client.call(fetch_request({("t", 0): 0}, session_epoch=-1), 11)
            assert response.session_id == 0
