"""Fetch and ListOffsets of committed records, through a whole broker in memory (T1, L7)."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from kafka_wire.api import ApiKey
from kafka_wire.errors import ErrorCode
from kafka_wire.messages.offsets import ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic
from kafka_wire.messages.produce_fetch import FetchRequest, FetchResponse, ReplicaState
from kafka_wire.records import headers
from kbroker.cluster.peers.introductions import introduce
from kbroker.log import rediscovery
from kbroker.replication.partition import READ_COMMITTED, READ_UNCOMMITTED, Partition
from kbroker.testing.broker import memory_broker
from kbroker.testing.client import BareClient
from kbroker.testing.clock import EPOCH_MS
from tests.api.partitions import Find, Producer, led
from tests.api.test_fetch import fetch_request, values
from tests.api.test_fetch_cold import SMALL_SEGMENTS, Watched
from tests.api.test_internal import image_of, meeting
from tests.api.test_produce import batch, produce
from tests.api.test_topics import topic_id_of
from tests.log.committed import shown
from tests.server.loop_meter import LINES_MAX
from tests.server.test_largest_requests import metered_broker

__all__ = ["led"]
COMMITTED = {"isolation_level": READ_COMMITTED}


def committed(response: FetchResponse, offset: int = 0) -> list[bytes | None]:
    """What a consumer shows of one partition's answer."""
    data = response.responses[0].partitions[0]
    aborted = [(each.producer_id, each.first_offset) for each in data.aborted_transactions]
    return [value for _, value in shown(bytes(data.records), aborted, offset)]


async def fetch(client: BareClient, offset: int = 0, *, version: int = 11, **options: int) -> FetchResponse:
    name = await topic_id_of(client, "t") if version >= 13 else "t"
    response: FetchResponse = await client.call(fetch_request({(name, 0): offset}, **COMMITTED, **options), version)
    return response


async def consume(client: BareClient, size: int = 1 << 20) -> list[bytes | None]:
    """All that a consumer shows from the beginning on."""
    found: list[bytes | None] = []
    offset = 0
    while True:
        response = await fetch(client, offset, partition_max_bytes=size)
        data = response.responses[0].partitions[0]
        assert data.error_code == 0
        if not len(data.records):
            return found
        found += committed(response, offset)
        offset = max(offset, last_offset(bytes(data.records)) + 1)


def last_offset(data: bytes) -> int:
    return max(header.last_offset for _, header in headers(data))


async def some_of_each(client: BareClient, partition: Partition) -> None:
    """Committed, aborted, plain and open, mixed."""
    one, two, open_ = (Producer(n, EPOCH_MS) for n in (1, 2, 3))
    one.write(partition, b"committed")
    two.write(partition, b"aborted")
    await produce(client, batch(b"plain"))
    one.commit(partition)
    two.abort(partition)
    open_.write(partition, b"open")
    await produce(client, batch(b"after"))


@pytest.mark.parametrize("version", range(4, 18))
async def test_T1_only_what_is_decided_is_sent_and_what_is_aborted_is_named(led: Find, version: int) -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        await some_of_each(client, led("t", 0))
        response = await fetch(client, version=version)
        data = response.responses[0].partitions[0]
        assert committed(response) == [b"committed", b"plain"]
        assert (data.high_watermark, data.last_stable_offset) == (7, 5)
        assert [(each.producer_id, each.first_offset) for each in data.aborted_transactions] == [(2, 1)]


@pytest.mark.parametrize("version", [4, 11, 17])
async def test_readers_of_all_records_are_named_nothing(led: Find, version: int) -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        await some_of_each(client, led("t", 0))
        name = await topic_id_of(client, "t") if version >= 13 else "t"
        response = await client.call(fetch_request({(name, 0): 0}, isolation_level=READ_UNCOMMITTED), version)
        data = response.responses[0].partitions[0]
        assert data.aborted_transactions is None and data.last_stable_offset == 5
        assert [value for value in values(response) if len(value or b"") > 4] == [
            b"committed", b"aborted", b"plain", b"\0\0\0\0\0\0", b"\0\0\0\0\0\0", b"after",
        ]  # fmt: skip


