"""PartitionLog: appending, reading, looking up, rolling; what it does when the disk refuses."""

from __future__ import annotations

import errno

import pytest
import trio

from kafka_wire import records
from kafka_wire.errors import ErrorCode, KafkaError
from kbroker.log.errors import LogOffline, LogTruncated
from kbroker.log.log import PartitionLog
from kbroker.log.recovery import Crash
from kbroker.turns import do_errands
from tests.log.tools import NOW, Worker, append, batch, contents, cut_to, fill, new_disk, open_log, starts_at


def test_offsets_are_assigned_in_order() -> None:
    log = open_log(new_disk())
    assert append(log, b"a", b"b", b"c", leader_epoch=4)[:2] == (0, 2)
    assert append(log, b"d", leader_epoch=4) == (3, 3, -1, False)
    assert log.end.value == 4
    assert contents(log) == [(0, b"a"), (1, b"b"), (2, b"c"), (3, b"d")]
    header = records.read_header(log.read(0, 1000, 4)[0].read())
    assert header.leader_epoch == 4


def test_a_log_never_written_has_no_files() -> None:
    disk = new_disk()
    log = open_log(disk)
    assert (
        log.read(0, 1000, 0) == []
        and do_errands(log.max_timestamp(0)) is None
        and do_errands(log.first_at_or_after(0, 0)) is None
    )
    assert disk.list_dir("") == []


def test_L1_a_failed_append_leaves_no_trace() -> None:
    disk = new_disk()
    log = open_log(disk)
    append(log, b"a", producer=7, sequence=0)
    before = disk.read("orders-0/00000000000000000000.log")
    disk.fail("append", "*.log", error=errno.ENOSPC)
    with pytest.raises(KafkaError) as caught:
        append(log, b"b", producer=7, sequence=1)
    assert caught.value.code is ErrorCode.KAFKA_STORAGE_ERROR and log.offline is None
    assert disk.read("orders-0/00000000000000000000.log") == before
    assert log.end.value == 1 and log.size == len(before)
    assert append(log, b"b", producer=7, sequence=1).base_offset == 1
    assert contents(log) == [(0, b"a"), (1, b"b")]


@pytest.mark.parametrize("operation", ["append", "open", "truncate", "write_atomic"])
@pytest.mark.parametrize("pattern", ["*index", "*.snapshot", "*checkpoint"])
def test_L1_no_duplicate_offsets_when_files_beside_the_log_fail(operation: str, pattern: str) -> None:
    disk = new_disk()
    log = open_log(disk, segment_bytes=5000, index_interval_bytes=100)
    disk.fail(operation, "orders-0/" + pattern, times=10**6)
    fill(log, 200)
    assert [offset for offset, _ in contents(log)] == list(range(200))
    disk.heal()
    fill(log, 200, first=200)
    expected = contents(log)
    assert [offset for offset, _ in expected] == list(range(400))
    disk.kill()
    assert contents(open_log(disk, Crash.PROCESS, segment_bytes=5000)) == expected


def test_L2_after_a_write_error_no_append_until_reopened() -> None:
    disk = new_disk()
    log = open_log(disk)
    fill(log, 3)
    disk.fail("append", "*.log")
    with pytest.raises(LogOffline):
        append(log, b"lost")
    for attempt in (lambda: append(log, b"later"), lambda: log.read(0, 100, 3)):
        with pytest.raises(LogOffline):
            attempt()
    with pytest.raises(LogOffline):
        log.end.check()
    again = open_log(disk, Crash.ERROR)
    assert append(again, b"later").base_offset == 3


def test_L2_a_log_that_cannot_be_cut_back_is_offline_even_when_the_disk_was_only_full() -> None:
    disk = new_disk()
    log = open_log(disk)
    fill(log, 3)
    disk.fail("append", "*.log", error=errno.ENOSPC)
    disk.fail("truncate", "*.log")
    with pytest.raises(LogOffline):
        append(log, b"lost")
    assert log.offline is not None
    disk.kill()
    again = open_log(disk, Crash.PROCESS)
    assert again.end.value == 3 and append(again, b"later").base_offset == 3


def test_an_offline_log_remembers_its_reason_and_not_who_was_told() -> None:
    disk = new_disk()
    log = open_log(disk)
    append(log)
    log.fail(LogOffline("fsync failed"))
    for attempt in [lambda: append(log), lambda: log.read(0, 100, 1), log.finish] * 3:
        with pytest.raises(LogOffline, match="fsync failed") as caught:
            attempt()
    assert len(caught.traceback) <= 4


