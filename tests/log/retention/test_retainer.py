"""The duty of retention: for all logs, in turns, on the data clock; what it costs the event loop (L8)."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from kafka_wire.records import read_header
from kbroker.config import TopicConfig
from kbroker.log.directory import LogDirectory
from kbroker.log.log import PartitionLog
from kbroker.log.retention import retainer
from kbroker.log.retention.dropping import Dropping
from kbroker.watermark import Watermark
from tests.log.test_directory import World
from tests.log.tools import TOPIC_ID, append, batch, contents, fill, log_for
from tests.server.loop_meter import LINES_MAX, LoopMeter

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
CONFIG = TopicConfig(segment_bytes=200, retention_ms=HOUR_MS)


def opened(directory: LogDirectory, partition: int = 0, config: TopicConfig = CONFIG) -> PartitionLog:
    log = log_for(directory, "orders", partition, TOPIC_ID, config)
    bound = Watermark()
    bound.advance(log.end.value)
    log.guard(bound)
    return log


async def filled(directory: LogDirectory, count: int, partition: int = 0, config: TopicConfig = CONFIG) -> PartitionLog:
    """One segment for each record."""
    log = opened(directory, partition, config)
    fill(log, count)
    await log.flush(directory.env.offload)
    return opened(directory, partition, config)


class HeldUp:
    """A directory's worker, that stops before it renames files of deleted segments."""

    def __init__(self, directory: LogDirectory) -> None:
        self.is_renaming, self.gate = trio.Event(), trio.Event()
        self._offload = directory.env.offload
        object.__setattr__(directory.env, "offload", self)

    async def __call__(self, work: Any) -> Any:
        if isinstance(getattr(work, "__self__", None), Dropping):
            self.is_renaming.set()
            await self.gate.wait()
        return await self._offload(work)


