"""The sparse indexes of a segment: offset -> position, and timestamp -> offset. Owns the two file formats.

`<base offset>.index`, entries of 8 bytes, big-endian, both columns strictly rising:

    +---------------------------+---------------------------+
    | last offset of a batch,   | position of that batch in |
    | relative to the base  u32 | the .log file         u32 |
    +---------------------------+---------------------------+

`<base offset>.timeindex`, entries of 12 bytes, both columns strictly rising:

    +-------------------------------+---------------------------+
    | largest timestamp so far, in  | last offset of the batch  |
    | milliseconds              i64 | that has it, relative u32 |
    +-------------------------------+---------------------------+

"So far" means every record with a larger timestamp comes after that batch. An entry is made before a batch when more
than `index.interval.bytes` were appended since the last one; the time index gets one more when the segment is closed,
so that its last entry is the segment's largest timestamp. (Kafka: OffsetIndex, TimeIndex, LogSegment.append. Kafka
preallocates the files of the active segment; these hold entries only.)

In memory an index is two arrays, a column each, so that looking up, loading and checking are the work of a few calls
into C. The file trails behind: entries are written many at a time, and whatever the file lacks is found again by
scanning the log from its last entry. To go on appending takes the last entries alone (a "tail"): a segment of a
gigabyte has two megabytes of them, which nobody has to wait for.
"""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from itertools import islice
from operator import lt
from sys import byteorder
from typing import Self

from kafka_wire.records import LENGTH_OFFSET, BatchHeader
from kbroker.env import Disk

ENTRY_SIZE = 8
TIME_ENTRY_SIZE = 12
NO_TIMESTAMP = -1
UNKNOWN = -1
TAIL_ENTRIES = 4  # one would do but for the last of a closed segment's time index
_PIECE = 4096  # entries looked at in one go: a worker that loads a large index lets the event loop run in between

assert array("I").itemsize == array("i").itemsize == 4 and array("q").itemsize == 8


class Index(ABC):
    """What both indexes share: entries, of which the first `saved` are in the file, and all after `skipped` in memory.

    Entries are counted from the first one that there is. What looks them up may only be used when none is skipped.
    """

    __slots__ = ("path", "saved", "skipped")

    entry_size: int

    def __init__(self, path: str) -> None:
        self.path = path
        self.saved = 0  # entries known to be the file's content
        self.skipped = 0  # of those, the first ones, which are not in memory

    @abstractmethod
    def __len__(self) -> int:
        """Entries, those skipped included."""

    @abstractmethod
    def entry(self, n: int) -> tuple[int, int]:
        """The n-th entry; it must not be skipped."""

    @abstractmethod
    def content(self, first: int = 0) -> bytes:
        """The entries from the first-th on, as they are in the file."""

    @abstractmethod
    def _take(self, content: bytes) -> None:
        """Have the entries of a file in place of these."""

    @abstractmethod
    def _forget(self, count: int) -> None:
        """Drop all that is in memory but the first count entries."""

    def load(self, disk: Disk) -> None:
        """Take what the file holds, less an incomplete last entry. FileNotFoundError when there is none."""
        content = disk.read(self.path)
        self._take(content[: len(content) - len(content) % self.entry_size])
        self.saved, self.skipped = len(content) // self.entry_size, 0

    def load_tail(self, disk: Disk) -> None:
        """Take only the last entries of the file. FileNotFoundError when there is none."""
        file = disk.open(self.path)
        try:
            count = file.size() // self.entry_size
            self.skipped = max(count - TAIL_ENTRIES, 0)
            self._take(file.pread((count - self.skipped) * self.entry_size, self.skipped * self.entry_size))
            self.saved = count
        finally:
            file.close()

    def complete(self, head: Self) -> bool:
        """Have the entries that were skipped, from an index that has them. False if the two do not fit together."""
        if self.skipped:
            if head.skipped or len(head) < self.skipped or not self._follows(head.entry(self.skipped - 1)):
                return False
            self._prepend(head, self.skipped)
            self.skipped = 0
        return True

    def _follows(self, entry: tuple[int, int]) -> bool:
        """Whether the first entry in memory, if there is one, may follow that one."""
        first = self.entry(self.skipped) if len(self) > self.skipped else None
        return first is None or (entry[0] < first[0] and entry[1] < first[1])

    @abstractmethod
    def _prepend(self, head: Self, count: int) -> None:
        """Have the first count entries of another before those in memory."""

    def save(self, disk: Disk, *, even_empty: bool = False) -> None:
        """Bring the file up to date. May raise OSError; memory is then still right, and a later save repairs it.

        even_empty: have a file though there is no entry.
        """
        if self.saved == len(self) and not (even_empty and not self.saved and not disk.exists(self.path)):
            return  # what the file may have beyond is stale, and true
        file = disk.open(self.path, create=True)
        try:
            if file.size() < self.saved * self.entry_size:
                self.saved = 0
            if self.saved < self.skipped:
                raise OSError(f"{self.path} has lost entries that are not in memory")
            if file.size() != self.saved * self.entry_size:
                file.truncate(self.saved * self.entry_size)
            file.append([self.content(self.saved)])
            self.saved = len(self)
        finally:
            file.close()

    def cut(self, count: int) -> None:
        """Keep the first count entries alone: more than are skipped. The file may have more until it is trimmed."""
        self._forget(count - self.skipped)
        self.saved = min(self.saved, count)

    def trim(self, disk: Disk) -> None:
        """Take from the file what is not in memory: a stale entry must not outlive what it points to."""
        if disk.exists(self.path):
            file = disk.open(self.path)
            try:
                if file.size() > self.saved * self.entry_size:
                    file.truncate(self.saved * self.entry_size)
            finally:
                file.close()

    def distrust(self, disk: Disk) -> None:
        """Remove the file, so that nobody believes it. May raise OSError."""
        self.saved = 0
        if disk.exists(self.path):
            disk.remove(self.path)