async def test_a_shortage_of_descriptors_is_answered_and_forgotten() -> None:
    disk = new_disk()
    log = open_log(disk)
    fill(log, 3)
    log.release_idle()
    log.release_idle()
    assert log.open_segments() == []
    disk.fail("open", "*.log", times=3, error=errno.EMFILE)
    with pytest.raises(KafkaError):
        append(log, b"a")
    with pytest.raises(OSError):
        log.read(0, 100, 3)
    with pytest.raises(KafkaError):
        await log.flush(Worker())
    assert log.offline is None
    assert append(log, b"a").base_offset == 3 and len(contents(log)) == 4
    await log.flush(Worker())
    assert log.flushed.value == 4


async def test_a_full_disk_refuses_appends_serves_reads_and_goes_on_without_restart() -> None:
    disk = new_disk()
    log = open_log(disk, segment_bytes=3000)
    fill(log, 10)
    disk.capacity = disk.used + 250
    refused = 0
    for _ in range(20):
        try:
            append(log, b"y" * 100)
        except KafkaError as error:
            assert error.code is ErrorCode.KAFKA_STORAGE_ERROR
            refused += 1
    assert refused >= 18
    end = log.end.value
    assert [offset for offset, _ in contents(log)] == list(range(end))
    disk.capacity = 1 << 40
    fill(log, 50)
    await log.flush(Worker())
    assert [offset for offset, _ in contents(log)] == list(range(end + 50)) and log.flushed.value == end + 50
    disk.power_loss()
    again = open_log(disk, Crash.POWER, recovery_point=end + 50)
    assert again.end.value == end + 50


def test_L7_a_read_stops_at_its_bound() -> None:
    log = open_log(new_disk(), segment_bytes=2000, index_interval_bytes=200)
    for number in range(60):
        append(log, b"%d" % number, b"and one more")
    for bound in (2, 40, 100, 118, 120):
        assert [offset for offset, _ in contents(log, bound)] == list(range(bound))
        for offset in range(0, bound, 7):
            pieces = log.read(offset, 10**6, bound)
            last = [header for piece in pieces for _, header in records.headers(piece.read())][-1]
            assert last.next_offset <= bound
        assert log.read(bound, 1000, bound) == []


def test_a_slow_reader_loses_nothing_when_its_file_is_given_up() -> None:
    log = open_log(new_disk(), segment_bytes=1000)
    fill(log, 20)
    expected = contents(log)
    pieces = log.read(0, 10**6, 20)
    log.release_idle()
    log.release_idle()
    assert log.open_segments() == []
    data = b"".join(piece.read() for piece in pieces)
    assert len(data) == log.size and contents(log) == expected


def test_the_files_used_least_recently_can_be_told_and_given_up() -> None:
    log = open_log(new_disk(), segment_bytes=1000)
    fill(log, 40)
    log.read(12, 1, 40)
    log.read(3, 1, 40)
    by_use = sorted(log.open_segments(), key=lambda segment: segment.used)
    assert by_use[-1] is log.segments[0] and by_use[-2].base_offset <= 12 < by_use[-2].next_offset
    for segment in by_use[:-2]:
        log.release(segment)
    assert log.open_segments() == sorted(by_use[-2:], key=lambda segment: segment.base_offset)
    append(log)
    assert log.active in log.open_segments() and len(contents(log)) == 41


def test_L7_a_slice_taken_before_an_append_does_not_grow() -> None:
    log = open_log(new_disk())
    fill(log, 3)
    (piece,) = log.read(0, 10**6, 3)
    before = piece.read()
    fill(log, 3)
    assert piece.read() == before


def test_reads_outside_the_log() -> None:
    log = open_log(new_disk())
    fill(log, 5)
    log.advance_start(2)
    for offset in (0, 1, 6, -1, 2**62):
        with pytest.raises(KafkaError) as caught:
            log.read(offset, 100, 5)
        assert caught.value.code is ErrorCode.OFFSET_OUT_OF_RANGE
    assert log.read(5, 100, 5) == [] and log.read(4, 100, 3) == [] and log.read(5, 100, 3) == []


def test_a_read_starts_with_the_batch_that_holds_the_offset_and_ends_between_batches() -> None:
    log = open_log(new_disk(), index_interval_bytes=500, segment_bytes=20_000)
    bases = []
    for number in range(300):
        values = [b"v" * (number * 37 % 400)] * (number % 4 + 1)
        bases.append(append(log, *values).base_offset)
    end = log.end.value
    for offset in range(0, end, 11):
        assert starts_at(log, offset) == max(base for base in bases if base <= offset)
        for size in (0, 1, 500, 3000, 50_000):
            data = b"".join(piece.read() for piece in log.read(offset, size, end))
            headers = [header for _, header in records.headers(data)]
            assert sum(header.size for header in headers) == len(data)
            assert len(data) <= size or len(headers) == 1


