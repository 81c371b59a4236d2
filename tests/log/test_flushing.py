"""Group commit: who shares an fsync, when one is due, what a failure means (L2, L3)."""

from __future__ import annotations

import errno
import gc
import os
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from kafka_wire.errors import ErrorCode, KafkaError
from kbroker.env import Buffer, real_disk
from kbroker.env.features import Features
from kbroker.env.real import real_env
from kbroker.log.checkpoints import FSYNC_FAILED
from kbroker.log.errors import LogOffline, LogTruncated
from kbroker.log.log import PartitionLog
from kbroker.log.recovery import Crash
from kbroker.testing.disk import MemoryDisk, MemoryFile
from tests.log.tools import NOW, Worker, append, apply_retention, contents, cut_to, fill, new_disk, open_log

T = TypeVar("T")


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


async def test_a_failed_fsync_leaves_no_descriptor_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason that a log keeps must not keep the files that its flush held. A bad disk fails again and again."""
    log = open_log(real_env(str(tmp_path)).disk)
    append(log)
    number = log.active.file.fileno()
    assert number is not None

    def fail(fd: int, features: Features) -> None:
        raise OSError(errno.EIO, "bad disk")

    monkeypatch.setattr(real_disk, "sync_descriptor", fail)
    gc.disable()
    try:
        with suppress(LogOffline):
            await log.flush(Worker())
        assert log.offline is not None
        log.abandon()
        with pytest.raises(OSError):
            os.fstat(number)
    finally:
        gc.enable()


async def test_a_full_disk_at_the_epoch_file_is_no_failed_fsync() -> None:
    disk, worker = new_disk(), Worker()
    log = open_log(disk)
    disk.fail("write_atomic", "*checkpoint", error=errno.ENOSPC, times=2)
    append(log)  # the batch carries its epoch
    with pytest.raises(KafkaError) as caught:
        await log.flush(worker)
    assert caught.value.code is ErrorCode.KAFKA_STORAGE_ERROR and log.offline is None and log.flushed.value == 0
    await log.flush(worker)
    assert log.flushed.value == 1


class WritersDisk(MemoryDisk):
    """Notes who changes which small file: the event loop, or a worker."""

    def __init__(self) -> None:
        super().__init__()
        self.in_worker = False
        self.writers: dict[str, set[str]] = {}

    def note(self, path: str) -> None:
        self.writers.setdefault(path, set()).add("worker" if self.in_worker else "loop")

    def write_atomic(self, path: str, data: Buffer, *, sync: bool = True) -> None:
        self.note(path)
        super().write_atomic(path, data, sync=sync)

    def open(self, path: str, *, create: bool = False) -> MemoryFile:
        if create:
            self.note(path)
        return super().open(path, create=create)

    def rename(self, old: str, new: str) -> None:
        self.note(old)
        super().rename(old, new)

    def remove(self, path: str) -> None:
        self.note(path)
        super().remove(path)

    async def offload(self, work: Callable[[], T]) -> T:
        """An offload that runs in place, and says so."""
        await trio.lowlevel.checkpoint()
        self.in_worker = True
        try:
            return work()
        finally:
            self.in_worker = False


async def test_no_file_of_a_log_has_two_writers() -> None:
    """They would share the name of a temporary file: the loser's rename fails, or what it renames is torn."""
    disk = WritersDisk()
    log = open_log(disk, segment_bytes=1000, index_interval_bytes=100)
    for epoch in range(6):
        fill(log, 10, leader_epoch=epoch)
        append(log, leader_epoch=epoch, producer=1, sequence=epoch)
        await log.flush(disk.offload)
        log.truncate_to(log.end.value - 3)
        await log.settle(disk.offload)
        log.advance_start(epoch * 5)
        apply_retention(log, NOW, log.end.value)
        await log.flush_closed(disk.offload)
    await log.close(disk.offload)
    names = {path.rpartition("/")[2].lstrip("0123456789") for path in disk.writers}
    assert names >= {"leader-epoch-checkpoint", "partition.metadata", ".snapshot", ".index", ".timeindex", ".log"}
    assert all(writers == {"loop"} for writers in disk.writers.values()), disk.writers


