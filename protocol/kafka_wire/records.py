"""Record batches, magic 2: the one format in which records travel and lie on disk.

    byte  field                 type         byte  field                 type
    ----  --------------------  ------       ----  --------------------  ------
       0  base offset           int64          27  base timestamp        int64   ms, or the delete horizon
       8  batch length          int32          35  max timestamp         int64   ms
      12  partition leader epoch int32         43  producer id           int64   -1: none
      16  magic                 int8  = 2      51  producer epoch        int16
      17  crc                   uint32         53  base sequence         int32   -1: none
      21  attributes            int16          57  record count          int32
      23  last offset delta     int32          61  records, compressed as one when the codec is not 0

    batch length counts from byte 12 to the end; the CRC-32C covers byte 21 to the end. So base offset and leader epoch
    can be patched in place, and log-append time cannot without a new crc.

    attributes:  0-2 codec (see compression) | 3 log-append time | 4 transactional | 5 control | 6 delete horizon

    record:  length varint | attributes int8 (unused) | timestamp delta varlong | offset delta varint
             | key length varint, -1 null | key | value length varint, -1 null | value
             | header count varint | (key length varint | key | value length varint, -1 null | value)*

    control record (KIP-98):  key = version int16 | type int16 (0 ABORT, 1 COMMIT)
                              value = version int16 | coordinator epoch int32

Reading a header costs one struct unpack and decodes no records; that is all the hot path does. A lie in a header or in
compressed bytes is CORRUPT_MESSAGE, a lie in a record INVALID_RECORD, as in Kafka's DefaultRecordBatch and
DefaultRecord.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from enum import IntEnum
from typing import NamedTuple, TypeAlias

from kafka_wire import compression as codecs
from kafka_wire import primitives
from kafka_wire.errors import ErrorCode, KafkaError, ProtocolError
from kafka_wire.primitives import read_varint, varint

Buffer: TypeAlias = "bytes | bytearray | memoryview"
WritableBuffer: TypeAlias = "bytearray | memoryview"
Headers: TypeAlias = "tuple[tuple[str, bytes | None], ...]"

HEADER_SIZE = 61
MAGIC = 2
NO_TIMESTAMP = -1
NO_PRODUCER_ID = -1
NO_SEQUENCE = -1

LENGTH_OFFSET = 12  # what batch_length does not count: the base offset and itself
LENGTH_MIN = HEADER_SIZE - LENGTH_OFFSET
_CRC_AT, _CRC_FROM, _MAX_TIMESTAMP_AT, _PRODUCER_AT = 17, 21, 35, 43
_RECORD_SIZE_MIN = 7  # seven fields of a byte each: an empty record
_RECORD_HEADER_SIZE_MIN = 2
CODEC, DELETE_HORIZON = 0x07, 0x40  # of the attributes
_LOG_APPEND_TIME, _TRANSACTIONAL, _CONTROL = 0x08, 0x10, 0x20

_HEADER = struct.Struct(">qiibIhiqqqhii")
_unpack_header = _HEADER.unpack_from
_new_tuple = tuple.__new__
_NULL = b"\x01"  # the varint -1
_pack_start = struct.Struct(">qii").pack_into  # base offset, batch length, leader epoch
_pack_producer = struct.Struct(">qhi").pack_into
_pack_int64 = struct.Struct(">q").pack_into
_pack_uint32 = struct.Struct(">I").pack_into
_pack_int16 = struct.Struct(">h").pack_into


class CorruptRecords(KafkaError):
    """Bytes that are not whole, honest record batches: CORRUPT_MESSAGE, or INVALID_RECORD for what lies in a record."""


class BatchHeader(NamedTuple):
    """The 61 bytes in front of a batch's records, as they stand."""

    base_offset: int
    length: int  # batch_length: everything after itself
    leader_epoch: int
    magic: int
    crc: int
    attributes: int
    last_offset_delta: int
    base_timestamp: int  # ms
    max_timestamp: int  # ms
    producer_id: int
    producer_epoch: int
    base_sequence: int
    count: int  # type: ignore[assignment]  # and no longer tuple's method of that name

    @property
    def size(self) -> int:
        """Bytes of the whole batch, header included."""
        return self[1] + LENGTH_OFFSET

    @property
    def last_offset(self) -> int:
        return self[0] + self[6]

    @property
    def next_offset(self) -> int:
        return self[0] + self[6] + 1

    @property
    def last_sequence(self) -> int:
        """Sequences wrap from 2^31 - 1 to 0 (Kafka: DefaultRecordBatch.incrementSequence)."""
        return NO_SEQUENCE if self[11] == NO_SEQUENCE else (self[11] + self[6]) & 0x7FFFFFFF

    @property
    def compression(self) -> int:
        """The codec's id: 0 to 4, where a client is honest; 5 to 7 do not exist."""
        return self[5] & CODEC

    @property
    def is_transactional(self) -> bool:
        return self[5] & _TRANSACTIONAL != 0

    @property
    def is_control(self) -> bool:
        return self[5] & _CONTROL != 0

    @property
    def log_append_time(self) -> bool:
        """Every record's timestamp is max_timestamp, set by the broker."""
        return self[5] & _LOG_APPEND_TIME != 0

    @property
    def has_delete_horizon(self) -> bool:
        """base_timestamp is when tombstones and markers here may go (KIP-534)."""
        return self[5] & DELETE_HORIZON != 0

    @property
    def has_producer(self) -> bool:
        return self[9] > NO_PRODUCER_ID