def test_reading_on_where_the_last_read_ended_looks_into_no_file() -> None:
    """What was appended since the start is known in memory: the slices alone are read, when they are sent."""
    disk = new_disk()
    log = open_log(disk, index_interval_bytes=500)
    ends = []
    for number in range(300):
        append(log, b"x" * (number % 50))
        ends.append(log.size)
    read = sum(map(len, log.read(0, 3000, 300)))
    disk.fail("pread", "*", times=10**6)
    reads = 1
    while read < log.size - 3000:
        read += sum(map(len, log.read(ends.index(read) + 1, 3000, 300)))
        reads += 1
    assert reads > 5


def test_the_first_batch_is_served_whole_unless_others_were_served_before() -> None:
    log = open_log(new_disk())
    append(log, b"x" * 5000)
    append(log, b"y" * 5000)
    (piece,) = log.read(0, 100, 2)
    assert len(piece) > 5000
    assert log.read(0, 100, 2, at_least_one=False) == []


def test_a_large_read_crosses_segments() -> None:
    log = open_log(new_disk(), segment_bytes=1000)
    fill(log, 40)
    assert len(log.segments) > 4
    pieces = log.read(0, 10**6, 40)
    assert len(pieces) == len(log.segments) and sum(map(len, pieces)) == log.size


@pytest.mark.parametrize("config, rolls", [({"segment_bytes": 1000}, 12), ({"segment_index_bytes": 16}, 20)])
def test_a_segment_rolls_when_it_or_its_index_is_full(config: dict[str, int], rolls: int) -> None:
    log = open_log(new_disk(), index_interval_bytes=100, **config)
    fill(log, 60)
    assert len(log.segments) == rolls
    assert all(segment.size <= 1000 for segment in log.segments) or "segment_bytes" not in config


def test_a_segment_rolls_by_the_age_of_its_first_record() -> None:
    log = open_log(new_disk(), segment_ms=1000)
    append(log, at=NOW)
    append(log, at=NOW + 1000)
    assert len(log.segments) == 1
    append(log, at=NOW + 1001)
    assert [segment.base_offset for segment in log.segments] == [0, 2]
    append(log, at=-1, now=NOW + 2001)  # no timestamp: the clock counts
    assert len(log.segments) == 2
    append(log, at=-1, now=NOW + 2002)
    assert len(log.segments) == 3


def test_jitter_makes_a_segment_roll_earlier_and_always_at_the_same_age() -> None:
    disk = new_disk()
    ages = set()
    for _ in range(3):
        log = open_log(disk, Crash.PROCESS, segment_ms=10_000, segment_jitter_ms=5_000)
        cut_to(log, 0)
        append(log, at=NOW)
        age_ms = next(age_ms for age_ms in range(4_000, 11_000) if _rolls_at(log, age_ms))
        ages.add(age_ms)
        disk.kill()
    assert len(ages) == 1 and 5_000 < ages.pop() <= 10_001


def _rolls_at(log: PartitionLog, age_ms: int) -> bool:
    header = records.read_header(batch(at=NOW + age_ms))
    return log.active.is_full(log.config, header, log.end.value, NOW)


def test_a_batch_larger_than_a_segment_gets_one_of_its_own() -> None:
    log = open_log(new_disk(), segment_bytes=500)
    for size in (10, 5000, 10):
        append(log, b"z" * size)
    assert [segment.base_offset for segment in log.segments] == [0, 1, 2]


def test_lookup_by_time_finds_the_record_inside_its_batch() -> None:
    log = open_log(new_disk(), index_interval_bytes=200, segment_bytes=2000)
    for first in range(0, 200, 4):
        log.append(
            records.build_batch([(NOW + first + n, None, b"v" * 20) for n in range(4)]), leader_epoch=3, now_ms=NOW
        )
    for number in range(0, 200, 3):
        assert do_errands(log.first_at_or_after(NOW + number, 200)) == (NOW + number, number, 3)
    assert do_errands(log.first_at_or_after(0, 200)) == (NOW, 0, 3)
    assert do_errands(log.first_at_or_after(NOW + 200, 200)) is None
    assert do_errands(log.first_at_or_after(NOW + 150, 100)) is None, "L7: not at or above the bound"
    assert do_errands(log.max_timestamp(200)) == (NOW + 199, 199, 3)


def test_lookup_by_time_with_timestamps_out_of_order() -> None:
    log = open_log(new_disk(), index_interval_bytes=100)
    for number, at in enumerate([5, 3, 9, 1, 9, 2, 12, 4] * 5):
        append(log, b"%d" % number, at=NOW + at)
    assert [do_errands(log.first_at_or_after(NOW + at, 40)) for at in (5, 6, 10, 13)] == [
        (NOW + 5, 0, 0), (NOW + 9, 2, 0), (NOW + 12, 6, 0), None,
    ]  # fmt: skip
    assert do_errands(log.max_timestamp(40)) == (NOW + 12, 6, 0)
    log.advance_start(7)
    assert do_errands(log.first_at_or_after(NOW, 40)) == (NOW + 4, 7, 0)


