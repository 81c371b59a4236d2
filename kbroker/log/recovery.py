"""Opening a log: what is on the disk, how much of it can be believed, and repair of the rest.

How much is believed depends on how the last process ended:

    CLEAN    it stopped in order, and noted where the log ended: everything, only the size is looked at
    PROCESS  it was killed, the system ran on: every finished write is there; the last one may be cut short (torn),
             and indexes lag: scan from the last index entry
    POWER    the system went down, or nobody knows: below the recovery point everything is durable; from there on
             the longest prefix of batches with a right CRC is kept (L3), and indexes are made anew
    ERROR    nothing ended, but an operation on the files failed: like POWER, and what is not durable is written anew,
             as after a failed fsync the page cache may hold bytes that it will never write again (L2)

What is wrong *below* the recovery point, or after a mere kill is anything but the last write torn, was damaged later:
that is corruption, and is never cut off (L4). So is a segment that does not end where the next begins, and a log that
ends before what its recovery point or, after a mere kill, its index or a snapshot tells of: files were lost, emptied or
cut short. Indexes, snapshots and the epoch checkpoint may be missing or torn in any combination (L5): they are rebuilt
from the batches.

A batch's base offset and leader epoch lie outside its CRC. A gap between two batches is believed below the recovery
point, and as far as the log has noted that compaction left some; elsewhere the second is wrong like a CRC. So is an
epoch that falls, or is above the cluster's (leader_epoch_max). Should what is durable be above the cluster's, it is the
cluster's metadata that went back: nothing is opened, as new batches could not be told from old ones (R11).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from enum import Enum
from typing import NamedTuple

from kafka_wire.records import BatchHeader
from kbroker.env import Disk
from kbroker.log import scan
from kbroker.log.checkpoints import FSYNC_FAILED, GAPS, METADATA, read_gaps
from kbroker.log.cleaner import swap
from kbroker.log.content.delayed import SCHEDULE_DIRECTORY
from kbroker.log.derived.epochs import FILE_NAME as EPOCHS
from kbroker.log.derived.epochs import LeaderEpochs
from kbroker.log.derived.producers import CorruptSnapshot, ProducerStates
from kbroker.log.derived.snapshots import SUFFIX as SNAPSHOT
from kbroker.log.derived.snapshots import snapshot_path
from kbroker.log.derived.tags import SUFFIX as TAGS
from kbroker.log.derived.transactions import may_be_marker, read_marker
from kbroker.log.errors import CorruptLog, LogAhead
from kbroker.log.retention.dropping import DELETED
from kbroker.log.segment import RELATIVE_OFFSET_MAX, Segment, file_stem

OFFSET_DIGITS = 20  # in the names of files

log = logging.getLogger(__name__)


class Crash(Enum):
    """How the process that wrote a log ended."""

    CLEAN = "clean"
    PROCESS = "process"
    POWER = "power"
    ERROR = "error"


class Stopped(Exception):
    """The recovery was to end before it was done. What it has done so far is as after a kill amid it: in order."""


class Progress:
    """How far a recovery has come, for others to see while it runs, and their word to end it early."""

    __slots__ = ("bytes", "is_stopped")

    def __init__(self) -> None:
        self.bytes = 0  # of batches looked at
        self.is_stopped = False

    def stop(self) -> None:
        """Let the recovery end before it looks at another batch. From any thread."""
        self.is_stopped = True

    def watch(self, batches: Iterator[tuple[int, BatchHeader]]) -> Iterator[tuple[int, BatchHeader]]:
        """The same batches, counted. Raises Stopped."""
        for each in batches:
            if self.is_stopped:
                raise Stopped
            self.bytes += each[1].size
            yield each


class End(NamedTuple):
    """Where a log ended when its broker stopped in order: what the next one need not look for."""

    offset: int
    size: int  # bytes of all its segments
    producers: int  # how many; those are in a snapshot


class Recovered(NamedTuple):
    """A log as it was found and repaired."""

    segments: list[Segment]  # at least one
    start_offset: int
    epochs: LeaderEpochs
    producers: ProducerStates
    snapshots: list[int]
    is_created: bool  # the directory was there, with partition.metadata
    has_schedule: bool = False  # something was delayed in it
    gaps_below: int = 0  # below this, offsets may be missing between its batches


class _Found(NamedTuple):
    """The names in a log's directory, sorted out."""

    bases: list[int]
    snapshots: list[int]
    stray: list[str]
    others: set[str]
    is_created: bool


