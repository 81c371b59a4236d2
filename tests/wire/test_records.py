"""Record batches: read and written as kafka-python, kio and Kafka itself do; every lie in one is answered."""

from __future__ import annotations

import datetime
import io
import random
import struct
from collections.abc import Callable
from typing import Any

import crcmod.predefined
import kio.records.readers
import kio.records.schema
import kio.records.writers
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kafka.record import default_records as kafka_python
from kafka.record.memory_records import MemoryRecords
from kio.static.primitive import i64

from kafka_wire import compression as codecs
from kafka_wire.errors import ErrorCode, KafkaError
from kafka_wire.primitives import varint
from kafka_wire.records import (
    HEADER_SIZE,
    BatchHeader,
    ControlMarker,
    ControlType,
    CorruptRecords,
    Record,
    assign,
    build_batch,
    check_crc,
    control_batch,
    headers,
    payload,
    peek_control,
    read_control,
    read_header,
    read_records,
    set_log_append_time,
    with_records,
)
from kafka_wire.walk import keyed

MIB = 1 << 20
NOW = 1_700_000_000_000
crcmod_crc32c = crcmod.predefined.mkPredefinedCrcFun("crc-32c")

per_codec = pytest.mark.parametrize("codec", range(5), ids=codecs.NAMES)

BYTES = st.none() | st.binary(max_size=200)
HEADERS = st.lists(st.tuples(st.text(max_size=5), st.none() | st.binary(max_size=70)), max_size=3)
TIMESTAMPS = st.integers(-1, 2**42)
RECORDS = st.lists(st.tuples(TIMESTAMPS, BYTES, BYTES, HEADERS), min_size=1, max_size=20)


def read(batch: bytes | bytearray | memoryview, pos: int = 0) -> list[Record]:
    return list(read_records(batch, pos, max_bytes=MIB))


def seal(batch: bytearray) -> bytearray:
    """The batch with the length and crc that its bytes come to."""
    struct.pack_into(">i", batch, 8, len(batch) - 12)
    struct.pack_into(">I", batch, 17, crcmod_crc32c(bytes(batch[21:])))
    return batch


def batch_of(payload: bytes, count: int = 1, last_delta: int = 0, base_timestamp: int = NOW) -> bytearray:
    """A batch around any bytes."""
    batch = bytearray(HEADER_SIZE)
    fields = (0, 0, 0, 2, 0, 0, last_delta, base_timestamp, NOW, -1, -1, -1, count)
    struct.pack_into(">qiibIhiqqqhii", batch, 0, *fields)
    return seal(batch + payload)


def patched(batch: bytearray, at: int, layout: str, value: int) -> bytearray:
    batch = bytearray(batch)
    struct.pack_into(layout, batch, at, value)
    return batch


# header -------------------------------------------------------------------------------------------------------------


def test_header_fields_are_where_kafka_puts_them() -> None:
    batch = build_batch(
        [(NOW, b"k", b"v"), (NOW + 9, None, b"w")],
        base_offset=2**40,
        leader_epoch=7,
        producer_id=2**50,
        producer_epoch=3,
        base_sequence=2**31 - 1,
        transactional=True,
    )
    header = read_header(b"pad" + batch, 3)
    assert header == BatchHeader(
        base_offset=2**40,
        length=len(batch) - 12,
        leader_epoch=7,
        magic=2,
        crc=crcmod_crc32c(bytes(batch[21:])),
        attributes=0x10,
        last_offset_delta=1,
        base_timestamp=NOW,
        max_timestamp=NOW + 9,
        producer_id=2**50,
        producer_epoch=3,
        base_sequence=2**31 - 1,
        count=2,
    )
    assert header.size == len(batch)
    assert (header.last_offset, header.next_offset) == (2**40 + 1, 2**40 + 2)
    assert header.last_sequence == 0, "sequences wrap"
    assert header.is_transactional
    assert header.has_producer
    assert not (header.is_control or header.log_append_time or header.has_delete_horizon)


def test_header_without_producer_or_sequence() -> None:
    header = read_header(build_batch([(b"k", b"v")], compression=codecs.ZSTD, control=True))
    assert not header.has_producer
    assert header.last_sequence == -1
    assert header.compression == codecs.ZSTD
    assert header.is_control
    assert not header.is_transactional


