"""Fetches that look for something: who waits is not answered with what is no match, nor left where he is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from kafka_wire.errors import ErrorCode
from kafka_wire.messages.produce_fetch import FetchResponse
from kafka_wire.records import build_batch, headers, read_records
from kbroker.api import fetch
from kbroker.api.fetch import FetchJob
from kbroker.filters import parse
from kbroker.replication.partition import Partition
from kbroker.testing.broker import memory_broker
from kbroker.testing.client import BareClient
from kbroker.turns import one_at_a_time
from kbroker.views import reading
from kbroker.views.reading import LOOK_BYTES, FilteredReader, Selection
from kbroker.views.results import Results
from tests.api.test_fetch import fetch_request
from tests.api.test_produce import produce

EU = 'tags has "eu"'
KEY = 'key = "eu"'  # the tag index tells nothing of it


class Shown:
    """A partition as a reader shows it."""

    def __init__(self, partition: Partition, reader: FilteredReader, asked: Counter[str]) -> None:
        self._partition, self._reader, self._asked = partition, reader, asked

    def __getattr__(self, name: str) -> Any:
        return getattr(self._partition, name)

    def read(self, *args: Any, **options: Any) -> Any:
        self._asked["read"] += 1
        return self._partition.read(*args, **options, through=self._reader)

    def available(self, *args: Any) -> int:
        self._asked["available"] += 1
        return self._partition.available(*args, through=self._reader)


@contextmanager
def shown(monkeypatch: pytest.MonkeyPatch, text: str = EU, *, is_exact: bool = True) -> Iterator[Counter[str]]:
    """All partitions of "t" are read through a filter. Counts what is asked of them."""
    results, asked = Results(), Counter[str]()
    readers: dict[int, FilteredReader] = {}
    real = FetchJob._find

    def find(job: FetchJob, key: Any) -> Any:
        partition = real(job, key)
        partition.log.notes_tags = True
        reader = readers.setdefault(key[1], FilteredReader(Selection(parse(text), is_exact=is_exact), results))
        return Shown(partition, reader, asked)

    with monkeypatch.context() as patch:
        patch.setattr(FetchJob, "_find", find)
        yield asked


def tagged(tag: str, size: int = 100, count: int = 1, compression: int = 0) -> bytearray:
    rows = [(1, tag.encode(), tag.encode() + b"v" * size, (("kbroker-tags", tag.encode()),)) for _ in range(count)]
    return build_batch(rows, compression=compression)


def told(response: FetchResponse) -> list[tuple[int, list[bytes], int]]:
    """(partition, the first two bytes of the values, where a client goes on) of each partition of the answer."""
    rows = []
    for partition in [p for t in response.responses for p in t.partitions]:
        values, after = [], -1
        for at, header in headers(partition.records):
            records = read_records(partition.records, at, max_bytes=1 << 24)
            values += [] if header.is_control else [(r.value or b"")[:2] for r in records]
            after = header.next_offset
        rows.append((partition.partition_index, values, after))
    return rows


async def later(client: BareClient, *batches: bytearray, every_s: float = 1.0) -> None:
    for each in batches:
        await trio.sleep(every_s)
        await produce(client, each)


@pytest.mark.parametrize(("text", "is_exact"), [(EU, True), (EU, False), (KEY, True)])
async def test_a_long_poll_ends_when_a_match_comes_not_before(
    text: str, is_exact: bool, autojump_clock: MockClock, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client, broker.client() as producer:
        with shown(monkeypatch, text, is_exact=is_exact) as asked:
            size = 5000  # so that each batch has a stretch of its own in the tag index
            nursery.start_soon(later, producer, *[tagged("us", size)] * 20, tagged("eu", size))
            began = trio.current_time()
            response = await client.call(fetch_request({("t", 0): 0}, max_wait_ms=60_000), 11)
            assert told(response) == [(0, [b"eu"], 21)]
            assert trio.current_time() - began == pytest.approx(21, abs=0.5)
            assert asked["read"] <= 4 * 21 and asked["available"] <= 2 * 21, "no turn of the loop for nothing"


async def test_who_waits_holds_no_records(
    autojump_clock: MockClock, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs: list[FetchJob] = []
    real = FetchJob.wait

    def wait(job: FetchJob) -> Any:
        jobs.append(job)
        return real(job)

    monkeypatch.setattr(FetchJob, "wait", wait)
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        with shown(monkeypatch):
            for _ in range(3):
                await produce(client, tagged("eu", 100_000))
            asked = fetch_request({("t", 0): 0}, min_bytes=1 << 20, max_wait_ms=60_000, max_bytes=1 << 21)

            async def look() -> None:
                await trio.sleep(30)
                assert [(length > 300_000, data.records) for _, data, length in jobs[0].found] == [(True, b"")]
                jobs.clear()

            nursery.start_soon(look)
            assert told(await client.call(asked, 11)) == [(0, [b"eu"] * 3, 3)]
            assert not jobs


async def test_what_takes_much_memory_to_look_at_waits_for_its_turn(
    autojump_clock: MockClock, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "UNPACKED_SMALL_MAX", 50_000)
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        await produce(client, tagged("eu"))
        await produce(client, tagged("eu", 100_000, compression=4))
        found = []

        async def read_on() -> None:
            for offset in (0, 1):
                found.extend(told(await client.call(fetch_request({("t", 0): offset}), 11)))

        with shown(monkeypatch):
            async with one_at_a_time("large looks"):
                nursery.start_soon(read_on)
                await trio.sleep(30)
                assert found == [(0, [b"eu"], 1)], "what is small does not wait"
            await trio.sleep(1)
        assert found[1:] == [(0, [b"eu"], 2)]


@pytest.mark.parametrize("text", [EU, KEY])
async def test_at_max_wait_a_client_is_told_how_far_it_was(
    text: str, autojump_clock: MockClock, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client, broker.client() as producer:
        with shown(monkeypatch, text):
            for version in (4, 11):
                nursery.start_soon(later, producer, tagged("us"), tagged("us"))
                began = trio.current_time()
                response = await client.call(fetch_request({("t", 0): 0}, max_wait_ms=5000), version)
                assert trio.current_time() - began == pytest.approx(5, abs=0.1)
                [(_, values, after)] = told(response)
                assert (values, after) == ([], 2 if version == 4 else 4)


async def test_a_poll_that_must_not_wait_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        await produce(client, tagged("us"))
        with shown(monkeypatch):
            assert told(await client.call(fetch_request({("t", 0): 0}), 11)) == [(0, [], 1)]
            assert told(await client.call(fetch_request({("t", 0): 1}), 11)) == [(0, [], -1)]


@pytest.mark.parametrize("is_exact", [True, False])
async def test_min_bytes_counts_matches_alone(
    is_exact: bool, autojump_clock: MockClock, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client, broker.client() as producer:
        await produce(client, tagged("eu", 1000))
        with shown(monkeypatch, is_exact=is_exact):
            nursery.start_soon(later, producer, tagged("us", 9000), tagged("eu", 9000))
            began = trio.current_time()
            response = await client.call(fetch_request({("t", 0): 0}, max_wait_ms=60_000, min_bytes=5000), 11)
            assert trio.current_time() - began == pytest.approx(2, abs=0.2)
            assert told(response)[0][1][:1] == [b"eu"]


async def test_what_is_looked_through_in_part_is_told_at_once(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        for _ in range(5):
            await produce(client, tagged("us", LOOK_BYTES // 2))
        with shown(monkeypatch, KEY):
            offset, began, fetches = 0, trio.current_time(), 0
            while offset < 5:
                request = fetch_request({("t", 0): offset}, max_wait_ms=60_000 if offset < 3 else 0, min_bytes=100_000)
                [(_, values, after)] = told(await client.call(request, 11))
                assert values == [] and after > offset
                offset, fetches = after, fetches + 1
            assert trio.current_time() - began < 1 and fetches <= 4


async def test_a_session_tells_how_far_it_was_only_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        with shown(monkeypatch):
            opened = await client.call(fetch_request({("t", 0): 0}, session_id=0, session_epoch=0), 11)
            assert opened.session_id
            await produce(client, tagged("us"))
            again = await client.call(fetch_request({}, session_id=opened.session_id, session_epoch=1), 11)
            assert told(again) == [(0, [], 1)]
            moved = fetch_request({("t", 0): 1}, session_id=opened.session_id, session_epoch=2)
            assert told(await client.call(moved, 11)) == []


async def test_one_fetch_of_many_partitions_costs_a_bounded_look(monkeypatch: pytest.MonkeyPatch) -> None:
    async with memory_broker(topics={"t": 40}) as broker, broker.client() as client:
        for index in range(40):
            await produce(client, tagged("us", 500_000), index=index)
        looks = []
        real = FetchJob._bring_lacking

        async def counted(job: FetchJob) -> None:
            looks.append(job.owed)
            await real(job)

        monkeypatch.setattr(FetchJob, "_bring_lacking", counted)
        with shown(monkeypatch, KEY):
            wanted: dict[tuple[str | bytes, int], int] = {("t", index): 0 for index in range(40)}
            fetches = 0
            while any(offset < 1 for offset in wanted.values()):
                for index, _, after in told(await client.call(fetch_request(wanted), 11)):
                    wanted["t", index] = max(wanted["t", index], after)
                fetches += 1
                assert fetches < 20
            assert max(looks) <= fetch.OWED_MAX + LOOK_BYTES


async def test_a_consumer_of_an_ordinary_topic_does_not_look(monkeypatch: pytest.MonkeyPatch) -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        await produce(client, tagged("us"))
        assert told(await client.call(fetch_request({("t", 0): 0}), 11)) == [(0, [b"us"], 1)]


async def test_errors_are_those_of_the_source(monkeypatch: pytest.MonkeyPatch) -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        await produce(client, tagged("us"))
        with shown(monkeypatch):
            for offset in (-1, 2):
                data = (await client.call(fetch_request({("t", 0): offset}), 11)).responses[0].partitions[0]
                assert (data.error_code, data.high_watermark) == (ErrorCode.OFFSET_OUT_OF_RANGE, -1)
