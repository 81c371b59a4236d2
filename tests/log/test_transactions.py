"""A log with transactions: what was aborted is found, across segments, restarts and lost files (T1, L1, L5, P2)."""

from __future__ import annotations

import errno
import itertools
from collections.abc import Iterator

import pytest
import trio

from kafka_wire.errors import ErrorCode, KafkaError
from kafka_wire.records import BatchHeader, read_header
from kbroker.env import Disk
from kbroker.log import rediscovery
from kbroker.log.cold import NotInMemory
from kbroker.log.derived.aborted import ENTRY_SIZE, read_ranges
from kbroker.log.derived.producers import UNVERIFIED
from kbroker.log.derived.transactions import ALL_STABLE, Marker
from kbroker.log.errors import LogOffline
from kbroker.log.log import PartitionLog
from kbroker.log.recovery import Crash
from tests.log.derived.test_aborted import named
from tests.log.tools import NOW, Worker, answers, append, apply_retention, batch, make_durable, new_disk, open_log

CONFIG = {"segment_bytes": 600, "index_interval_bytes": 100}


def write(log: PartitionLog, producer: int, sequence: int, *, epoch: int = 0, leader_epoch: int = 0) -> int:
    """A batch of a transaction that is verified."""
    data = batch(b"%d" % log.end.value, producer=producer, epoch=epoch, sequence=sequence, transactional=True)
    return log.append(data, leader_epoch=leader_epoch, now_ms=NOW, guard=UNVERIFIED).base_offset


def mark(log: PartitionLog, producer: int, *, commit: bool, epoch: int = 0, leader_epoch: int = 0) -> int:
    return log.append_marker(Marker(producer, epoch, 0, commit), leader_epoch=leader_epoch, now_ms=NOW).base_offset


class Writer:
    """Transactions in a log, and what a plain list knows of them."""

    def __init__(self, log: PartitionLog) -> None:
        self.log = log
        self.sequences: dict[int, Iterator[int]] = {}
        self.open: dict[int, int] = {}
        self.aborted: list[tuple[int, int, int]] = []  # producer, first offset, marker's

    def write(self, producer: int) -> None:
        sequence = next(self.sequences.setdefault(producer, itertools.count()))
        self.open.setdefault(producer, write(self.log, producer, sequence))

    def end(self, producer: int, *, commit: bool) -> None:
        offset = mark(self.log, producer, commit=commit)
        first = self.open.pop(producer, None)
        if first is not None and not commit:
            self.aborted.append((producer, first, offset))

    def expected(self, offset: int, bound: int) -> list[tuple[int, int]]:
        return [(producer, first) for producer, first, last in self.aborted if last >= offset and first < bound]


def several_segments(disk: Disk) -> Writer:
    """Transactions of three producers that cross each other and the borders of segments."""
    writer = Writer(open_log(disk, **CONFIG))
    for n in range(60):
        writer.write(n % 3)
        if n % 4 == 3:
            writer.end(n % 3, commit=n % 8 == 7)
        if n % 7 == 0:
            append(writer.log, b"plain")
    assert len(writer.log.segments) > 4 and len(writer.aborted) > 5 and writer.open
    return writer


def check(writer: Writer, log: PartitionLog) -> None:
    end = log.end.value
    for offset in range(log.start_offset, end):
        for bound in (offset + 1, offset + 5, offset + 40, end):
            bound = min(bound, end)
            found = named(log.aborted_between(offset, bound))
            assert sorted(found) == sorted(writer.expected(offset, bound)), (offset, bound)


def test_T1_every_aborted_transaction_that_overlaps_a_read_is_named_and_no_other() -> None:
    writer = several_segments(new_disk())
    check(writer, writer.log)


@pytest.mark.parametrize("crash", [None, Crash.PROCESS])
def test_T1_a_read_across_a_border_at_which_nothing_was_open(crash: Crash | None) -> None:
    disk = new_disk()
    writer = Writer(open_log(disk, **CONFIG))
    while len(writer.log.segments) < 3:
        if writer.log.segments[-1].size < 300:
            writer.write(1)
            writer.end(1, commit=False)
        append(writer.log, b"plain")
    assert all(segment.aborted.lowest_open == ALL_STABLE for segment in writer.log.segments[:-1])
    if crash is not None:
        disk.kill()
        writer.log = open_log(disk, crash, **CONFIG)
    check(writer, writer.log)


