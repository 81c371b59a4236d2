"""Walking the batches of a segment file by their headers, with or without checking their CRCs."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from kafka_wire.records import HEADER_SIZE, LENGTH_OFFSET, MAGIC, BatchHeader, CorruptRecords, check_crc, read_header
from kbroker.env import Buffer, Handle
from kbroker.log.cold import read_now

NEAR_BYTES = 8 * 1024  # to find a batch close to a known one
FAR_BYTES = 64 * 1024  # to walk on
WHOLE_BYTES = 1024 * 1024  # to read everything
EPOCH_STEP_MAX = 1 << 24  # more leaders than that between two batches is a flipped bit


def walk(
    file: Handle, position: int, end: int, *, chunk: int = FAR_BYTES, now: bool = False
) -> Iterator[tuple[int, BatchHeader]]:
    """(position, header) of each batch from position to end. Stops at one that is not whole or not a batch.

    chunk: bytes read at a time. now: raise NotInMemory rather than wait for the disk.
    """
    buffer: Buffer = b""
    start = position
    while position + HEADER_SIZE <= end:
        at = position - start
        if at + HEADER_SIZE > len(buffer):
            start, at = position, 0
            buffer = read_now(file, chunk, position) if now else file.pread(chunk, position)
        try:
            header = read_header(buffer, at)
        except CorruptRecords:
            return
        after = position + header.length + LENGTH_OFFSET
        if header.magic != MAGIC or after > end:
            return
        yield position, header
        position = after


def scan(file: Handle, position: int, end: int, offset: int, gaps_below: int) -> Iterator[tuple[int, BatchHeader]]:
    """Like walk, but each batch is read whole, has the right CRC, and continues the one before it.

    offset is what the first batch begins with. Base offset and leader epoch lie outside the CRC, so they are judged by
    what came before: offsets have no gap but where compaction made one, which is only below gaps_below; epochs never
    fall.
    """
    buffer, start = b"", position
    epoch = -1
    while position + HEADER_SIZE <= end:
        at = position - start
        if at + HEADER_SIZE > len(buffer):
            start, at = position, 0
            buffer = file.pread(WHOLE_BYTES, position)
        try:
            header = read_header(buffer, at)
        except CorruptRecords:
            return
        size = header.length + LENGTH_OFFSET
        if header.magic != MAGIC or position + size > end or header.last_offset_delta < 0:
            return
        if header.base_offset != offset and not offset < header.base_offset < gaps_below:
            return
        if header.leader_epoch < epoch or header.leader_epoch - epoch > EPOCH_STEP_MAX:
            return
        if at + size > len(buffer):
            start, at = position, 0
            buffer = file.pread(max(WHOLE_BYTES, size), position)
        if not check_crc(buffer, at, header):
            return
        yield position, header
        offset, epoch = header.next_offset, header.leader_epoch
        position += size


def is_torn(file: Handle, position: int, end: int, offset: int, gaps_below: int = 0) -> bool:
    """Whether what lies between position and end can be a batch that begins at offset (or later, but below gaps_below),
    cut short: all that a write which was not finished leaves. Neither a whole batch nor anything else is that."""
    head = file.pread(min(_HEAD.size, end - position), position)
    if len(head) < _HEAD.size:
        first, last = (offset.to_bytes(8)[: len(head)], max(offset, gaps_below - 1).to_bytes(8)[: len(head)])
        return first <= head[:8] <= last
    base_offset, length, _, magic = _HEAD.unpack(head)
    is_next = base_offset == offset or offset < base_offset < gaps_below
    return bool(is_next and magic == MAGIC and position + LENGTH_OFFSET + length > end)


_HEAD = struct.Struct(">qiib")  # base offset, length, leader epoch, magic
