"""Segment files read as they lie on disk, batch by batch: what `log dump` shows and `log verify` checks.

A partition's directory holds `<base offset, 20 digits>.log` with its `.index` (relative offset int32, position int32)
and `.timeindex` (timestamp int64, relative offset int32), entries ascending; what follows the entries may be zeros.
An offset index entry points to the batch that holds its offset, a time index entry to an offset of the segment.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from kafka_wire.errors import KafkaError
from kafka_wire.records import HEADER_SIZE, BatchHeader, check_crc, read_header, read_records

RECORDS_BYTES_MAX = 1 << 30  # decompressed size of one batch; more is a lie
_OFFSET_ENTRY = struct.Struct(">ii")
_TIME_ENTRY = struct.Struct(">qi")


class Found(NamedTuple):
    """One batch, or what stands where one should be. problem: "" when it is whole."""

    position: int
    header: BatchHeader | None
    problem: str


class Checked(NamedTuple):
    """What one segment holds, and what is wrong with it: (file, problem) pairs."""

    batches: int
    size: int
    next_offset: int
    problems: list[tuple[Path, str]]


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


def check_segment(path: Path) -> Checked:
    """Walk a segment's CRCs and offsets, and its indexes."""
    problems: list[tuple[Path, str]] = []
    base_offset = int(path.stem)
    expected, count = base_offset, 0
    at: dict[int, BatchHeader] = {}
    with opened(path) as view:
        size = len(view)
        for position, header, problem in batches(view):
            if problem:
                problems.append((path, f"at byte {position}: {problem}"))
            if header is None:
                continue
            if header.base_offset < expected:
                problems.append((path, f"at byte {position}: offset {header.base_offset}, {expected} or more is due"))
            count += 1
            at[position] = header
            expected = max(expected, header.next_offset)
            if not problem:
                problems += [(path, f"at byte {position}: {text}") for text in record_problems(view, position, header)]
    problems += _check_offset_index(path.with_suffix(".index"), base_offset, at)
    problems += _check_time_index(path.with_suffix(".timeindex"), base_offset, expected)
    return Checked(count, size, expected, problems)


def record_problems(view: memoryview, position: int, header: BatchHeader) -> Iterator[str]:
    """Whether the records of a batch can be read, and are as many as its header says."""
    try:
        found = sum(1 for _ in read_records(view, position, max_bytes=RECORDS_BYTES_MAX))
    except KafkaError as error:
        yield f"its records cannot be read: {error.message}"
        return
    if found != header.count:
        yield f"{found} records, the header says {header.count}"


def segment_paths(directory: Path) -> dict[Path, list[Path]]:
    """Partition directory to its segments in order, for all below directory (which may be one itself)."""
    found: dict[Path, list[Path]] = {}
    for path in sorted(directory.rglob("*.log")):
        if path.stem.isdecimal() and len(path.stem) == 20:
            found.setdefault(path.parent, []).append(path)
    return found


def _check_offset_index(path: Path, base_offset: int, at: dict[int, BatchHeader]) -> Iterator[tuple[Path, str]]:
    last = (-1, -1)
    for number, (relative, position) in enumerate(_entries(path, _OFFSET_ENTRY)):
        header = at.get(position)
        offset = base_offset + relative
        if (relative, position) <= last:
            yield path, f"entry {number}: not after the entry before it"
        elif header is None:
            yield path, f"entry {number}: no batch begins at byte {position}"
        elif not header.base_offset <= offset <= header.last_offset:
            yield path, f"entry {number}: offset {offset} is not in the batch at byte {position}"
        last = (relative, position)


def _check_time_index(path: Path, base_offset: int, next_offset: int) -> Iterator[tuple[Path, str]]:
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
