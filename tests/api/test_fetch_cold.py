"""Fetches of what is not in memory: workers wait for the disk, the event loop does not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

import pytest
import trio

from kafka_wire.errors import ErrorCode
from kbroker.env import Env
from kbroker.testing.broker import Machine, memory_broker
from kbroker.testing.client import BareClient
from kbroker.testing.disk import MemoryDisk, MemoryFile
from tests.api.test_fetch import fetch_request, shape, values
from tests.api.test_produce import batch, produce

T = TypeVar("T")
SMALL_SEGMENTS = {"log.segment.bytes": "1048576", "log.index.interval.bytes": "1"}


class Watched(Machine):
    """A machine whose event loop must not read what is not in memory, while `strict`."""

    def __init__(self) -> None:
        super().__init__()
        self.in_worker = False
        self.strict = False
        self.works = 0

    def env(self) -> Env:
        return replace(super().env(), offload=self.offload)

    async def offload(self, work: Callable[[], T]) -> T:
        await trio.lowlevel.checkpoint()
        self.in_worker = True
        self.works += self.strict
        try:
            return work()
        finally:
            self.in_worker = False

    @contextmanager
    def watching(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        """Evict everything; from now on the loop fails when it waits for the disk."""

        def checked(real: Any, is_cold: Callable[[Any, str], bool]) -> Any:
            def call(owner: Any, *args: Any, **options: Any) -> Any:
                assert not self.strict or self.in_worker or not is_cold(owner, args[0]), "the loop waits for the disk"
                return real(owner, *args, **options)

            return call

        with monkeypatch.context() as patch:
            patch.setattr(MemoryFile, "pread", checked(MemoryFile.pread, lambda file, _: file._inode.is_cold))
            patch.setattr(MemoryDisk, "read", checked(MemoryDisk.read, lambda disk, path: path.endswith("index")))
            self.disk.evict()
            self.strict = True
            yield
            self.strict = False


async def fill(client: BareClient, count: int = 60) -> list[bytes]:
    sent = [b"%03d" % n * 15_000 for n in range(count)]
    for value in sent:
        assert (await produce(client, batch(value))).error_code == 0
    return sent


async def read_all(
    client: BareClient, size: int = 50_000, before: Callable[[], None] = lambda: None
) -> list[bytes | None]:
    """Consume the topic from its beginning. before: called ahead of each fetch."""
    found: list[bytes | None] = []
    with trio.fail_after(10):
        while True:
            before()
            response = await client.call(fetch_request({("t", 0): len(found)}, partition_max_bytes=size), 11)
            assert shape(response) == [("t", 0, 0)]
            if not (more := values(response)):
                return found
            found += more


@pytest.mark.parametrize("size", [1, 60_000])
async def test_the_loop_does_not_wait_for_the_disk(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Watched()
    async with memory_broker(topics={"t": 1}, machine=machine, config=SMALL_SEGMENTS) as broker:
        async with broker.client() as client:
            sent = await fill(client)
            with machine.watching(monkeypatch):
                assert await read_all(client, size, machine.disk.evict) == sent
            assert machine.works >= len(sent)


async def test_nor_for_indexes_after_a_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Watched()
    async with memory_broker(topics={"t": 1}, machine=machine, config=SMALL_SEGMENTS) as broker:
        async with broker.client() as client:
            sent = await fill(client)
    async with memory_broker(machine=machine, config=SMALL_SEGMENTS) as broker, broker.client() as client:
        await produce(client, batch(b"opens the log"))
        with machine.watching(monkeypatch):
            assert await read_all(client, before=machine.disk.evict) == [*sent, b"opens the log"]


async def test_what_is_in_memory_needs_no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Watched()
    async with memory_broker(topics={"t": 1}, machine=machine) as broker, broker.client() as client:
        sent = await fill(client)
        machine.strict = True
        assert await read_all(client) == sent
        assert machine.works == 0


@pytest.mark.parametrize("nth", range(1, 8))
async def test_a_disk_that_fails_in_the_worker_is_told_for_that_partition_alone(
    nth: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    machine = Watched()
    async with memory_broker(topics={"t": 1, "u": 1}, machine=machine) as broker, broker.client() as client:
        sent = await fill(client)
        await produce(client, batch(b"other"), topic="u")
        with machine.watching(monkeypatch):
            broker.disk.fail("pread", "t-0/*", nth=nth, times=1000)
            request = fetch_request({("t", 0): 31, ("u", 0): 0}, partition_max_bytes=50_000)
            response = await client.call(request, 11)
        if nth == 1:
            assert shape(response) == [("t", 0, ErrorCode.KAFKA_STORAGE_ERROR), ("u", 0, 0)]
        if shape(response)[0][2]:
            assert [text.split(":")[0] for text in caplog.messages] == ["the disk refuses clients of partition t-0"]
        assert shape(response)[1] == ("u", 0, 0) and values(response)[-1] == b"other"
        broker.disk.heal()
        assert values(await client.call(request, 11))[0] == sent[31]


async def test_memory_that_forgets_at_once_is_waited_for_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Watched()
    async with memory_broker(topics={"t": 1}, machine=machine, config=SMALL_SEGMENTS) as broker:
        async with broker.client() as client:
            sent = await fill(client)
            monkeypatch.setattr(MemoryFile, "pread_now", lambda self, length, position: None)
            assert await read_all(client) == sent