class Record(NamedTuple):
    """One record. A header's key that is not UTF-8 survives as surrogate escapes."""

    offset: int
    timestamp: int  # ms
    key: bytes | None
    value: bytes | None
    headers: Headers = ()


RecordLike: TypeAlias = """(
    Record
    | tuple[bytes | None, bytes | None]
    | tuple[int, bytes | None, bytes | None]
    | tuple[int, bytes | None, bytes | None, Iterable[tuple[str, bytes | None]]]
)"""


# headers: the hot path ----------------------------------------------------------------------------------------------


def read_header(buf: Buffer, pos: int = 0) -> BatchHeader:
    """The header of the batch at `pos`. Whether the whole batch is there is the caller's question (`.size`).

    Magic is not judged: the older formats keep it at the same byte, so look at `.magic` before anything behind it.
    Raises CorruptRecords (CORRUPT_MESSAGE) when fewer than 61 bytes are left or the length is below 49.
    """
    try:
        header = _new_tuple(BatchHeader, _unpack_header(buf, pos))
    except struct.error:
        raise _corrupt(f"{max(len(buf) - pos, 0)} bytes are no batch: its header alone takes {HEADER_SIZE}") from None
    if header.length < LENGTH_MIN:
        raise _corrupt(f"a batch length of {header.length} is below the least, {LENGTH_MIN}")
    return header


def headers(buf: Buffer) -> Iterator[tuple[int, BatchHeader]]:
    """(position, header) of each whole batch; stops at a batch that `buf` does not hold to its end.

    Raises CorruptRecords as read_header does, but never for a last header cut short.
    """
    pos, end = 0, len(buf)
    while pos + HEADER_SIZE <= end:
        header = read_header(buf, pos)
        after = pos + header.length + LENGTH_OFFSET
        if after > end:
            return
        yield pos, header
        pos = after


def check_crc(buf: Buffer, pos: int, header: BatchHeader) -> bool:
    """Whether the batch at `pos` is whole and its CRC-32C is the one its header states."""
    end = pos + header.length + LENGTH_OFFSET
    if end > len(buf):
        return False
    view = buf if type(buf) is memoryview else memoryview(buf)
    return primitives.crc32c(view[pos + _CRC_FROM : end]) == header.crc


def assign(buf: WritableBuffer, pos: int, header: BatchHeader, base_offset: int, leader_epoch: int) -> None:
    """Write the offset and leader epoch a leader gives to the batch at `pos`. Neither lies under the crc."""
    _pack_start(buf, pos, base_offset, header.length, leader_epoch)


def set_log_append_time(buf: WritableBuffer, pos: int, header: BatchHeader, now_ms: int) -> None:
    """Make `now_ms` the timestamp of every record of the batch at `pos`: attribute, max timestamp, and a new crc."""
    _pack_int16(buf, pos + _CRC_FROM, header.attributes | _LOG_APPEND_TIME)
    _pack_int64(buf, pos + _MAX_TIMESTAMP_AT, now_ms)
    _seal(buf, pos, header.length + LENGTH_OFFSET)


def set_create_time(buf: WritableBuffer, pos: int, header: BatchHeader, latest: int) -> None:
    """Let the records of the batch at `pos` have their own timestamps, the largest of which is `latest`; a new crc."""
    _pack_int16(buf, pos + _CRC_FROM, header.attributes & ~_LOG_APPEND_TIME)
    _pack_int64(buf, pos + _MAX_TIMESTAMP_AT, latest)
    _seal(buf, pos, header.length + LENGTH_OFFSET)