class OffsetIndex(Index):
    """Positions of some batches by their last offset, relative to the segment's base."""

    __slots__ = ("_offsets", "_positions", "_bases")
    entry_size = ENTRY_SIZE

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._offsets = array("I")
        self._positions = array("I")
        self._bases = array("i")  # base offsets of the batches, relative; not in the file, so UNKNOWN when loaded

    def __len__(self) -> int:
        return self.skipped + len(self._positions)

    def append(self, relative_offset: int, position: int, relative_base: int = UNKNOWN) -> None:
        """Note that the batch at position ends with relative_offset, and begins with relative_base."""
        self._offsets.append(relative_offset)
        self._positions.append(position)
        self._bases.append(relative_base)

    def entry(self, n: int) -> tuple[int, int]:
        """(last offset, relative; position) of the n-th entry."""
        return self._offsets[n - self.skipped], self._positions[n - self.skipped]

    def last(self) -> tuple[int, int] | None:
        """The last entry."""
        return (self._offsets[-1], self._positions[-1]) if self._positions else None

    def position_before(self, relative_offset: int) -> int:
        """The best known position of a batch at or before an offset; 0 when there is none."""
        n = bisect_right(self._offsets, relative_offset)
        return self._positions[n - 1] if n else 0

    def boundary_before(self, position: int) -> tuple[int, int]:
        """(the largest indexed position <= position, the base offset of its batch, relative, or UNKNOWN).

        (0, UNKNOWN) when there is none.
        """
        n = bisect_right(self._positions, position) - 1
        return (self._positions[n], self._bases[n]) if n >= 0 else (0, UNKNOWN)

    def entries_below(self, relative_offset: int) -> int:
        """How many entries are of batches that end before an offset; those skipped are."""
        return self.skipped + bisect_left(self._offsets, relative_offset)

    def is_sane(self, log_size: int) -> bool:
        """Whether both columns rise strictly and stay inside the log: what a torn or foreign file does not do."""
        if self._positions and self._positions[-1] >= log_size:
            return False
        return _rises(self._offsets) and _rises(self._positions)

    def content(self, first: int = 0) -> bytes:
        """The entries from the first-th on, as they are in the file."""
        start = first - self.skipped
        words = array("I", bytes((len(self) - first) * ENTRY_SIZE))
        words[0::2], words[1::2] = self._offsets[start:], self._positions[start:]
        return _big_endian(words).tobytes()

    def _take(self, content: bytes) -> None:
        words = _big_endian(array("I", content))
        self._offsets, self._positions = words[0::2], words[1::2]
        self._bases = array("i", [UNKNOWN]) * len(self._positions)

    def _forget(self, count: int) -> None:
        del self._offsets[count:], self._positions[count:], self._bases[count:]

    def _prepend(self, head: OffsetIndex, count: int) -> None:
        self._offsets = head._offsets[:count] + self._offsets
        self._positions = head._positions[:count] + self._positions
        self._bases = head._bases[:count] + self._bases