@pytest.mark.parametrize("crash", [Crash.CLEAN, Crash.PROCESS, Crash.POWER])
def test_T1_the_same_after_a_restart(crash: Crash) -> None:
    disk = new_disk()
    writer = several_segments(disk)
    if crash is Crash.CLEAN:
        trio.run(writer.log.close, Worker())
    else:
        make_durable(writer.log)
        (disk.kill if crash is Crash.PROCESS else disk.power_loss)()
    log = open_log(disk, crash, recovery_point=writer.log.end.value, **CONFIG)
    check(writer, log)
    assert dict(log.producers.transactions.ongoing) == writer.open


@pytest.mark.parametrize("clean", [True, False], ids=["clean", "killed"])
@pytest.mark.parametrize("lost", list(itertools.product([False, True], repeat=3)), ids=str)
def test_L5_any_files_may_be_lost(clean: bool, lost: tuple[bool, bool, bool]) -> None:
    """The same answers, and the same files when the search has made them again."""
    disk = new_disk()
    writer = several_segments(disk)
    before = answers(writer.log)
    if clean:
        trio.run(writer.log.close, Worker())
    disk.kill()
    files = {name: disk.read(f"orders-0/{name}") for name in disk.list_dir("orders-0") if name.endswith(".txnindex")}
    suffixes = [suffix for suffix, is_lost in zip((".txnindex", ".snapshot", "index"), lost, strict=True) if is_lost]
    for name in disk.list_dir("orders-0"):
        if name.endswith(tuple(suffixes)) and suffixes:
            disk.remove(f"orders-0/{name}")
    log = open_log(disk, Crash.PROCESS, **CONFIG)
    check(writer, log)
    assert answers(log) == before
    assert dict(log.producers.transactions.ongoing) == writer.open
    active = f"{log.active.base_offset:020d}.txnindex"
    for name in files:
        if name != active:
            assert disk.read(f"orders-0/{name}") == files[name], name
    writer.log = log
    for producer in range(3):
        writer.end(producer, commit=False)
    check(writer, log)


@pytest.mark.parametrize("damaged", [1, 2, 3])
def test_L5_snapshots_may_be_damaged_too(damaged: int) -> None:
    """Of the segment that is asked about, and of those before it: what is open there is found in the batches before."""
    disk = new_disk()
    writer = several_segments(disk)
    disk.kill()
    log = open_log(disk, Crash.PROCESS, **CONFIG)
    bases = [segment.base_offset for segment in log.segments[5 - damaged : 7]]
    for base in bases:
        disk.write_atomic(f"orders-0/{base:020d}.snapshot", b"nonsense", sync=False)
        if disk.exists(f"orders-0/{base:020d}.txnindex"):
            disk.remove(f"orders-0/{base:020d}.txnindex")
    for offset in range(bases[-2], bases[-1]):
        assert sorted(named(log.aborted_between(offset, offset + 3))) == sorted(writer.expected(offset, offset + 3))


@pytest.mark.parametrize("number", [0, 1, 3, 5])
def test_L5_the_file_of_one_segment_may_be_lost_or_wrong(number: int) -> None:
    disk = new_disk()
    writer = several_segments(disk)
    disk.kill()
    path = writer.log.segments[number].stem + ".txnindex"
    before = disk.read(path) if disk.exists(path) else None
    if number % 2:
        disk.write_atomic(path, b"nonsense", sync=False)
    elif before is not None:
        disk.remove(path)
    log = open_log(disk, Crash.PROCESS, **CONFIG)
    check(writer, log)
    assert disk.read(path) == (before or b"")


def test_searches_that_are_given_up_leave_one_file_of_each_segment_and_a_start_removes_it() -> None:
    disk = new_disk()
    writer = several_segments(disk)
    disk.kill()
    for name in disk.list_dir("orders-0"):
        if name.endswith(".txnindex"):
            disk.remove(f"orders-0/{name}")
    log = open_log(disk, Crash.PROCESS, **CONFIG)
    for _ in range(3):
        with pytest.raises(NotInMemory) as caught:
            log.aborted_between(0, 40, now=True)
        caught.value.work()
    left = [name for name in disk.list_dir("orders-0") if name.endswith(".tmp")]
    assert 0 < len(left) < len(log.segments) and all(name.endswith(".found.tmp") for name in left)
    disk.kill()
    log = open_log(disk, Crash.PROCESS, **CONFIG)
    assert not [name for name in disk.list_dir("orders-0") if name.endswith(".tmp")]
    check(writer, log)
    assert not [name for name in disk.list_dir("orders-0") if name.endswith(".tmp")]


