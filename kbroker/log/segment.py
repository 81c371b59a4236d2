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

from collections.abc import Iterator
from typing import TypeAlias

from kafka_wire.errors import KafkaError
from kafka_wire.records import BatchHeader, Record, read_header, read_records
from kbroker.env import Disk, File
from kbroker.log import scan
from kbroker.log.errors import CorruptLog
from kbroker.log.index import OffsetIndex, TimeIndex

INDEX_SAVE_BYTES = 8 * 1024 * 1024  # the index files lag behind the log by no more: the scan after a crash is bounded
DECOMPRESSED_BYTES_MAX = 100 * 1024 * 1024  # of one batch, when records must be read
NO_TIMESTAMP = -1
UNKNOWN = -2

WritableBuffer: TypeAlias = "bytearray | memoryview"


def file_stem(directory: str, base_offset: int) -> str:
    """The path of a segment's files without their suffix."""
    return f"{directory}/{base_offset:020d}"


class Segment:
    """Batches from base_offset to next_offset. Its owner, the log, says when to append and what to delete."""

    __slots__ = (
        "disk", "stem", "base_offset", "next_offset", "size", "index", "times", "max_timestamp_ms",
        "max_timestamp_offset", "first_timestamp_ms", "is_closed", "is_synced", "is_used", "_since_index",
        "_saved_size", "_file",
    )  # fmt: skip

    def __init__(self, disk: Disk, stem: str, base_offset: int, size: int = 0) -> None:
        self.disk = disk
        self.stem = stem
        self.base_offset = base_offset
        self.next_offset = base_offset  # of the log's next record, or the next segment's base
        self.size = size
        self.index: OffsetIndex | None = None  # None: not loaded
        self.times: TimeIndex | None = None
        self.max_timestamp_ms = NO_TIMESTAMP if not size else UNKNOWN
        self.max_timestamp_offset = base_offset  # the last offset of the batch that has it
        self.first_timestamp_ms: int | None = None  # of the first batch; None: not known
        self.is_closed = False  # not the active one
        self.is_synced = False  # closed, and all its files are durable
        self.is_used = False  # looked into since the last `release`
        self._since_index = 0  # bytes appended since the last index entry
        self._saved_size = 0  # size when the index files were last brought up to date
        self._file: File | None = None

    @property
    def path(self) -> str:
        return self.stem + ".log"

    @property
    def file(self) -> File:
        """The open file, created when there is none. May raise OSError."""
        file = self._file
        if file is None:
            file = self._file = self.disk.open(self.path, create=True)
        return file

    # appending

    def append(self, batch: WritableBuffer, header: BatchHeader, base_offset: int, interval: int) -> None:
        """Write a batch that begins at base_offset. interval: bytes between index entries.

        OSError from the write alone: then nothing is noted, and the caller cuts the file back to `size`.
        """
        if self.index is None:
            self.load(interval)
        self.is_used = True
        file = self._file or self.file
        file.append((batch,))
        position = self.size
        self.size = position + header[1] + 12
        self.note(header, base_offset, position, interval)
        if position - self._saved_size > INDEX_SAVE_BYTES:
            self.save_indexes()

    def note(self, header: BatchHeader, base_offset: int, position: int, interval: int) -> None:
        """Index a batch that is in the file at position."""
        last_offset = base_offset + header[6]
        self.next_offset = last_offset + 1
        if header[8] > self.max_timestamp_ms:
            self.max_timestamp_ms = header[8]
            self.max_timestamp_offset = last_offset
        if self._since_index > interval:
            assert self.index is not None and self.times is not None
            relative = last_offset - self.base_offset
            self.index.append(relative, position)
            self.times.append(self.max_timestamp_ms, self.max_timestamp_offset - self.base_offset)
            self._since_index = 0
        self._since_index += header[1] + 12

    def save_indexes(self) -> None:
        """Bring the index files up to date. A failure costs only scanning later: memory stays right."""
        self._saved_size = self.size
        if self.index is not None and self.times is not None:
            try:
                # first: the offset index says how far both are complete
                self.times.save(self.disk, even_empty=bool(self.index))
                self.index.save(self.disk)
            except OSError:
                pass

    def finish(self) -> None:
        """Close for appending: the time index gets its last entry, both index files are written whole.

        Index files that cannot be completed are removed, so that nobody trusts them. OSError if not even that.
        """
        if self.index is None or self.times is None:
            return
        if self.max_timestamp_ms >= 0:
            self.times.append(self.max_timestamp_ms, self.max_timestamp_offset - self.base_offset)
        try:
            self.times.save(self.disk, even_empty=bool(self.index))
            self.index.save(self.disk)
        except OSError:
            self.times.saved = self.index.saved = 0
            for path in (self.times.path, self.index.path):
                if self.disk.exists(path):
                    self.disk.remove(path)

    def sync(self) -> None:
        """Make the batches and, when closed, the index files durable. Blocks. May raise OSError."""
        self.file.sync()

    # indexes

    def reset_indexes(self) -> int:
        """Begin with empty indexes. Returns the position from which to scan: 0."""
        self._new_indexes()
        return 0

    def base_of(self, position: int) -> int:
        """The base offset of the batch at a position."""
        return read_header(self.file.pread(61, position)).base_offset

    def _new_indexes(self) -> tuple[OffsetIndex, TimeIndex]:
        self.index, self.times = OffsetIndex(self.stem + ".index"), TimeIndex(self.stem + ".timeindex")
        self.max_timestamp_ms, self.max_timestamp_offset = NO_TIMESTAMP, self.base_offset
        self._since_index = self._saved_size = 0
        return self.index, self.times

    def load(self, interval: int = 4096) -> OffsetIndex:
        """Have the indexes in memory: from their files, and for what those lack from the batches.

        Raises CorruptLog when the batches do not end where the log does, OSError.
        """
        position = self.resume_indexes()
        end = self.next_offset
        position = self.index_batches(scan.walk(self.file, position, self.size), position, interval)
        is_wrong = self.next_offset > end if self.is_closed else self.next_offset != end
        if position != self.size or (is_wrong and self.size):
            raise CorruptLog(f"{self.path}: no whole batch at {position}, though it has {self.size} bytes")
        self.next_offset = end  # a closed segment may end, after compaction, behind its last batch
        self.is_used = True
        assert self.index is not None
        return self.index

    def _loaded(self) -> OffsetIndex:
        index = self.index
        return index if index is not None else self.load()

    def index_batches(self, batches: Iterator[tuple[int, BatchHeader]], position: int, interval: int) -> int:
        """Index batches that begin at position, the last indexed one. Returns the position after the last."""
        known = position if self.index else -1
        for position, header in batches:
            if position == known:
                self.next_offset = header.next_offset
                self._since_index = header.size
            else:
                self.note(header, header.base_offset, position, interval)
            position += header.size
        return position

    def resume_indexes(self, before: int | None = None) -> int:
        """Load what the index files hold of batches that end at or below an offset; from where to scan for the rest.

        The answer is the position of the last entry's batch, 0 when nothing could be used.
        """
        index, times = self._new_indexes()
        if not self.size:
            return 0
        try:
            index.load(self.disk)
            times.load(self.disk)
            is_good = index.is_sane(self.size)
        except FileNotFoundError:
            is_good = False
        if not is_good or not index:
            self._new_indexes()
            return 0
        if before is not None:
            index.data = index.data[: index.entries_below(before - self.base_offset) * index.entry_size]
            index.saved = len(index.data)
        if not index:
            self._new_indexes()
            return 0
        last, position = index.entry(len(index) - 1)
        times.data = times.data[: times.entries_below(last + 1) * times.entry_size]
        times.saved = len(times.data)
        if not times.is_sane(last):
            self._new_indexes()
            return 0
        final = times.last()
        if final is not None:
            self.max_timestamp_ms, self.max_timestamp_offset = final[0], final[1] + self.base_offset
        self._saved_size = position
        return position

    def trim_index_files(self) -> None:
        """Take back from the files what memory does not have. May raise OSError."""
        for index in (self.times, self.index):
            if index is not None:
                index.trim(self.disk)

    def release(self) -> File | None:
        """Forget indexes and file of a closed segment that nobody used since the last call; the file, to be closed.

        Later, that is: slices of it may be on their way to a client.
        """
        if self.is_used:
            self.is_used = False
            return None
        self.index = self.times = None
        file, self._file = self._file, None
        return file

    # looking up

    def position_of(self, offset: int) -> int:
        """Where the batch that holds an offset, or the first one after it, begins; `size` when there is none."""
        if offset >= self.next_offset:
            return self.size
        index = self._loaded()
        self.is_used = True
        position = index.position_before(offset - self.base_offset)
        for at, header in scan.walk(self.file, position, self.size, chunk=scan.NEAR_BYTES):
            if header[0] + header[6] >= offset:
                return at
        return self.size

    def cut(self, position: int, max_bytes: int, *, at_least_one: bool) -> tuple[int, int]:
        """(end position, first offset behind it) of the whole batches from position that fit into max_bytes.

        There is more behind position than max_bytes. Ends at an indexed batch where one is in reach; with at_least_one
        the first batch is included even when it is larger. The end is position when nothing fits.
        """
        limit = position + max_bytes
        end = self._loaded().boundary_before(limit)
        self.is_used = True
        if end <= position:
            end = position
            for at, header in scan.walk(self.file, position, self.size, chunk=scan.NEAR_BYTES):
                after = at + header.size
                if after > limit and not (at_least_one and at == position):
                    break
                end = after
                if end - position > scan.NEAR_BYTES:
                    break
        if end >= self.size:
            return self.size, self.next_offset
        return end, self.base_of(end)

    def largest_timestamp_ms(self) -> int:
        """The largest timestamp of the segment, -1 when it has none; from the time index's last entry where it can."""
        if self.max_timestamp_ms == UNKNOWN:
            times = TimeIndex(self.stem + ".timeindex")
            try:
                times.load(self.disk)
            except FileNotFoundError:
                pass
            last = times.last()
            if last is None:
                self.load()
            else:
                self.max_timestamp_ms, self.max_timestamp_offset = last[0], self.base_offset + last[1]
        return self.max_timestamp_ms

    def opening_timestamp_ms(self, now_ms: int) -> int:
        """The largest timestamp of the first batch: from it the segment's age counts; now_ms where it has none."""
        if self.first_timestamp_ms is None:
            found_ms = read_header(self.file.pread(61, 0)).max_timestamp
            self.first_timestamp_ms = found_ms if found_ms >= 0 else now_ms
        return self.first_timestamp_ms

    def first_at_or_after(self, timestamp_ms: int, offset: int, bound: int) -> tuple[Record, int] | None:
        """The first record from offset on, below bound, with at least that timestamp, and its leader epoch."""
        if self.largest_timestamp_ms() < timestamp_ms:
            return None
        index = self._loaded()
        assert self.times is not None
        self.is_used = True
        start = max(self.times.offset_before(timestamp_ms), offset - self.base_offset)
        position = index.position_before(start)
        for at, header in scan.walk(self.file, position, self.size, chunk=scan.NEAR_BYTES):
            if header.base_offset >= bound:
                return None
            if header.max_timestamp >= timestamp_ms and header.last_offset >= offset:
                for record in self.records(at, header):
                    if record.timestamp >= timestamp_ms and record.offset >= offset:
                        return record, header.leader_epoch
        return None

    def with_largest_timestamp(self) -> tuple[Record, int] | None:
        """The first record that has the segment's largest timestamp, and its leader epoch."""
        if self.largest_timestamp_ms() < 0:
            return None
        position = self.position_of(self.max_timestamp_offset)
        for at, header in scan.walk(self.file, position, self.size, chunk=scan.NEAR_BYTES):
            return max(self.records(at, header), key=lambda record: record.timestamp), header.leader_epoch
        return None

    def records(self, position: int, header: BatchHeader) -> list[Record]:
        """The records of a batch. Of one whose content is a lie (nobody looked when it came), what its header says."""
        data = self.file.pread(header.size, position)
        try:
            return list(read_records(data, max_bytes=DECOMPRESSED_BYTES_MAX))
        except KafkaError:
            return [Record(header.base_offset, header.max_timestamp, None, None)]

    # shrinking

    def truncate_to(self, offset: int, interval: int) -> None:
        """Cut at the batch that holds offset. May raise OSError."""
        position = self.position_of(offset)
        self.file.truncate(position)
        self.size = position
        self.first_timestamp_ms = None if not position else self.first_timestamp_ms
        at = self.resume_indexes(before=offset)
        self.next_offset = self.base_offset
        self.index_batches(scan.walk(self.file, at, position), at, interval)
        self.next_offset = max(self.next_offset, self.base_offset)
        self.trim_index_files()

    def files(self) -> list[str]:
        """The paths of the files there are."""
        paths = [self.path, self.stem + ".index", self.stem + ".timeindex", self.stem + ".txnindex"]
        return [path for path in paths if self.disk.exists(path)]

    @property
    def is_open(self) -> bool:
        """Whether there is a descriptor."""
        return self._file is not None

    def detach(self) -> File | None:
        """Give up the open file, if there is one, to be closed by the caller."""
        file, self._file = self._file, None
        return file
