"""What a transaction delays counts when it is committed, and not before."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from kafka_wire.errors import ErrorCode
from kbroker.delay import tracker
from kbroker.delay.tracker import Tracker
from kbroker.testing.broker import MemoryBroker, memory_broker, memory_cluster
from kbroker.testing.client import BareClient
from tests.api.transaction_tools import Producer
from tests.delay.test_holding import delete_records, try_to_delete_records
from tests.delay.tools import READ_COMMITTED, Row, after, at_once, cancel, create, produce, send, values, wait_for


class Transaction:
    """A producer whose batches hold what a test wants."""

    def __init__(self, client: BareClient, name: str = "tx") -> None:
        self.client = client
        self.producer = Producer(client, name)
        self.sequence = 0

    async def begin(self) -> Transaction:
        if self.producer.id < 0:
            await self.producer.init()
        assert await self.producer.add(0) == [0]
        return self

    async def send(self, *rows: Row, **options: Any) -> int:
        who = {"producer_id": self.producer.id, "producer_epoch": self.producer.epoch}
        offset = await send(
            self.client, *rows, transactional=True, base_sequence=self.sequence, transactional_id=self.producer.name,
            **who, **options,
        )  # fmt: skip
        self.sequence += len(rows)
        return offset

    async def end(self, *, commit: bool) -> None:
        assert await self.producer.end(commit=commit) == 0


async def begun(broker: MemoryBroker, client: BareClient, name: str = "tx") -> Transaction:
    return await Transaction(client, name).begin()


async def test_D3_what_a_transaction_delays_is_delivered_after_its_commit_only(autojump_clock: object) -> None:
    async with memory_broker() as broker, broker.client() as client:
        await create(client)
        one = await begun(broker, client)
        assert await one.send(after(5000, b"1")) == -1
        assert await one.send(at_once(b"2"), after(6000, b"3")) == 2
        await trio.sleep(20)
        assert await values(client, isolation=READ_COMMITTED) == []
        await one.end(commit=True)
        found = await wait_for(client, 3, 5, isolation=READ_COMMITTED)
        assert [each.value for each in found] == [b"2", b"1", b"3"]
        await trio.sleep(20)
        assert len(await values(client)) == 3


async def test_what_an_aborted_transaction_delays_is_never_delivered(autojump_clock: object) -> None:
    async with memory_broker() as broker, broker.client() as client:
        await create(client)
        one = await begun(broker, client)
        await send(client, after(5000, b"mine"))
        await one.send(after(4000, b"1"), at_once(b"2"), cancel(b"k"))
        await one.end(commit=False)
        await trio.sleep(60)
        assert await values(client, isolation=READ_COMMITTED) == [b"mine"]  # nor does it cancel anything
        await one.begin()
        await one.send(after(4000, b"4"))
        await one.end(commit=True)
        assert (await wait_for(client, 2, 20, isolation=READ_COMMITTED))[-1].value == b"4"


async def test_a_cancel_in_a_transaction_counts_when_it_is_committed(autojump_clock: object) -> None:
    async with memory_broker() as broker, broker.client() as client:
        await create(client)
        await send(client, after(10_000, b"1"), after(30_000, b"2"))
        one = await begun(broker, client)
        await one.send(cancel(b"k"))
        assert (await wait_for(client, 1, 15))[0].value == b"1"
        await one.end(commit=True)
        await trio.sleep(60)
        assert await values(client) == [b"1"]


async def test_a_cancel_is_for_what_lies_before_it_also_if_that_is_committed_later(autojump_clock: object) -> None:
    async with memory_broker() as broker, broker.client() as client:
        await create(client)
        one = await begun(broker, client)
        await one.send(after(10_000, b"1"))
        await send(client, cancel(b"k"))
        await one.send(after(10_000, b"2"))
        await one.end(commit=True)
        await trio.sleep(60)
        assert await values(client) == [b"2"]


async def test_D3_a_transaction_that_is_open_at_a_kill_is_read_again(autojump_clock: object) -> None:
    async with memory_cluster(1) as cluster:
        async with cluster.client(1) as client:
            await create(client)
            one = await Transaction(client).begin()
            await one.send(after(30_000, b"1"))
            await send(client, after(1000, b"x"))
            await trio.sleep(20)  # the schedule has been saved, and tells nothing of it
        cluster.kill(1)
        await cluster.start(1)
        async with cluster.client(1) as client:
            one.client = one.producer.client = client
            await one.end(commit=True)
            found = await wait_for(client, 2, 60)
            assert [each.value for each in found] == [b"x", b"1"]


async def test_a_large_transaction_is_read_again_some_at_a_time(
    autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of each kind of batch: all hidden, and the rest of it behind what is."""
    monkeypatch.setattr(tracker, "RECORDS_MAX", 10)
    commit, gone_on = Tracker.commit, 0

    def counted(self: Tracker, *args: Any) -> int | None:
        nonlocal gone_on
        offset = commit(self, *args)
        gone_on += offset is not None
        return offset

    monkeypatch.setattr(Tracker, "commit", counted)
    async with memory_broker() as broker, broker.client() as client:
        await create(client)
        one = await begun(broker, client)
        for n in range(10):
            await one.send(*[after(5000, b"%d-%d" % (n, m)) for m in range(4)], *[at_once(b"x")] * (n % 2))
        await one.end(commit=True)
        found = await wait_for(client, 45, 20, isolation=READ_COMMITTED)
        assert [each.value for each in found if each.value != b"x"] == [
            b"%d-%d" % (n, m) for n in range(10) for m in range(4)
        ]
    assert gone_on == 3


async def test_D2_no_log_starts_above_what_an_open_transaction_delays(autojump_clock: object) -> None:
    """A replica that comes later would not get it, when the transaction is committed."""
    async with memory_broker() as broker, broker.client() as client, broker.client() as other:
        await create(client)
        one = await begun(broker, client)
        await one.send(after(5000, b"1"))
        await send(client, at_once(b"x"))
        assert (await try_to_delete_records(other, 2)).error_code == ErrorCode.REQUEST_TIMED_OUT
        assert await values(client, isolation=READ_COMMITTED) == []
        assert (await produce(client, at_once(b"y"))).log_start_offset == 0
        await one.end(commit=True)
        assert await delete_records(other, 2) == 2
        found = await wait_for(client, 2, offset=2, isolation=READ_COMMITTED)
        assert [each.value for each in found] == [b"y", b"1"]
