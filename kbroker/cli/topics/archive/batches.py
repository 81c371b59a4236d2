"""Record batches on their way from one topic to another. Pure: bytes in, bytes out.

Most batches travel as they are, without a look at their records: only producer, transaction and leader epoch are taken
from the header. What a broker would not take from a producer is packed anew: batches with gaps (compaction made them),
those whose records have the time of their append, and those that begin before or end after what is wanted. Very small
ones are put together, for a request carries one batch. Packing looks at each record's length, time and offset; key,
value and headers are copied as they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from kafka_wire.errors import ErrorCode, KafkaError, ProtocolError
from kafka_wire.primitives import read_varint, varint
from kafka_wire.records import (
    CODEC,
    NO_PRODUCER_ID,
    NO_SEQUENCE,
    BatchHeader,
    Buffer,
    check_crc,
    payload,
    read_header,
    set_producer,
    with_records,
)
from kbroker.log.derived.transactions import read_marker

SMALL_BYTES = 16 << 10  # below, batches are put together
TOGETHER_BYTES = 256 << 10
PAYLOAD_BYTES_MAX = 512 << 20  # of one batch, decompressed
MAGIC = 2


class Packed(NamedTuple):
    """A batch, and how many records it has."""

    batch: bytearray
    header: BatchHeader


class RawRecord(NamedTuple):
    """A record, as far as it has to be read. rest: key, value and headers, encoded."""

    offset: int
    timestamp: int
    rest: bytes


class Gatherer:
    """Makes of the batches of a partition, fetched in order, batches that can be produced, in order.

    first, end: the offsets wanted.
    """

    def __init__(self, first: int, end: int) -> None:
        self.next_offset = first  # everything before is done
        self._end = end
        self._open: list[RawRecord] = []
        self._open_bytes = self._open_codec = 0

    def add(self, data: Buffer, pos: int, header: BatchHeader) -> Iterator[Packed]:
        """The batches that are ready now that the one at pos was fetched. Raises KafkaError for one that is broken."""
        if not check_crc(data, pos, header):
            raise KafkaError(ErrorCode.CORRUPT_MESSAGE, f"the CRC of the batch at {header.base_offset} does not match")
        if header.next_offset <= self.next_offset:
            return
        if self._travels(header):
            yield from self.rest()
            yield _bare(data, pos, header)
        else:
            yield from self._pack(data, pos, header)
        self.next_offset = header.next_offset

    def rest(self) -> Iterator[Packed]:
        """The batch that is being put together, if there is one."""
        if self._open:
            yield pack(self._open, self._open_codec)
            self._open, self._open_bytes = [], 0

    def _travels(self, header: BatchHeader) -> bool:
        return (
            header.size >= SMALL_BYTES
            and header.count == header.last_offset_delta + 1
            and not header.log_append_time
            and header.base_offset >= self.next_offset
            and header.next_offset <= self._end
        )

    def _pack(self, data: Buffer, pos: int, header: BatchHeader) -> Iterator[Packed]:
        if header.compression != self._open_codec:
            yield from self.rest()
            self._open_codec = header.compression
        for record in raw_records(data, pos):
            if self.next_offset <= record.offset < self._end:
                if self._open and self._open_bytes + len(record.rest) > TOGETHER_BYTES:
                    yield from self.rest()
                self._open.append(record)
                self._open_bytes += len(record.rest) + 8  # about what length, time and offset take


def wanted(header: BatchHeader, batch: Buffer, aborted: set[int]) -> bool:
    """Whether readers see the records of a batch. aborted: the producers whose transactions, as of here, were aborted;
    it loses the one whose marker this is."""
    if header.is_control:
        marker = read_marker(batch)
        if marker is not None and not marker.is_commit:
            aborted.discard(header.producer_id)
        return False
    return header.count > 0 and not (header.is_transactional and header.producer_id in aborted)


def raw_records(data: Buffer, pos: int = 0) -> Iterator[RawRecord]:
    """The records of the batch at pos. Raises KafkaError."""
    header = read_header(data, pos)
    records = payload(data, pos, max_bytes=PAYLOAD_BYTES_MAX)
    at, appended = 0, header.max_timestamp if header.log_append_time else None
    try:
        for _ in range(header.count):
            size, at = read_varint(records, at)
            end = at + size
            delta, at = read_varint(records, at + 1)  # past the attributes, which mean nothing
            offset, at = read_varint(records, at)
            if not at <= end <= len(records):
                raise ProtocolError("a record is not as long as it says")
            time = header.base_timestamp + delta if appended is None else appended
            yield RawRecord(header.base_offset + offset, time, records[at:end])
            at = end
    except ProtocolError as error:
        raise KafkaError(ErrorCode.INVALID_RECORD, f"in the batch at {header.base_offset}: {error}") from None


def pack(records: Iterable[RawRecord], codec: int) -> Packed:
    """One batch of these records, at consecutive offsets from the first one's."""
    records = list(records)
    base = records[0].timestamp
    parts: list[bytes] = []
    for delta, record in enumerate(records):
        head = b"\0" + varint(record.timestamp - base) + varint(delta)
        parts += (varint(len(head) + len(record.rest)), head, record.rest)
    latest = max(record.timestamp for record in records)
    header = BatchHeader(
        records[0].offset,
        0,
        -1,
        MAGIC,
        0,
        codec,
        len(records) - 1,
        base,
        latest,
        NO_PRODUCER_ID,
        -1,
        NO_SEQUENCE,
        len(records),
    )
    batch = with_records(header, b"".join(parts))
    return Packed(batch, read_header(batch))


def split(batch: Buffer, at: int) -> tuple[Packed, Packed]:
    """A batch as two, the second from the record of that number on. Raises KafkaError."""
    header, records = read_header(batch), list(raw_records(batch))
    assert 0 < at < len(records)
    return pack(records[:at], header.compression), pack(records[at:], header.compression)


def _bare(data: Buffer, pos: int, header: BatchHeader) -> Packed:
    """The batch at pos as one of no producer and no transaction."""
    batch = bytearray(memoryview(data)[pos : pos + header.size])
    if header.has_producer or header.attributes & ~CODEC:
        set_producer(batch, 0, header, NO_PRODUCER_ID, -1, NO_SEQUENCE)
        header = read_header(batch)
    return Packed(batch, header)