@pytest.mark.parametrize("size", [0, 1, 60])
def test_header_cut_short_is_corrupt(size: int) -> None:
    with pytest.raises(CorruptRecords) as error:
        read_header(bytes(size))
    assert error.value.code is ErrorCode.CORRUPT_MESSAGE


@pytest.mark.parametrize("length", [48, 0, -1, -(2**31)])
def test_header_with_a_length_below_the_least_is_corrupt(length: int) -> None:
    with pytest.raises(CorruptRecords):
        read_header(patched(build_batch([(b"k", b"v")]), 8, ">i", length))


def test_headers_walk_whole_batches_and_stop_at_a_torn_one() -> None:
    batches = [build_batch([(b"k", bytes(n))] * n, base_offset=10 * n) for n in (1, 2, 3)]
    data = b"".join(batches)
    positions = [0, len(batches[0]), len(batches[0]) + len(batches[1])]
    assert [(pos, h.base_offset) for pos, h in headers(data)] == list(zip(positions, (10, 20, 30), strict=True))
    for cut in (1, len(batches[2]) - 60, len(batches[2])):
        assert [pos for pos, _ in headers(memoryview(data)[:-cut])] == positions[:2]
    assert list(headers(b"")) == []


def test_headers_raise_at_a_length_that_cannot_be() -> None:
    good = build_batch([(b"k", b"v")])
    walk = headers(good + patched(good, 8, ">i", 0))
    assert next(walk)[0] == 0
    with pytest.raises(CorruptRecords):
        next(walk)


def test_B4_a_flipped_bit_anywhere_under_the_crc_is_noticed() -> None:
    batch = build_batch([(b"key", b"value")])
    header = read_header(batch)
    assert check_crc(batch, 0, header)
    assert check_crc(memoryview(b"pad" + batch), 3, header)
    for at in range(21, len(batch)):
        batch[at] ^= 0x10
        assert not check_crc(batch, 0, header)
        batch[at] ^= 0x10
    assert not check_crc(batch[:-1], 0, header), "a batch cut short"


@pytest.mark.parametrize("wrap", [bytearray, lambda b: memoryview(bytearray(b))])
def test_assign_leaves_the_crc_valid(wrap: Callable[[bytes], Any]) -> None:
    buf = wrap(b"pad" + build_batch([(b"k", b"v"), (b"k", b"w")]))
    before = read_header(buf, 3)
    assign(buf, 3, before, 123_456_789_012, 42)
    after = read_header(buf, 3)
    assert after == before._replace(base_offset=123_456_789_012, leader_epoch=42)
    assert check_crc(buf, 3, after)
    assert [r.offset for r in read(buf, 3)] == [123_456_789_012, 123_456_789_013]


@per_codec
def test_log_append_time_is_every_records_time(codec: int) -> None:
    buf = bytearray(b"pad") + build_batch([(5, b"k", b"v"), (6, b"k", b"w")], compression=codec)
    set_log_append_time(buf, 3, read_header(buf, 3), NOW)
    header = read_header(buf, 3)
    assert header.log_append_time
    assert header.compression == codec
    assert check_crc(buf, 3, header)
    assert [r.timestamp for r in read(buf, 3)] == [NOW, NOW]


# round trips --------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(RECORDS, st.integers(0, 4), st.integers(0, 2**60))
def test_records_round_trip(records: list[Any], codec: int, base_offset: int) -> None:
    batch = build_batch(records, compression=codec, base_offset=base_offset)
    expected = [Record(base_offset + i, t, k, v, tuple(h)) for i, (t, k, v, h) in enumerate(records)]
    assert read(batch) == read(bytes(batch)) == read(memoryview(batch)) == expected
    header = read_header(batch)
    assert header.max_timestamp == max(record[0] for record in records)
    assert crcmod_crc32c(bytes(batch[21:])) == header.crc
    assert read(build_batch(expected, base_offset=base_offset)) == expected


def test_every_form_of_a_record_is_taken() -> None:
    forms: list[Any] = [
        (b"k", b"v"),
        (5, b"k", b"v"),
        (5, b"k", b"v", [("h", None)]),
        Record(99, 5, b"k", b"v", (("h", None),)),
    ]
    assert read(build_batch(forms, timestamp=5)) == [
        Record(0, 5, b"k", b"v"),
        Record(1, 5, b"k", b"v"),
        Record(2, 5, b"k", b"v", (("h", None),)),
        Record(3, 5, b"k", b"v", (("h", None),)),
    ]


