"""One segment of a log: a file of record batches and its two indexes.

Owns `<base offset, 20 digits>.log`, which holds whole batches back to back, as they travel on the wire (the format is
drawn in kafka_wire.records), with offset and leader epoch filled in:

    +--------------------+---------------------------+-----
    | batch              | batch                     | ...       the first one begins at the base offset or, after
    | base offset 500    | base offset 501           |           compaction, later; offsets rise
    +--------------------+---------------------------+-----

Only the last segment of a log, the active one, is appended to. Files are opened when they are first needed, indexes
loaded when a lookup needs them; what a missing or stale index file lacks is found by scanning the batches.
"""

from __future__ import annotations

import errno
import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from functools import partial
from typing import NamedTuple, TypeAlias

from kafka_wire import primitives
from kafka_wire.records import HEADER_SIZE, LENGTH_OFFSET, BatchHeader, read_header
from kbroker.config.keys import LONG_MAX
from kbroker.config.topic import TopicConfig
from kbroker.env import Buffer, Disk, File, Handle
from kbroker.log import scan
from kbroker.log.cold import NotInMemory, read_now
from kbroker.log.derived import tags as tag_files
from kbroker.log.derived.aborted import AbortedIndex, KnownAborted
from kbroker.log.derived.index import ENTRY_SIZE, UNKNOWN, Indexes, OffsetIndex, read_last_offset, read_last_time
from kbroker.log.derived.tags import TagIndex
from kbroker.log.errors import CorruptLog

INDEX_SAVE_BYTES = 8 * 1024 * 1024  # the index files lag behind the log by no more: the scan after a crash is bounded
INDEX_INTERVAL_BYTES = 4096  # where nobody says otherwise
NO_TIMESTAMP = -1
RELATIVE_OFFSET_MAX = 2**31 - 1
NOT_IN_INDEX = (NO_TIMESTAMP, NO_TIMESTAMP)  # in place of a largest timestamp: its time index has no entry

WritableBuffer: TypeAlias = "bytearray | memoryview"
Batches: TypeAlias = Iterator[tuple[int, BatchHeader]]

log = logging.getLogger(__name__)

tick = itertools.count(1).__next__  # rises at each use of a segment: which of two was used later, in all logs


def file_stem(directory: str, base_offset: int) -> str:
    """The path of a segment's files without their suffix."""
    return f"{directory}/{base_offset:020d}"


class Loading(NamedTuple):
    """What loading a segment's indexes takes, as of one moment: a worker may `run` it while the log goes on."""

    disk: Disk
    handle: Handle
    stem: str
    base_offset: int
    next_offset: int
    size: int
    cuts: int
    is_closed: bool
    interval: int
    is_file_wrong: bool  # what the index files hold is no good

    def run(self) -> Indexes:
        """The indexes: from their files, and for what those lack from the batches. Reads; changes nothing.

        Raises CorruptLog when the batches do not end where the log does, OSError.
        """
        if not self.is_file_wrong:
            indexes, position = Indexes.load(self.disk, self.stem, self.base_offset, self.size)
            end = self._scan(indexes, position)
            if end == self.size:
                return indexes
            if not position:
                raise self._torn(end)
        indexes = Indexes(self.stem, self.base_offset)
        end = self._scan(indexes, 0)
        if end != self.size:
            raise self._torn(end)
        log.warning("%s.index does not fit to its log: made anew", self.stem)
        indexes.is_new = True
        return indexes

    def run_tail(self) -> Indexes | None:
        """What appending takes of the indexes, at once. None: only `run` can tell. Raises as `run` does."""
        found = Indexes.load_tail(self.disk, self.stem, self.base_offset, self.size)
        return found[0] if found is not None and self._scan(*found) == self.size else None

    def _scan(self, indexes: Indexes, position: int) -> int:
        """Index the batches from position on; how far they are what they should be: to the end of the log."""
        batches = scan.walk(self.handle, position, self.size)
        end, offset = indexes.scan(batches, position, self.base_offset, self.interval)
        # a closed segment may end behind its last batch, if another broker's compaction has been there
        is_wrong = offset > self.next_offset if self.is_closed else offset != self.next_offset
        return position if is_wrong and self.size else end

    def _torn(self, position: int) -> CorruptLog:
        return CorruptLog(f"{self.handle.path}: no whole batch at {position}, though it has {self.size} bytes")