async def test_T1_a_waiting_fetch_ends_when_the_transaction_does(led: Find, autojump_clock: MockClock) -> None:
    """And not with each record of it; it names what was aborted (KAFKA-5376)."""
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        partition, producer = led("t", 0), Producer(7, EPOCH_MS)
        await client.send(fetch_request({("t", 0): 0}, max_wait_ms=60_000, **COMMITTED), 11)
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(3):
            producer.write(partition, b"no")
            await trio.testing.wait_all_tasks_blocked()
        begun = trio.current_time()
        producer.abort(partition)
        response = await client.receive(ApiKey.FETCH, 11)
        assert trio.current_time() == begun
        data = response.responses[0].partitions[0]
        assert (data.high_watermark, data.last_stable_offset) == (4, 4)
        assert [(each.producer_id, each.first_offset) for each in data.aborted_transactions] == [(7, 0)]
        assert committed(response) == [] and len(data.records)


async def test_a_waiting_fetch_is_not_woken_by_what_it_cannot_read(
    led: Find, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        partition, producer = led("t", 0), Producer(7, EPOCH_MS)
        producer.write(partition, b"first")
        await client.send(fetch_request({("t", 0): 0}, max_wait_ms=5000, **COMMITTED), 11)
        await trio.testing.wait_all_tasks_blocked()
        looks = 0
        available = Partition.available

        def counted(*arguments: object) -> int:
            nonlocal looks
            looks += 1
            return available(*arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(Partition, "available", counted)
        for _ in range(10):
            producer.write(partition, b"more")
            await trio.testing.wait_all_tasks_blocked()
        assert looks == 0
        producer.commit(partition)
        assert len(committed(await client.receive(ApiKey.FETCH, 11))) == 11


async def test_min_bytes_counts_what_is_stable(led: Find, autojump_clock: MockClock) -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        partition, producer = led("t", 0), Producer(7, EPOCH_MS)
        producer.write(partition, b"x" * 10_000)
        begun = trio.current_time()
        assert committed(await fetch(client, max_wait_ms=3000, min_bytes=5000)) == []
        assert trio.current_time() - begun == 3


async def test_a_session_is_told_when_a_transaction_ends(led: Find, autojump_clock: MockClock) -> None:
    async with memory_broker(topics={"t": 2}) as broker, broker.client() as client:
        partition, producer = led("t", 0), Producer(7, EPOCH_MS)
        opening = await client.call(fetch_request({("t", 0): 0, ("t", 1): 0}, session_epoch=0, **COMMITTED), 11)
        session, epoch = opening.session_id, 0

        async def more(**options: int) -> FetchResponse:
            nonlocal epoch
            epoch += 1
            request: FetchRequest = fetch_request({}, session_id=session, session_epoch=epoch, **COMMITTED, **options)
            response: FetchResponse = await client.call(request, 11)
            return response

        assert (await more()).responses == []
        producer.write(partition, b"yes")
        data = (await more()).responses[0].partitions[0]
        assert (data.high_watermark, data.last_stable_offset, len(data.records)) == (1, 0, 0)
        producer.commit(partition)
        response = await more(max_wait_ms=60_000)
        assert committed(response) == [b"yes"]
        assert response.responses[0].partitions[0].last_stable_offset == 2


async def test_a_replica_copies_what_is_open_too(led: Find) -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        Producer(7, EPOCH_MS).write(led("t", 0), b"open")
        image = await image_of(broker.machine)
        await introduce(client.call, meeting(image, broker_id=5), image.secret)
        who = ReplicaState(replica_id=5, replica_epoch=1)
        topic_id = image.topics["t"].id
        response = await client.call(fetch_request({(topic_id, 0): 0}, replica_state=who, **COMMITTED), 17)
        code = response.responses[0].partitions[0].error_code
        assert code == ErrorCode.NOT_LEADER_OR_FOLLOWER, "no other broker has a replica here; levels are for consumers"


@pytest.mark.parametrize("lost", [[], [".txnindex"], [".snapshot"], [".txnindex", ".snapshot", ".index", ".timeindex"]])
@pytest.mark.parametrize("size", [1, 60_000])
async def test_T1_after_a_restart_a_worker_finds_out_and_the_loop_does_not_wait(
    led: Find, lost: list[str], size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Watched()
    expected = []
    async with memory_broker(topics={"t": 1}, machine=machine, config=SMALL_SEGMENTS):
        partition = led("t", 0)
        for n in range(60):
            producer = Producer(n, EPOCH_MS)
            producer.write(partition, b"%03d" % n * 15_000)
            if n % 3:
                producer.abort(partition)
            else:
                producer.commit(partition)
                expected.append(b"%03d" % n * 15_000)
        assert len(partition.log.segments) > 2
    for name in machine.disk.list_dir("t-0"):
        if name.endswith(tuple(lost)) and lost:
            machine.disk.remove(f"t-0/{name}")
    async with memory_broker(machine=machine, config=SMALL_SEGMENTS) as broker, broker.client() as client:
        await produce(client, batch(b"opens the log"))
        with machine.watching(monkeypatch):
            assert await consume(client, size) == [*expected, b"opens the log"]


async def test_L7_one_moment_bounds_records_and_what_is_named(led: Find, monkeypatch: pytest.MonkeyPatch) -> None:
    """A transaction ends while a worker brings what was lacking: what is read then has its records and its name."""
    machine = Watched()
    async with memory_broker(topics={"t": 1}, machine=machine, config=SMALL_SEGMENTS) as broker:
        async with broker.client() as client:
            await produce(client, batch(b"plain"))
            one = Producer(1, EPOCH_MS)
            one.write(led("t", 0), b"aborted")
    async with memory_broker(machine=machine, config=SMALL_SEGMENTS) as broker, broker.client() as client:
        await produce(client, batch(b"opens the log"))
        partition = led("t", 0)
        search = rediscovery.Search.run

        def meanwhile(this: rediscovery.Search) -> list[rediscovery.Found]:
            found = search(this)
            one.abort(partition)
            return found

        monkeypatch.setattr(rediscovery.Search, "run", meanwhile)
        response = await fetch(client)
        data = response.responses[0].partitions[0]
        assert (data.last_stable_offset, last_offset(bytes(data.records))) == (4, 3)
        assert committed(response) == [b"plain", b"opens the log"]


async def list_offset(client: BareClient, timestamp: int, isolation: int, version: int = 7) -> int:
    topic = ListOffsetsTopic(name="t", partitions=[ListOffsetsPartition(partition_index=0, timestamp=timestamp)])
    response = await client.call(ListOffsetsRequest(replica_id=-1, isolation_level=isolation, topics=[topic]), version)
    answer = response.topics[0].partitions[0]
    assert answer.error_code == 0
    return int(answer.offset)


@pytest.mark.parametrize("version", range(2, 11))
async def test_the_latest_offset_is_the_last_stable_one(led: Find, version: int) -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        partition = led("t", 0)
        await some_of_each(client, partition)
        assert await list_offset(client, -1, READ_UNCOMMITTED, version) == 7
        assert await list_offset(client, -1, READ_COMMITTED, version) == 5
        assert await list_offset(client, -2, READ_COMMITTED, version) == 0
        Producer(3, EPOCH_MS).abort(partition)
        assert await list_offset(client, -1, READ_COMMITTED, version) == 8


async def test_a_time_at_or_above_the_last_stable_offset_is_not_found(led: Find) -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        partition = led("t", 0)
        await produce(client, batch(b"a", timestamp=EPOCH_MS))
        open_ = Producer(3, EPOCH_MS)
        open_.write(partition, b"open")
        await produce(client, batch(b"b", timestamp=EPOCH_MS + 100))
        for timestamp in (EPOCH_MS + 100, -3):
            assert await list_offset(client, timestamp, READ_COMMITTED) == -1
            assert await list_offset(client, timestamp, READ_UNCOMMITTED) == 2
        open_.abort(partition)
        assert await list_offset(client, EPOCH_MS + 100, READ_COMMITTED) == 2


@pytest.mark.slow
async def test_B1_a_list_of_many_aborted_transactions_holds_nobody_up(led: Find) -> None:
    """All of them were open at once, and so are named in each fetch up to their ends."""
    count = 15_000
    async with metered_broker() as (broker, meter), broker.client() as client:
        partition = led("wide", 0)
        producers = [Producer(n, EPOCH_MS) for n in range(count)]
        for producer in producers:
            producer.write(partition, b"")
        for producer in producers:
            producer.abort(partition)
        request = fetch_request({("wide", 0): count}, partition_max_bytes=1000, **COMMITTED)
        with meter.running():
            response = await client.call(request, 11)
        assert len(response.responses[0].partitions[0].aborted_transactions) == count
    assert meter.worst <= LINES_MAX // 2, meter.report()