def recover(
    disk: Disk,
    directory: str,
    *,
    crash: Crash,
    recovery_point: int,
    start_offset: int,
    interval: int,
    leader_epoch_max: int,
    clean_end: End | None,
    progress: Progress,
) -> Recovered:
    """Bring a log's files into order. Blocks. Raises CorruptLog, OSError, Stopped."""
    epochs, producers = LeaderEpochs(), ProducerStates()
    was_replaced = swap.complete(disk, directory)
    found = _look(disk, directory)
    crash = _how_it_ended(crash, clean_end, found, was_replaced)
    _check_names(directory, found, crash)
    for name in found.stray:
        disk.remove(f"{directory}/{name}")
    segments = _open_segments(disk, directory, found.bases, start_offset)
    is_known = EPOCHS in found.others and epochs.load(disk, directory)
    if is_known and epochs.latest > leader_epoch_max:
        _check_durable_epochs(segments, epochs, recovery_point, leader_epoch_max)
        is_known = False
    in_file = epochs.entries if is_known else None
    if not found.bases:
        epochs.clear()
    gaps_below = read_gaps(disk, directory) if GAPS in found.others else 0
    tail = _Tail(leader_epoch_max, progress, max(recovery_point, gaps_below))
    if crash is Crash.CLEAN and clean_end is not None:
        _trust_end(directory, segments, clean_end)
    else:
        _recover_end(disk, segments, crash, recovery_point, interval, tail)
    if crash is Crash.PROCESS and found.snapshots and found.snapshots[-1] > segments[-1].next_offset:
        raise _too_short(segments[-1], found.snapshots[-1], "a producer snapshot")
    end = segments[-1].next_offset
    if in_file and (in_file[-1][1] > end or end == 0):  # above 0 it may be that all records were deleted
        log.warning(
            "%s ends at offset %d, %s tells of offset %d: was it longer?", directory, end, EPOCHS, in_file[-1][1]
        )
    if start_offset > end:
        segments = _begin_anew(disk, directory, segments, start_offset)
        end = start_offset
    if crash is Crash.PROCESS and 0 < start_offset <= segments[0].base_offset:
        disk.sync_dir(directory)  # what was deleted must not come back with the next power failure: it begins here
    snapshots = [offset for offset in found.snapshots if offset <= end]
    for offset in found.snapshots[len(snapshots) :]:
        disk.remove(snapshot_path(directory, offset))
    start_offset = max(start_offset, segments[0].base_offset)
    if found.bases:
        is_intact = crash in (Crash.CLEAN, Crash.PROCESS)
        _recover_epochs(epochs, segments, tail, start_offset, is_known=is_known, is_intact=is_intact)
        if epochs.entries == in_file and crash is not Crash.ERROR:  # else what the file says may not be on the disk
            epochs.unchanged()
        if epochs.is_dirty and not is_intact:
            epochs.save(disk, directory)  # or the next start, after a mere kill, would believe what the file says
    if epochs.latest > leader_epoch_max:
        raise _too_new(segments[-1], epochs.latest, leader_epoch_max)
    if crash is not Crash.CLEAN or clean_end is None or clean_end.producers:
        snapshots = restore_producers(disk, directory, segments, producers, snapshots, progress)
    if crash is Crash.ERROR:
        _write_small_anew(disk, [f"{directory}/{name}" for name in (METADATA, GAPS) if name in found.others])
        _write_small_anew(disk, [snapshot_path(directory, offset) for offset in snapshots])
    if FSYNC_FAILED in found.others:
        disk.remove(f"{directory}/{FSYNC_FAILED}")
    aborted = segments[-1].aborted
    aborted.resume(end, has_file=aborted.path.rpartition("/")[2] in found.others)
    has_schedule = SCHEDULE_DIRECTORY in found.others
    return Recovered(segments, start_offset, epochs, producers, snapshots, found.is_created, has_schedule, gaps_below)


