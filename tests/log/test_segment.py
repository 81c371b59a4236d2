"""A segment's indexes: loaded aside while the log goes on, adopted only when they are still right."""

from __future__ import annotations

import pytest

from kbroker.log import scan
from kbroker.log.derived.index import ENTRY_SIZE, Indexes
from kbroker.log.errors import CorruptLog
from kbroker.log.log import PartitionLog
from kbroker.log.recovery import Crash
from kbroker.log.segment import Segment
from kbroker.testing.disk import MemoryDisk
from tests.log.tools import (
    NOW,
    Worker,
    answers,
    apply_retention,
    contents,
    cut_to,
    fill,
    make_durable,
    new_disk,
    open_log,
    starts_at,
)


def closed_segment(disk: MemoryDisk, *, lost: str = "nothing") -> Segment:
    """A segment of 20 batches, whose indexes are not in memory."""
    log = open_log(disk, index_interval_bytes=300)
    fill(log, 20)
    log.roll()
    segment = log.segments[0]
    log.release(segment)
    if disk.exists(f"{segment.stem}.{lost}"):
        disk.remove(f"{segment.stem}.{lost}")
    return segment


@pytest.mark.parametrize("lost", ["nothing", "index", "timeindex"])
def test_loading_reads_and_changes_nothing(lost: str) -> None:
    disk = new_disk()
    segment = closed_segment(disk, lost=lost)
    before = {path: disk.read(path) for path in segment.files()}
    loading = segment.loading(300)
    indexes = loading.run()
    assert segment.indexes is None and {path: disk.read(path) for path in segment.files()} == before
    assert segment.adopt(loading, indexes) is indexes is segment.indexes
    assert len(indexes.offsets) > 3 and segment.largest() == (indexes.max_timestamp_ms, indexes.max_timestamp_offset)


def test_loaded_indexes_are_not_adopted_by_a_segment_that_has_others() -> None:
    segment = closed_segment(new_disk())
    loading = segment.loading()
    indexes = loading.run()
    own = segment.load()
    assert segment.adopt(loading, indexes) is own is segment.indexes


def test_indexes_loaded_before_a_truncation_are_not_adopted() -> None:
    disk = new_disk()
    log = open_log(disk, index_interval_bytes=300)
    fill(log, 20)
    segment = log.active
    segment.indexes = None
    loading = segment.loading(300)
    indexes = loading.run()
    size = log.size
    cut_to(log, 10)
    fill(log, 10, size=100, first=10)
    assert log.size == size, "it looks the same"
    segment.indexes = None
    assert segment.adopt(loading, indexes) is not indexes
    assert len(contents(log)) == 20


def test_a_slow_load_survives_the_deletion_of_its_segment() -> None:
    disk = new_disk()
    segment = closed_segment(disk)
    loading = segment.loading(300)
    for path in segment.files():
        disk.rename(path, path + ".deleted")
    segment.close()
    assert len(loading.run().offsets) > 3, "found in the batches"


def test_who_still_looks_into_a_deleted_segment_makes_no_file_of_its_name() -> None:
    """After a restart it would be an empty segment, and the log begin with it."""
    disk = new_disk()
    log = open_log(disk, segment_bytes=1000)
    fill(log, 20)
    segment = log.segments[0]
    log.advance_start(segment.next_offset)
    make_durable(log)
    assert apply_retention(log, NOW, 20) == 1
    for attempt in (segment.load, lambda: segment.position_of(0), lambda: segment.file):
        with pytest.raises(FileNotFoundError):
            attempt()
    disk.kill()
    assert open_log(disk, Crash.PROCESS).start_offset == log.start_offset == segment.next_offset


