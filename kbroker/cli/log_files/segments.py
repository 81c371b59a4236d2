"""Segment files read as they lie on disk, batch by batch: what `log dump` shows and `log verify` checks.

A partition's directory holds `<base offset, 20 digits>.log` with its `.index` (relative offset int32, position int32)
and `.timeindex` (timestamp int64, relative offset int32), entries ascending; what follows the entries may be zeros.
An offset index entry points to the batch that holds its offset, a time index entry to an offset of the segment.

A file is mapped and walked once, index beside it, and what is wrong is told as it is found: neither the size of a
segment nor the number of its faults is one of memory.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TypeAlias

from kafka_wire.errors import KafkaError
from kafka_wire.records import HEADER_SIZE, BatchHeader, check_crc, read_header
from kbroker.log.content.inspection import batch_problem
from kbroker.turns import do_errands

_OFFSET_ENTRY = struct.Struct(">ii")
_TIME_ENTRY = struct.Struct(">qi")


class Found(NamedTuple):
    """One batch, or what stands where one should be. problem: "" when it is whole."""

    position: int
    header: BatchHeader | None
    problem: str


class Checked(NamedTuple):
    """What one segment holds."""

    batches: int
    size: int
    next_offset: int
    epochs: list[tuple[int, int]]  # (leader epoch, offset) where another one begins


Problem: TypeAlias = "tuple[Path, str]"
Problems: TypeAlias = Iterator[Problem]


@contextmanager
def opened(path: Path) -> Iterator[memoryview]:
    """A file's bytes, mapped, so that a gigabyte costs nothing to open. Raises OSError."""
    with path.open("rb") as file:
        if path.stat().st_size == 0:
            yield memoryview(b"")
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped, memoryview(mapped) as view:
            yield view


def batches(view: memoryview) -> Iterator[Found]:
    """Every batch from the start; ends after the first place that is not a batch, for no length leads on from there."""
    position = 0
    while position < len(view):
        left = len(view) - position
        if not any(view[position : position + HEADER_SIZE]) and left >= HEADER_SIZE:
            yield Found(position, None, f"{left} bytes that begin with zeros")
            return
        try:
            header = read_header(view, position)
        except KafkaError as error:
            yield Found(position, None, f"torn or damaged: {left} bytes left, {error.message}")
            return
        if header.magic != 2:
            yield Found(position, header, f"magic {header.magic}: only batches of magic 2 are understood")
            return
        if header.size > left:
            yield Found(position, header, f"torn: the batch is {header.size} bytes long, {left} are left")
            return
        whole = check_crc(view, position, header)
        yield Found(position, header, "" if whole else "the CRC does not match")
        position += header.size


def check_segment(
    path: Path, follow: Callable[[BatchHeader, memoryview], Problems], *, is_growing: bool = False
) -> Generator[Problem, None, Checked]:
    """Walk a segment's batches, their records, and its indexes. What is wrong is yielded as (file, text).

    follow: what else is to be said of a batch that is whole. is_growing: a broker is writing it, so that its end may be
    torn and its indexes lag behind. Raises OSError.
    """
    base_offset = int(path.stem)
    due, count = base_offset, 0
    epochs = list[tuple[int, int]]()
    index = _OffsetIndexCheck(path.with_suffix(".index"), base_offset)
    is_whole = True
    with opened(path) as view:
        size = len(view)
        for position, header, problem in batches(view):
            is_whole = not problem or (header is not None and position + header.size <= size and header.magic == 2)
            if problem and not (is_growing and not is_whole):
                yield path, _at(position, header) + problem
            if header is None:
                continue
            if header.base_offset < due:
                yield path, _at(position, header) + f"where {due} or more is due"
            count += 1
            if not epochs or epochs[-1][0] != header.leader_epoch:
                epochs.append((header.leader_epoch, header.base_offset))
            yield from index.batch(position, header)
            due = max(due, header.next_offset)
            if not problem:
                with view[position : position + header.size] as batch:
                    if text := do_errands(batch_problem(batch, header)):
                        yield path, _at(position, header) + text
                    yield from follow(header, batch)
    if is_whole:
        yield from index.end()
        yield from _check_time_index(path.with_suffix(".timeindex"), base_offset, due)
    return Checked(count, size, due, epochs)


def _at(position: int, header: BatchHeader | None) -> str:
    return f"at byte {position}: " if header is None else f"offset {header.base_offset} at byte {position}: "


def segment_paths(directory: Path) -> dict[Path, list[Path]]:
    """Partition directory to its segments in order, for all below directory (which may be one itself)."""
    found: dict[Path, list[Path]] = {}
    for path in sorted(directory.rglob("*.log")):
        if path.stem.isdecimal() and len(path.stem) == 20:
            found.setdefault(path.parent, []).append(path)
    return found


class _OffsetIndexCheck:
    """An offset index, compared with the batches as they pass."""

    def __init__(self, path: Path, base_offset: int) -> None:
        self.path = path
        self.base_offset = base_offset
        self.entries = enumerate(_entries(path, _OFFSET_ENTRY))
        self.next = next(self.entries, None)
        self.last = (-1, -1)

    def batch(self, position: int, header: BatchHeader) -> Problems:
        """Judge the entries up to a batch's position."""
        while self.next is not None and (self.next[1][1] <= position or self.next[1] <= self.last):
            number, entry = self.next
            offset = self.base_offset + entry[0]
            if entry <= self.last:
                yield self.path, f"entry {number}: not after the entry before it"
            elif entry[1] < position:
                yield self.path, f"entry {number}: no batch begins at byte {entry[1]}"
            elif not header.base_offset <= offset <= header.last_offset:
                yield self.path, f"entry {number}: offset {offset} is not in the batch at byte {position}"
            self.last = entry
            self.next = next(self.entries, None)

    def end(self) -> Problems:
        """Judge the entries behind the last batch."""
        while self.next is not None:
            yield self.path, f"entry {self.next[0]}: no batch begins at byte {self.next[1][1]}"
            self.next = next(self.entries, None)


def _check_time_index(path: Path, base_offset: int, next_offset: int) -> Problems:
    last_timestamp, last_relative = -1, -1
    for number, (timestamp, relative) in enumerate(_entries(path, _TIME_ENTRY)):
        if timestamp < last_timestamp or relative < last_relative:
            yield path, f"entry {number}: not after the entry before it"
        elif not base_offset <= base_offset + relative < next_offset:
            yield path, f"entry {number}: offset {base_offset + relative} is not in the segment"
        last_timestamp, last_relative = timestamp, relative


def _entries(path: Path, layout: struct.Struct) -> Iterator[tuple[int, int]]:
    if not path.exists():
        return
    data = path.read_bytes()
    for number in range(len(data) // layout.size):
        entry = layout.unpack_from(data, number * layout.size)
        if number and not any(entry):  # Kafka reserves index files: zeros to the end
            return
        if not any(entry) and not any(data[layout.size : 2 * layout.size]):
            return
        yield entry
