"""Group commit: who shares an fsync, when one is due, what a failure means (L2, L3)."""

from __future__ import annotations

import errno

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from kafka_wire.errors import ErrorCode, KafkaError
from kbroker.log.errors import LogOffline
from kbroker.log.log import PartitionLog
from tests.log.tools import NOW, Worker, append, contents, fill, new_disk, open_log


async def test_all_who_wait_share_the_next_fsync() -> None:
    log, worker = open_log(new_disk()), Worker()
    worker.gate = trio.Event()
    async with trio.open_nursery() as nursery:
        append(log)
        nursery.start_soon(log.flush, worker)
        await wait_all_tasks_blocked()
        for _ in range(10):
            append(log)
            nursery.start_soon(log.flush, worker)
        await wait_all_tasks_blocked()
        assert worker.calls == 1
        worker.gate.set()
    assert worker.calls == 2 and log.flushed.value == 11


async def test_a_flush_under_way_does_not_vouch_for_later_appends() -> None:
    log, worker = open_log(new_disk()), Worker()
    worker.gate = trio.Event()
    append(log)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(log.flush, worker)
        await wait_all_tasks_blocked()
        append(log)
        worker.gate.set()
        await wait_all_tasks_blocked()
        assert log.flushed.value == 1


async def test_nothing_to_flush_takes_no_worker() -> None:
    log, worker = open_log(new_disk()), Worker()
    await log.flush(worker)
    append(log)
    await log.flush(worker)
    await log.flush(worker)
    assert worker.calls == 1


async def test_a_cancelled_flush_leaves_the_work_to_the_next() -> None:
    log, worker = open_log(new_disk()), Worker()
    worker.gate = trio.Event()
    append(log)
    async with trio.open_nursery() as nursery:
        with trio.CancelScope() as scope:
            nursery.start_soon(_cancel_when_blocked, scope)
            await log.flush(worker)
        assert scope.cancelled_caught and log.flushed.value == 0
        worker.gate.set()
        await log.flush(worker)
    assert log.flushed.value == 1


async def _cancel_when_blocked(scope: trio.CancelScope) -> None:
    await wait_all_tasks_blocked()
    scope.cancel()


async def test_L2_after_a_failed_fsync_nobody_is_told_of_success() -> None:
    disk, worker = new_disk(), Worker()
    log = open_log(disk)
    append(log)
    disk.fail("sync", "*.log")
    failures = []

    async def wait() -> None:
        with pytest.raises(LogOffline):
            await log.flush(worker)
        failures.append(1)

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(wait)
    assert len(failures) == 3 and log.flushed.value == 0
    assert worker.calls == 1, "never tried again"
    with pytest.raises(LogOffline):
        append(log)


async def test_a_full_disk_at_the_epoch_file_is_no_failed_fsync() -> None:
    disk, worker = new_disk(), Worker()
    log = open_log(disk)
    append(log)
    disk.fail("write_atomic", "*checkpoint", error=errno.ENOSPC)
    with pytest.raises(KafkaError) as caught:
        await log.flush(worker)
    assert caught.value.code is ErrorCode.KAFKA_STORAGE_ERROR and log.offline is None and log.flushed.value == 0
    await log.flush(worker)
    assert log.flushed.value == 1


async def test_a_truncation_overtakes_a_flush() -> None:
    log, worker = open_log(new_disk()), Worker()
    worker.gate = trio.Event()
    fill(log, 10)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(log.flush, worker)
        await wait_all_tasks_blocked()
        log.truncate_to(4)
        fill(log, 6)
        worker.gate.set()
    assert log.flushed.value <= log.end.value == 10
    await log.flush(worker)
    assert log.flushed.value == 10


@pytest.mark.parametrize(
    "config, appends, later_ms, due",
    [
        ({}, 100, 10**9, False),
        ({"flush_messages": 1}, 0, 0, False),
        ({"flush_messages": 1}, 1, 0, True),
        ({"flush_messages": 5}, 4, 0, False),
        ({"flush_messages": 5}, 5, 0, True),
        ({"flush_ms": 1000}, 5, 999, False),
        ({"flush_ms": 1000}, 5, 1000, True),
    ],
)
async def test_when_a_flush_is_due(config: dict[str, int], appends: int, later_ms: int, due: bool) -> None:
    log = open_log(new_disk(), **config)
    fill(log, appends)
    assert log.needs_flush(NOW + later_ms) is due
    await log.flush(Worker())
    assert not log.needs_flush(NOW + 10**12)


async def test_flushed_segments_are_not_flushed_again() -> None:
    disk, worker = new_disk(), Worker()
    log = open_log(disk, segment_bytes=1000)
    synced: list[str] = []
    disk.volume.trace = lambda what, path="", *rest: synced.append(path) if what == "sync" else None
    fill(log, 30)
    await log.flush(worker)
    first = len(synced)
    append(log)
    synced.clear()
    await log.flush(worker)
    assert len(synced) <= 4 < first


async def test_closing_makes_everything_durable() -> None:
    disk = new_disk()
    log: PartitionLog = open_log(disk, segment_bytes=1000)
    fill(log, 30)
    await log.close(Worker())
    assert log.offline is not None
    disk.power_loss()
    assert len(contents(open_log(disk))) == 30
