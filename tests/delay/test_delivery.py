"""Delayed delivery by brokers in memory: never early (D1), never lost and once (D2, D3), in order."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from kbroker.delay import schedule
from kbroker.delay.schedule import Damaged, Entry, Schedule
from kbroker.env import Disk
from kbroker.log.log import PartitionLog
from kbroker.testing.broker import MemoryCluster, memory_broker, memory_cluster
from kbroker.testing.clock import EPOCH_MS
from tests.delay.tools import MINUTE_MS, after, at_once, cancel, create, id_of, now, read, send, values, wait_for
from tests.replication.test_failover import leader_of


async def test_D1_a_record_is_delivered_when_it_is_due_and_not_before(autojump_clock: object) -> None:
    async with memory_broker() as broker, broker.client() as client:
        await create(client)
        sent_ms = broker.clock.data_ms()
        assert await send(client, after(MINUTE_MS, b"later")) == -1
        assert await send(client, at_once(b"now")) == 1
        await trio.sleep(59.9)
        assert await values(client) == [b"now"]
        _, record = await wait_for(client, 2, 0.5)
        assert record.value == b"later" and id_of(record) == 0
        assert sent_ms + MINUTE_MS <= record.timestamp <= sent_ms + MINUTE_MS + 20
        await trio.sleep(100)
        assert len(await read(client)) == 2


async def test_D1_the_data_clock_decides_even_if_it_is_set_back(autojump_clock: object) -> None:
    async with memory_broker() as broker, broker.client() as client:
        await create(client)
        await send(client, after(10_000, b"later"))
        await trio.sleep(9.5)
        broker.clock.jump_data(-60_000)
        await trio.sleep(59)
        assert await values(client) == []
        assert await wait_for(client, 1, 3)


async def test_a_clock_that_is_set_forward_is_noticed(autojump_clock: object) -> None:
    async with memory_broker() as broker, broker.client() as client:
        await create(client)
        await send(client, after(MINUTE_MS, b"later"))
        await trio.sleep(10)
        broker.clock.jump_data(MINUTE_MS)
        assert await wait_for(client, 1, 1)


async def test_a_clock_that_is_set_forward_in_small_steps_is_noticed(autojump_clock: object) -> None:
    async with memory_broker() as broker, broker.client() as client:
        await create(client)
        await send(client, after(MINUTE_MS, b"later"))
        await trio.sleep(10)
        for _ in range(MINUTE_MS // 50):
            await broker.clock.advance_data(50)
        assert await wait_for(client, 1, 1)


async def test_what_is_due_is_delivered_in_order_of_due_time_and_arrival(autojump_clock: object) -> None:
    async with memory_broker() as broker, broker.client() as client:
        await create(client)
        at = [EPOCH_MS + 60_000 + n for n in (500, 100, 500, 300, 100)]
        for n, due in enumerate(at):
            await send(client, (b"k", b"%d" % n, {"kbroker-deliver-at": b"%d" % due}))
        found = await wait_for(client, 5, 120)
        assert [each.value for each in found] == [b"1", b"4", b"3", b"0", b"2"]
        assert [each.timestamp for each in found] == sorted(at)


async def test_a_batch_may_mix_what_is_for_now_and_for_later(autojump_clock: object) -> None:
    async with memory_broker() as broker, broker.client() as client:
        await create(client)
        assert await send(client, at_once(b"a"), after(5000, b"b"), at_once(b"c")) == 1
        assert [(each.offset, each.value) for each in await read(client)] == [(1, b"a"), (3, b"c")]
        assert [each.value for each in await wait_for(client, 3)] == [b"a", b"c", b"b"]


async def test_a_cancel_by_key_ends_what_is_pending_and_is_delivered_to_nobody(
    autojump_clock: object,
) -> None:
    async with memory_broker() as broker, broker.client() as client:
        await create(client)
        await send(client, after(5000, b"1", b"a"), after(5000, b"2", b"b"), after(9000, b"3", b"a"))
        await send(client, cancel(b"a"))
        await send(client, after(6000, b"4", b"a"))  # comes later: it is not meant
        await trio.sleep(60)
        assert await values(client) == [b"2", b"4"]


async def test_a_cancel_by_ids(autojump_clock: object) -> None:
    async with memory_broker() as broker, broker.client() as client:
        await create(client)
        await send(client, *[after(5000, b"%d" % n) for n in range(4)])
        await send(client, cancel(None, [1, 3, 77]))
        await trio.sleep(60)
        assert await values(client) == [b"0", b"2"]


async def test_what_is_hurried_is_delivered_at_once(autojump_clock: object) -> None:
    async with memory_broker() as broker, broker.client() as client:
        await create(client)
        await send(client, after(MINUTE_MS, b"1", b"a"), after(MINUTE_MS, b"2", b"b"), after(MINUTE_MS, b"3", b"c"))
        await send(client, now(b"a"), now(None, [2]))
        found = await wait_for(client, 2, 5)
        assert [each.value for each in found] == [b"1", b"3"]
        assert all(each.timestamp <= broker.clock.data_ms() for each in found)
        assert len(await wait_for(client, 3, 100)) == 3


async def test_D2_a_cancel_that_is_acknowledged_just_before_it_is_due_holds(autojump_clock: object) -> None:
    async with memory_broker() as broker, broker.client() as client:
        await create(client)
        for n in range(40):
            await send(client, after(1000, b"%d" % n, b"%d" % n))
            await trio.sleep(0.9 + n * 0.0025 if n < 40 else 1)
            cancelled = await send(client, cancel(b"%d" % n))
            assert cancelled == -1
            known = await values(client)
            await trio.sleep(2)
            assert await values(client) == known, n  # nothing comes after the cancel


async def test_delivered_batches_have_no_producer_and_their_topics_codec(autojump_clock: object) -> None:
    async with memory_broker() as broker, broker.client() as client:
        await create(client, compression__type="zstd", message__timestamp__type="LogAppendTime")
        await send(client, *[after(5000, b"x" * 100) for _ in range(50)])
        found = await wait_for(client, 50)
        assert all(each.timestamp >= EPOCH_MS + 5000 for each in found)


async def test_a_large_number_is_delivered_in_bounded_batches(autojump_clock: object) -> None:
    async with memory_broker() as broker, broker.client() as client:
        await create(client)
        for n in range(12):
            await send(client, *[after(60_000 - n, b"%d" % (n * 100 + m)) for m in range(100)])
        found = await wait_for(client, 1200, 120)
        assert len({id_of(each) for each in found}) == 1200
        dues = [each.timestamp for each in found]
        assert dues == sorted(dues)


async def test_records_of_a_megabyte_are_delivered_one_by_one(autojump_clock: object) -> None:
    async with memory_broker() as broker, broker.client() as client:
        await create(client)
        for n in range(2):
            await send(client, after(5000, b"%d" % n + b"x" * 900_000))
        found = await wait_for(client, 2)
        assert [(each.value or b"")[:1] for each in found] == [b"0", b"1"]


# ending and beginning again -----------------------------------------------------------------------------------------


async def leading(cluster: MemoryCluster) -> int:
    """Who leads t-0, once somebody does."""
    with trio.fail_after(30):
        while (leader := await leader_of(cluster)) is None:
            await trio.sleep(0.1)
    return leader


async def test_D2_what_is_pending_outlives_kills_and_is_delivered_once(autojump_clock: object) -> None:
    async with memory_cluster(1) as cluster:
        async with cluster.client(1) as client:
            await create(client)
            for n in range(20):
                await send(client, after(20_000 + 1000 * n, b"%d" % n))
        for _ in range(8):
            await trio.sleep(3)
            cluster.kill(1)
            await cluster.start(1)
        async with cluster.client(1) as client:
            found = await wait_for(client, 20, 60)
            await trio.sleep(20)
            assert [each.value for each in await read(client)] == [b"%d" % n for n in range(20)]
            assert [id_of(each) for each in found] == list(range(20))


async def test_D2_a_clean_stop_and_a_lost_schedule_change_nothing(autojump_clock: object) -> None:
    async with memory_cluster(1) as cluster:
        async with cluster.client(1) as client:
            await create(client)
            await send(client, after(20_000, b"a"), after(40_000, b"b"), after(50_000, b"c"))
            await wait_for(client, 1)
            await send(client, cancel(None, [2]))
            await trio.sleep(15)  # it has been saved
        await cluster.stop(1)
        disk = cluster.machines[1].disk
        assert disk.exists("t-0/delay")
        disk.remove_tree("t-0/delay")
        await cluster.start(1)
        async with cluster.client(1) as client:
            await trio.sleep(60)
            assert await values(client) == [b"a", b"b"]


# failover -----------------------------------------------------------------------------------------------------------


async def test_D3_what_is_pending_is_delivered_once_by_whoever_leads(autojump_clock: object) -> None:
    async with memory_cluster(3) as cluster:
        async with cluster.client(1) as client:
            await create(client, replicas=3)
        leader = await leading(cluster)
        async with cluster.client(leader) as client:
            for n in range(60):
                await send(client, after(5_000 + 1000 * n, b"%d" % n))
        for _ in range(3):
            await trio.sleep(8)
            leader = await leading(cluster)
            cluster.kill(leader)
            await trio.sleep(12)
            await cluster.start(leader)
        await trio.sleep(30)
        leader = await leading(cluster)
        async with cluster.client(leader) as client:
            found = await wait_for(client, 60, 60)
            await trio.sleep(30)
            assert sorted(id_of(each) for each in await read(client)) == list(range(60))
            assert [each.value for each in found] == [b"%d" % n for n in range(60)]


# much at once -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_a_hundred_thousand_in_one_batch_are_delivered(autojump_clock: object) -> None:
    async with memory_broker(config={"socket.request.max.bytes": "50000000"}) as broker, broker.client() as client:
        await create(client, max__message__bytes="40000000")
        await send(client, *[after(20_000 + n // 100, b"") for n in range(100_000)])
        await trio.sleep(60)
        found = await read(client)
        assert [id_of(each) for each in found] == list(range(100_000))


@pytest.mark.slow
async def test_very_many_cancels_harm_nobody_else(autojump_clock: object) -> None:
    async with memory_broker() as broker, broker.client() as client:
        await create(client)
        await send(client, after(60_000, b"mine", b"mine"), after(60_000, b"its", b"7"))
        for some in range(20):
            await send(client, *[cancel(b"%d" % (some * 2500 + n)) for n in range(2500)])
        await send(client, *[now(b"x%d" % n) for n in range(2500)])
        assert [each.value for each in await wait_for(client, 1, 120)] == [b"mine"]
        await trio.sleep(30)
        assert await values(client) == [b"mine"]


async def test_D2_a_damaged_schedule_is_made_anew_from_the_log(
    autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once the disk is willing: what lies there is removed first."""
    taking: list[Exception] = []
    discarding: list[Exception] = []
    take, discard = Schedule.take, Schedule.discard

    def broken_take(schedule: Schedule, now_ms: int, most: int) -> list[Entry]:
        if taking:
            raise taking.pop()
        return take(schedule, now_ms, most)

    def broken_discard(disk: Disk, directory: str) -> None:
        if discarding:
            raise discarding.pop()
        discard(disk, directory)

    monkeypatch.setattr(Schedule, "take", broken_take)
    monkeypatch.setattr(Schedule, "discard", staticmethod(broken_discard))
    async with memory_broker() as broker, broker.client() as client:
        await create(client)
        await send(client, after(5000, b"a"), after(5000, b"b", b"x"))
        await send(client, cancel(b"x"))
        await trio.sleep(1)
        taking.append(Damaged("a run"))
        discarding.append(OSError("not now"))
        await wait_for(client, 1, 20)
        await trio.sleep(20)
        assert await values(client) == [b"a"]
        assert not taking and not discarding


