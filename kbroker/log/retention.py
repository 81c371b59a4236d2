"""Taking segments off a log: the old ones by age, size and log start, the new ones at a truncation.

Files go in two steps: renamed to `<name>.deleted` at once, removed when nobody can be reading them any more. What a
crash leaves between the steps is removed at the next open.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kbroker.log.segment import Segment, file_stem
from kbroker.log.snapshots import snapshot_path

if TYPE_CHECKING:
    from kbroker.log.log import PartitionLog

DELETED = ".deleted"


def apply(log: PartitionLog, now_ms: int, bound: int) -> int:
    """Delete old segments that end at or below bound (L8), oldest first. Returns how many. May raise OSError."""
    doomed = _count_doomed(log, now_ms, bound)
    if doomed == len(log.segments):
        if log.active.size:
            log.roll()
        else:
            doomed -= 1
    if doomed and log.segments[doomed].base_offset > log.flushed.value:
        _sync_snapshot(log, log.segments[doomed].base_offset)
    for _ in range(doomed):
        _bury(log, log.segments[0])
    return doomed


def _sync_snapshot(log: PartitionLog, offset: int) -> None:
    """Make a producer snapshot durable that no flush has covered yet: soon it is the only trace of some producers (P2).

    Blocks, but a segment is seldom deleted before it was flushed.
    """
    path = snapshot_path(log.directory, offset)
    if log.disk.exists(path):
        file = log.disk.open(path)
        try:
            file.sync()
        finally:
            file.close()


def _count_doomed(log: PartitionLog, now_ms: int, bound: int) -> int:
    """Kafka: UnifiedLog.deleteOldSegments."""
    config = log.config
    excess = log.size - config.retention_bytes if config.deletes and config.retention_bytes >= 0 else -1
    oldest_ms = now_ms - config.retention_ms if config.deletes and config.retention_ms >= 0 else None
    for count, segment in enumerate(log.segments):
        if segment.next_offset > bound:
            return count
        is_below_start = segment.next_offset <= log.start_offset and segment is not log.active
        is_excess = excess >= segment.size > 0
        if not is_below_start and not is_excess and not (oldest_ms is not None and _last_ms(segment) < oldest_ms):
            return count
        excess -= segment.size
    return len(log.segments)


def _last_ms(segment: Segment) -> int:
    """The largest timestamp; of records without any, when the file was written."""
    if not segment.size:
        return 2**63 - 1
    largest_ms = segment.largest_timestamp_ms()
    return largest_ms if largest_ms >= 0 else segment.disk.modified_ms(segment.path)


def cut_end(log: PartitionLog, offset: int) -> None:
    """Remove everything at and above offset, durably. May raise OSError: the log must then be reopened."""
    while len(log.segments) > 1 and log.active.base_offset >= offset:
        _bury(log, log.active)
    last = log.active
    if last.base_offset >= offset and last.base_offset > 0:
        log.segments.append(Segment(log.disk, file_stem(log.directory, offset), offset))
        _bury(log, last)
        log.start_offset = offset
        log.disk.sync_dir(log.directory)
        return
    log.size -= last.size
    last.truncate_to(offset, log.config.index_interval_bytes)
    last.is_closed = last.is_synced = False
    log.size += last.size
    last.file.sync()  # else a power failure could mix old batches with those that will be written in their place
    log.disk.sync_dir(log.directory)


def _bury(log: PartitionLog, segment: Segment) -> None:
    """Rename a segment's files and take it off the log."""
    for path in segment.files():
        log.disk.rename(path, path + DELETED)
        log.remains.paths.append(path + DELETED)
    file = segment.detach()
    if file is not None:
        log.remains.files.append(file)
    log.segments.remove(segment)
    log.size -= segment.size
