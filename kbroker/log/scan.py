"""Walking the batches of a segment file by their headers, with or without checking their CRCs."""

from __future__ import annotations

from collections.abc import Iterator

from kafka_wire.records import HEADER_SIZE, BatchHeader, CorruptRecords, check_crc, read_header
from kbroker.env import File

_MAGIC = 2
NEAR_BYTES = 8 * 1024  # to find a batch close to a known one
FAR_BYTES = 64 * 1024  # to walk on
WHOLE_BYTES = 1024 * 1024  # to read everything


def walk(file: File, position: int, end: int, *, chunk: int = FAR_BYTES) -> Iterator[tuple[int, BatchHeader]]:
    """(position, header) of each batch from position to end. Stops at one that is not whole or not a batch."""
    buffer, start = b"", position
    while position + HEADER_SIZE <= end:
        at = position - start
        if at + HEADER_SIZE > len(buffer):
            start, at = position, 0
            buffer = file.pread(chunk, position)
        try:
            header = read_header(buffer, at)
        except CorruptRecords:
            return
        after = position + header.length + 12
        if header.magic != _MAGIC or after > end:
            return
        yield position, header
        position = after


def scan(file: File, position: int, end: int, offset: int) -> Iterator[tuple[int, BatchHeader]]:
    """Like walk, but each batch is read whole, has the right CRC, and begins at or after where the last one ended.

    offset is the least that the first batch may begin with.
    """
    buffer, start = b"", position
    while position + HEADER_SIZE <= end:
        at = position - start
        if at + HEADER_SIZE > len(buffer):
            start, at = position, 0
            buffer = file.pread(WHOLE_BYTES, position)
        try:
            header = read_header(buffer, at)
        except CorruptRecords:
            return
        size = header.length + 12
        if header.magic != _MAGIC or position + size > end or header.base_offset < offset:
            return
        if at + size > len(buffer):
            start, at = position, 0
            buffer = file.pread(max(WHOLE_BYTES, size), position)
        if not check_crc(buffer, at, header) or header.last_offset_delta < 0:
            return
        yield position, header
        offset = header.base_offset + header.last_offset_delta + 1
        position += size


def is_whole(file: File, position: int, end: int) -> bool:
    """Whether the bytes at position claim to be a batch that ends by `end`: what a torn write cannot do."""
    return next(walk(file, position, end, chunk=HEADER_SIZE), None) is not None