def test_log_append_time_replaces_timestamps_and_is_reported() -> None:
    log = open_log(new_disk(), message_timestamp_type="LogAppendTime")
    assert append(log, at=5, now=NOW + 7) == (0, 0, NOW + 7, False)
    ((header, (record,)),) = list(_batches(log))
    assert header.log_append_time and record.timestamp == NOW + 7


def test_a_batch_is_recompressed_to_the_topics_codec() -> None:
    log = open_log(new_disk(), compression_type="zstd")
    append(log, b"x" * 1000, producer=5, sequence=0)
    append(log, b"y" * 1000, compression=4)
    headers = [header for header, _ in _batches(log)]
    assert [header.compression for header in headers] == [4, 4] and log.size < 400
    assert headers[0].producer_id == 5
    assert append(log, b"x" * 1000, producer=5, sequence=0).duplicate


def test_compacted_topics_want_keys() -> None:
    log = open_log(new_disk(), cleanup_policy="compact")
    append(log, b"fine")
    with pytest.raises(KafkaError) as caught:
        log.append(records.build_batch([(NOW, None, b"no key")]), leader_epoch=0, now_ms=NOW)
    assert caught.value.code is ErrorCode.INVALID_RECORD and log.end.value == 1


def test_P1_a_repeated_batch_is_answered_with_its_first_offsets() -> None:
    log = open_log(new_disk())
    for sequence in range(0, 14, 2):
        append(log, b"a", b"b", producer=9, sequence=sequence)
    for sequence in range(4, 14, 2):
        assert append(log, b"a", b"b", producer=9, sequence=sequence) == (sequence, sequence + 1, -1, True)
    assert log.end.value == 14
    with pytest.raises(KafkaError) as caught:
        append(log, b"a", b"b", producer=9, sequence=2)
    assert caught.value.code is ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER


async def test_appends_wake_whoever_waits_for_the_end() -> None:
    log = open_log(new_disk())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(log.end.wait_past, 0)
        await trio.testing.wait_all_tasks_blocked()
        append(log, b"a")


async def test_a_truncation_sends_those_who_wait_for_the_end_to_a_new_one() -> None:
    log = open_log(new_disk())
    fill(log, 10)
    await log.flush(Worker())
    old_end, old_flushed, bell = log.end, log.flushed, trio.Event()
    old_end.attach(bell)
    met: list[int] = []

    async def wait_past(offset: int) -> None:
        while True:
            try:
                await log.end.wait_past(offset)
                met.append(offset)
                return
            except LogTruncated:
                continue

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait_past, 10)
        nursery.start_soon(wait_past, 11)
        await trio.testing.wait_all_tasks_blocked()
        cut_to(log, 4)
        assert (log.end.value, log.flushed.value) == (4, 4) and bell.is_set()
        assert (old_end.value, old_flushed.value) == (10, 10), "a watermark never goes back"
        with pytest.raises(LogTruncated):
            old_end.check()
        fill(log, 6)
        await trio.testing.wait_all_tasks_blocked()
        assert met == [], "the record that the old log end had passed is not the one that is there now"
        fill(log, 1)
        await trio.testing.wait_all_tasks_blocked()
        assert met == [10]
        fill(log, 1)
    assert met == [10, 11]


@pytest.mark.parametrize("operation", ["truncate", "remove", "rename", "sync", "sync_dir"])
def test_L2_a_truncation_that_the_disk_refuses_takes_the_log_offline(operation: str) -> None:
    disk = new_disk()
    log = open_log(disk, segment_bytes=1000)
    fill(log, 20)
    disk.fail(operation, "*")
    with pytest.raises(LogOffline):
        cut_to(log, 5)
    assert log.offline is not None
    disk.heal()
    disk.kill()
    again = open_log(disk, Crash.ERROR)
    assert contents(again) == [(number, b"%d:" % number + b"x" * 100) for number in range(again.end.value)]


def test_the_callers_buffer_may_be_a_view() -> None:
    log = open_log(new_disk())
    frame = bytearray(b"before" + batch(b"a") + b"after")
    log.append(memoryview(frame)[6:-5], leader_epoch=2, now_ms=NOW)
    assert contents(log) == [(0, b"a")]


def _batches(log):  # type: ignore[no-untyped-def]
    from tests.log.tools import batches

    return batches(b"".join(piece.read() for piece in log.read(0, 10**6, log.end.value)))
