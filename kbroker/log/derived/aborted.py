"""Which transactions were aborted, by the segment that holds the marker. Owns the format of `<base offset>.txnindex`.

Entries of 34 bytes, big-endian, in the order of the markers:

    +-------------+-----------------+------------------+------------------+-----------------------------+
    | version i16 | producer id i64 | first offset i64 | offset of the    | last stable offset when the |
    | 0           |                 |                  | marker       i64 | marker was appended     i64 |
    +-------------+-----------------+------------------+------------------+-----------------------------+

The file, where there is one, has them all: an entry is written before its marker is, and taken back when that fails. So
there are three kinds of segments: those whose file is there, those known in memory only (a new one is known to have
none), and those of which nobody knows, as the file was lost. The file is made when the other index files are, empty if
there is nothing to say. What nobody knows is found by reading the batches' headers (kbroker.log.rediscovery), when
somebody asks. (Kafka: TransactionIndex, AbortedTxn. Its absent file means that there are none.)
"""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import NamedTuple

from kafka_wire.messages.produce_fetch import AbortedTransaction
from kafka_wire.schema import maker
from kbroker.env import Disk, File
from kbroker.log.derived.transactions import ALL_STABLE, AbortedRange

ENTRY_SIZE = 34
BLOCK = 64  # entries of which the lowest first offset is known
RECENT_MAX = 10_000  # entries kept of a segment of which the earlier ones are not known
SUFFIX = ".txnindex"

_ENTRY = struct.Struct(">hqqqq")
_new_aborted = maker(AbortedTransaction, "producer_id", "first_offset")  # as the answer to a fetch has it
_VERSION = 0


