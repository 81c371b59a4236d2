"""A disk that does not give back what was written: no damage is delivered, nothing else is held up."""

from __future__ import annotations

from collections import Counter

import pytest
import trio

from kafka_wire.errors import ErrorCode
from kbroker.delay.schedule import Page, Schedule
from kbroker.testing.broker import memory_broker, memory_cluster
from kbroker.testing.disk import MemoryDisk
from tests.delay.test_delivery import leading
from tests.delay.test_holding import delete_records, try_to_delete_records
from tests.delay.tools import after, at_once, cancel, create, id_of, read, send, values, wait_for

LOG = "t-0/00000000000000000000.log"
PAGES_MAX = 20


def damage(disk: MemoryDisk, text: bytes) -> None:
    """Have a byte of what was written be another one."""
    at = disk.read(LOG).index(text)
    inode = disk.open(LOG)._inode
    inode.data[at] ^= 1


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often a schedule was gone through; too often is an error."""
    count: Counter[str] = Counter()
    page = Schedule.page

    def counted(self: Schedule, *args: object, **options: object) -> Page:
        count["pages"] += 1
        assert count["pages"] <= PAGES_MAX
        return page(self, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Schedule, "page", counted)
    return count


async def test_D2_what_is_damaged_is_not_delivered_and_not_in_the_way(
    autojump_clock: object, pages: Counter[str]
) -> None:
    async with memory_broker() as broker, broker.client() as client:
        await create(client, segment__ms="10000")
        await send(client, after(20_000, b"first"))
        await send(client, after(10_000, b"second"))
        await send(client, after(300_000, b"third"))
        await trio.sleep(1)
        damage(broker.disk, b"first")
        await trio.sleep(30)
        assert await values(client) == [b"second"]
        await send(client, at_once(b"x"), at=broker.clock.data_ms())
        answer = await try_to_delete_records(client, 3)
        assert answer.error_code == ErrorCode.REQUEST_TIMED_OUT  # it may be read some day
        await trio.sleep(120)
        await send(client, cancel(None, [0]))
        await trio.sleep(60)
        assert await delete_records(client, 3) == 3
        await trio.sleep(200)
        assert [each.value for each in await read(client, 3)] == [b"second", b"x", b"third"]


async def test_D2_another_replica_delivers_what_is_damaged_here(autojump_clock: object) -> None:
    async with memory_cluster(2, config={"replica.lag.time.max.ms": "3000"}) as cluster:
        async with cluster.client(1) as client:
            await create(client, replicas=2)
        first = await leading(cluster)
        async with cluster.client(first) as client:
            await send(client, after(20_000, b"first"), after(40_000, b"second"))
            await trio.sleep(1)
            damage(cluster.machines[first].disk, b"first")
            await trio.sleep(60)
            assert await values(client) == []
        cluster.kill(first)
        with trio.fail_after(60):
            while await leading(cluster) == first:
                await trio.sleep(0.5)
        async with cluster.client(3 - first) as client:
            found = await wait_for(client, 2)
            assert [(id_of(each), each.value) for each in found] == [(0, b"first"), (1, b"second")]
