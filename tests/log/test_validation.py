"""What a client's batch must be (B4): every lie has its answer, and none leaves a trace in the log."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kafka_wire import primitives, records
from kafka_wire.errors import ErrorCode, KafkaError
from tests.log.tools import NOW, append, batch, new_disk, open_log


def forged(offset: int, form: str, value: int) -> bytearray:
    """An honest batch with one field changed, and a CRC that fits."""
    data = batch(b"a", b"b", producer=5, sequence=0)
    struct.pack_into(form, data, offset, value)
    return sealed(data)


def sealed(data: bytearray) -> bytearray:
    struct.pack_into(">I", data, 17, primitives.crc32c(bytes(data[21:])))
    return data


def cut(data: bytearray, size: int) -> bytearray:
    return data[:size]


def old_format(magic: int) -> bytearray:
    """A message of the formats before 0.11."""
    body = struct.pack(">bb", magic, 0) + (struct.pack(">q", NOW) if magic else b"") + struct.pack(">ii", -1, -1)
    return bytearray(struct.pack(">qiI", 0, len(body) + 4, primitives.crc32c(body)) + body)


LIES: dict[str, tuple[Callable[[], bytearray], ErrorCode]] = {
    "nothing": (bytearray, ErrorCode.INVALID_RECORD),
    "a few bytes": (lambda: cut(batch(), 12), ErrorCode.CORRUPT_MESSAGE),
    "less than a header": (lambda: cut(batch(), 60), ErrorCode.CORRUPT_MESSAGE),
    "a batch cut short": (lambda: cut(batch(), 70), ErrorCode.CORRUPT_MESSAGE),
    "two batches": (lambda: batch() + batch(), ErrorCode.INVALID_RECORD),
    "bytes behind it": (lambda: batch() + b"x", ErrorCode.INVALID_RECORD),
    "a negative length": (lambda: forged(8, ">i", -5), ErrorCode.CORRUPT_MESSAGE),
    "a length below the header": (lambda: forged(8, ">i", 20), ErrorCode.CORRUPT_MESSAGE),
    "a length beyond the end": (lambda: forged(8, ">i", 2**31 - 1), ErrorCode.CORRUPT_MESSAGE),
    "magic 0": (lambda: old_format(0), ErrorCode.INVALID_RECORD),
    "magic 1": (lambda: old_format(1), ErrorCode.INVALID_RECORD),
    "magic 3": (lambda: forged(16, ">b", 3), ErrorCode.CORRUPT_MESSAGE),
    "magic -1": (lambda: forged(16, ">b", -1), ErrorCode.CORRUPT_MESSAGE),
    "too large": (lambda: batch(b"x" * 2000), ErrorCode.MESSAGE_TOO_LARGE),
    "a wrong CRC": (lambda: batch(b"a")[:-1] + b"\x7f", ErrorCode.CORRUPT_MESSAGE),
    "a base offset": (lambda: forged(0, ">q", 7), ErrorCode.INVALID_RECORD),
    "no records": (lambda: forged(57, ">i", 0), ErrorCode.INVALID_RECORD),
    "a negative count": (lambda: forged(57, ">i", -2), ErrorCode.INVALID_RECORD),
    "a count that does not fit": (lambda: forged(57, ">i", 3), ErrorCode.INVALID_RECORD),
    "an offset delta that does not fit": (lambda: forged(23, ">i", 100), ErrorCode.INVALID_RECORD),
    "a negative offset delta": (lambda: forged(23, ">i", -1), ErrorCode.INVALID_RECORD),
    "a control batch": (lambda: forged(21, ">h", 0x30), ErrorCode.INVALID_RECORD),
    "codec 5": (lambda: forged(21, ">h", 5), ErrorCode.UNSUPPORTED_COMPRESSION_TYPE),
    "codec 7": (lambda: forged(21, ">h", 7), ErrorCode.UNSUPPORTED_COMPRESSION_TYPE),
    "log-append time": (lambda: forged(21, ">h", 8), ErrorCode.INVALID_TIMESTAMP),
    "no sequence": (lambda: forged(53, ">i", -1), ErrorCode.INVALID_RECORD),
    "a negative epoch": (lambda: forged(51, ">h", -3), ErrorCode.INVALID_RECORD),
    "a transaction of nobody": (lambda: batch(transactional=True), ErrorCode.INVALID_RECORD),
    "the far future": (lambda: batch(at=NOW + 3_600_001), ErrorCode.INVALID_TIMESTAMP),
    "the distant past": (lambda: batch(at=NOW - 10_001), ErrorCode.INVALID_TIMESTAMP),
}


@pytest.mark.parametrize("lie", LIES)
def test_B4_a_lie_is_answered_and_leaves_no_trace(lie: str) -> None:
    make, code = LIES[lie]
    disk = new_disk()
    log = open_log(disk, max_message_bytes=1000, message_timestamp_before_max_ms=10_000)
    append(log, b"before")
    size = log.size
    with pytest.raises(KafkaError) as caught:
        log.append(make(), leader_epoch=0, now_ms=NOW)
    assert caught.value.code is code
    assert (log.end.value, log.size, disk.size(log.active.path)) == (1, size, size)
    assert not log.producers.by_id
    assert append(log, b"after").base_offset == 1


def test_what_is_just_allowed() -> None:
    log = open_log(new_disk(), message_timestamp_before_max_ms=10_000)
    append(log, at=NOW + 3_600_000)
    append(log, at=NOW - 10_000)
    append(log, at=-1)
    for codec in range(5):
        append(log, b"x" * 100, compression=codec)
    assert log.end.value == 8
    exact = open_log(new_disk(), max_message_bytes=len(batch(b"abc")))
    append(exact, b"abc")
    with pytest.raises(KafkaError):
        append(exact, b"abcd")


@given(st.binary(max_size=200))
def test_B4_arbitrary_bytes_are_refused(data: bytes) -> None:
    log = open_log(new_disk())
    with pytest.raises(KafkaError):
        log.append(bytearray(data), leader_epoch=0, now_ms=NOW)
    assert log.end.value == 0 and log.offline is None


@given(st.integers(0, 150), st.integers(1, 255), st.booleans())
def test_B4_a_changed_byte_is_refused_or_changes_nothing_that_counts(at: int, flip: int, seal: bool) -> None:
    data = batch(b"a" * 60, b"b" * 60)
    data[at] ^= flip
    if seal:
        sealed(data)
    log = open_log(new_disk())
    try:
        done = log.append(data, leader_epoch=0, now_ms=NOW)
    except KafkaError:
        assert log.end.value == 0
    else:
        assert done[:2] == (0, 1) and log.end.value == 2
        header = records.read_header(log.read(0, 10**6, 2)[0].read())
        assert (header.base_offset, header.count, header.leader_epoch) == (0, 2, 0)


@pytest.mark.parametrize("config", [{"cleanup_policy": "compact"}, {"compression_type": "gzip"}])
def test_topics_that_look_at_records_refuse_what_is_none(config: dict[str, str]) -> None:
    log = open_log(new_disk(), **config)
    data = batch(b"a" * 50)
    data[61:] = b"\xff" * (len(data) - 61)
    with pytest.raises(KafkaError) as caught:
        log.append(sealed(data), leader_epoch=0, now_ms=NOW)
    assert caught.value.code in (ErrorCode.INVALID_RECORD, ErrorCode.CORRUPT_MESSAGE) and log.end.value == 0


def test_a_recompressed_batch_may_become_too_large() -> None:
    log = open_log(new_disk(), compression_type="uncompressed", max_message_bytes=1000)
    with pytest.raises(KafkaError) as caught:
        append(log, b"x" * 5000, compression=1)
    assert caught.value.code is ErrorCode.MESSAGE_TOO_LARGE
