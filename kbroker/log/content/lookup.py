"""Finding records by their timestamps, across segments. What ListOffsets asks for.

    segments in order ─▶ largest timestamp ─▶ indexes ─▶ headers of batches ─▶ records of one batch: their timestamps

A lookup is long work (kbroker.turns): it pauses, and what has to be waited for (the disk, decompression of more than a
little) is an errand for a worker. Each segment, and within it the rest, is looked at as it is when its turn comes; a
segment that was deleted meanwhile is passed over. Keys and values are never read, one decompressed batch is held at a
time, and of one that is no batch, or would be too large, the header's word is taken.
"""

from __future__ import annotations

from bisect import bisect_right
from functools import partial
from itertools import islice
from operator import attrgetter
from typing import NamedTuple, Protocol, TypeVar

from kafka_wire import compression as codecs
from kafka_wire.errors import ErrorCode, KafkaError
from kafka_wire.records import HEADER_SIZE, BatchHeader
from kafka_wire.walk import stamps
from kbroker.env import Buffer, Handle
from kbroker.log import scan
from kbroker.log.cold import read_now, told
from kbroker.log.segment import Segment
from kbroker.turns import Errands

BATCHES_AT_ONCE = 16  # headers looked at between two pauses
RECORDS_AT_ONCE = 128
READ_AT_ONCE_BYTES = 64 * 1024  # of a batch, in the event loop
INFLATE_AT_ONCE_BYTES, INFLATED_AT_ONCE_BYTES = 4 * 1024, 128 * 1024  # in the event loop: compressed, decompressed
INFLATED_BYTES_MAX = 32 * 1024 * 1024  # of one batch
LONG_AGO = -(1 << 63)

T = TypeVar("T")

_next_offset = attrgetter("next_offset")


class Found(NamedTuple):
    """A record found by its timestamp."""

    timestamp_ms: int
    offset: int
    leader_epoch: int


class Log(Protocol):
    """What a lookup takes from a log: as it is now, each time."""

    segments: list[Segment]
    start_offset: int

    def check_online(self) -> None:
        """Raise LogOffline if it is."""


def first_at_or_after(log: Log, timestamp_ms: int, bound: int) -> Errands[Found | None]:
    """The first record below bound whose timestamp is at least timestamp_ms. Raises LogOffline, OSError."""
    after = -1  # what ends at or below it has been looked at
    while (segment := _first_behind(log, after)) is not None and segment.base_offset < bound:
        if segment.size and segment.next_offset > log.start_offset:
            try:
                found = yield from _first_in(segment, timestamp_ms, log.start_offset, bound)
            except FileNotFoundError:
                if segment in log.segments:
                    raise
                continue  # deleted while we waited, or another has its place: that one is looked at
            if found is not None:
                return found
        after = segment.next_offset
        yield None
    return None


def _first_behind(log: Log, offset: int) -> Segment | None:
    """The first segment, as they are now, that ends behind an offset. Raises LogOffline."""
    log.check_online()
    at = bisect_right(log.segments, offset, key=_next_offset)
    return log.segments[at] if at < len(log.segments) else None


def with_largest_timestamp(log: Log, bound: int) -> Errands[Found | None]:
    """The first record with the largest timestamp of all, unless it is not to be read: below the start, or not below
    bound (KIP-734). Raises LogOffline, OSError.
    """
    while True:
        segments = list(log.segments)
        try:
            return (yield from _with_largest_of(log, segments, bound))
        except FileNotFoundError:
            if set(segments) <= set(log.segments):
                raise
        yield None  # one was deleted while we waited, or another has its place: look again