def set_producer(
    buf: WritableBuffer, pos: int, header: BatchHeader, producer_id: int, producer_epoch: int, base_sequence: int
) -> None:
    """Make the batch at `pos` one of that producer (NO_PRODUCER_ID: of none), outside of any transaction; a new crc."""
    _pack_int16(buf, pos + _CRC_FROM, header.attributes & (CODEC | _LOG_APPEND_TIME))
    _pack_producer(buf, pos + _PRODUCER_AT, producer_id, producer_epoch, base_sequence)
    _seal(buf, pos, header.length + LENGTH_OFFSET)


def _seal(buf: WritableBuffer, pos: int, size: int) -> None:
    with memoryview(buf)[pos + _CRC_FROM : pos + size] as covered:
        crc = primitives.crc32c(covered)
    _pack_uint32(buf, pos + _CRC_AT, crc)


def _corrupt(message: str) -> CorruptRecords:
    return CorruptRecords(ErrorCode.CORRUPT_MESSAGE, message)


def _invalid(message: str) -> CorruptRecords:
    return CorruptRecords(ErrorCode.INVALID_RECORD, message)


# reading records ----------------------------------------------------------------------------------------------------


def read_records(buf: Buffer, pos: int = 0, *, max_bytes: int) -> Iterator[Record]:
    """The records of the batch at `pos`, decoded one at a time. The crc is the caller's to check.

    `max_bytes` bounds what decompression may produce. Records are checked against the header as they pass: lengths,
    count, offsets rising within the batch, nothing left behind. So whoever must trust a batch reads it to the end.

    Raises KafkaError: CORRUPT_MESSAGE for a dishonest header or payload, INVALID_RECORD for a dishonest record or an
    older magic, MESSAGE_TOO_LARGE past `max_bytes`, UNSUPPORTED_COMPRESSION_TYPE. Header and payload are judged at the
    call, each record when it is asked for. A record of nothing but headers grows forty times while it is held.
    """
    header = read_header(buf, pos)
    return _iterate(header, _payload(buf, pos, header, max_bytes))


def payload(buf: Buffer, pos: int = 0, *, max_bytes: int) -> bytes:
    """The bytes of the records of the batch at `pos`, decompressed. Bounds and errors as in read_records."""
    return _payload(buf, pos, read_header(buf, pos), max_bytes)


def _payload(buf: Buffer, pos: int, header: BatchHeader, max_bytes: int) -> bytes:
    """The records' bytes, decompressed, once the header's claims about them have been found possible."""
    if header.magic != MAGIC:
        raise (_invalid if header.magic in (0, 1) else _corrupt)(f"the batch has magic {header.magic}, not {MAGIC}")
    if pos + header.size > len(buf):
        raise _corrupt(f"a batch of {header.size} bytes ends after {len(buf) - pos}")
    packed = memoryview(buf)[pos + HEADER_SIZE : pos + header.size]
    codec = header.compression
    payload = bytes(packed) if codec == codecs.NONE or not header.count else codecs.decompress(codec, packed, max_bytes)
    if not 0 <= header.count * _RECORD_SIZE_MIN <= len(payload):
        raise _corrupt(f"{header.count} records cannot lie in {len(payload)} bytes")
    return payload


def _iterate(header: BatchHeader, data: bytes) -> Iterator[Record]:
    base, base_timestamp, last_delta = header.base_offset, header.base_timestamp, header.last_offset_delta
    append_time = header.max_timestamp if header.log_append_time else None
    pos, delta = 0, -1
    for _ in range(header.count):
        try:
            before = delta
            end, timestamp, delta, key, value, fields, pos = _read_record(data, pos)
        except (IndexError, ProtocolError):
            raise _invalid(f"a record of the batch at {base} is cut short") from None
        if pos != end:
            raise _invalid(f"a record of the batch at {base} is not as long as it says")
        if not before < delta <= last_delta:
            raise _invalid(f"offset delta {delta} after {before} in a batch that ends at {last_delta}")
        timestamp += base_timestamp
        if not -(1 << 63) <= timestamp < 1 << 63:
            raise _invalid(f"timestamp {timestamp} does not fit")
        yield _new_tuple(Record, (base + delta, timestamp if append_time is None else append_time, key, value, fields))
    if pos != len(data):
        raise _invalid(f"{len(data) - pos} bytes follow the last record of the batch at {base}")


_Raw: TypeAlias = "tuple[int, int, int, bytes | None, bytes | None, Headers, int]"


