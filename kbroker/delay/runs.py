"""Entries of a schedule as rows of bytes, in memory or in a file, in order; and how several such are read as one.

A row has 32 bytes, big-endian, so that rows in the order of their bytes are in the order in which they are due. Its
first half is its place: a row of the same place further on (the offset is larger) takes its place.

    +------------+--------+------------+-------------------+
    | due ms i64 | id i64 | offset i64 | digest of its key |
    +------------+--------+------------+-------------------+

`<number>.run`: blocks of 512 rows (the last has fewer), each followed by its CRC-32C, big-endian.
"""

from __future__ import annotations

import errno
import struct
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from operator import itemgetter
from typing import NamedTuple

from kafka_wire.primitives import crc32c
from kbroker.env import Disk

KEY_BYTES = 8
ROW_BYTES = 32
PLACE = 16  # bytes of a row that say when it is due, and what comes first of those due together
BLOCK_ROWS = 512
SUFFIX = ".run"

_ROW = struct.Struct(">qqq8s")
_ONE_ROW = struct.Struct(f"{ROW_BYTES}s")
_CRC = struct.Struct(">I")
_REST = b"\xff" * PLACE  # behind a place: not less than any row there
_OFFSET = itemgetter(slice(16, 24))

END = b"\xff" * ROW_BYTES  # a bound that everything is within

pack = _ROW.pack


class Damaged(Exception):
    """A file of the schedule is not what was written: it has to be made anew, from the log."""


class Entry(NamedTuple):
    """A record that is pending. In order: what is due first; of those due together what came first."""

    due_ms: int  # on the data clock; 0 when it was hurried
    id: int  # the offset that it had when it came
    offset: int  # where the log has it
    key: bytes  # KEY_BYTES: a digest of its key


def entry_of(row: bytes) -> Entry:
    """What a row says."""
    return Entry(*_ROW.unpack(row))


def rows_in(data: bytes) -> list[bytes]:
    """Rows that lie one behind the other."""
    return [row for (row,) in _ONE_ROW.iter_unpack(data)]


def lowest_offset(rows: Iterable[bytes], of_none: int) -> int:
    """The smallest offset of some rows."""
    lowest = min(map(_OFFSET, rows), default=None)
    return of_none if lowest is None else int.from_bytes(lowest, "big")


def distinct(rows: Sequence[bytes]) -> list[bytes]:
    """Of rows in order the last at each place."""
    return list({row[:PLACE]: row for row in rows}.values())


def through(place: bytes) -> bytes:
    """A bound that all rows at a place, given as the beginning of a row, are within."""
    return place[:PLACE] + _REST


class Cursor:
    """A reader of rows in order: of a list, or block by block."""

    __slots__ = ("rows", "at")

    def __init__(self, rows: list[bytes], at: int = 0) -> None:
        self.rows = rows
        self.at = at  # the first that is not passed

    def __len__(self) -> int:
        """How many are not passed."""
        return len(self.rows) - self.at

    @property
    def floor(self) -> bytes:
        """No row that is not passed is below this."""
        return self.rows[min(self.at, len(self.rows) - 1)] if self.rows else b""

    def fill(self) -> bool:
        """Have at least one row at hand; False: there are no more."""
        return self.at < len(self.rows)

    def reach(self, stride: int) -> bytes:
        """The last of the next rows at hand, so many at most. There is one."""
        return self.rows[min(self.at + stride, len(self.rows)) - 1]

    def upto(self, bound: bytes) -> list[bytes]:
        """The rows at hand within a bound."""
        return self.rows[self.at : bisect_right(self.rows, bound, self.at)]

    def pass_by(self, bound: bytes) -> None:
        """Those are behind now. Nothing within the bound may lie behind what is at hand."""
        self.at = bisect_right(self.rows, bound, self.at)