class _Tail:
    """What the scan of a log's end came across: from which offset on, and the epochs it saw begin."""

    __slots__ = ("start", "epochs", "epoch_max", "too_new", "progress", "gaps_below")

    def __init__(self, epoch_max: int, progress: Progress, gaps_below: int) -> None:
        self.start: int | None = None  # None: nothing was scanned
        self.epochs: list[tuple[int, int]] = []
        self.epoch_max = epoch_max
        self.too_new: int | None = None  # the epoch that ended the scan, being above epoch_max
        self.progress = progress
        self.gaps_below = gaps_below  # what may be missing is below this

    def watch(self, batches: Iterator[tuple[int, BatchHeader]]) -> Iterator[tuple[int, BatchHeader]]:
        """The same batches up to one whose epoch cannot be, with a note made of each change of epoch."""
        epoch = self.epochs[-1][0] if self.epochs else -1
        for each in self.progress.watch(batches):
            header = each[1]
            if header.leader_epoch != epoch:
                if header.leader_epoch > self.epoch_max:
                    self.too_new = header.leader_epoch
                if header.leader_epoch > self.epoch_max or header.leader_epoch < epoch:
                    return
                epoch = header.leader_epoch
                self.epochs.append((epoch, header.base_offset))
            yield each


def _how_it_ended(crash: Crash, clean_end: End | None, found: _Found, was_replaced: bool) -> Crash:
    if FSYNC_FAILED in found.others:  # even if told POWER: the power may have failed before, and not since
        return Crash.ERROR
    if crash is Crash.CLEAN and (clean_end is None or was_replaced):
        return Crash.PROCESS  # stopped in order, but nobody says how, or a compacted segment came since: look
    return crash


def _look(disk: Disk, directory: str) -> _Found:
    try:
        names = disk.list_dir(directory)
    except FileNotFoundError:
        return _Found([], [], [], set(), False)
    bases, snapshots, stray, others = [], [], [], set()
    for name in names:
        stem, _, suffix = name.partition(".")
        is_offset = len(stem) == OFFSET_DIGITS and stem.isascii() and stem.isdigit()
        if is_offset and suffix == "log":
            bases.append(int(stem))
        elif is_offset and f".{suffix}" == SNAPSHOT:
            snapshots.append(int(stem))
        elif name.endswith((DELETED, ".tmp")):
            stray.append(name)
        else:
            others.add(name)
    stems = {f"{base:020d}" for base in bases}
    derived = [name for name in others if name.endswith(("index", TAGS))]
    stray += [name for name in derived if name.partition(".")[0] not in stems]
    return _Found(bases, snapshots, stray, others, METADATA in others)


def _open_segments(disk: Disk, directory: str, bases: list[int], start_offset: int) -> list[Segment]:
    segments = []
    for base in bases:
        stem = file_stem(directory, base)
        segments.append(Segment(disk, stem, base, disk.size(stem + ".log")))
    for segment, following in zip(segments, segments[1:], strict=False):
        segment.next_offset = following.base_offset
        segment.is_closed = True
    return segments or [Segment(disk, file_stem(directory, start_offset), start_offset)]


def _begin_anew(disk: Disk, directory: str, segments: list[Segment], start_offset: int) -> list[Segment]:
    """Have nothing but an empty segment at the log's start: what was above is lost, what is below was given up."""
    text = "%s ends at offset %d, though its records below %d were deleted: nothing is left, it begins there"
    log.warning(text, directory, segments[-1].next_offset, start_offset)
    _remove_from(disk, segments, 0)
    first = Segment(disk, file_stem(directory, start_offset), start_offset)
    first.file.sync()  # its name says that the recovery point was passed
    disk.sync_dir(directory)
    return [first]