def _read_record(data: bytes, pos: int) -> _Raw:
    """(its end by its length, timestamp delta, offset delta, key, value, headers, its end by its fields).

    A field may reach into the next record, or past the data, where slices stop short: the two ends then differ.
    """
    size, pos = read_varint(data, pos)
    end = pos + size
    timestamp_delta, pos = read_varint(data, pos + 1)  # past the attributes, which mean nothing
    offset_delta, pos = read_varint(data, pos)
    key, pos = _read_bytes(data, pos)
    value, pos = _read_bytes(data, pos)
    count, pos = read_varint(data, pos)
    if not count:
        return end, timestamp_delta, offset_delta, key, value, (), pos
    if not 0 < count * _RECORD_HEADER_SIZE_MIN <= len(data) - pos:
        raise _invalid(f"a record cannot have {count} headers")
    fields = []
    for _ in range(count):
        name, pos = _read_bytes(data, pos)
        if name is None:
            raise _invalid("a record header has no key")
        content, pos = _read_bytes(data, pos)
        fields.append((name.decode(errors="surrogateescape"), content))
    return end, timestamp_delta, offset_delta, key, value, tuple(fields), pos


def _read_bytes(data: bytes, pos: int) -> tuple[bytes | None, int]:
    size, pos = read_varint(data, pos)
    if size >= 0:
        return data[pos : pos + size], pos + size
    if size == -1:
        return None, pos
    raise _invalid(f"a record holds a field of {size} bytes")


# building -----------------------------------------------------------------------------------------------------------


def build_batch(
    records: Iterable[RecordLike],
    *,
    base_offset: int = 0,
    leader_epoch: int = -1,
    compression: int = 0,
    level: int | None = None,
    timestamp: int = NO_TIMESTAMP,
    log_append_time: int | None = None,
    producer_id: int = NO_PRODUCER_ID,
    producer_epoch: int = -1,
    base_sequence: int = NO_SEQUENCE,
    transactional: bool = False,
    control: bool = False,
) -> bytearray:
    """One batch of the given records, at consecutive offsets from `base_offset`, sealed with its crc.

    A record is a Record (its own offset does not count) or a tuple: (key, value), (timestamp, key, value) or
    (timestamp, key, value, headers); `timestamp`, in ms, is that of pairs. `log_append_time`, in ms, overrides every
    record's. `level` is the codec's. Raises ValueError without records, struct.error for numbers that do not fit.
    """
    encoded: list[bytes] = []
    base = latest = delta = 0
    for delta, record in enumerate(records):
        at, key, value, fields = _parts_of(record, timestamp)
        if not delta:
            base = latest = at
        elif at > latest:
            latest = at
        encoded.append(_encode_record(at - base, delta, key, value, fields))
    if not encoded:
        raise ValueError("a batch holds at least one record")
    attributes = compression | transactional * _TRANSACTIONAL | control * _CONTROL
    if log_append_time is not None:
        attributes, latest = attributes | _LOG_APPEND_TIME, log_append_time
    ids = (producer_id, producer_epoch, base_sequence)
    header = BatchHeader(base_offset, 0, leader_epoch, MAGIC, 0, attributes, delta, base, latest, *ids, len(encoded))
    return _assemble(header, codecs.compress(compression, b"".join(encoded), level))


def recompress(header: BatchHeader, payload: Buffer, compression: int, level: int | None = None) -> bytearray:
    """A batch of the same header but for codec, length and crc. `payload`: its records, decompressed."""
    header = header._replace(attributes=header.attributes & ~(CODEC | _LOG_APPEND_TIME) | compression)
    return _assemble(header, codecs.compress(compression, payload, level))


def with_records(header: BatchHeader, payload: Buffer) -> bytearray:
    """A batch of a header around other records. `payload`: all of them, not compressed yet; length and crc are made."""
    return _assemble(header, codecs.compress(header.compression, payload))


def _parts_of(
    record: RecordLike, timestamp: int
) -> tuple[int, bytes | None, bytes | None, Iterable[tuple[str, bytes | None]]]:
    """(timestamp, key, value, headers) of anything build_batch takes."""
    match record:
        case (key, value):
            return timestamp, key, value, ()
        case (at, key, value):
            return at, key, value, ()
        case (at, key, value, fields):
            return at, key, value, fields
        case (_, at, key, value, fields):
            return at, key, value, fields