def test_building_without_records_is_an_error_of_ours() -> None:
    with pytest.raises(ValueError, match="at least one"):
        build_batch([])


def test_header_keys_that_are_not_utf8_survive() -> None:
    payload = b"\x16\x00\x00\x00\x01\x01\x02\x04\xff\xfe\x00"
    [record] = read(batch_of(varint(len(payload) - 1) + payload[1:]))
    assert read(build_batch([record])) == [record]
    assert bytes(build_batch([record])[-4:-1]) == b"\x04\xff\xfe"


@settings(deadline=None)
@given(st.integers(-(2**63), 2**63 - 1), st.integers(-(2**63), 2**63 - 1))
def test_timestamps_are_64_bits_or_refused(base: int, delta: int) -> None:
    body = b"\x00" + varint(delta) + b"\x00\x01\x01\x00"
    batch = batch_of(varint(len(body)) + body, base_timestamp=base)
    if -(2**63) <= base + delta < 2**63:
        assert read(batch) == [Record(0, base + delta, None, None)]
    else:
        with pytest.raises(CorruptRecords):
            read(batch)


# judges -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def kafka_python_codecs(monkeypatch: pytest.MonkeyPatch) -> None:
    """kafka-python needs a package per codec; where they are missing, its framing goes around cramjam's codecs."""
    for codec, name in ((codecs.SNAPPY, "snappy"), (codecs.LZ4, "lz4"), (codecs.ZSTD, "zstd")):
        monkeypatch.setattr(kafka_python, f"{name}_encode", lambda data, c=codec: codecs.compress(c, data))
        monkeypatch.setattr(kafka_python, f"{name}_decode", lambda data, c=codec: codecs.decompress(c, data, MIB))
    monkeypatch.setattr(kafka_python.DefaultRecordBase, "_assert_has_codec", lambda self, codec: None)


SAMPLE: list[Any] = [
    (NOW, b"key", b"value", [("trace", b"1"), ("none", None), ("empty", b"")]),
    (NOW - 5, None, b"x" * 70_000, []),
    (NOW + 70_000, b"", None, []),
    (NOW, b"k" * 64, b"v" * 8192, [("ключ", b"\x00" * 100)]),
]
SAMPLE_READ = [Record(1000 + i, t, k, v, tuple(h)) for i, (t, k, v, h) in enumerate(SAMPLE)]


@per_codec
@pytest.mark.usefixtures("kafka_python_codecs")
def test_kafka_python_reads_what_we_write(codec: int) -> None:
    batch = build_batch(
        SAMPLE,
        compression=codec,
        base_offset=1000,
        producer_id=9,
        producer_epoch=1,
        base_sequence=5,
        transactional=True,
    )
    theirs = kafka_python.DefaultRecordBatch(bytes(batch))
    assert theirs.validate_crc()
    assert theirs.is_transactional
    assert (theirs.producer_id, theirs.producer_epoch, theirs.base_sequence) == (9, 1, 5)
    assert theirs.max_timestamp == NOW + 70_000
    assert [(r.offset, r.timestamp, r.key, r.value, tuple(r.headers)) for r in theirs] == SAMPLE_READ


@per_codec
@pytest.mark.usefixtures("kafka_python_codecs")
def test_we_read_what_kafka_python_writes(codec: int) -> None:
    builder = kafka_python.DefaultRecordBatchBuilder(2, codec, True, 9, 1, 5, 1 << 20)
    for i, (timestamp, key, value, fields) in enumerate(SAMPLE):
        builder.append(i, timestamp, key, value, fields)
    theirs = bytearray(builder.build())
    assign(theirs, 0, read_header(theirs), 1000, 3)
    header = read_header(theirs)
    assert check_crc(theirs, 0, header)
    assert (header.producer_id, header.producer_epoch, header.base_sequence, header.count) == (9, 1, 5, 4)
    assert read(theirs) == SAMPLE_READ
    ids: dict[str, Any] = {"producer_id": 9, "producer_epoch": 1, "base_sequence": 5, "leader_epoch": 3}
    ours = build_batch(SAMPLE, compression=codec, base_offset=1000, transactional=True, **ids)
    if codec != codecs.GZIP:
        assert ours == theirs