def _with_largest_of(log: Log, segments: list[Segment], bound: int) -> Errands[Found | None]:
    best, best_ms, offset = None, LONG_AGO, 0  # without any timestamps it is the first record, as in Kafka
    for segment in segments:
        log.check_online()
        if segment.size:
            largest_ms, at = yield from told(segment.largest)
            if largest_ms > best_ms:
                best, best_ms, offset = segment, largest_ms, at
        yield None
    if best is None:
        return None
    position = yield from told(partial(best.position_of, offset))
    handle = best.file.handle
    for at, header in (yield from told(partial(_batches, handle, position, best.size, 1))):
        found = yield from _search(handle, at, header, None, 0)
        if found is not None and found.offset < log.start_offset:  # perhaps another one of the batch is as new
            newest_ms = found.timestamp_ms
            found = yield from _search(handle, at, header, None, log.start_offset)
            found = found if found is not None and found.timestamp_ms == newest_ms else None
        if found is not None and found.offset < bound:
            return found
    return None


def _first_in(segment: Segment, timestamp_ms: int, start: int, bound: int) -> Errands[Found | None]:
    largest_ms, _ = yield from told(segment.largest)
    if largest_ms < timestamp_ms:
        return None
    indexes = yield from told(segment.loaded)
    after = max(indexes.times.offset_before(timestamp_ms), start - segment.base_offset)
    position = indexes.offsets.position_before(after)
    handle, size = segment.file.handle, segment.size
    while True:
        batches = yield from told(partial(_batches, handle, position, size, BATCHES_AT_ONCE))
        for at, header in batches:
            if header.base_offset >= bound:
                return None
            if header.max_timestamp >= timestamp_ms and header.last_offset >= start:
                found = yield from _search(handle, at, header, timestamp_ms, start)
                if found is not None:
                    return found if found.offset < bound else None
            position = at + header.size
        if not batches:
            return None
        yield None


def _batches(handle: Handle, position: int, end: int, count: int, *, now: bool) -> list[tuple[int, BatchHeader]]:
    return list(islice(scan.walk(handle, position, end, chunk=scan.NEAR_BYTES, now=now), count))


def _search(
    handle: Handle, position: int, header: BatchHeader, timestamp_ms: int | None, start: int
) -> Errands[Found | None]:
    """The first record of a batch, from offset start on, that is not older; None: the first of the newest."""
    found_ms, found_at = LONG_AGO, -1
    if header.log_append_time:
        timestamp_ms = LONG_AGO  # all are as old as the header says
    try:
        payload = yield from _payload(handle, position, header)
        for number, (delta_ms, delta) in enumerate(stamps(payload, header.count), 1):
            time_ms, offset = header.base_timestamp + delta_ms, header.base_offset + delta
            if offset >= start and time_ms > found_ms:
                if timestamp_ms is None:
                    found_ms, found_at = time_ms, offset
                elif time_ms >= timestamp_ms:
                    found_ms, found_at = time_ms, offset
                    break
            if not number % RECORDS_AT_ONCE:
                yield None
    except KafkaError:
        if header.base_offset >= start:
            found_ms, found_at = header.max_timestamp, header.base_offset
    if found_at < 0:
        return None
    return Found(header.max_timestamp if header.log_append_time else found_ms, found_at, header.leader_epoch)


def _payload(handle: Handle, position: int, header: BatchHeader) -> Errands[Buffer]:
    """The records' bytes: here when that is quick, by a worker when it may not be. Raises KafkaError, OSError."""
    size = header.size - HEADER_SIZE
    if header.compression == codecs.NONE and size <= READ_AT_ONCE_BYTES:
        return (yield from told(partial(_read, handle, size, position + HEADER_SIZE)))
    if size <= INFLATE_AT_ONCE_BYTES:
        packed = yield from told(partial(_read, handle, size, position + HEADER_SIZE))
        try:
            return codecs.decompress(header.compression, packed, INFLATED_AT_ONCE_BYTES)
        except KafkaError as error:
            if error.code is not ErrorCode.MESSAGE_TOO_LARGE:
                raise
    data: bytes = yield partial(_read_whole, handle, position, header)
    return data


def _read(handle: Handle, length: int, position: int, *, now: bool) -> Buffer:
    return read_now(handle, length, position) if now else handle.pread(length, position)


def _read_whole(handle: Handle, position: int, header: BatchHeader) -> bytes:
    packed = handle.pread(header.size - HEADER_SIZE, position + HEADER_SIZE)
    return codecs.decompress(header.compression, packed, INFLATED_BYTES_MAX)