def _encode_record(
    timestamp_delta: int,
    offset_delta: int,
    key: bytes | None,
    value: bytes | None,
    fields: Iterable[tuple[str, bytes | None]],
) -> bytes:
    parts = [b"\x00", varint(timestamp_delta), varint(offset_delta)]
    parts += (_NULL,) if key is None else (varint(len(key)), key)
    parts += (_NULL,) if value is None else (varint(len(value)), value)
    if fields:
        fields = tuple(fields)
        parts.append(varint(len(fields)))
        for name, content in fields:
            encoded = name.encode(errors="surrogateescape")
            parts += (varint(len(encoded)), encoded)
            parts += (_NULL,) if content is None else (varint(len(content)), content)
    else:
        parts.append(b"\x00")
    body = b"".join(parts)
    return varint(len(body)) + body


def _assemble(header: BatchHeader, payload: bytes) -> bytearray:
    """Header and payload in one buffer, with the length and crc they come to."""
    batch = bytearray(HEADER_SIZE) + payload
    _HEADER.pack_into(batch, 0, *header._replace(length=len(batch) - LENGTH_OFFSET))
    _seal(batch, 0, len(batch))
    return batch


# control markers ----------------------------------------------------------------------------------------------------


class ControlType(IntEnum):
    """What ends a transaction in a partition. Kafka has more types (leader change, …), for its own quorum."""

    ABORT = 0
    COMMIT = 1


class ControlMarker(NamedTuple):
    """A control record, read. The epoch is -1 where the type is neither COMMIT nor ABORT."""

    type: int
    coordinator_epoch: int


_CONTROL_KEY = struct.Struct(">hh")
_CONTROL_VALUE = struct.Struct(">hi")
_CONTROL_RECORD = struct.Struct(">5shhchib")  # the whole record; the first byte is its length, the last its headers
_CONTROL_HEAD, _CONTROL_MIDDLE = b"\x20\0\0\0\x08", b"\x0c"  # before the key, of 4 bytes; before the value, of 6
_CONTROL_BATCH_SIZE = HEADER_SIZE + _CONTROL_RECORD.size


def control_batch(
    marker: ControlType,
    *,
    producer_id: int,
    producer_epoch: int,
    coordinator_epoch: int,
    timestamp: int,
    base_offset: int = 0,
    leader_epoch: int = -1,
    transactional: bool = True,
) -> bytearray:
    """The batch of one control record that ends a transaction (Kafka: MemoryRecords.withEndTransactionMarker).

    Every client skips it and moves on, which also serves to say "nothing here up to this offset"; no transaction is
    touched then: `producer_id=-1, transactional=False`.
    """
    batch = bytearray(_CONTROL_BATCH_SIZE)
    attributes = _CONTROL | transactional * _TRANSACTIONAL
    _HEADER.pack_into(
        batch, 0, base_offset, _CONTROL_BATCH_SIZE - LENGTH_OFFSET, leader_epoch, MAGIC, 0, attributes, 0,
        timestamp, timestamp, producer_id, producer_epoch, NO_SEQUENCE, 1,
    )  # fmt: skip
    _CONTROL_RECORD.pack_into(batch, HEADER_SIZE, _CONTROL_HEAD, 0, marker, _CONTROL_MIDDLE, 0, coordinator_epoch, 0)
    _seal(batch, 0, _CONTROL_BATCH_SIZE)
    return batch


def peek_control(batch: Buffer) -> ControlMarker | None:
    """What a batch as control_batch makes it says; None for any other, which may be a control batch all the same."""
    if len(batch) == _CONTROL_BATCH_SIZE:
        head, version, kind, middle, value_version, epoch, tail = _CONTROL_RECORD.unpack_from(batch, HEADER_SIZE)
        if head == _CONTROL_HEAD and middle == _CONTROL_MIDDLE and not (version or value_version or tail):
            return ControlMarker(kind, epoch if kind in (ControlType.ABORT, ControlType.COMMIT) else -1)
    return None


def read_control(record: Record) -> ControlMarker:
    """What a record of a control batch says. Versions above 0 are read as 0, as in Kafka.

    Raises CorruptRecords (INVALID_RECORD) when key or value is too short, or its version negative.
    """
    version, kind = _unpack_control(_CONTROL_KEY, record.key, "key")
    if kind not in (ControlType.ABORT, ControlType.COMMIT):
        return ControlMarker(kind, -1)
    return ControlMarker(kind, _unpack_control(_CONTROL_VALUE, record.value, "value")[1])


def _unpack_control(layout: struct.Struct, data: bytes | None, what: str) -> tuple[int, int]:
    if data is None or len(data) < layout.size:
        raise _invalid(f"the {what} of a control record takes {layout.size} bytes")
    version, field = layout.unpack_from(data)
    if version < 0:
        raise _invalid(f"the {what} of a control record has version {version}")
    return version, field
