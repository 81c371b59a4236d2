"""Finding records by time: the right one, in bounded steps, with the disk and decompression left to workers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from kafka_wire import compression as codecs
from kbroker.log.content import lookup
from kbroker.log.content.lookup import INFLATED_BYTES_MAX, RECORDS_AT_ONCE, Found
from kbroker.log.errors import LogOffline
from kbroker.log.log import PartitionLog
from kbroker.testing.disk import MemoryDisk
from kbroker.turns import Errands, do_errands
from tests.log.content.odd_batches import batch_of, record
from tests.log.tools import NOW, append, apply_retention, new_disk, open_log

CODECS = range(5)


def log_of_batches(count: int, codec: int, batches: int = 1, **config: Any) -> PartitionLog:
    """Batches of count records, a millisecond apart; nobody looked into them when they came."""
    log = open_log(new_disk(), kbroker_produce_validate="header", **config)
    for n in range(batches):
        payload = b"".join(record(k, k) for k in range(count))
        first = NOW + n * count
        batch = batch_of(payload, count, codec, base=first, latest=first + count - 1)
        log.append(batch, leader_epoch=3, now_ms=NOW)
    return log


class Steps:
    """Drives a lookup, and counts what it does between two pauses and what it sends for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.records = 0  # read
        self.longest = 0  # run of them without a pause
        self.errands = 0
        self._since = 0
        real = lookup.stamps

        def counted(*args: Any) -> Any:
            for stamp in real(*args):
                self.records += 1
                self._since += 1
                self.longest = max(self.longest, self._since)
                yield stamp

        monkeypatch.setattr(lookup, "stamps", counted)

    def drive(self, work: Errands[Found | None], between: Callable[[], None] = lambda: None) -> Found | None:
        result = None
        while True:
            try:
                errand = work.send(result)
            except StopIteration as stop:
                return stop.value  # type: ignore[no-any-return]
            self._since = 0
            between()
            result = None
            if errand is not None:
                self.errands += 1
                result = errand()