class TimeIndex(Index):
    """The largest timestamp so far at some offsets, relative to the segment's base."""

    __slots__ = ("_stamps", "_offsets")
    entry_size = TIME_ENTRY_SIZE

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._stamps = array("q")
        self._offsets = array("I")

    def __len__(self) -> int:
        return self.skipped + len(self._offsets)

    def append(self, timestamp_ms: int, relative_offset: int) -> None:
        """Note that timestamp_ms is the largest up to relative_offset; ignored unless larger than the last entry's."""
        stamps = self._stamps
        if timestamp_ms > (stamps[-1] if stamps else NO_TIMESTAMP):
            stamps.append(timestamp_ms)
            self._offsets.append(relative_offset)

    def entry(self, n: int) -> tuple[int, int]:
        """(timestamp; offset, relative) of the n-th entry."""
        return self._stamps[n - self.skipped], self._offsets[n - self.skipped]

    def last(self) -> tuple[int, int] | None:
        """The last entry: the largest timestamp, and where it first came."""
        return (self._stamps[-1], self._offsets[-1]) if self._offsets else None

    def offset_before(self, timestamp_ms: int) -> int:
        """A relative offset before which (inclusive) no timestamp is larger than timestamp_ms; 0 when unknown."""
        n = bisect_right(self._stamps, timestamp_ms)
        return self._offsets[n - 1] if n else 0

    def entries_below(self, relative_offset: int) -> int:
        """How many entries are of batches that end before an offset; those skipped are."""
        return self.skipped + bisect_left(self._offsets, relative_offset)

    def is_sane(self, last_offset: int) -> bool:
        """Whether both columns rise strictly and no entry is past the segment's last (relative) offset."""
        if self._offsets and (self._offsets[-1] > last_offset or self._stamps[0] < 0):
            return False
        return _rises(self._stamps) and _rises(self._offsets)

    def content(self, first: int = 0) -> bytes:
        """The entries from the first-th on, as they are in the file."""
        start = first - self.skipped
        halves = array("I", self._stamps[start:].tobytes())
        words = array("I", bytes((len(self) - first) * TIME_ENTRY_SIZE))
        words[0::3], words[1::3] = halves[_HIGH::2], halves[_LOW::2]
        words[2::3] = self._offsets[start:]
        return _big_endian(words).tobytes()

    def _take(self, content: bytes) -> None:
        words = _big_endian(array("I", content))
        halves = array("I", bytes(len(words) // 3 * 8))
        halves[_HIGH::2], halves[_LOW::2] = words[0::3], words[1::3]
        self._stamps, self._offsets = array("q", halves.tobytes()), words[2::3]

    def _forget(self, count: int) -> None:
        del self._stamps[count:], self._offsets[count:]

    def _prepend(self, head: TimeIndex, count: int) -> None:
        self._stamps = head._stamps[:count] + self._stamps
        self._offsets = head._offsets[:count] + self._offsets


def read_last_time(disk: Disk, path: str) -> tuple[int, int] | None:
    """The last entry of a time index that is not in memory: (timestamp; offset, relative). May raise OSError."""
    return _read_last(disk, path, _TIME_ENTRY)


def read_last_offset(disk: Disk, path: str) -> tuple[int, int] | None:
    """The last entry of an offset index that is not in memory: (offset, relative; position). May raise OSError."""
    return _read_last(disk, path, _OFFSET_ENTRY)


def _read_last(disk: Disk, path: str, layout: struct.Struct) -> tuple[int, int] | None:
    try:
        file = disk.open(path)
    except FileNotFoundError:
        return None
    try:
        count = file.size() // layout.size
        if not count:
            return None
        first, second = layout.unpack(file.pread(layout.size, (count - 1) * layout.size))
        return first, second
    finally:
        file.close()


_OFFSET_ENTRY = struct.Struct(">II")
_TIME_ENTRY = struct.Struct(">qI")
_LOW, _HIGH = (0, 1) if byteorder == "little" else (1, 0)  # the halves of a 64-bit number in memory


def _big_endian(words: array[int]) -> array[int]:
    """The same array, from the machine's order of bytes to the files' or back."""
    if byteorder == "little":
        words.byteswap()
    return words


def _rises(column: array[int]) -> bool:
    for start in range(0, len(column) - 1, _PIECE):
        piece = column[start : start + _PIECE + 1]
        if not all(map(lt, piece, islice(piece, 1, None))):
            return False
    return True


class Indexes:
    """Both indexes of a segment, and what it takes to go on with them."""

    __slots__ = (
        "base_offset", "offsets", "times", "max_timestamp_ms", "max_timestamp_offset", "saved_position", "is_new",
        "_since_entry",
    )  # fmt: skip

    def __init__(self, stem: str, base_offset: int) -> None:
        self.base_offset = base_offset
        self.offsets = OffsetIndex(stem + ".index")
        self.times = TimeIndex(stem + ".timeindex")
        self.max_timestamp_ms = NO_TIMESTAMP
        self.max_timestamp_offset = base_offset  # the last offset of the batch that has it
        self.saved_position = 0  # up to where of the log the files were brought up to date
        self.is_new = False  # made of the batches alone, as the files are wrong
        self._since_entry = 0  # bytes of batches since the last entry

    @classmethod
    def load(cls, disk: Disk, stem: str, base_offset: int, size: int, before: int | None = None) -> tuple[Indexes, int]:
        """What the files hold, and the position from which to scan for the rest. May raise OSError.

        size: of the log, in bytes. before: leave out batches that do not end below that offset. The position is that of
        the last entry's batch, 0 when nothing could be used.
        """
        indexes = cls(stem, base_offset)
        try:
            indexes.offsets.load(disk)
            indexes.times.load(disk)
        except FileNotFoundError:
            return cls(stem, base_offset), 0
        if before is not None:
            indexes.offsets.cut(indexes.offsets.entries_below(before - base_offset))
        position = indexes._settle(size)
        return (indexes, position) if position else (cls(stem, base_offset), 0)

    @classmethod
    def load_tail(cls, disk: Disk, stem: str, base_offset: int, size: int) -> tuple[Indexes, int] | None:
        """Like load, but only what it takes to go on, at once. None when that is not to be had. May raise OSError."""
        indexes = cls(stem, base_offset)
        try:
            indexes.offsets.load_tail(disk)
            indexes.times.load_tail(disk)
        except FileNotFoundError:
            return None
        position = indexes._settle(size)
        is_enough = position and (indexes.times.last() is not None or not indexes.times.skipped)
        return (indexes, position) if is_enough else None

    def _settle(self, size: int) -> int:
        """Find out from what was read where to go on: the position of the last entry's batch. 0: it cannot be used."""
        last = self.offsets.last()
        if last is None or not self.offsets.is_sane(size):
            return 0
        self.times.cut(self.times.entries_below(last[0] + 1))
        if not self.times.is_sane(last[0]):
            return 0
        final = self.times.last()
        if final is not None:
            self.max_timestamp_ms, self.max_timestamp_offset = final[0], final[1] + self.base_offset
        self.saved_position = last[1]
        return last[1]

    @property
    def is_whole(self) -> bool:
        """Whether all entries are in memory, so that they can be looked up."""
        return not self.offsets.skipped and not self.times.skipped

    def complete(self, head: Indexes) -> bool:
        """Have what a tail lacks from whole indexes of the same batches. False if they do not fit together."""
        return self.offsets.complete(head.offsets) and self.times.complete(head.times)

    def note(self, header: BatchHeader, base_offset: int, position: int, interval: int) -> None:
        """A batch that begins at base_offset is in the log at position. interval: bytes between entries, at least."""
        if header.max_timestamp > self.max_timestamp_ms and header.count:  # an empty one's time is no record's
            self.max_timestamp_ms = header.max_timestamp
            self.max_timestamp_offset = base_offset + header.last_offset_delta
        if self._since_entry > interval:
            relative_base = base_offset - self.base_offset
            self.offsets.append(relative_base + header.last_offset_delta, position, relative_base)
            self.times.append(self.max_timestamp_ms, self.max_timestamp_offset - self.base_offset)
            self._since_entry = 0
        self._since_entry += header.length + LENGTH_OFFSET

    def scan(
        self, batches: Iterator[tuple[int, BatchHeader]], position: int, next_offset: int, interval: int
    ) -> tuple[int, int]:
        """Note batches from position on, where the last entry's stands. Returns what is behind the last: (position,
        offset); of none at all, position and next_offset."""
        known = position if self.offsets else -1
        for position, header in batches:
            if position == known:
                self._since_entry = header.size
            else:
                self.note(header, header.base_offset, position, interval)
            position += header.size
            next_offset = header.next_offset
        return position, next_offset

    def save(self, disk: Disk, position: int) -> None:
        """Bring the files up to date with the log up to position. A failure costs only scanning later."""
        self.saved_position = position
        try:
            self._save(disk)
        except OSError:
            pass

    def finish(self, disk: Disk) -> None:
        """Nothing will be appended: the time index gets its last entry, both files are written whole.

        Files that cannot be completed are removed, so that nobody trusts them. OSError if not even that.
        """
        if self.max_timestamp_ms >= 0:
            self.times.append(self.max_timestamp_ms, self.max_timestamp_offset - self.base_offset)
        try:
            self._save(disk)
        except OSError:
            self.times.distrust(disk)
            self.offsets.distrust(disk)

    def _save(self, disk: Disk) -> None:
        self.times.save(disk, even_empty=bool(self.offsets))  # first: the other says how far both are complete
        self.offsets.save(disk)

    def trim(self, disk: Disk) -> None:
        """Take back from the files what memory does not have. May raise OSError."""
        self.times.trim(disk)
        self.offsets.trim(disk)