class Segment:
    """Batches from base_offset to next_offset. Its owner, the log, says when to append and what to delete."""

    __slots__ = (
        "disk", "stem", "base_offset", "next_offset", "size", "indexes", "tail", "first_timestamp_ms", "is_closed",
        "is_synced", "used", "open_file", "aborted", "tags", "_largest", "_cuts", "_is_gone", "_original", "_written",
    )  # fmt: skip

    def __init__(self, disk: Disk, stem: str, base_offset: int, size: int = 0) -> None:
        self.disk = disk
        self.stem = stem
        self.base_offset = base_offset
        self.next_offset = base_offset  # of the log's next record, or the next segment's base
        self.size = size
        self.indexes: Indexes | None = None  # None: not loaded
        self.tail: Indexes | None = None  # of indexes that are not loaded: what appending takes
        self.first_timestamp_ms: int | None = None  # of the first batch; None: not known
        self.is_closed = False  # not the active one
        self.is_synced = False  # closed, and all its files are durable
        self.used = 0  # the tick of the last use
        self.open_file: File | None = None  # None: not open
        self.aborted = AbortedIndex(disk, stem, base_offset, is_new=not size)
        self.tags: TagIndex | None = None  # None: nobody needs it, or it is not in memory
        self._largest: tuple[int, int] | None = None  # timestamp and offset as of `largest`, kept while not loaded
        self._cuts = 0  # truncations so far: indexes that were loaded before one are wrong
        self._written: tuple[int, int] | None = None  # how large it was, and when that was written; None: not known
        self._is_gone = False  # another one has its place, and its files' names
        self._original: Segment | None = None  # of a twin

    @property
    def path(self) -> str:
        return self.stem + ".log"

    @property
    def file(self) -> File:
        """The open file, made when the segment is empty. May raise OSError: FileNotFoundError once it was deleted."""
        file = self.open_file
        if file is None:
            self._check_there()
            file = self.disk.open(self.path, create=not self.size)
            self._check_there()  # whoever reads a twin, in a worker, may have opened another's
            self.open_file = file
        return file

    @property
    def is_gone(self) -> bool:
        """Whether it was taken off its log, and another one may have its files' names (compaction)."""
        return (self._original or self)._is_gone

    def _check_there(self) -> None:
        if self.is_gone:
            raise FileNotFoundError(errno.ENOENT, "another segment has its place", self.path)

    def make_way(self) -> None:
        """Another one is about to have its place: from here on nothing of its files is opened, or written."""
        self._is_gone = True
        self.tags = None
        self.close()

    @classmethod
    def in_place_of(cls, old: Sequence[Segment], size: int) -> Segment:
        """A closed segment with the offsets of those, whose files are there, and durable."""
        first, last = old[0], old[-1]
        segment = cls(first.disk, first.stem, first.base_offset, size)
        segment.next_offset, segment.is_closed, segment.is_synced = last.next_offset, True, True
        segment.aborted.lowest_open = last.aborted.lowest_open
        segment._cuts = 1 + max(each._cuts for each in old)  # what was found out of them is not adopted
        return segment

    # appending

    def is_full(
        self, config: TopicConfig, header: BatchHeader, base_offset: int, now_ms: int, pending: int = 0
    ) -> bool:
        """Whether a batch that begins at base_offset must go into a new segment; this one holds something.

        pending: bytes that are about to be written before it.
        Age counts from the first batch's timestamp to this one's; where there is none, the clock takes its place.
        May raise OSError. (Kafka: LogSegment.shouldRoll.)
        """
        if self.size + pending + header.length + LENGTH_OFFSET > config.segment_bytes:
            return True
        first_ms = self.first_timestamp_ms
        if first_ms is None:
            first_ms = self._opening_timestamp_ms(now_ms)
        latest_ms = header.max_timestamp if header.max_timestamp >= 0 else now_ms
        if latest_ms - first_ms > config.segment_ms - (config.segment_jitter_ms and self._jitter_ms(config)):
            return True
        indexes = self.indexes or self.tail
        if indexes is not None and len(indexes.offsets) * ENTRY_SIZE >= config.segment_index_bytes:
            return True
        return base_offset + header.last_offset_delta - self.base_offset > RELATIVE_OFFSET_MAX

    def _opening_timestamp_ms(self, now_ms: int) -> int:
        """The largest timestamp of the first batch; now_ms where it has none."""
        found_ms = read_header(self.file.pread(HEADER_SIZE, 0)).max_timestamp
        self.first_timestamp_ms = found_ms if found_ms >= 0 else now_ms
        return self.first_timestamp_ms

    def first_batch_ms(self, *, now: bool = False) -> int:
        """The largest timestamp of the first batch, as far as known; -1: none. now: raise NotInMemory rather than wait.

        May raise OSError.
        """
        if self.first_timestamp_ms is not None:
            return self.first_timestamp_ms
        handle = self.file.handle
        found_ms = read_header(read_now(handle, HEADER_SIZE, 0) if now else handle.pread(HEADER_SIZE, 0)).max_timestamp
        if found_ms >= 0:
            self.first_timestamp_ms = found_ms
        return found_ms

    def _jitter_ms(self, config: TopicConfig) -> int:
        """Spreads the rolls of many partitions; the same after a restart."""
        return primitives.crc32c(self.stem.encode()) % config.segment_jitter_ms

    def append(self, batch: WritableBuffer, header: BatchHeader, base_offset: int, interval: int) -> None:
        """Write a batch that begins at base_offset. interval: bytes between index entries.

        OSError from the write alone: then nothing is noted, and the caller cuts the file back to `size`.
        """
        indexes = self.indexes or self.tail or self._resume(interval)
        self.used = tick()
        file = self.open_file or self.file
        file.append((batch,))
        position = self.size
        self.size = position + header.length + LENGTH_OFFSET
        self.next_offset = base_offset + header.last_offset_delta + 1
        indexes.note(header, base_offset, position, interval)
        if position - indexes.saved_position > INDEX_SAVE_BYTES:
            indexes.save(self.disk, self.size)
            self.aborted.save()
            self._save_tags()

    def append_run(self, batches: Buffer, headers: Iterable[BatchHeader], interval: int) -> None:
        """Write batches that lie back to back and have their offsets. Otherwise like `append`."""
        indexes = self.indexes or self.tail or self._resume(interval)
        self.used = tick()
        file = self.open_file or self.file
        file.append((batches,))
        position = self.size
        for header in headers:
            indexes.note(header, header.base_offset, position, interval)
            position += header.length + LENGTH_OFFSET
        self.size, self.next_offset = position, header.next_offset
        if position - indexes.saved_position > INDEX_SAVE_BYTES:
            indexes.save(self.disk, position)
            self.aborted.save()
            self._save_tags()

    def _resume(self, interval: int) -> Indexes:
        """Get ready to append. Raises CorruptLog, OSError."""
        tail = self.loading(interval).run_tail()
        if tail is None:
            return self.load(interval)
        if tail.is_whole:
            self.indexes = tail
        else:
            self.tail = tail
        return tail

    def finish(self) -> None:
        """Close for appending: the index files are completed. May raise OSError, when not even removing them helped."""
        indexes = self.indexes or self.tail
        if indexes is not None:
            indexes.finish(self.disk)
            if indexes.offsets:
                self.aborted.save()
        self._save_tags()

    # tags

    def note_tags(self, numbers: frozenset[int], header: BatchHeader, base_offset: int, position: int) -> None:
        """A batch that begins at base_offset is in the log at position; it has the tags of those numbers."""
        tags, offset = self.tags, base_offset - self.base_offset
        if tags is None:
            tags = self.tags = TagIndex(self.disk, self.stem, position, offset)
        tags.note(position, header.size, offset, offset + header.last_offset_delta + 1, numbers, header.crc)

    def tags_loaded(self, *, now: bool) -> TagIndex:
        """What is known of the tags of all batches. now: raise NotInMemory rather than wait for the disk.

        May raise OSError.
        """
        tags, next_offset = self.tags, self.next_offset - self.base_offset
        if tags is None:
            tags = self.tags = TagIndex(self.disk, self.stem, self.size, next_offset)
        if not tags.is_loaded:
            work = partial(tag_files.load, self.disk, self.stem, self.file.handle, tags.start)
            if now:
                raise NotInMemory(work, partial(self._adopt_tags, tags))
            self._adopt_tags(tags, work())
        tags.note_end(self.size, next_offset)
        self.used = tick()
        return tags

    def _adopt_tags(self, tags: TagIndex, loaded: tuple[list[tag_files.Piece], bool]) -> None:
        if self.tags is tags:  # the segment was not cut since, nor released
            found, is_damaged = loaded
            tags.adopt(found, is_damaged=is_damaged)

    def _save_tags(self) -> None:
        if self.tags is not None:
            self.tags.save()

    def forget_tags(self) -> None:
        """What is known of them is not true any more."""
        self.tags = None
        TagIndex(self.disk, self.stem, 0, 0).distrust()

    # indexes

    def reset_indexes(self) -> int:
        """Begin with empty indexes. Returns the position from which to scan: 0."""
        self.indexes = Indexes(self.stem, self.base_offset)
        return 0

    def resume_indexes(self) -> int:
        """Load what the index files hold; from where to scan for the rest. May raise OSError."""
        self.indexes, position = Indexes.load(self.disk, self.stem, self.base_offset, self.size)
        return position

    def proven(self) -> int:
        """The offset up to which the index file says that there were records: an entry is made after its batch.

        0 when it says nothing, or is none. May raise OSError.
        """
        index = OffsetIndex(self.stem + ".index")
        with suppress(FileNotFoundError):
            index.load(self.disk)
        last = index.last()
        return self.base_offset + last[0] + 1 if last is not None and index.is_sane(last[1] + 1) else 0

    def find_end(self, watch: Callable[[Batches], Batches]) -> tuple[int, int]:
        """Where the batches end: (position, offset). From the last index entry on, if it leads to the file's end.

        Changes nothing. watch: what the batches pass through. May raise OSError.
        """
        last = read_last_offset(self.disk, self.stem + ".index")
        end, offset = 0, self.base_offset
        with closing(self.disk.open(self.path)) as file:
            for start in (last[1], 0) if last is not None and last[1] < self.size else (0,):
                end, offset = start, self.base_offset
                for position, header in watch(scan.walk(file, start, self.size, chunk=scan.NEAR_BYTES)):
                    end, offset = position + header.size, header.next_offset
                if end == self.size:
                    break
        return end, offset

    def index_batches(self, batches: Iterator[tuple[int, BatchHeader]], position: int, interval: int) -> int:
        """Index batches that begin at position, the last indexed one. Returns the position after the last."""
        assert self.indexes is not None
        position, self.next_offset = self.indexes.scan(batches, position, self.next_offset, interval)
        return position

    def trim_index_files(self) -> None:
        """Take back from the files what memory does not have. May raise OSError."""
        assert self.indexes is not None
        self.indexes.trim(self.disk)

    def base_of(self, position: int, *, now: bool = False) -> int:
        """The base offset of the batch at a position. now: raise NotInMemory rather than wait for the disk."""
        file = self.open_file or self.file
        return int.from_bytes(read_now(file.handle, 8, position) if now else file.pread(8, position))

    def load(self, interval: int = INDEX_INTERVAL_BYTES) -> Indexes:
        """Have the indexes in memory. Raises CorruptLog, OSError."""
        self.tail = None
        loading = self.loading(interval)
        return self.adopt(loading, loading.run())

    def loaded(self, *, now: bool) -> Indexes:
        """The indexes, loaded if need be; now: raise NotInMemory rather than that. May raise CorruptLog, OSError."""
        if self.indexes is None and now:
            loading = self.loading()
            raise NotInMemory(loading.run, partial(self.adopt, loading))
        return self.indexes or self.load()

    def loading(self, interval: int = INDEX_INTERVAL_BYTES) -> Loading:
        """What to give to a worker, whose result is then to be adopted. May raise OSError."""
        return Loading(
            self.disk, self.file.handle, self.stem, self.base_offset, self.next_offset, self.size, self._cuts,
            self.is_closed, interval, is_file_wrong=False,
        )  # fmt: skip

    def adopt(self, loading: Loading, indexes: Indexes) -> Indexes:
        """Have loaded indexes, unless the segment has got others or was changed since. Returns those it has now."""
        if self.indexes is None:
            tail = self.tail
            is_right = loading.size == self.size if tail is None else tail.complete(indexes)
            if not is_right or loading.cuts != self._cuts:
                return self.load(loading.interval)
            self.indexes, self.tail = tail or indexes, None
            self.used = tick()
            self._mend_files(indexes)
        return self.indexes

    def _mend_files(self, indexes: Indexes) -> None:
        """Have the files of a closed segment say what its indexes do. Those of the active one are written in time."""
        if indexes.is_new and self.is_closed and not self.is_gone:
            with suppress(OSError):
                indexes.trim(self.disk)
                indexes.finish(self.disk)

    def release(self) -> None:
        """Give up the descriptor and, of a closed segment, the indexes: until they are needed again."""
        self.close()
        if self.is_closed and (self.indexes or self.tail) is not None:
            self._largest = self.largest()
            self.indexes = self.tail = None
        if self.is_closed:
            self.aborted.release()
            self.tags = None

    def close(self) -> None:
        """Close the file, if it is open. Who holds a slice of it can still read that."""
        if self.open_file is not None:
            self.open_file.close()
            self.open_file = None

    # looking up

    def position_of(self, offset: int, *, now: bool = False) -> int:
        """Where the batch that holds an offset, or the first one after it, begins; `size` when there is none.

        now: raise NotInMemory rather than wait for the disk. Raises CorruptLog, OSError.
        """
        if offset >= self.next_offset:
            return self.size
        self.used = tick()
        position = (self.indexes or self.loaded(now=now)).offsets.position_before(offset - self.base_offset)
        end = position
        for end, header in scan.walk(self.file.handle, position, self.size, chunk=scan.NEAR_BYTES, now=now):
            if header.last_offset >= offset:
                return end
            end += header.size
        if end < self.size:
            return self._look_again(offset, position, end, now)
        return self.size

    def _look_again(self, offset: int, position: int, end: int, now: bool) -> int:
        """No batch is where one should be, at `end`: is it the index that led there, to `position`, or the log?"""
        if not position:
            raise CorruptLog(f"{self.path}: no whole batch at {end}, though it has {self.size} bytes")
        self._doubt(f"no whole batch at {end}", now)
        return self.position_of(offset, now=now)

    def _doubt(self, why: str, now: bool) -> None:
        """The index led to a place that is none: have it made anew. If it was, or cannot be, the log is damaged.

        Raises CorruptLog; then the index stays as it is. now: raises NotInMemory, until it is made.
        """
        if self.indexes is None or self.indexes.is_new:
            raise CorruptLog(f"{self.path}: {why}, though it has {self.size} bytes")
        loading = self.loading()._replace(is_file_wrong=True)
        if now:
            raise NotInMemory(loading.run, partial(self._replace, loading))
        self._replace(loading, loading.run())

    def _replace(self, loading: Loading, indexes: Indexes) -> None:
        """Have indexes in place of wrong ones, unless the segment was changed since they were made."""
        if loading.size == self.size and loading.cuts == self._cuts:
            self.indexes, self.tail = indexes, None
            self._mend_files(indexes)

    def cut(self, position: int, max_bytes: int, *, at_least_one: bool, now: bool = False) -> tuple[int, int]:
        """(end position, first offset behind it) of the whole batches from position that fit into max_bytes.

        There is more behind position than max_bytes. Ends at an indexed batch where one is in reach; with at_least_one
        the first batch is included even when it is larger. The end is position when nothing fits.
        now: raise NotInMemory rather than wait for the disk.
        """
        limit = position + max_bytes
        end, base = (self.indexes or self.loaded(now=now)).offsets.boundary_before(limit)
        if end <= position:
            return self._cut_near(position, limit, at_least_one, now)
        if base != UNKNOWN:
            return end, self.base_offset + base
        found = self.base_of(end, now=now)
        if not self.base_offset <= found < self.next_offset:
            self._doubt(f"no batch begins at {end}", now)
            return self.cut(position, max_bytes, at_least_one=at_least_one, now=now)
        return end, found

    def _cut_near(self, position: int, limit: int, at_least_one: bool, now: bool) -> tuple[int, int]:
        """Like cut, where no index entry is in reach."""
        end = position
        for at, header in scan.walk(self.file.handle, position, self.size, chunk=scan.NEAR_BYTES, now=now):
            after = at + header.size
            if after > limit and not (at_least_one and at == position):
                return end, header.base_offset
            end = after
            if end - position > scan.NEAR_BYTES and end < self.size:
                return end, header.next_offset
        return (self.size, self.next_offset) if end >= self.size else (end, self.base_of(end, now=now))

    def largest_timestamp_ms(self) -> int:
        """The largest timestamp of the segment, -1 when it has none."""
        return self.largest()[0]

    def largest(self, *, now: bool = False) -> tuple[int, int]:
        """(the largest timestamp of the segment, -1 when it has none; the last offset of the batch that has it).

        From the last entry of the time index where there is one. now: raise NotInMemory rather than wait for the disk.
        May raise OSError, CorruptLog.
        """
        indexes = self.indexes or self.tail
        if indexes is None and self._largest is None:
            work = partial(read_last_time, self.disk, self.stem + ".timeindex")
            if now:
                raise NotInMemory(work, self._note_last_time)
            self._note_last_time(work())
        if indexes is None and self._largest == NOT_IN_INDEX:
            indexes = self.loaded(now=now)
        if indexes is not None:
            return indexes.max_timestamp_ms, indexes.max_timestamp_offset
        assert self._largest is not None
        return self._largest

    def last_ms(self) -> int | None:
        """The largest timestamp; of records without any, when they were written. None: the disk has to be asked."""
        if not self.size:
            return LONG_MAX
        largest = self._known_largest()
        if largest is not None and largest[0] >= 0:
            return largest[0]
        return self._written[1] if self._written is not None and self._written[0] == self.size else None

    def find_last_ms(self) -> int:
        """The same, with a look at the disk. May raise OSError, CorruptLog."""
        if not self.size:
            return LONG_MAX
        found_ms = self.largest_timestamp_ms()
        if found_ms < 0:
            found_ms = self.disk.modified_ms(self.path)
            self._written = self.size, found_ms
        return found_ms

    def adopt_times(self, twin: Segment) -> None:
        """Have what a twin has found of its times, unless the segment was changed since."""
        if twin._cuts == self._cuts and twin.size == self.size:
            if self._known_largest() is None:
                self._largest = twin._known_largest()
            self._written = twin._written

    def _known_largest(self) -> tuple[int, int] | None:
        """As `largest`, as far as it is in memory."""
        indexes = self.indexes or self.tail
        if indexes is not None:
            return indexes.max_timestamp_ms, indexes.max_timestamp_offset
        return self._largest if self._largest != NOT_IN_INDEX else None

    def _note_last_time(self, last: tuple[int, int] | None) -> None:
        self._largest = NOT_IN_INDEX if last is None else (last[0], self.base_offset + last[1])

    def truncate_to(self, offset: int, interval: int) -> None:
        """Cut at the batch that holds offset. May raise OSError.

        The index files first: what they say was there, and is not, a later start takes for lost.
        """
        position = self.position_of(offset)
        self.indexes, at = Indexes.load(self.disk, self.stem, self.base_offset, position, before=offset)
        self.indexes.trim(self.disk)
        self.aborted.cut(offset)
        self.forget_tags()
        self.file.truncate(position)
        self.size = position
        self._written = None
        self._cuts += 1
        self.tail = None
        if not position:
            self.first_timestamp_ms = None
        batches = scan.walk(self.file, at, position)
        _, self.next_offset = self.indexes.scan(batches, at, self.base_offset, interval)
        self.aborted.cut(self.next_offset)  # if it is below offset

    def apart(self) -> Segment:
        """The same batches under a descriptor of its own, for a worker to read (and to close)."""
        twin = Segment(self.disk, self.stem, self.base_offset, self.size)
        twin.next_offset, twin.is_closed, twin._cuts = self.next_offset, self.is_closed, self._cuts
        twin._largest, twin._original = self._known_largest(), self
        return twin

    def adopt_aborted(self, twin: Segment, found: KnownAborted) -> None:
        """Have what was found of a twin's transactions, unless the segment was cut, or closed, since."""
        if twin._cuts == self._cuts and twin.is_closed == self.is_closed:
            self.aborted.adopt(found, twin.next_offset)
            self.used = tick()
        found.remove_copy(self.disk)

    def files(self) -> list[str]:
        """The paths of the files there are, the batches' first."""
        suffixes = (".log", ".index", ".timeindex", ".txnindex", tag_files.SUFFIX)
        paths = [self.stem + suffix for suffix in suffixes]
        return [path for path in paths if self.disk.exists(path)]