# the end


def _check_names(directory: str, found: _Found, crash: Crash) -> None:
    """Raise CorruptLog for segments that are not there, though other files tell of them: what deletes one takes its
    indexes first. (After a power failure any of them may be gone.)"""
    indexed = {name.partition(".")[0] for name in found.stray if name.endswith("index")}
    lost = sorted(stem for stem in indexed if f"{stem}.log{DELETED}" not in found.stray)
    if crash not in (Crash.CLEAN, Crash.PROCESS):
        if lost:
            log.warning("%s/%s.log is gone, its index is there", directory, lost[0])
        return
    if lost:
        raise CorruptLog(f"{directory}/{lost[0]}.log is gone, its index is there")
    if not found.bases and (found.snapshots or EPOCHS in found.others):
        raise CorruptLog(f"{directory}: its segments are gone, {EPOCHS} or a snapshot tells of records")


def _trust_end(directory: str, segments: list[Segment], end: End) -> None:
    """Take the log's end from those who wrote it. Raises CorruptLog when the files are others."""
    size, active = sum([segment.size for segment in segments]), segments[-1]
    if size != end.size or end.offset < active.base_offset:
        raise CorruptLog(f"the segments of {directory} have {size} bytes, and had {end.size} when the broker stopped")
    active.next_offset = end.offset


def _check_closed(segments: list[Segment], progress: Progress) -> None:
    """Raise CorruptLog for a segment that does not end where the next begins: a file is gone, emptied or cut short.

    A look at the end of each is enough. What is damaged inside is found when it is read.
    """
    for segment in segments:
        position, offset = segment.find_end(progress.watch)
        if position != segment.size:
            raise CorruptLog(f"{segment.path}: damage at byte {position}, offset {offset}")
        if offset != segment.next_offset:
            raise CorruptLog(
                f"{segment.path} ends at offset {offset}, the next segment begins at {segment.next_offset}"
            )


def _recover_end(
    disk: Disk, segments: list[Segment], crash: Crash, recovery_point: int, interval: int, tail: _Tail
) -> None:
    """Find the log's end, cutting what is torn."""
    if crash is Crash.PROCESS:
        _check_closed(segments[:-1], tail.progress)
        _recover_segment(segments[-1], interval, recovery_point, crash, tail)
    else:
        _recover_unsynced(disk, segments, recovery_point, interval, tail)
    if crash is Crash.ERROR:
        for segment in segments:
            if segment.next_offset > recovery_point and segment.size:
                _write_anew(disk, segment, tail.progress)
    if segments[-1].next_offset < recovery_point:
        raise _too_short(segments[-1], recovery_point, "the recovery point")


def _recover_unsynced(disk: Disk, segments: list[Segment], recovery_point: int, interval: int, tail: _Tail) -> None:
    """After a power failure: scan the segments that reach the recovery point or beyond; nothing follows a tear.

    The flush that moved the recovery point past a segment's end synced its indexes too. One that ends right there may
    have been closed after that flush.
    """
    first = next((n for n, each in enumerate(segments[:-1]) if each.next_offset >= recovery_point), len(segments) - 1)
    _check_closed(segments[:first], tail.progress)
    for n in range(first, len(segments)):
        segment = segments[n]
        is_last = n + 1 == len(segments)
        expected_end = -1 if is_last else segments[n + 1].base_offset
        _recover_segment(segment, interval, recovery_point, Crash.POWER, tail)
        if not is_last and segment.next_offset != expected_end:
            if expected_end <= recovery_point:
                raise CorruptLog(f"{segment.path} ends at {segment.next_offset}, the next begins at {expected_end}")
            log.warning("%s and all behind it is removed: the log is torn before that", segments[n + 1].path)
            _remove_from(disk, segments, n + 1)
            segment.is_closed = False
            break
        if not is_last:
            segment.finish()