class AbortedRanges:
    """Some entries, in order."""

    __slots__ = ("producer_ids", "firsts", "lasts", "stables", "_lowest")

    def __init__(self, entries: Iterable[AbortedRange] = ()) -> None:
        self.producer_ids = array("q")
        self.firsts = array("q")
        self.lasts = array("q")  # rise
        self.stables = array("q")  # do not fall
        self._lowest = array("q")  # of the first offsets, block by block
        for entry in entries:
            self.append(entry)

    def __len__(self) -> int:
        return len(self.lasts)

    def append(self, entry: AbortedRange) -> None:
        """Add one whose marker is behind all others."""
        producer_id, first, last, stable = entry
        if len(self.lasts) % BLOCK:
            self._lowest[-1] = min(self._lowest[-1], first)
        else:
            self._lowest.append(first)
        self.producer_ids.append(producer_id)
        self.firsts.append(first)
        self.lasts.append(last)
        self.stables.append(stable)

    def entries(self, start: int = 0, stop: int | None = None) -> list[AbortedRange]:
        """The entries from the start-th on."""
        columns = (self.producer_ids, self.firsts, self.lasts, self.stables)
        return list(map(AbortedRange, *[column[start:stop] for column in columns]))

    def collect(self, offset: int, bound: int, found: list[AbortedTransaction], most: int = ALL_STABLE) -> bool:
        """Add those that overlap what lies from offset to below bound; not many more than so many in all.

        Returns whether no later segment can have any: what begins below bound was decided before. Costs two bisections,
        and what is found, and a little for each block of what a long transaction held undecided. A worker may do it
        while entries are appended.
        """
        start, stop = bisect_left(self.lasts, offset), bisect_left(self.stables, bound)
        is_last = stop < len(self.stables)
        stop = min(stop + 1, len(self.stables))  # that entry may itself begin below
        if start < stop:
            for block in range(start // BLOCK, (stop - 1) // BLOCK + 1):
                if self._lowest[block] < bound:
                    for n in range(max(start, block * BLOCK), min(stop, (block + 1) * BLOCK)):
                        if self.firsts[n] < bound:
                            found.append(_new_aborted(self.producer_ids[n], self.firsts[n]))
                    if len(found) > most:
                        break
        return is_last

    def content(self, start: int = 0) -> bytes:
        """The entries from the start-th on, as they are in the file."""
        return b"".join([_ENTRY.pack(_VERSION, *entry) for entry in self.entries(start)])


def read_entries(content: bytes) -> Iterator[AbortedRange]:
    """The whole entries of a file, whatever they say."""
    whole = memoryview(content)[: len(content) // ENTRY_SIZE * ENTRY_SIZE]
    for _, *entry in _ENTRY.iter_unpack(whole):
        yield AbortedRange(*entry)


def read_ranges(disk: Disk, stem: str, base_offset: int) -> AbortedRanges | None:
    """What a segment's file says; None when there is none, or it cannot be true. Blocks. May raise OSError."""
    try:
        return parse_ranges(disk.read(stem + SUFFIX), base_offset)
    except FileNotFoundError:
        return None


def parse_ranges(content: bytes, base_offset: int) -> AbortedRanges | None:
    """What a file says; None when it cannot be true."""
    if len(content) % ENTRY_SIZE:
        return None
    ranges, latest, decided = AbortedRanges(), base_offset - 1, 0
    for version, *entry in _ENTRY.iter_unpack(content):
        _, first, last, stable = entry
        if version != _VERSION or last <= latest or not 0 <= first < last or not decided <= stable <= last + 1:
            return None
        ranges.append(AbortedRange(*entry))
        latest, decided = last, stable
    return ranges


class KnownAborted(NamedTuple):
    """What was found of a segment."""

    ranges: AbortedRanges
    lowest_open: int  # see AbortedIndex
    has_file: bool  # a true one
    copy: str  # the path of a new one, durable, to be put in its place; "": none

    def remove_copy(self, disk: Disk) -> None:
        """Nobody needs the new file, if it is still there."""
        if self.copy:
            with suppress(OSError):
                disk.remove(self.copy)


class AbortedIndex:
    """What is known of one segment. Its owner, the segment's log, tells it of each abort, and of each end."""

    __slots__ = ("disk", "stem", "base_offset", "ranges", "known_from", "saved", "lowest_open")

    def __init__(self, disk: Disk, stem: str, base_offset: int, is_new: bool) -> None:
        self.disk = disk
        self.stem = stem
        self.base_offset = base_offset
        self.ranges: AbortedRanges | None = None  # None: none
        self.known_from = base_offset if is_new else ALL_STABLE  # `ranges` has all whose marker is there or behind
        self.saved = -1  # entries in the file, which has all; -1: there is none, or nobody has looked
        # Of a closed segment: the lowest first offset of what was ongoing at its end, or ALL_STABLE; -1: not known.
        self.lowest_open = -1

    @property
    def path(self) -> str:
        return self.stem + SUFFIX

    @property
    def is_known(self) -> bool:
        """Whether `ranges` has them all."""
        return self.known_from <= self.base_offset

    @property
    def has_none(self) -> bool:
        """Whether it is known that there are none."""
        return self.ranges is None and self.known_from <= self.base_offset

    # of the segment that grows

    def resume(self, next_offset: int, *, has_file: bool) -> None:
        """The segment ends there, and is to grow: what its file has beyond is of a write that never was.

        May raise OSError.
        """
        self.known_from = next_offset
        if has_file:
            self._cut_file(next_offset)

    @property
    def size(self) -> int:
        """Bytes of the file, or of what it would be."""
        return ENTRY_SIZE * max(self.saved, len(self.ranges or ()))

    def note(self, entry: AbortedRange | None) -> None:
        """A marker is about to be appended, which aborts that; None: nothing.

        A file that cannot be written is given up, and what it said is known in memory, or found again. Raises OSError
        when not even that is possible: then the marker must not be appended, as the file would lie.
        """
        if entry is None:
            return
        if self.is_known or self.saved >= 0:
            try:
                self._write(entry)
            except OSError:
                self.distrust()
        if self.ranges is None:
            self.ranges = AbortedRanges()
        if not self.is_known and len(self.ranges) >= RECENT_MAX:
            self.ranges, self.known_from = AbortedRanges(), entry.last_offset
        self.ranges.append(entry)

    def _write(self, entry: AbortedRange) -> None:
        content = _ENTRY.pack(_VERSION, *entry)
        if self.saved < 0:
            self.disk.write_atomic(self.path, self._content() + content, sync=False)
            self.saved = len(self.ranges or ()) + 1
            return
        file = self.disk.open(self.path)
        try:
            self._fit(file)
            file.append([content])
            self.saved += 1
        finally:
            file.close()

    def _content(self) -> bytes:
        return self.ranges.content() if self.ranges is not None else b""

    def _fit(self, file: File) -> None:
        """Take from the file what it has beyond its entries. Raises OSError when it has less."""
        size = file.size()
        if size < self.saved * ENTRY_SIZE:
            raise OSError(f"{self.path} has lost entries")
        if size > self.saved * ENTRY_SIZE:
            file.truncate(self.saved * ENTRY_SIZE)

    def save(self) -> None:
        """Have a file, if it is known what it is to say. A failure costs only looking at batches later."""
        if self.saved < 0 and self.is_known:
            with suppress(OSError):
                self.disk.write_atomic(self.path, self._content(), sync=False)
                self.saved = len(self.ranges or ())

    def distrust(self) -> None:
        """Remove the file, so that nobody believes it. May raise OSError."""
        self.saved = -1
        with suppress(FileNotFoundError):
            self.disk.remove(self.path)

    def cut(self, end: int) -> None:
        """The segment ends at an offset now, and what follows will be appended there. May raise OSError."""
        if self.is_known and self.saved < 0 and not self.ranges:
            return
        self.lowest_open = -1
        ranges = self.ranges
        if ranges is not None and ranges.lasts and ranges.lasts[-1] >= end:
            self.ranges = AbortedRanges(ranges.entries(0, bisect_left(ranges.lasts, end)))
        if not self.is_known:
            self.known_from = min(self.known_from, end)
        self._cut_file(end)

    def _cut_file(self, end: int) -> None:
        try:
            file = self.disk.open(self.path)
        except FileNotFoundError:
            self.saved = -1
            return
        try:
            count = file.size() // ENTRY_SIZE
            while count and _ENTRY.unpack(file.pread(ENTRY_SIZE, (count - 1) * ENTRY_SIZE))[3] >= end:
                count -= 1
            self.saved = count
            self._fit(file)
        finally:
            file.close()

    # looking up

    def release(self) -> None:
        """Give up what the file has, too, until it is needed again."""
        if self.ranges is not None and self.is_known and self.saved >= 0:
            self.ranges, self.known_from = None, ALL_STABLE

    def adopt(self, found: KnownAborted, end: int) -> None:
        """Have what was found of the batches below end, if that reaches up to what is known."""
        self.lowest_open = found.lowest_open
        if self.is_known or end < self.known_from != ALL_STABLE:
            return
        later = self.ranges.entries() if self.ranges is not None else []
        count = bisect_left(found.ranges.lasts, self.known_from)
        self.ranges = AbortedRanges(found.ranges.entries(0, count) + later) if later else found.ranges
        self.known_from = self.base_offset
        with suppress(OSError):
            self._adopt_file(found)

    def _adopt_file(self, found: KnownAborted) -> None:
        if found.copy:
            self.disk.rename(found.copy, self.path)
            self.saved = len(found.ranges)
        elif found.has_file:
            self.saved = max(self.saved, len(found.ranges))
        elif self.saved >= 0:  # there is one, and it is wrong
            self.distrust()