def test_kafka_python_walks_our_batches() -> None:
    data = b"".join(build_batch([(b"k", b"v")], base_offset=n) for n in range(3))
    records = MemoryRecords(data)
    assert records.valid_bytes() == len(data)
    offsets = []
    while records.has_next():
        offsets.append(records.next_batch().base_offset)
    assert offsets == [0, 1, 2]


def test_kio_reads_what_we_write() -> None:
    whole_seconds = [(NOW + 1000 * i, k, v, h) for i, (_, k, v, h) in enumerate(SAMPLE)]
    batch = bytes(build_batch(whole_seconds, base_offset=1000, producer_id=9, producer_epoch=1, base_sequence=5))
    theirs, size = kio.records.readers.read_batch(batch, 0)
    assert size == len(batch)
    assert (theirs.producer_id, theirs.last_offset_delta, theirs.crc) == (9, 3, read_header(batch).crc)
    for ours, record in zip(read(batch), theirs.records, strict=True):
        assert (record.offset, record.key, record.value) == ours[0:1] + ours[2:4]
        assert record.timestamp.timestamp() * 1000 == ours.timestamp
        assert tuple(((field.key or b"").decode(), field.value) for field in record.headers) == ours.headers


def test_we_read_what_kio_writes() -> None:
    at = datetime.datetime.fromtimestamp(NOW // 1000, datetime.UTC)
    theirs = io.BytesIO()
    field = kio.records.schema.RecordHeader(key=b"h", value=None)
    record: dict[str, Any] = {"attributes": 0, "timestamp": at, "key": b"k", "headers": (field,)}
    records = tuple(kio.records.schema.Record(offset=i64(7 + i), value=b"%d" % i, **record) for i in range(3))
    ids: dict[str, Any] = {"producer_id": 1, "producer_epoch": 2, "base_sequence": 3, "attributes": 0}
    kio.records.writers.write_new_batch(theirs, kio.records.schema.NewRecordBatch(records=records, **ids))
    batch = theirs.getvalue()
    assert check_crc(batch, 0, read_header(batch))
    assert read(batch) == [Record(7 + i, NOW, b"k", b"%d" % i, (("h", None),)) for i in range(3)]


# lies ---------------------------------------------------------------------------------------------------------------

RECORD = varint(8) + b"\x00\x00\x00\x02k\x02v\x00"  # length, attributes, timestamp, offset, key, value, headers


def test_the_record_all_lies_start_from_is_true() -> None:
    assert read(batch_of(RECORD)) == [Record(0, NOW, b"k", b"v")]


@pytest.mark.parametrize(
    ("payload", "count", "last_delta"),
    [
        pytest.param(RECORD, 2, 1, id="more records than there are"),
        pytest.param(RECORD * 2, 1, 0, id="fewer records than there are"),
        pytest.param(RECORD, 0, 0, id="no records, but bytes"),
        pytest.param(RECORD + b"\x00", 1, 0, id="trailing garbage"),
        pytest.param(RECORD[:-1], 1, 0, id="a record cut short"),
        pytest.param(varint(7) + RECORD[1:], 1, 0, id="a record too long"),
        pytest.param(varint(9) + RECORD[1:], 1, 0, id="a record too short"),
        pytest.param(varint(-8) + RECORD[1:], 1, 0, id="a negative record length"),
        pytest.param(varint(2**31) + RECORD[1:], 1, 0, id="a record of 2 GiB"),
        pytest.param(b"\xff" * 30, 1, 0, id="an endless varint"),
        pytest.param(varint(8) + b"\x00\x00\x02\x02k\x02v\x00", 1, 0, id="an offset past the last"),
        pytest.param(varint(8) + b"\x00\x00\x01\x02k\x02v\x00", 1, 0, id="a negative offset"),
        pytest.param(RECORD * 2, 2, 1, id="the same offset twice"),
        pytest.param(varint(8) + b"\x00\x00\x00\x20k\x02v\x00", 1, 0, id="a key longer than the record"),
        pytest.param(varint(12) + b"\x00\x00\x00" + varint(2**32 - 1) + b"\x02v\x00", 1, 0, id="a key of 4 GiB"),
        pytest.param(varint(8) + b"\x00\x00\x00\x03k\x02v\x00", 1, 0, id="a key length of -2"),
        pytest.param(varint(8) + b"\x00\x00\x00\x02k\x06v\x00" + RECORD, 2, 1, id="a value reaching too far"),
        pytest.param(varint(8) + b"\x00\x00\x00\x02k\x02v\x04", 1, 0, id="two headers that are not there"),
        pytest.param(varint(8) + b"\x00\x00\x00\x02k\x02v\x01", 1, 0, id="a negative header count"),
        pytest.param(varint(12) + b"\x00\x00\x00\x02k\x02v" + varint(2**31) + bytes(20), 1, 0, id="2^31 headers"),
        pytest.param(varint(10) + b"\x00\x00\x00\x02k\x02v\x02\x01\x01", 1, 0, id="a header without a key"),
    ],
)
def test_B4_a_lie_in_a_record_is_invalid(payload: bytes, count: int, last_delta: int) -> None:
    for codec in range(5):
        batch = batch_of(codecs.compress(codec, payload), count, last_delta)
        batch = seal(patched(batch, 21, ">h", codec))
        with pytest.raises(CorruptRecords) as error:
            read(batch)
        assert error.value.code in (ErrorCode.INVALID_RECORD, ErrorCode.CORRUPT_MESSAGE)


@pytest.mark.parametrize("count", [-1, -(2**31), 2, 2**31 - 1])
def test_B2_a_count_that_cannot_be_is_refused_before_the_first_record(count: int) -> None:
    with pytest.raises(CorruptRecords) as error:
        read_records(batch_of(RECORD, count, 2**31 - 1), max_bytes=MIB)
    assert error.value.code is ErrorCode.CORRUPT_MESSAGE


@pytest.mark.parametrize(
    ("at", "layout", "value", "code"),
    [
        (8, ">i", 10_000, ErrorCode.CORRUPT_MESSAGE),
        (16, ">b", 0, ErrorCode.INVALID_RECORD),
        (16, ">b", 1, ErrorCode.INVALID_RECORD),
        (16, ">b", 3, ErrorCode.CORRUPT_MESSAGE),
        (16, ">b", -1, ErrorCode.CORRUPT_MESSAGE),
        (21, ">h", 5, ErrorCode.UNSUPPORTED_COMPRESSION_TYPE),
        (21, ">h", codecs.GZIP, ErrorCode.CORRUPT_MESSAGE),
        (23, ">i", -1, ErrorCode.INVALID_RECORD),
    ],
)
def test_B4_a_lie_in_the_header_is_corrupt(at: int, layout: str, value: int, code: ErrorCode) -> None:
    with pytest.raises(KafkaError) as error:
        read(patched(batch_of(RECORD), at, layout, value))
    assert error.value.code is code


@pytest.mark.parametrize("codec", range(1, 5), ids=codecs.NAMES[1:])
def test_B3_a_compressed_batch_over_the_bound_is_refused(codec: int) -> None:
    batch = build_batch([(None, bytes(MIB))], compression=codec)
    size = len(build_batch([(None, bytes(MIB))])) - HEADER_SIZE
    assert len(list(read_records(batch, max_bytes=size))) == 1
    with pytest.raises(KafkaError) as error:
        read_records(batch, max_bytes=size - 1)
    assert error.value.code is ErrorCode.MESSAGE_TOO_LARGE


@settings(deadline=None)
@given(RECORDS, st.integers(0, 4), st.randoms(use_true_random=False))
def test_B4_mutated_batches_are_read_or_refused(records: list[Any], codec: int, rng: random.Random) -> None:
    batch = build_batch(records, compression=codec)
    for _ in range(rng.randint(1, 4)):
        batch[rng.randrange(len(batch))] = rng.randrange(256)
    try:
        assert len(read(batch)) <= len(batch) * 1000
    except KafkaError as error:
        assert error.code is not ErrorCode.UNKNOWN_SERVER_ERROR


# other records ------------------------------------------------------------------------------------------------------


@per_codec
def test_other_records_in_a_batch_leave_all_else(codec: int) -> None:
    ids: dict[str, Any] = {"producer_id": 9, "producer_epoch": 1, "base_sequence": 5, "leader_epoch": 3}
    batch = build_batch(SAMPLE, compression=codec, base_offset=1000, transactional=True, **ids)
    before, records = read_header(batch), payload(b"pad" + batch, 3, max_bytes=MIB)
    assert read(with_records(before, records)) == read(batch)
    start = keyed(records, len(SAMPLE))[1][0]
    fewer = with_records(before._replace(count=len(SAMPLE) - 1), records[start:])
    after = read_header(fewer)
    assert after == before._replace(length=after.length, crc=after.crc, count=before.count - 1)
    assert check_crc(fewer, 0, after)
    assert read(fewer) == read(batch)[1:]


# control markers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("marker", list(ControlType))
def test_markers_round_trip_and_kafka_python_agrees(marker: ControlType) -> None:
    epochs: dict[str, Any] = {"producer_epoch": 4, "coordinator_epoch": 77, "leader_epoch": 2}
    batch = control_batch(marker, producer_id=9, timestamp=NOW, base_offset=500, **epochs)
    header = read_header(batch)
    assert header.is_control
    assert header.is_transactional
    assert (header.producer_id, header.producer_epoch, header.base_sequence, header.leader_epoch) == (9, 4, -1, 2)
    assert check_crc(batch, 0, header)
    [record] = read(batch)
    assert (record.offset, record.timestamp) == (500, NOW)
    assert read_control(record) == ControlMarker(marker, 77)
    [theirs] = kafka_python.DefaultRecordBatch(bytes(batch))
    assert (theirs.commit, theirs.abort) == (marker == ControlType.COMMIT, marker == ControlType.ABORT)


@given(
    st.sampled_from(ControlType), st.integers(0, 2**31 - 1), st.integers(-1, 2**63 - 1), st.integers(-1, 2**15 - 1),
    st.booleans(),
)  # fmt: skip
def test_a_marker_is_made_and_read_at_once_as_any_batch_is(
    marker: ControlType, epoch: int, producer_id: int, producer_epoch: int, transactional: bool
) -> None:
    ids: dict[str, Any] = {"producer_id": producer_id, "producer_epoch": producer_epoch, "transactional": transactional}
    batch = control_batch(marker, coordinator_epoch=epoch, timestamp=NOW, base_offset=5, leader_epoch=3, **ids)
    key, value = struct.pack(">hh", 0, marker), struct.pack(">hi", 0, epoch)
    record = (NOW, key, value)
    assert batch == build_batch([record], base_offset=5, leader_epoch=3, control=True, **ids)
    assert peek_control(batch) == ControlMarker(marker, epoch) == read_control(read(batch)[0])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (b"\x00\x01\x00\x01", bytes(6)), (b"\x00\x00\x00\x01", b"\x00\x01" + bytes(4)),
        (b"\x00\x00\x00", bytes(7)), (b"", b""),
    ],
)  # fmt: skip
def test_what_looks_otherwise_is_to_be_read_in_full(key: bytes, value: bytes) -> None:
    assert peek_control(build_batch([(NOW, key, value)], control=True)) is None