class Run:
    """Rows in a file, none at the same place as another. The file is open only while it is read."""

    __slots__ = ("disk", "path", "number", "count", "lowest_offset")

    def __init__(self, disk: Disk, directory: str, number: int, count: int, lowest_offset: int) -> None:
        self.disk = disk
        self.path = run_path(directory, number)
        self.number = number
        self.count = count
        self.lowest_offset = lowest_offset

    @property
    def size(self) -> int:
        """Bytes in the file."""
        return self.count * ROW_BYTES + -(-self.count // BLOCK_ROWS) * _CRC.size

    def block(self, index: int) -> list[bytes]:
        """The rows of a block. May raise Damaged, OSError."""
        length = min(BLOCK_ROWS, self.count - index * BLOCK_ROWS) * ROW_BYTES + _CRC.size
        file = self.disk.open(self.path)
        try:
            data = file.pread(length, index * (BLOCK_ROWS * ROW_BYTES + _CRC.size))
        finally:
            file.close()
        rows, crc = data[: -_CRC.size], data[-_CRC.size :]
        if len(data) != length or crc != _CRC.pack(crc32c(rows)):
            raise Damaged(f"{self.path}: block {index} is not what was written")
        return rows_in(rows)

    def position_behind(self, bound: bytes) -> int:
        """How many rows are within a bound."""
        low, high = 0, -(-self.count // BLOCK_ROWS)
        while low < high:  # blocks below low begin within the bound, blocks from high on do not
            middle = (low + high) // 2
            if self.block(middle)[0] <= bound:
                low = middle + 1
            else:
                high = middle
        return 0 if low == 0 else (low - 1) * BLOCK_ROWS + bisect_right(self.block(low - 1), bound)


class RunCursor(Cursor):
    """A reader of a run, which has one block at hand."""

    __slots__ = ("run", "_base")

    def __init__(self, run: Run, position: int = 0) -> None:
        super().__init__([])
        self.run = run
        self._base = position  # rows before the block at hand

    @property
    def position(self) -> int:
        """How many rows are passed."""
        return self._base + self.at

    def __len__(self) -> int:
        """How many are not passed."""
        return self.run.count - self.position

    def fill(self) -> bool:
        """Have at least one row at hand; False: there are no more. May raise Damaged, OSError."""
        if self.at == len(self.rows) and self.position < self.run.count:
            index, at = divmod(self.position, BLOCK_ROWS)
            self.rows = self.run.block(index)
            self._base, self.at = index * BLOCK_ROWS, at
        return self.at < len(self.rows)


class RunWriter:
    """A run that is being written, over whatever the file may hold. To be closed, whatever happens."""

    def __init__(self, disk: Disk, directory: str, number: int) -> None:
        make_directory(disk, directory)
        self._disk = disk
        self._directory = directory
        self._number = number
        self._file = disk.open(run_path(directory, number), create=True)
        self._rows: list[bytes] = []  # of a block that is not full
        self._count = 0
        self._lowest_offset = (1 << 63) - 1
        self._file.truncate(0)

    def write(self, rows: list[bytes]) -> None:
        """These come next. May raise OSError: nothing can be written any more then."""
        if not rows:
            return
        self._count += len(rows)
        self._lowest_offset = min(self._lowest_offset, lowest_offset(rows, self._lowest_offset))
        self._rows += rows
        full = len(self._rows) // BLOCK_ROWS * BLOCK_ROWS
        self._write_blocks(self._rows[:full])
        del self._rows[:full]

    def finish(self) -> Run | None:
        """The run, durable; None when it has no rows. May raise OSError."""
        self._write_blocks(self._rows)
        self._file.handle.sync()
        if not self._count:
            return None
        return Run(self._disk, self._directory, self._number, self._count, self._lowest_offset)

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def remove(self) -> None:
        """It is not needed, or not whole. If the disk does not let go of it, whoever loads the schedule removes it."""
        with suppress(OSError):
            self._disk.remove(self._file.path)

    def _write_blocks(self, rows: list[bytes]) -> None:
        parts = []
        for at in range(0, len(rows), BLOCK_ROWS):
            block = b"".join(rows[at : at + BLOCK_ROWS])
            parts += [block, _CRC.pack(crc32c(block))]
        if parts:
            self._file.append(parts)


def make_directory(disk: Disk, directory: str) -> None:
    """Have the directory of a schedule. May raise OSError: FileNotFoundError when that of its partition is gone, which
    must not come back with nothing but a schedule in it.
    """
    parent = directory.rpartition("/")[0]
    if not disk.exists(parent):
        raise FileNotFoundError(errno.ENOENT, "there is no such partition any more", parent)
    disk.make_dirs(directory)


def run_path(directory: str, number: int) -> str:
    """The file of a run."""
    return f"{directory}/{number}{SUFFIX}"


def next_rows(cursors: Iterable[Cursor], stride: int, bound: bytes) -> list[bytes]:
    """The next rows within a bound, of all cursors together, in order; none: there are no more.

    Up to stride of each cursor. Who takes them passes all cursors by `through` the last that it took. May raise
    Damaged, OSError: then as if it had not been asked.
    """
    filled = [each for each in cursors if each.fill()]
    if not filled:
        return []
    bound = min(bound, *(through(each.reach(stride)) for each in filled))
    rows: list[bytes] = []
    for each in filled:
        rows += each.upto(bound)
    rows.sort()
    return rows


def merged(cursors: list[Cursor]) -> Iterator[list[bytes]]:
    """All rows of all cursors in order, some at a time: of each place the last. Raises like `next_rows`."""
    while rows := next_rows(cursors, BLOCK_ROWS, END):
        for each in cursors:
            each.pass_by(through(rows[-1]))
        yield distinct(rows)
