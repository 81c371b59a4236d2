"""The walk over records, judged by the reader that makes objects of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kafka_wire.errors import ErrorCode, ProtocolError
from kafka_wire.primitives import read_varint, varint
from kafka_wire.records import HEADER_SIZE, CorruptRecords, build_batch, read_header, read_records
from kafka_wire.walk import FAR, RecordWalk, follow_chain, heads, last_delta, stamps, walk_fields

NOW = 1_700_000_000_000
BYTES = st.none() | st.binary(max_size=300)
MOMENTS = st.integers(NOW - 3, NOW + 3) | st.integers(NOW, NOW + 20_000) | st.integers(0, 2 * NOW)
NAMES = st.text(max_size=4)
RECORDS = st.lists(st.tuples(MOMENTS, BYTES, BYTES, st.lists(st.tuples(NAMES, BYTES), max_size=3)), min_size=1)


def walked(data: bytes | memoryview, count: int, *, step: int = 100) -> RecordWalk:
    walk = RecordWalk(data, count)
    while not walk.step(step):
        pass
    return walk


@given(RECORDS, st.integers(1, 5))
def test_an_honest_batch_is_walked_to_its_end(records: list, step: int) -> None:
    data = memoryview(build_batch(records))[HEADER_SIZE:]
    walk = walked(data, len(records), step=step)
    times = [record[0] for record in records]
    assert (walk.low, walk.high) == (min(times) - times[0], max(times) - times[0])
    assert (walk.index, walk.pos) == (len(records), len(data))
    assert walk.has_null_key == any(record[1] is None for record in records)
    assert [(head.timestamp_delta, head.has_key) for head in heads(data, len(records))] == [
        (record[0] - times[0], record[1] is not None) for record in records
    ]


@given(RECORDS, st.integers(0, 200))
def test_the_chain_of_an_honest_batch_leads_to_its_end(records: list, padding: int) -> None:
    data = memoryview(b"x" * padding + bytes(build_batch(records))[HEADER_SIZE:])
    assert follow_chain(data, padding, len(records)) == len(data)
    assert follow_chain(data, padding, len(records) + 1) == -1
    if len(records) > 1:
        assert 0 < follow_chain(data, padding, len(records) - 1) < len(data)


def one_by_one(data: memoryview, count: int) -> int:
    """What follow_chain does, without its short cuts. Only of lengths of one byte it sees that they are too small."""
    pos = 0
    for _ in range(count):
        try:
            size, behind = read_varint(data, pos)
        except ProtocolError:
            return -1
        if size < 0 or size >= 1 << 31 or (size < 6 and behind == pos + 1):
            return -1
        pos = behind + size
    return pos if pos <= len(data) else -1


@given(
    st.lists(st.tuples(st.integers(1, 100), st.sampled_from([0, 1, 40, 61, 200, 8100, 8200])), min_size=1, max_size=12),
    st.integers(0), st.integers(0, 255), st.integers(-1, 1),
)  # fmt: skip
def test_runs_of_records_of_equal_size_are_followed_as_one_by_one(
    runs: list[tuple[int, int]], which: int, flip: int, more: int
) -> None:
    """Whatever a byte of one record's length becomes."""
    sizes = [size for times, size in runs for _ in range(times)]
    data = bytearray(build_batch([(None, bytes(size)) for size in sizes]))[HEADER_SIZE:]
    pos = 0
    for _ in range(which % len(sizes)):
        size, pos = read_varint(data, pos)
        pos += size
    data[pos + which % 2] ^= flip
    view = memoryview(data)
    assert follow_chain(view, 0, len(sizes) + more) == one_by_one(view, len(sizes) + more)


@pytest.mark.parametrize("length", [-1, 0, 5, -(2**31)])
def test_the_chain_ends_at_a_length_that_no_record_can_have(length: int) -> None:
    honest = bytes(build_batch([(NOW, None, b"v" * 40, [])]))[HEADER_SIZE:]
    assert follow_chain(varint(length) + honest[1:], 0, 1) == -1


@given(
    st.lists(st.tuples(MOMENTS, BYTES, BYTES, st.lists(st.tuples(NAMES, BYTES), max_size=1)), min_size=1, max_size=70),
    st.integers(0, 14), st.integers(0, 255),
)  # fmt: skip
def test_a_quick_look_at_the_last_record_finds_what_the_walk_finds_or_nothing(
    records: list, at: int, flip: int
) -> None:
    """Whatever a byte near its beginning becomes; and it does find the plain ones."""
    data, count = bytearray(build_batch(records))[HEADER_SIZE:], len(records)
    last = follow_chain(data, 0, count - 1)
    data[last + at % (len(data) - last)] ^= flip
    found = last_delta(memoryview(data), last, count - 1)
    try:
        end, expected, _, _ = walk_fields(data, last, count - 1, count, FAR, -FAR)
    except CorruptRecords:
        assert found is None
        return
    is_plain = not flip and not records[-1][3] and abs(records[-1][0] - records[0][0]) < 1 << 13
    assert found == expected if is_plain else found in (None, expected if end == len(data) else None)