def test_batches_that_do_not_fill_the_file_are_corrupt() -> None:
    disk = new_disk()
    segment = closed_segment(disk, lost="index")
    segment.file.truncate(segment.size // 2)
    with pytest.raises(CorruptLog):
        segment.loading().run()


class CountingDisk(MemoryDisk):
    """Counts the bytes that are read of index files."""

    def __init__(self) -> None:
        super().__init__()
        self.index_bytes = 0

    def read(self, path: str) -> bytes:
        data = super().read(path)
        self.index_bytes += len(data) * path.endswith("index")
        return data


async def reopened(disk: MemoryDisk, batches: int = 400) -> PartitionLog:
    """A log of one segment with an index entry for each two batches, after a clean stop."""
    log = open_log(disk, index_interval_bytes=100)
    fill(log, batches)
    await log.close(Worker())
    return open_log(disk, index_interval_bytes=100)


async def test_the_first_append_after_a_start_loads_no_index() -> None:
    disk = CountingDisk()
    log = await reopened(disk)
    size = sum(disk.size(path) for path in log.active.files() if path.endswith("index"))
    disk.index_bytes = 0
    fill(log, 20, first=400)
    assert log.active.indexes is None and disk.index_bytes == 0 < 1000 < size
    assert len(contents(log)) == 420 and log.active.indexes is not None, "a lookup does"
    await log.close(Worker())
    log = open_log(disk)
    assert [offset for offset, _ in contents(log)] == list(range(420))


@pytest.mark.parametrize("then", ["close", "roll", "kill", "truncate"])
async def test_an_index_of_which_only_the_end_is_in_memory_is_as_good_as_any(then: str) -> None:
    disks = MemoryDisk(), MemoryDisk()
    for disk, is_whole in zip(disks, (True, False), strict=True):
        log = await reopened(disk)
        if is_whole:
            log.active.load(100)
        fill(log, 50, first=400)
        assert (log.active.indexes is not None) is is_whole
        if then == "close":
            await log.close(Worker())
        elif then == "roll":
            log.roll()
        elif then == "truncate":
            cut_to(log, 425)
            fill(log, 10, first=425)
            await log.close(Worker())
        disk.kill()
        answers(open_log(disk, Crash.PROCESS if then == "kill" else Crash.CLEAN, index_interval_bytes=100))
    one, other = (
        {name: disk.read(f"orders-0/{name}") for name in disk.list_dir("orders-0") if "0000" in name} for disk in disks
    )
    assert one == other


async def test_the_end_of_an_index_and_the_rest_that_a_worker_loaded_meanwhile_fit_together() -> None:
    log = await reopened(MemoryDisk())
    segment = log.active
    loading = segment.loading(100)  # before the first append
    indexes = loading.run()
    fill(log, 50, first=400)
    adopted = segment.adopt(loading, indexes)
    assert adopted is segment.indexes and segment.tail is None and adopted.is_whole
    assert adopted.offsets.content() == _rebuilt(segment).offsets.content()
    assert len(contents(log)) == 450


async def test_the_end_of_an_index_refuses_what_it_cannot_continue() -> None:
    disk = MemoryDisk()
    log = await reopened(disk)
    segment = log.active
    fill(log, 50, first=400)
    disk.remove(segment.stem + ".index")
    loading = segment.loading(7000)  # all of it is found in the batches, with other entries
    indexes = loading.run()
    segment.adopt(loading, indexes)
    assert segment.indexes is not None and segment.indexes.is_whole and len(contents(log)) == 450
    fill(log, 50, first=450)
    log.roll()
    log.release(segment)
    assert len(contents(log)) == 500


async def test_an_index_file_that_shrank_under_its_end_is_not_written_on() -> None:
    disk = MemoryDisk()
    log = await reopened(disk)
    fill(log, 10, first=400)
    disk.open(log.active.stem + ".index").truncate(80)
    log.roll()
    assert not disk.exists(log.segments[0].stem + ".index"), "nobody trusts it"
    log.release(log.segments[0])
    assert len(contents(log)) == 410


def _rebuilt(segment: Segment) -> Indexes:
    fresh = Indexes(segment.stem, segment.base_offset)
    fresh.scan(scan.walk(segment.file, 0, segment.size), 0, segment.base_offset, 100)
    return fresh


@pytest.mark.parametrize("entry", [1, -1])
def test_an_index_that_leads_nowhere_is_made_anew(entry: int, caplog: pytest.LogCaptureFixture) -> None:
    """Entries rise as they should, and one points between two batches: all the same every record is found."""
    disk = new_disk()
    log = open_log(disk, index_interval_bytes=300)
    fill(log, 20)
    right_answers = contents(log)
    log.roll()
    segment = log.segments[0]
    log.release(segment)
    path = f"{segment.stem}.index"
    right = disk.read(path)
    wrong = bytearray(right)
    wrong[len(right) * (entry < 0) + entry * ENTRY_SIZE + ENTRY_SIZE - 1] ^= 1
    disk.write_atomic(path, wrong)
    assert [starts_at(log, offset) for offset in range(20)] == list(range(20))
    assert contents(log) == right_answers
    assert caplog.messages == [f"{segment.stem}.index does not fit to its log: made anew"]
    assert disk.read(path) != bytes(wrong), "the next who loads it finds it right"
    log.release(segment)
    assert contents(log) == right_answers and len(caplog.messages) == 1


def test_a_damaged_segment_is_not_passed_over() -> None:
    """Whoever reads where no batch is learns that; the records of the next segment are not what he asked for."""
    disk = new_disk()
    log = open_log(disk, index_interval_bytes=300)
    fill(log, 20)
    log.roll()
    fill(log, 5)
    segment = log.segments[0]
    at = segment.position_of(12)
    content = bytearray(disk.read(segment.path))
    content[at + 16] ^= 0xFF  # the magic byte
    disk.write_atomic(segment.path, content)
    log.release(segment)
    with pytest.raises(CorruptLog, match=f"no whole batch at {at}"):
        log.read(12, 1000, log.end.value)
    assert log.read(20, 1000, log.end.value)