def test_what_is_not_in_memory_is_brought_by_a_worker() -> None:
    disk = new_disk()
    writer = several_segments(disk)
    disk.kill()
    log = open_log(disk, Crash.PROCESS, **CONFIG)
    for _ in range(5):
        try:
            assert named(log.aborted_between(0, 40, now=True)) == writer.expected(0, 40)
            return
        except NotInMemory as lacking:
            lacking.take(lacking.work())
    raise AssertionError("it is never in memory")


def test_a_search_goes_no_further_than_it_has_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading the beginning of a large log does not take a walk through all of it."""
    disk = new_disk()
    log = open_log(disk, **CONFIG)
    for n in range(100):
        write(log, 1, n)
        mark(log, 1, commit=n % 2 == 0)
    disk.kill()
    for name in disk.list_dir("orders-0"):
        if name.endswith(".txnindex"):
            disk.remove(f"orders-0/{name}")
    log = open_log(disk, Crash.PROCESS, **CONFIG)
    assert len(log.segments) > 20
    walked: list[str] = []
    walk = rediscovery._walk
    monkeypatch.setattr(rediscovery, "_walk", lambda twin, *rest: walked.append(twin.stem) or walk(twin, *rest))
    log.aborted_between(0, 3)
    assert walked == [log.segments[0].stem]
    log.aborted_between(0, 3)
    assert len(walked) == 1, "what was found is kept"


def test_a_log_without_transactions_is_not_looked_through() -> None:
    """Its index files say that there are none, also after a kill."""
    disk = new_disk()
    log = open_log(disk, **CONFIG)
    for _ in range(60):
        append(log)
    disk.kill()
    log = open_log(disk, Crash.PROCESS, **CONFIG)
    for segment in log.segments[:-1]:
        assert read_ranges(disk, segment.stem, segment.base_offset) is not None, segment.stem
    assert log.aborted_between(0, 60) == []


def test_a_long_list_is_made_by_a_worker() -> None:
    """A hundred thousand producers who abort at once: each of them has to be named in every fetch until then."""
    log, count = open_log(new_disk()), 3 * rediscovery.AT_ONCE
    for producer in range(count):
        write(log, producer, 0)
    for producer in range(count):
        mark(log, producer, commit=False)
    expected = [(producer, producer) for producer in range(count)]
    assert named(log.aborted_between(0, 5, now=True)) == expected[:5]
    bound = log.end.value
    for _ in range(2):
        with pytest.raises(NotInMemory) as caught:
            log.aborted_between(count, bound, now=True)
        caught.value.take(caught.value.work())
        assert named(log.aborted_between(count, bound, now=True)) == expected
    assert named(log.aborted_between(count, bound)) == expected


def test_what_is_idle_is_released_and_found_again() -> None:
    disk = new_disk()
    writer = several_segments(disk)
    for _ in range(2):
        writer.log.release_idle()
    assert all(segment.aborted.ranges is None for segment in writer.log.segments[:-1])
    check(writer, writer.log)


def test_aborted_transactions_go_with_the_segments_that_hold_their_markers() -> None:
    disk = new_disk()
    writer = several_segments(disk)
    log = writer.log
    make_durable(log)
    log.advance_start(log.segments[2].base_offset)
    apply_retention(log, NOW, log.end.value)
    check(writer, log)
    disk.kill()
    for name in disk.list_dir("orders-0"):
        if name.endswith(".txnindex"):
            disk.remove(f"orders-0/{name}")
    again = open_log(disk, Crash.PROCESS, start_offset=log.start_offset, **CONFIG)
    check(writer, again)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 0.77, 0.9, 1.0])
def test_a_truncation_takes_markers_back(share: float) -> None:
    """What they ended is open again; a file has nothing that would come true with other batches."""
    disk = new_disk()
    writer = several_segments(disk)
    log = writer.log
    target = int(log.end.value * share)
    log.truncate_to(target)
    trio.run(log.settle, Worker())
    writer.aborted = [each for each in writer.aborted if each[2] < target]
    check(writer, log)
    for n in range(20):
        append(log, b"other %d" % n)
    check(writer, log)
    disk.kill()
    check(writer, open_log(disk, Crash.PROCESS, **CONFIG))


# the disk


@pytest.mark.parametrize("released", [False, True])
def test_L1_a_marker_is_appended_though_the_index_cannot_be_written(released: bool) -> None:
    disk = new_disk()
    writer = Writer(open_log(disk, **CONFIG))
    writer.write(1)
    writer.end(1, commit=False)
    writer.write(2)
    if released:
        disk.kill()
        writer.log = open_log(disk, Crash.PROCESS, **CONFIG)
    disk.fail("append", "*.txnindex", error=errno.ENOSPC)
    disk.fail("write_atomic", "*.txnindex", error=errno.ENOSPC)
    writer.end(2, commit=False)
    check(writer, writer.log)
    disk.heal()
    disk.kill()
    check(writer, open_log(disk, Crash.PROCESS, **CONFIG))


def test_L1_a_marker_that_is_not_written_leaves_no_trace_in_the_index() -> None:
    disk = new_disk()
    log = open_log(disk, **CONFIG)
    write(log, 1, 0)
    mark(log, 1, commit=False)
    write(log, 1, 1)
    disk.fail("append", "*.log", error=errno.ENOSPC)
    with pytest.raises(KafkaError) as caught:
        mark(log, 1, commit=False)
    assert caught.value.code is ErrorCode.KAFKA_STORAGE_ERROR and log.offline is None
    assert disk.size(log.active.aborted.path) == ENTRY_SIZE
    assert log.producers.transactions.first_ongoing == 2, "it is still open"
    disk.heal()
    append(log, b"where the marker would be")
    assert mark(log, 1, commit=True) == 4
    assert log.aborted_between(2, 5) == []
    disk.kill()
    assert open_log(disk, Crash.PROCESS, **CONFIG).aborted_between(2, 5) == []


def test_an_index_that_can_be_neither_written_nor_removed_ends_service() -> None:
    disk = new_disk()
    log = open_log(disk, **CONFIG)
    write(log, 1, 0)
    disk.fail("write_atomic", "*.txnindex")
    disk.fail("remove", "*.txnindex")
    with pytest.raises(LogOffline):
        mark(log, 1, commit=False)
    assert log.end.value == 1


@pytest.mark.parametrize("torn", [0, 10, 77])
def test_a_kill_between_the_index_and_the_marker(torn: int) -> None:
    """The entry is there, the marker is not, or is torn: other batches come to stand in its place."""
    disk = new_disk()
    log = open_log(disk, **CONFIG)
    write(log, 1, 0)
    mark(log, 1, commit=False)
    write(log, 1, 1)
    size = log.active.size
    mark(log, 1, commit=False)
    file = disk.open(log.active.path)
    file.truncate(size + torn)
    disk.kill()
    log = open_log(disk, Crash.PROCESS, **CONFIG)
    assert (log.end.value, log.producers.transactions.first_ongoing) == (3, 2)
    append(log, b"where the marker would be")
    mark(log, 1, commit=True)
    assert named(log.aborted_between(0, 5)) == [(1, 0)] and log.aborted_between(2, 5) == []


def test_segments_are_rolled_before_their_list_of_aborts_grows_too_long() -> None:
    log = open_log(new_disk(), segment_index_bytes=10 * ENTRY_SIZE, segment_bytes=1 << 30)
    for n in range(35):
        write(log, 1, n)
        mark(log, 1, commit=False)
    assert [segment.aborted.saved for segment in log.segments] == [10, 10, 10, 5]


def test_markers_bear_the_time_of_the_append_where_batches_do() -> None:
    log = open_log(new_disk(), message_timestamp_type="LogAppendTime")
    done = log.append_marker(Marker(1, 0, 0, True), leader_epoch=0, now_ms=NOW + 7)
    header: BatchHeader = read_header(log.read(0, 1000, 1)[0].read())
    assert done.append_time_ms == NOW + 7 == header.max_timestamp and header.log_append_time