@pytest.mark.parametrize("codec", CODECS)
def test_a_batch_of_many_records_is_read_in_steps_and_no_further_than_needed(
    codec: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 20_000
    log = log_of_batches(count, codec, batches=3)
    for wanted in (count, count + 700, 3 * count - 1):
        steps = Steps(monkeypatch)
        assert steps.drive(log.first_at_or_after(NOW + wanted, 3 * count)) == (NOW + wanted, wanted, 3)
        assert steps.records == wanted % count + 1
        assert steps.longest <= RECORDS_AT_ONCE
        assert steps.errands == 1, "a worker reads and decompresses"
        monkeypatch.undo()
    steps = Steps(monkeypatch)
    assert steps.drive(log.max_timestamp(3 * count)) == (NOW + 3 * count - 1, 3 * count - 1, 3)
    assert steps.longest <= RECORDS_AT_ONCE


@pytest.mark.parametrize("codec", CODECS)
def test_small_batches_in_memory_need_no_worker(codec: int, monkeypatch: pytest.MonkeyPatch) -> None:
    log = log_of_batches(20, codec, batches=10)
    steps = Steps(monkeypatch)
    assert steps.drive(log.first_at_or_after(NOW + 150, 200)) == (NOW + 150, 150, 3)
    assert steps.errands == 0


@pytest.mark.parametrize("codec", CODECS)
def test_what_is_not_in_memory_is_an_errand(codec: int, monkeypatch: pytest.MonkeyPatch) -> None:
    log = log_of_batches(20, codec, batches=40, segment_bytes=2000, index_interval_bytes=1)
    disk = log.disk
    assert isinstance(disk, MemoryDisk)
    for wanted in range(0, 800, 37):
        for segment in log.segments:
            segment.release()
        disk.evict()
        steps = Steps(monkeypatch)
        found = steps.drive(log.first_at_or_after(NOW + wanted, 800), between=disk.evict)
        assert found == (NOW + wanted, wanted, 3) and steps.errands >= 1
        monkeypatch.undo()


@pytest.mark.parametrize("codec", CODECS)
def test_of_what_is_no_batch_the_header_is_believed(codec: int) -> None:
    log = open_log(new_disk(), kbroker_produce_validate="header")
    payload = record(0, 0) + b"\x10\x00" + 4 * b"\xff"  # the last is cut short
    log.append(batch_of(payload, 2, codec, latest=NOW + 5), leader_epoch=3, now_ms=NOW)
    append(log, at=NOW + 20, leader_epoch=3)
    assert do_errands(log.first_at_or_after(NOW, 3)) == (NOW, 0, 3)
    assert do_errands(log.first_at_or_after(NOW + 5, 3)) == (NOW + 5, 0, 3)
    assert do_errands(log.first_at_or_after(NOW + 6, 3)) == (NOW + 20, 2, 3)


@pytest.mark.parametrize("codec", [codecs.GZIP, codecs.ZSTD])
def test_a_batch_that_would_take_too_much_memory_is_not_unpacked(codec: int) -> None:
    log = open_log(new_disk(), kbroker_produce_validate="header", max_message_bytes=10**6)
    payload = record(0, 0) + record(5, 1, value=bytes(INFLATED_BYTES_MAX))
    log.append(batch_of(payload, 2, codec, latest=NOW + 5), leader_epoch=3, now_ms=NOW)
    assert do_errands(log.first_at_or_after(NOW + 3, 2)) == (NOW + 5, 0, 3)


def test_a_header_that_promises_too_much_is_passed_over() -> None:
    log = open_log(new_disk(), kbroker_produce_validate="header")
    log.append(batch_of(record(0, 0), 1, latest=NOW + 50), leader_epoch=3, now_ms=NOW)
    append(log, at=NOW + 60, leader_epoch=3)
    assert do_errands(log.first_at_or_after(NOW + 40, 2)) == (NOW + 60, 1, 3)


def test_of_equally_new_records_the_first_is_found() -> None:
    log = open_log(new_disk())
    payload = record(0, 0) + record(7, 1) + record(7, 2) + record(3, 3)
    log.append(batch_of(payload, 4, latest=NOW + 7), leader_epoch=0, now_ms=NOW)
    append(log, at=NOW + 7)
    assert do_errands(log.max_timestamp(5)) == (NOW + 7, 1, 0)
    log.advance_start(2)
    assert do_errands(log.max_timestamp(5)) == (NOW + 7, 2, 0)  # the one before it is gone
    assert do_errands(log.first_at_or_after(NOW + 7, 5)) == (NOW + 7, 2, 0)
    log.advance_start(3)
    assert do_errands(log.max_timestamp(5)) is None


def test_log_append_time_is_every_records_time() -> None:
    log = open_log(new_disk(), message_timestamp_type="LogAppendTime")
    for n in range(3):
        append(log, b"a", b"b", at=NOW - 1000, now=NOW + n)
    assert do_errands(log.first_at_or_after(NOW + 1, 6)) == (NOW + 1, 2, 0)
    assert do_errands(log.max_timestamp(6)) == (NOW + 2, 4, 0)
    log.advance_start(3)
    assert do_errands(log.first_at_or_after(NOW - 2000, 6)) == (NOW + 1, 3, 0)


def test_a_segment_that_is_deleted_amid_a_lookup_is_passed_over_and_stays_deleted() -> None:
    log = log_of_batches(20, 0, batches=40, segment_bytes=2000, retention_bytes=4000)
    log.flushed.advance(log.end.value)
    for segment in log.segments[:-1]:
        segment.release()
    work = log.first_at_or_after(NOW + 5, 800)
    errand = next(work)
    assert errand is not None
    assert apply_retention(log, NOW, 800) > 0
    for path in log.take_deleted():
        log.disk.remove(path)
    names = log.disk.list_dir(log.directory)
    with pytest.raises(StopIteration) as stopped:
        finish(work, errand)
    assert stopped.value.value.offset == log.start_offset > 0
    assert log.disk.list_dir(log.directory) == names


def finish(work: Errands[Found | None], errand: Any) -> None:
    """Drive to the end, which is raised."""
    while True:
        try:
            result = errand() if errand is not None else None
        except OSError as error:
            errand = work.throw(error)
        else:
            errand = work.send(result)


def test_a_log_that_goes_offline_ends_its_lookups() -> None:
    log = log_of_batches(20, 0, batches=40, segment_bytes=2000)
    work = log.first_at_or_after(NOW + 799, 800)
    next(work)
    log.fail(LogOffline("gone"))
    with pytest.raises(LogOffline):
        finish(work, None)


def test_the_largest_timestamp_where_there_is_none_is_the_first_record() -> None:
    """As Kafka answers. Records that get their time from the log have one, whatever their producer sent."""
    log = open_log(new_disk())
    append(log, b"a", at=-1)
    append(log, b"b", at=-1)
    assert do_errands(log.max_timestamp(2)) == (-1, 0, 0)
    stamped = open_log(new_disk(), message_timestamp_type="LogAppendTime")
    append(stamped, b"a", at=-1)
    assert do_errands(stamped.max_timestamp(1)) == (NOW, 0, 0)