async def test_what_is_due_does_not_wait_for_a_search_through_all_that_is_pending(
    autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(schedule, "MEMORY_ROWS", 64)
    monkeypatch.setattr(schedule, "BLOCKS_A_STEP", 1)
    monkeypatch.setattr(schedule, "MERGED_RUNS", 64)
    settle, append = Schedule.settle, PartitionLog.append_hidden
    async with memory_broker() as broker, broker.client() as client:

        def slow_settle(self: Schedule) -> bool:
            if self._is_searching:
                told.append("searched")
                broker.clock.jump_data(100)
            return settle(self)

        def noted_append(self: PartitionLog, *args: Any, **options: Any) -> int:
            told.append("delivered")
            return append(self, *args, **options)

        monkeypatch.setattr(Schedule, "settle", slow_settle)
        monkeypatch.setattr(PartitionLog, "append_hidden", noted_append)
        await create(client)
        for n in range(20):
            await send(client, *[after(3_600_000 + n, b"", b"far") for _ in range(65)])
        await send(client, after(2000, b"due", b"due"))
        await trio.sleep(1)
        assert await values(client) == []
        await send(client, now(b"of nobody"))
        await send(client, cancel(b"of nobody"))  # read in one go with it
        assert [each.value for each in await wait_for(client, 1, 1)] == [b"due"]
    assert "searched" in told[told.index("delivered") :]