def _recover_segment(segment: Segment, interval: int, recovery_point: int, crash: Crash, tail: _Tail) -> None:
    """Scan a segment and cut it where it is torn.

    After a kill the index files are right as far as they go; after a power failure they say nothing.
    """
    base = segment.base_offset
    proven = segment.proven() if crash is Crash.PROCESS else 0
    if not segment.size and not proven:
        segment.next_offset = base
        segment.reset_indexes()
        segment.trim_index_files()
        return
    position = segment.resume_indexes() if crash is Crash.PROCESS else segment.reset_indexes()
    if crash is not Crash.PROCESS:
        segment.aborted.distrust()
        segment.forget_tags()
    segment.next_offset = start = segment.base_of(position) if position else base
    tail.start = start if tail.start is None else tail.start
    gaps_below = min(tail.gaps_below, base + RELATIVE_OFFSET_MAX)
    batches = scan.scan(segment.file, position, segment.size, start, gaps_below)
    end = segment.index_batches(tail.watch(batches), position, interval)
    if segment.next_offset < proven:
        raise _too_short(segment, proven, f"{segment.stem}.index")
    if end < segment.size:
        if tail.too_new is not None and (segment.next_offset < recovery_point or crash is Crash.PROCESS):
            raise _too_new(segment, tail.too_new, tail.epoch_max)
        if segment.next_offset < recovery_point:
            raise CorruptLog(f"{segment.path}: damage at byte {end}, offset {segment.next_offset}, which was durable")
        if crash is Crash.PROCESS and not scan.is_torn(
            segment.file, end, segment.size, segment.next_offset, gaps_below
        ):
            raise CorruptLog(f"{segment.path}: damage at byte {end}, offset {segment.next_offset}, in a finished write")
        text = "%s is cut at byte %d, offset %d: no whole batch is in the %d bytes behind that"
        log.warning(text, segment.path, end, segment.next_offset, segment.size - end)
        segment.file.truncate(end)
        segment.file.sync()  # before anything is written in place of what was cut
        segment.size = end
    segment.trim_index_files()


def _too_short(segment: Segment, proven: int, witness: str) -> CorruptLog:
    return CorruptLog(f"{segment.path}: the log ends at offset {segment.next_offset}, {witness} tells of {proven}")


def _write_anew(disk: Disk, segment: Segment, progress: Progress) -> None:
    """Give a segment a new file with the same bytes, durable before it takes the place of the old one. Blocks."""
    copy = segment.path + ".tmp"
    if disk.exists(copy):
        disk.remove(copy)
    file, old = disk.open(copy, create=True), segment.file
    for position in range(0, segment.size, scan.WHOLE_BYTES):
        if progress.is_stopped:
            file.close()
            raise Stopped
        file.append([old.pread(min(scan.WHOLE_BYTES, segment.size - position), position)])
    file.sync()
    file.close()
    disk.rename(copy, segment.path)
    disk.sync_dir(copy.rpartition("/")[0])
    segment.close()


def _write_small_anew(disk: Disk, paths: list[str]) -> None:
    """The same for small files that nothing else could replace: whose log it is, below what it may have gaps, and
    forgotten producers."""
    for path in paths:
        disk.write_atomic(path, disk.read(path), sync=True)


def _remove_from(disk: Disk, segments: list[Segment], first: int) -> None:
    """Remove segments durably, the last first."""
    for segment in reversed(segments[first:]):
        for path in segment.files():
            disk.remove(path)
    disk.sync_dir(segments[0].path.rpartition("/")[0])
    del segments[first:]


# what is derived from the batches


