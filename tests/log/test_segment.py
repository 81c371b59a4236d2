"""A segment's indexes: loaded aside while the log goes on, adopted only when they are still right."""

from __future__ import annotations

import pytest

from kbroker.log.errors import CorruptLog
from kbroker.log.segment import Segment
from kbroker.testing.disk import MemoryDisk
from tests.log.tools import contents, fill, new_disk, open_log


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
    log.truncate_to(10)
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


def test_batches_that_do_not_fill_the_file_are_corrupt() -> None:
    disk = new_disk()
    segment = closed_segment(disk, lost="index")
    segment.file.truncate(segment.size // 2)
    with pytest.raises(CorruptLog):
        segment.loading().run()