async def apply(directory: LogDirectory) -> None:
    """In a task of its own: what it does is counted."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(directory.retainer.apply)


def metered() -> tuple[World, LoopMeter]:
    world, meter = World(), LoopMeter()
    world.offload = meter.offload  # type: ignore[assignment]
    return world, meter


@pytest.mark.parametrize("is_known", [True, False], ids=["written now", "written before the start"])
async def test_L8_a_thousand_expired_segments_cost_the_loop_little(is_known: bool) -> None:
    world, meter = metered()
    directory = world.start()
    log = await filled(directory, 1001)
    if not is_known:
        await directory.close()
        directory = world.start()
        log = opened(directory)
    world.clock.now_ms += 2 * HOUR_MS
    with meter.running():
        await apply(directory)
    assert len(log.segments) == 2 and log.start_offset == 1000
    assert meter.lines <= 150_000, meter.report()  # some 10 ms
    assert meter.worst <= LINES_MAX / 2, meter.report()
    world.clock.now_ms += CONFIG.file_delete_delay_ms
    with meter.running():
        await apply(directory)
    assert meter.worst <= LINES_MAX / 2, meter.report()
    assert len(world.disk.list_dir("orders-0")) <= 8, "their files are gone"
    await directory.close()


async def test_many_logs_cost_little_when_nothing_is_due() -> None:
    world, meter = metered()
    directory = world.start()
    for partition in range(300):
        await filled(directory, 2, partition)
    await apply(directory)
    calls = 0

    async def counted(work):  # type: ignore[no-untyped-def]
        nonlocal calls
        calls += 1
        return await meter.offload(work)

    object.__setattr__(directory.env, "offload", counted)
    with meter.running():
        await apply(directory)
    assert not calls, "how old they are is known by now"
    assert meter.lines <= 300 * 50, meter.report()
    assert meter.worst <= 10_000
    await directory.close()


async def test_two_weeks_of_data_leave_day_by_day() -> None:
    world = World()
    directory = world.start()
    log = opened(directory, config=TopicConfig(segment_ms=DAY_MS - 1, retention_ms=14 * DAY_MS))
    for day in range(30):
        for hour in range(24):
            append(log, b"x" * 100, at=world.clock.now_ms + hour * HOUR_MS, now=world.clock.now_ms + hour * HOUR_MS)
        world.clock.now_ms += DAY_MS
        await log.flush(world.offload)
        opened(directory, config=log.config)
        await directory.retainer.apply()
        kept = 24 * min(day + 1, 14)
        assert len(contents(log)) in (kept, kept + 24), "whole segments go, of a day each"
    await directory.close()


async def test_a_log_that_is_cut_meanwhile_is_in_order() -> None:
    """A follower finds that it has diverged while its oldest segments go."""
    for offset in (9, 5, 2, 0):
        world = World()
        directory = world.start()
        log = await filled(directory, 10)
        world.clock.now_ms += HOUR_MS // 2
        fill(log, 5, first=10, at=world.clock.now_ms)
        await log.flush(world.offload)
        opened(directory)
        world.clock.now_ms += HOUR_MS * 3 // 4
        worker = HeldUp(directory)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(directory.retainer.apply)
            await worker.is_renaming.wait()
            log.truncate_to(offset)
            nursery.start_soon(log.settle, world.offload)
            await wait_all_tasks_blocked()
            worker.gate.set()
        assert log.is_settled and log.end.value == offset
        fill(log, 3, first=offset)
        found = contents(log)
        assert [each[0] for each in found] == [offset, offset + 1, offset + 2]
        world.kill()
        assert contents(opened(world.start())) == found


async def test_a_topic_that_is_deleted_and_made_anew_meanwhile_loses_nothing() -> None:
    world = World()
    directory = world.start()
    await filled(directory, 10)
    world.clock.now_ms += 2 * HOUR_MS
    worker = HeldUp(directory)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(directory.retainer.apply)
        await worker.is_renaming.wait()
        directory.remove("orders", 0)
        nursery.start_soon(directory.forget_removed)
        await wait_all_tasks_blocked()
        worker.gate.set()
    fill(opened(directory), 5)
    world.kill()
    assert len(contents(opened(world.start()))) == 5


async def test_nothing_begins_anew_before_all_files_of_logs_that_are_gone_are_renamed() -> None:
    """Several wait for that, as there are several openers; and another log goes while they do."""
    world = World()
    directory = world.start()
    first, second = HeldUp(directory), HeldUp(directory)

    async def rename(log: PartitionLog, worker: HeldUp) -> None:
        with suppress(FileNotFoundError):  # its directory has another name by then
            await log.rename_dropped(worker)

    async with trio.open_nursery() as nursery:
        for partition, worker in enumerate((first, second)):
            log = await filled(directory, 10, partition)
            log.advance_start(9)
            assert log.drop(10)
            nursery.start_soon(rename, log, worker)
            await worker.is_renaming.wait()
        directory.remove("orders", 0)
        done: list[int] = []

        async def wait(number: int) -> None:
            await directory.forget_removed()
            done.append(number)

        nursery.start_soon(wait, 1)
        nursery.start_soon(wait, 2)
        await wait_all_tasks_blocked()
        directory.remove("orders", 1)
        first.gate.set()
        await wait_all_tasks_blocked()
        assert not done
        second.gate.set()
    assert sorted(done) == [1, 2]
    await directory.close()


async def test_a_clean_stop_right_after_a_refused_rename_is_understood() -> None:
    world = World()
    directory = world.start()
    log = await filled(directory, 10)
    world.clock.now_ms += 2 * HOUR_MS
    world.disk.fail("rename", "*.log", nth=3, times=100)
    await directory.retainer.apply()
    await directory.close()
    world.disk.heal()
    again = world.start()
    log = opened(again)
    assert log.start_offset == 9 and len(contents(log)) == 1
    await again.retainer.apply()
    assert log.segments[0].base_offset == 9
    await again.close()


async def test_the_first_look_comes_soon_and_the_data_clock_counts(autojump_clock: MockClock) -> None:
    world = World()
    directory = world.start()
    log = await filled(directory, 3)
    world.clock.now_ms += 2 * HOUR_MS
    async with trio.open_nursery() as nursery:
        await nursery.start(directory.run)
        await trio.sleep(retainer.FIRST_SECONDS - 1)
        assert log.start_offset == 0
        await trio.sleep(2)
        assert log.start_offset == 2, "the third was not closed before"
        await trio.sleep(290)
        assert log.start_offset == 2, "five minutes have not passed"
        await trio.sleep(20)
        assert log.start_offset == 3
        nursery.cancel_scope.cancel()


async def test_producers_however_many_are_forgotten_in_turns(autojump_clock: MockClock) -> None:
    world, meter = metered()
    directory = world.start()
    log = opened(directory)
    for producer in range(30_000):
        log.producers.update(read_header(batch(producer=producer, sequence=0)), producer, world.clock.now_ms)
    world.clock.now_ms += directory.config.get_int("producer.id.expiration.ms")
    async with trio.open_nursery() as nursery:
        await nursery.start(directory.run)
        with meter.running():
            await trio.sleep(301)
        nursery.cancel_scope.cancel()
    assert not log.producers.by_id
    assert meter.worst <= LINES_MAX / 2, meter.report()