@given(RECORDS, st.integers(0), st.integers(1, 255), st.integers(-1, 1))
def test_what_the_reader_refuses_the_walk_refuses(records: list, at: int, flip: int, more: int) -> None:
    """The walk of fields lets pass exactly what read_records reads, at consecutive offsets."""
    batch = build_batch(records)
    batch[HEADER_SIZE + at % (len(batch) - HEADER_SIZE)] ^= flip
    count = len(records) + more
    batch[57:61] = count.to_bytes(4, "big")
    batch[23:27] = (count - 1).to_bytes(4, "big", signed=True)
    try:
        read = list(read_records(batch, max_bytes=1 << 20)) if count else None
    except CorruptRecords:
        read = None
    if read is not None and [record.offset for record in read] != list(range(count)):
        read = None
    try:
        walk = walked(memoryview(batch)[HEADER_SIZE:], count) if count else None
    except CorruptRecords as error:
        assert error.code is ErrorCode.INVALID_RECORD
        walk = None
    base = read_header(batch).base_timestamp
    if walk is not None and not -(1 << 63) <= base + walk.low <= base + walk.high < 1 << 63:
        return  # the reader judges times as well
    assert (walk is None) == (read is None)
    if walk is not None and read is not None:
        assert (base + walk.low, base + walk.high) == (min(r.timestamp for r in read), max(r.timestamp for r in read))


@given(st.binary(max_size=60), st.integers(1, 8))
def test_arbitrary_bytes_end_in_an_answer(data: bytes, count: int) -> None:
    try:
        walked(data, count)
    except CorruptRecords as error:
        assert error.code is ErrorCode.INVALID_RECORD


@pytest.mark.parametrize("count", [63, 64, 65, 8191, 8192, 8193, 20_000])
def test_offset_deltas_of_every_length(count: int) -> None:
    data = memoryview(build_batch([(NOW, None, b"") for _ in range(count)]))[HEADER_SIZE:]
    assert walked(data, count, step=999).pos == len(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x0e\x00\x00\x00\x01\x01\x00", "record 0 says it has 7 bytes, its fields take 6"),
        (b"\x0d\x00\x00\x00\x01\x01\x00", "record 0 has a length of -7 bytes"),
        (b"\x0c\x00\x00\x04\x01\x01\x00", "record 0 has the offset delta 2"),
        (b"\x0c\x00\x00\x00\x03\x01\x00", "record 0 has a key of -2 bytes"),
        (b"\x0c\x00\x00\x00\x01\x05\x00", "record 0 has a value of -3 bytes"),
        (b"\x0c\x00\x00\x00\x01\x01\x09", "record 0 cannot have -5 headers"),
        (b"\x0c\x00\x00\x00\x01\x20\x00", "record 0 is cut short"),
        (b"\x0c\x00\x00\x00\x01\x01\x00\x00", "1 bytes follow the last of 1 records"),
        (b"\xff\xff\xff\xff\xff\x01\x00\x00\x00\x01\x01\x00", "a number is longer than 32 bits"),
        (b"\x0c\x00" + b"\xff" * 10 + b"\x01\x00\x01\x01\x00", "a number is longer than 64 bits"),
        (b"\x0c\x00\x00", "1 records cannot lie in 3 bytes"),
    ],
)
def test_the_reason_names_record_and_value(data: bytes, message: str) -> None:
    with pytest.raises(CorruptRecords) as caught:
        walked(data, 1)
    assert caught.value.message == message


@pytest.mark.parametrize("null", [b"\x01", b"\x81\x00", b"\x81\x80\x00"])
@pytest.mark.parametrize("zero", [b"\x00", b"\x80\x00", b"\x80\x80\x00"])
def test_long_forms_of_small_numbers_are_numbers(zero: bytes, null: bytes) -> None:
    """Kafka reads them, so do we."""
    body = b"\x00" + zero + zero + null + null + zero
    data = varint(len(body)) + body
    walk = walked(data, 1)
    assert (walk.pos, walk.low, walk.high, walk.has_null_key) == (len(data), 0, 0, True)
    assert list(heads(data, 1)) == [(0, False)]


@given(RECORDS, st.integers(1, 10_000), st.integers(0))
def test_stamps_are_read_without_the_rest(records: list, gap: int, cut: int) -> None:
    source = build_batch(records)
    read = list(read_records(source, max_bytes=1 << 20))
    data = bytes(source[HEADER_SIZE:])
    expected = [(each.timestamp - read[0].timestamp, each.offset) for each in read]
    assert list(stamps(data, len(read))) == expected
    some = []
    try:
        for stamp in stamps(data[: cut % len(data)], len(read)):
            some.append(stamp)
    except CorruptRecords as error:
        assert error.code is ErrorCode.INVALID_RECORD
    assert some == expected[: len(some)]


def test_stamps_of_records_with_gaps_and_wide_numbers() -> None:
    found = [(0, 0), (-5, 3), (1 << 40, 70), (-(1 << 62), 20_000), (64, 2**31 - 1)]
    data = b"".join(
        varint(len(body)) + body
        for body in (b"\x00" + varint(moment) + varint(delta) + b"\x01\x01\x00" for moment, delta in found)
    )
    assert list(stamps(data, len(found))) == found


def test_a_record_of_a_length_below_zero_ends_the_stamps() -> None:
    data = varint(-4) + b"\x00\x00\x00\x01\x01\x00" * 3
    with pytest.raises(CorruptRecords, match="length of -4"):
        list(stamps(data, 2))