def test_a_marker_that_ends_no_transaction() -> None:
    batch = control_batch(
        ControlType.COMMIT, producer_id=-1, producer_epoch=-1, coordinator_epoch=0, timestamp=NOW, transactional=False
    )
    assert read_header(batch).attributes == 0x20


@pytest.mark.parametrize(
    ("key", "value"),
    [(None, b""), (b"", b""), (b"\x00\x00\x00", b""), (b"\x00\x00\x00\x01", None), (b"\x00\x00\x00\x01", bytes(5)),
     (b"\xff\xff\x00\x01", bytes(6)), (b"\x00\x00\x00\x01", b"\xff\xff\x00\x00\x00\x00")],
)  # fmt: skip
def test_markers_too_short_or_of_negative_version_are_invalid(key: bytes | None, value: bytes | None) -> None:
    with pytest.raises(CorruptRecords) as error:
        read_control(Record(0, 0, key, value))
    assert error.value.code is ErrorCode.INVALID_RECORD


def test_markers_of_other_types_are_told_by_their_number() -> None:
    assert read_control(Record(0, 0, b"\x00\x00\x00\x02", None)) == ControlMarker(2, -1)
    assert read_control(Record(0, 0, b"\x00\x05\x00\x01more", bytes(8))) == ControlMarker(ControlType.COMMIT, 0)
