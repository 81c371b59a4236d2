"""Deletion of old segments (L8), DeleteRecords, what readers see meanwhile."""

from __future__ import annotations

import pytest

from kafka_wire.errors import ErrorCode, KafkaError
from kbroker.config.keys import LONG_MAX
from kbroker.log import log as log_module
from kbroker.log.log import PartitionLog
from kbroker.log.recovery import Crash
from kbroker.testing.disk import MemoryDisk
from tests.log.tools import (
    NOW,
    Worker,
    append,
    apply_retention,
    at_once,
    contents,
    fill,
    make_durable,
    new_disk,
    open_log,
)

LATER = NOW + 10_000


def ten_segments(disk: MemoryDisk | None = None, **config: int | str) -> PartitionLog:
    """Segments of two records, a second apart."""
    log = open_log(disk or new_disk(), segment_bytes=400, **config)
    for number in range(20):
        append(log, b"x" * 100, at=NOW + number // 2 * 1000)
    assert len(log.segments) == 10
    make_durable(log)
    return log


def test_by_time() -> None:
    log = ten_segments(retention_ms=4500)
    assert apply_retention(log, NOW + 7000, 20) == 3
    assert (log.start_offset, contents(log)[0][0]) == (6, 6)
    assert apply_retention(log, NOW + 7000, 20) == 0
    with pytest.raises(KafkaError) as caught:
        log.read(5, 100, 20)
    assert caught.value.code is ErrorCode.OFFSET_OUT_OF_RANGE


def test_by_size() -> None:
    log = ten_segments(retention_bytes=1200, retention_ms=-1)
    apply_retention(log, LATER, 20)
    assert 1200 <= log.size < 1200 + 400 and log.size == sum(segment.size for segment in log.segments)


def test_a_turn_drops_so_many_and_says_that_there_are_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_module, "DROPPED_AT_ONCE", 30)
    monkeypatch.setattr(log_module, "RENAMED_AT_ONCE", 7)
    log = open_log(new_disk(), segment_bytes=100, retention_ms=1)
    fill(log, 70)
    make_durable(log)
    deleted = []
    deleted.append(apply_retention(log, NOW + 10**6, log.end.value))
    while count := log.drop(log.end.value):
        deleted.append(count)
    at_once(log.rename_dropped)
    assert deleted == [30, 30, 10]
    assert log.start_offset == log.end.value == 70
    assert len([path for path in log.take_deleted() if path.endswith(".log.deleted")]) == 70


def test_all_of_it_by_time_leaves_an_empty_segment_at_the_end() -> None:
    disk = new_disk()
    log = ten_segments(disk, retention_ms=1)
    assert apply_retention(log, NOW + 10**6, 20) == 10
    assert (log.start_offset, log.end.value, log.size, contents(log)) == (20, 20, 0, [])
    assert append(log).base_offset == 20
    disk.kill()
    assert open_log(disk, Crash.PROCESS).start_offset == 20


@pytest.mark.parametrize("bound", [0, 1, 2, 3, 10, 19])
def test_L8_never_at_or_above_the_high_watermark(bound: int) -> None:
    log = ten_segments(retention_ms=1, retention_bytes=0)
    apply_retention(log, NOW + 10**6, bound)
    assert log.start_offset == bound - bound % 2


@pytest.mark.parametrize("held_from", [0, 1, 4, 5])
def test_what_somebody_holds_stays_however_old_or_below_the_start(held_from: int) -> None:
    log = ten_segments(retention_ms=1, retention_bytes=0)
    log.held_from = held_from
    log.advance_start(20)
    apply_retention(log, NOW + 10**6, 20)
    assert log.segments[0].base_offset == held_from - held_from % 2
    log.held_from = LONG_MAX
    apply_retention(log, NOW + 10**6, 20)
    assert log.segments[0].base_offset == 20


def test_who_holds_what_is_gone_already_is_no_trouble() -> None:
    """Who begins to read a log that begins further up, and does not know yet what it needs."""
    log = ten_segments(retention_ms=1, retention_bytes=0)
    apply_retention(log, NOW + 10**6, 10)
    log.held_from = 0
    log.advance_start(14)
    assert log.drop(20) == 0
    log.held_from = LONG_MAX
    assert log.drop(20) == 2


def test_L8_the_log_start_only_rises() -> None:
    log = ten_segments(retention_ms=4500)
    log.advance_start(7)
    log.advance_start(3)
    assert log.start_offset == 7
    assert apply_retention(log, NOW + 4000, 20) == 3, "segments wholly below the log start go"
    assert log.start_offset == 7
    with pytest.raises(KafkaError):
        log.advance_start(21)


def test_compacted_topics_keep_their_age() -> None:
    log = ten_segments(retention_ms=1, cleanup_policy="compact")
    assert apply_retention(log, NOW + 10**6, 20) == 0
    log.advance_start(6)
    assert apply_retention(log, NOW + 10**6, 20) == 3