async def test_L3_epochs_are_durable_before_the_recovery_point_passes_them() -> None:
    disk, worker = new_disk(), Worker()
    log = open_log(disk)
    for epoch in range(3):
        fill(log, 5, leader_epoch=epoch)
    worker.gate = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(log.flush, worker)
        await wait_all_tasks_blocked()
        append(log, leader_epoch=7)  # replaces the file that is about to be synced
        worker.gate.set()
    assert log.flushed.value == 15 and log.epochs.is_unsynced
    await log.flush(worker)
    assert log.flushed.value == 16 and not log.epochs.is_unsynced
    disk.power_loss()
    assert disk.read("orders-0/leader-epoch-checkpoint") == b"0\n4\n0 0\n1 5\n2 10\n7 15\n"


async def test_L5_epochs_that_a_killed_process_left_unsynced_are_durable_before_the_recovery_point_moves() -> None:
    for seed in range(10):
        disk = new_disk(seed)
        log = open_log(disk, segment_bytes=1000)
        fill(log, 5, leader_epoch=0)
        await log.flush(Worker())
        fill(log, 20, leader_epoch=1)
        disk.kill()
        log = open_log(disk, Crash.PROCESS, recovery_point=5, segment_bytes=1000)
        await log.flush(Worker())
        assert log.flushed.value == 25
        disk.power_loss()
        again = open_log(disk, Crash.POWER, recovery_point=25, segment_bytes=1000)
        assert again.epochs.entries == [(0, 0), (1, 5)], seed


async def test_an_idle_file_closed_amid_a_flush_is_synced_all_the_same() -> None:
    log, worker = open_log(new_disk()), Worker()
    worker.gate = trio.Event()
    append(log)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(log.flush, worker)
        await wait_all_tasks_blocked()
        log.release_idle()
        log.release_idle()
        assert log.open_segments() == []
        worker.gate.set()
    assert log.flushed.value == 1 and log.offline is None


async def test_a_truncated_log_does_not_grow_before_that_is_durable() -> None:
    """Nor does the event loop wait for the disk."""
    disk = new_disk()
    log, worker = open_log(disk, segment_bytes=1000), Worker()
    for sequence in range(20):
        append(log, b"x" * 100, producer=1, sequence=sequence)
    await log.flush(worker)
    worker.gate = trio.Event()
    disk.fail("sync", "*")
    disk.fail("sync_dir", "*")
    log.truncate_to(15)
    assert log.end.value == 15 and log.segments[-1].next_offset == 15
    async with trio.open_nursery() as nursery:
        nursery.start_soon(log.settle, worker)
        await wait_all_tasks_blocked()
        for grow in (partial(append, log), log.roll, log.finish):
            with pytest.raises(LogTruncated):
                grow()
        assert apply_retention(log, NOW + 10**12, log.end.value) == 0
        log.truncate_to(13)  # once more, meanwhile
        disk.heal()
        worker.gate.set()
    assert append(log, b"y" * 100, producer=1, sequence=13).base_offset == 13
    assert append(log, b"y" * 100, producer=1, sequence=12).duplicate
    await log.close(worker)


@pytest.mark.parametrize("operation", ["sync", "sync_dir"])
async def test_L2_a_truncation_that_cannot_be_made_durable_is_told_to_the_next_open(operation: str) -> None:
    disk = new_disk()
    log = open_log(disk)
    fill(log, 10)
    log.truncate_to(5)
    disk.fail(operation, "*")
    with pytest.raises(LogOffline):
        await log.settle(Worker())
    assert log.offline is not None and disk.exists("orders-0/" + FSYNC_FAILED)


async def test_a_settling_that_is_cancelled_is_done_again() -> None:
    log, worker = open_log(new_disk()), Worker()
    fill(log, 10)
    log.truncate_to(5)
    worker.gate = trio.Event()
    with trio.CancelScope() as scope:
        scope.cancel()
        await log.settle(worker)
    worker.gate.set()
    assert not log.is_settled
    await log.close(worker)
    assert open_log(log.disk).end.value == 5


async def test_a_truncation_overtakes_a_flush() -> None:
    log, worker = open_log(new_disk()), Worker()
    worker.gate = trio.Event()
    fill(log, 10)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(log.flush, worker)
        await wait_all_tasks_blocked()
        cut_to(log, 4)
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