def _recover_epochs(
    epochs: LeaderEpochs, segments: list[Segment], tail: _Tail, start_offset: int, *, is_known: bool, is_intact: bool
) -> None:
    """Add to the checkpoint what the scanned tail says; without a good checkpoint read all batches (L5).

    is_known: it could be read. is_intact: so it says what was written; else it is held against the batches.
    """
    seen, end = tail.epochs, segments[-1].next_offset
    if tail.start is not None:
        end = min(end, tail.start)
    epochs.truncate_end(end)
    if not is_known or not (is_intact or _are_true(epochs, segments, start_offset, end)):
        epochs.clear()
        seen = [(header.leader_epoch, header.base_offset) for _, _, header in _batches_from(segments, 0, tail.progress)]
    for epoch, start_offset in seen:
        epochs.assign(epoch, start_offset)


def _are_true(epochs: LeaderEpochs, segments: list[Segment], start: int, end: int) -> bool:
    """Whether the epochs cover the log from start to end, and the batches around each one's beginning say the same."""
    entries = epochs.entries
    if start < end and (not entries or entries[0][1] > start):
        return False
    for n, (epoch, first) in enumerate(entries):
        if _epoch_of(segments, first) not in (-1, epoch):
            return False
        if n and _epoch_of(segments, first - 1) not in (-1, entries[n - 1][0]):
            return False
    return True


def _epoch_of(segments: list[Segment], offset: int) -> int:
    """The epoch in the batch that holds an offset; -1 when there is none."""
    for segment in segments:
        if segment.base_offset <= offset < segment.next_offset and segment.size:
            for _, header in scan.walk(segment.file, segment.position_of(offset), segment.size, chunk=scan.NEAR_BYTES):
                return header.leader_epoch
    return -1


def _check_durable_epochs(segments: list[Segment], epochs: LeaderEpochs, recovery_point: int, epoch_max: int) -> None:
    """Raise CorruptLog when the checkpoint speaks of an epoch above the cluster's, and durable batches bear it out."""
    for epoch, start_offset in epochs.entries:
        if epoch > epoch_max and start_offset < recovery_point and _epoch_of(segments, start_offset) == epoch:
            raise _too_new(segments[-1], epoch, epoch_max)


def _too_new(segment: Segment, epoch: int, epoch_max: int) -> LogAhead:
    return LogAhead(
        f"{segment.path}: there are records of leader epoch {epoch}, but the cluster's metadata is only at {epoch_max};"
        " was the metadata restored from a backup, or the directory taken from another cluster?"
    )


def restore_producers(
    disk: Disk,
    directory: str,
    segments: list[Segment],
    producers: ProducerStates,
    snapshots: list[int],
    progress: Progress | None = None,
) -> list[int]:
    """Make producers what a replay of the log would (P2): the newest good snapshot, then the batches after it.

    Returns the offsets of the good snapshots. Damaged ones are removed. May raise OSError, Stopped.
    """
    good, start = list(snapshots), segments[0].base_offset
    producers.clear()
    while good:
        path = snapshot_path(directory, good[-1])
        try:
            producers.load(disk.read(path))
            producers.transactions.hold_below(good[-1])
            start = max(good[-1], start)
            break
        except FileNotFoundError:
            good.pop()
        except CorruptSnapshot:
            producers.clear()
            disk.remove(path)
            good.pop()
    if start < segments[-1].next_offset:
        for segment, position, header in _batches_from(segments, start, progress or Progress()):
            if header.producer_id >= 0:
                is_marker = header.is_control and may_be_marker(header)
                marker = read_marker(segment.file.pread(header.size, position)) if is_marker else None
                producers.update(header, header.base_offset, marker=marker)
    return good


def _batches_from(
    segments: list[Segment], offset: int, progress: Progress
) -> Iterator[tuple[Segment, int, BatchHeader]]:
    """All batches that begin at or after an offset: their segments, positions and headers."""
    for segment in segments:
        if segment.next_offset > offset and segment.size:
            start = segment.position_of(offset) if offset > segment.base_offset else 0
            for position, header in progress.watch(scan.walk(segment.file, start, segment.size)):
                if header.base_offset >= offset:
                    yield segment, position, header