def test_records_without_timestamps_are_as_old_as_their_file() -> None:
    disk = new_disk()
    disk.volume.now_ms = lambda: NOW
    log = open_log(disk, segment_bytes=400, retention_ms=1000)
    fill(log, 10, at=-1)
    make_durable(log)
    assert apply_retention(log, NOW + 900, 10) == 0
    assert apply_retention(log, NOW + 1100, 10) > 0


def test_reads_under_way_survive_a_deletion() -> None:
    disk = new_disk()
    log = ten_segments(disk, retention_ms=1)
    pieces = log.read(0, 10**6, 20)
    apply_retention(log, NOW + 10**6, 20)
    assert sum(len(piece.read()) for piece in pieces) > 0
    assert all(segment.open_file is None for segment in log.segments[:-1]), "nobody keeps them open but the readers"
    deleted = log.take_deleted()
    assert len([path for path in deleted if path.endswith(".log.deleted")]) == 10
    assert not log.take_deleted()


@pytest.mark.parametrize("refused", [".log", ".index"])
def test_a_refused_deletion_leaves_no_hole_and_is_finished_later(refused: str) -> None:
    disk = new_disk()
    log = open_log(disk, segment_bytes=400, index_interval_bytes=100, retention_ms=1)
    for number in range(20):
        append(log, b"%d" % number + b"x" * 100, at=NOW + number // 2 * 1000)
    make_durable(log)
    disk.fail("rename", f"*{refused}", nth=4)
    log.read(6, 10, 20)  # remembered
    with pytest.raises(OSError):
        apply_retention(log, NOW + 10**6, 20)
    assert (log.start_offset, log.segments[0].base_offset, log.size) == (20, 20, 0)
    assert log.is_renaming and log.has_droppable, "there is more to do"
    left = [int(name[:20]) for name in disk.list_dir("orders-0") if name.endswith(".log")]
    assert left == [*range(6, 21, 2)], "the oldest went first"
    apply_retention(log, NOW + 10**6, 20)
    assert not log.is_renaming
    disk.kill()
    assert contents(again := open_log(disk, Crash.PROCESS)) == [] and len(again.segments) == 1


def test_snapshots_and_epochs_of_deleted_segments_go_too() -> None:
    disk = new_disk()
    log = open_log(disk, segment_bytes=400, retention_ms=1000)
    for number in range(20):
        append(log, b"x" * 100, at=NOW + number * 100, leader_epoch=number // 4)
    make_durable(log)
    apply_retention(log, NOW + 2500, 20)
    start = log.start_offset
    assert log.epochs.entries[0] == (start // 4, start)
    snapshots = [int(name[:20]) for name in disk.list_dir("orders-0") if name.endswith(".snapshot")]
    assert min(snapshots) >= start


async def test_P2_producers_of_deleted_segments_are_known_after_a_power_failure() -> None:
    for seed in range(20):
        disk = new_disk(seed)
        log = open_log(disk, segment_bytes=1000)
        append(log, producer=7, sequence=0)
        await log.flush(Worker())
        fill(log, 20)
        await log.flush_closed(Worker())
        log.advance_start(log.active.base_offset)
        assert apply_retention(log, NOW, log.end.value) > 1
        disk.sync_dir("orders-0")
        log.active.file.sync()
        disk.power_loss()
        again = open_log(disk, Crash.POWER, start_offset=log.start_offset, segment_bytes=1000)
        assert again.start_offset == again.segments[0].base_offset > 0
        assert append(again, producer=7, sequence=0).duplicate, seed


async def test_P2_what_was_flushed_before_it_was_closed_waits_for_its_snapshot() -> None:
    """The only trace of its producers, once it is deleted."""
    disk = new_disk()
    log = open_log(disk, retention_ms=1000)
    append(log, producer=7, sequence=0)
    await log.flush(Worker())
    assert apply_retention(log, NOW + 2000, 1, is_flushed=False) == 0 and len(log.segments) == 2
    await log.flush_closed(Worker())
    assert apply_retention(log, NOW + 2000, 1, is_flushed=False) == 1
    disk.power_loss()
    again = open_log(disk, Crash.POWER, start_offset=1)
    assert append(again, producer=7, sequence=0).duplicate


async def test_P2_what_is_not_durable_yet_is_flushed_first_and_deleted_the_next_time() -> None:
    """So deleting never waits for an fsync: it runs in the event loop."""
    disk, due = new_disk(), list[PartitionLog]()
    log = open_log(disk, segment_bytes=400, retention_ms=1000, on_due=due.append)
    fill(log, 6)
    await log.flush(Worker())
    fill(log, 6)
    disk.volume.trace = lambda what, *event: None if what != "sync" else pytest.fail("synced in the event loop")
    due.clear()
    assert apply_retention(log, NOW + 2000, 12, is_flushed=False) == 2 and log.start_offset == 4
    assert due and not log.active.size, "all of it is old"
    disk.volume.trace = lambda *event: None
    await log.flush_closed(Worker())
    assert apply_retention(log, NOW + 2000, 12, is_flushed=False) == 4
    assert (log.start_offset, log.end.value, log.size) == (12, 12, 0)
