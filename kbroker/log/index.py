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

In memory an index is the file's bytes. The file trails behind: entries are written many at a time, and whatever the
file lacks is found again by scanning the log from its last entry.
"""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from sys import byteorder

from kbroker.env import Disk

_ENTRY = struct.Struct(">II")
_TIME_ENTRY = struct.Struct(">qI")
_U32 = struct.Struct(">I").unpack_from
_I64 = struct.Struct(">q").unpack_from

ENTRY_SIZE = _ENTRY.size
TIME_ENTRY_SIZE = _TIME_ENTRY.size


class IndexBytes:
    """What both indexes share: entries in memory, of which the first `saved` bytes are in the file."""

    __slots__ = ("path", "data", "saved")

    entry_size: int

    def __init__(self, path: str) -> None:
        self.path = path
        self.data = bytearray()
        self.saved = 0  # bytes of data known to be the file's content

    def __len__(self) -> int:
        return len(self.data) // self.entry_size

    def load(self, disk: Disk) -> None:
        """Take what the file holds, less an incomplete last entry. FileNotFoundError when there is none."""
        data = disk.read(self.path)
        self.data = bytearray(data[: len(data) - len(data) % self.entry_size])
        self.saved = len(self.data)

    def save(self, disk: Disk, *, even_empty: bool = False) -> None:
        """Bring the file up to date. May raise OSError; memory is then still right, and a later save repairs it.

        even_empty: have a file though there is no entry.
        """
        if self.saved == len(self.data) and not (even_empty and not self.saved and not disk.exists(self.path)):
            return  # what the file may have beyond is stale, and true
        file = disk.open(self.path, create=True)
        try:
            if file.size() < self.saved:
                self.saved = 0
            if file.size() != self.saved:
                file.truncate(self.saved)
            file.append([bytes(self.data[self.saved :])])
            self.saved = len(self.data)
        finally:
            file.close()

    def trim(self, disk: Disk) -> None:
        """Take from the file what is not in memory: a stale entry must not outlive what it points to."""
        if disk.exists(self.path):
            file = disk.open(self.path)
            try:
                if file.size() > self.saved:
                    file.truncate(self.saved)
            finally:
                file.close()


class OffsetIndex(IndexBytes):
    """Positions of some batches by their last offset, relative to the segment's base."""

    __slots__ = ()
    entry_size = ENTRY_SIZE

    def append(self, relative_offset: int, position: int) -> None:
        """Note that the batch at position ends with relative_offset."""
        self.data += _ENTRY.pack(relative_offset, position)

    def entry(self, n: int) -> tuple[int, int]:
        """(last offset, relative; position) of the n-th entry."""
        return _ENTRY.unpack_from(self.data, n * 8)

    def position_before(self, relative_offset: int) -> int:
        """The best known position of a batch at or before an offset; 0 when there is none."""
        data = self.data
        n = bisect_right(range(len(data) >> 3), relative_offset, key=lambda i: _U32(data, i << 3)[0])
        return int(_U32(data, (n << 3) - 4)[0]) if n else 0

    def boundary_before(self, position: int) -> int:
        """The largest indexed position <= position; 0 when there is none."""
        data = self.data
        n = bisect_right(range(len(data) >> 3), position, key=lambda i: _U32(data, (i << 3) + 4)[0])
        return int(_U32(data, (n << 3) - 4)[0]) if n else 0

    def entries_below(self, relative_offset: int) -> int:
        """How many entries are of batches that end before an offset."""
        data = self.data
        return bisect_left(range(len(data) >> 3), relative_offset, key=lambda i: _U32(data, i << 3)[0])

    def is_sane(self, log_size: int) -> bool:
        """Whether both columns rise strictly and stay inside the log: what a torn or foreign file does not do."""
        words = array("I", bytes(self.data))
        if byteorder == "little":
            words.byteswap()
        offsets, positions = words[0::2], words[1::2]
        if positions and positions[-1] >= log_size:
            return False
        return _rises(offsets) and _rises(positions)


class TimeIndex(IndexBytes):
    """The largest timestamp so far at some offsets, relative to the segment's base."""

    __slots__ = ()
    entry_size = TIME_ENTRY_SIZE

    def append(self, timestamp_ms: int, relative_offset: int) -> None:
        """Note that timestamp_ms is the largest up to relative_offset; ignored unless larger than the last entry's."""
        data = self.data
        if timestamp_ms > (_I64(data, len(data) - 12)[0] if data else -1):
            data += _TIME_ENTRY.pack(timestamp_ms, relative_offset)

    def entry(self, n: int) -> tuple[int, int]:
        """(timestamp; offset, relative) of the n-th entry."""
        return _TIME_ENTRY.unpack_from(self.data, n * 12)

    def last(self) -> tuple[int, int] | None:
        """The last entry: the largest timestamp, and where it first came."""
        return self.entry(len(self) - 1) if self.data else None

    def offset_before(self, timestamp_ms: int) -> int:
        """A relative offset before which (inclusive) no timestamp is larger than timestamp_ms; 0 when unknown."""
        data = self.data
        n = bisect_right(range(len(data) // 12), timestamp_ms, key=lambda i: _I64(data, i * 12)[0])
        return self.entry(n - 1)[1] if n else 0

    def entries_below(self, relative_offset: int) -> int:
        """How many entries are of batches that end before an offset."""
        data = self.data
        return bisect_left(range(len(data) // 12), relative_offset, key=lambda i: _U32(data, i * 12 + 8)[0])

    def is_sane(self, last_offset: int) -> bool:
        """Whether both columns rise strictly and no entry is past the segment's last (relative) offset."""
        count = len(self)
        words = struct.unpack(">" + "qI" * count, bytes(self.data[: count * 12]))
        stamps, offsets = words[0::2], words[1::2]
        if count and (offsets[-1] > last_offset or stamps[0] < 0):
            return False
        return _rises(stamps) and _rises(offsets)


def _rises(column: Sequence[int]) -> bool:
    return all(map(int.__lt__, column, column[1:]))
