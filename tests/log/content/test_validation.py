"""What a client's batch must be (B4): every lie has its answer, and none leaves a trace in the log."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kafka_wire import compression as codecs
from kafka_wire import primitives, records
from kafka_wire.errors import ErrorCode, KafkaError
from kbroker.log.content.validation import GROWTH_MAX, RECORD_ERRORS_MAX, BadRecords
from kbroker.turns import do_errands
from tests.log.content.odd_batches import (
    AFTER_MS,
    BEFORE_MS,
    KAFKA,
    KAFKA_FIELDS,
    KAFKA_RECORDS,
    OTHERWISE,
    Odd,
    batch_of,
    record,
    sealed,
)
from tests.log.tools import NOW, append, apply_retention, batch, make_durable, new_disk, open_log


def forged(offset: int, form: str, value: int) -> bytearray:
    """An honest batch with one field changed, and a CRC that fits."""
    data = batch(b"a", b"b", producer=5, sequence=0)
    struct.pack_into(form, data, offset, value)
    return sealed(data)


def counted(count: int) -> bytearray:
    """A batch that says it has so many records, in its last offset delta too."""
    data = batch()
    struct.pack_into(">i", data, 57, count)
    struct.pack_into(">i", data, 23, count - 1)
    return sealed(data)


def cut(data: bytearray, size: int) -> bytearray:
    return data[:size]


def old_format(magic: int) -> bytearray:
    """A message of the formats before 0.11."""
    body = struct.pack(">bb", magic, 0) + (struct.pack(">q", NOW) if magic else b"") + struct.pack(">ii", -1, -1)
    return bytearray(struct.pack(">qiI", 0, len(body) + 4, primitives.crc32c(body)) + body)


LIES: dict[str, tuple[Callable[[], bytearray], ErrorCode]] = {
    "nothing": (bytearray, ErrorCode.INVALID_RECORD),
    "a few bytes": (lambda: cut(batch(), 12), ErrorCode.INVALID_RECORD),
    "less than a header": (lambda: cut(batch(), 60), ErrorCode.INVALID_RECORD),
    "a batch cut short": (lambda: cut(batch(), 70), ErrorCode.INVALID_RECORD),
    "two batches": (lambda: batch() + batch(), ErrorCode.INVALID_RECORD),
    "a negative length": (lambda: forged(8, ">i", -5), ErrorCode.CORRUPT_MESSAGE),
    "a length below the header": (lambda: forged(8, ">i", 20), ErrorCode.CORRUPT_MESSAGE),
    "a length beyond the end": (lambda: forged(8, ">i", 2**31 - 1), ErrorCode.INVALID_RECORD),
    "a batch shorter than a header": (lambda: cut(forged(8, ">i", 20), 32), ErrorCode.CORRUPT_MESSAGE),
    "magic 0": (lambda: old_format(0), ErrorCode.INVALID_RECORD),
    "magic 1": (lambda: old_format(1), ErrorCode.INVALID_RECORD),
    "magic 3": (lambda: forged(16, ">b", 3), ErrorCode.CORRUPT_MESSAGE),
    "magic -1": (lambda: forged(16, ">b", -1), ErrorCode.CORRUPT_MESSAGE),
    "too large": (lambda: batch(b"x" * 2000), ErrorCode.MESSAGE_TOO_LARGE),
    "a wrong CRC": (lambda: batch(b"a")[:-1] + b"\x7f", ErrorCode.CORRUPT_MESSAGE),
    "a base offset": (lambda: forged(0, ">q", 7), ErrorCode.INVALID_RECORD),
    "no records": (lambda: forged(57, ">i", 0), ErrorCode.INVALID_RECORD),
    "more records than bytes": (lambda: counted(2**31 - 1), ErrorCode.INVALID_RECORD),
    "a negative count": (lambda: forged(57, ">i", -2), ErrorCode.INVALID_RECORD),
    "a count that does not fit": (lambda: forged(57, ">i", 3), ErrorCode.INVALID_RECORD),
    "an offset delta that does not fit": (lambda: forged(23, ">i", 100), ErrorCode.INVALID_RECORD),
    "a negative offset delta": (lambda: forged(23, ">i", -1), ErrorCode.INVALID_RECORD),
    "a control batch": (lambda: forged(21, ">h", 0x30), ErrorCode.INVALID_RECORD),
    "codec 5": (lambda: forged(21, ">h", 5), ErrorCode.UNKNOWN_SERVER_ERROR),
    "codec 7": (lambda: forged(21, ">h", 7), ErrorCode.UNKNOWN_SERVER_ERROR),
    "no sequence": (lambda: forged(53, ">i", -1), ErrorCode.INVALID_RECORD),
    "a negative epoch": (lambda: forged(51, ">h", -3), ErrorCode.INVALID_PRODUCER_EPOCH),
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


@pytest.mark.parametrize("codec", range(5))
def test_a_count_that_no_bytes_could_hold_moves_no_offset(codec: int) -> None:
    """Not even compressed: decompressed, a batch may have so many bytes, and a record needs seven."""
    log = open_log(new_disk(), kbroker_produce_validate="header")
    data = batch(b"a" * 50, compression=codec)
    struct.pack_into(">i", data, 23, 2**31 - 2)
    struct.pack_into(">i", data, 57, 2**31 - 1)
    with pytest.raises(KafkaError) as caught:
        log.append(sealed(data), leader_epoch=0, now_ms=NOW)
    assert caught.value.code is ErrorCode.INVALID_RECORD
    assert log.end.value == 0


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


def answer(odd: Odd, codec: int, level: str, **config: object) -> str:
    """What kbroker answers to an odd batch, in the words of odd_batches."""
    log = open_log(
        new_disk(),
        kbroker_produce_validate=level,
        kbroker_produce_validate_compressed="header" if level == "header" else "full",
        message_timestamp_before_max_ms=BEFORE_MS,
        message_timestamp_after_max_ms=AFTER_MS,
        **config,
    )
    try:
        log.append(batch_of(odd.payload, odd.count, codec, **odd.fields), leader_epoch=0, now_ms=NOW)
    except KafkaError as error:
        assert log.end.value == 0 and log.size == 0
        named = error.records if isinstance(error, BadRecords) else ()
        return " ".join([str(int(error.code)), *(str(index) for index, _ in named)])
    stored = log.read(0, 10**6, log.end.value)[0].read()
    header = records.read_header(stored)
    assert records.check_crc(stored, 0, header) and not header.log_append_time
    return f"0 {header.max_timestamp - NOW}"


def due(name: str, odd: Odd, codec: int) -> str:
    return OTHERWISE[name][0] if name in OTHERWISE else odd.packed if codec else odd.plain


@pytest.mark.parametrize("codec", range(5))
@pytest.mark.parametrize("name", KAFKA)
def test_what_the_header_gives_away_is_answered_at_every_level(name: str, codec: int) -> None:
    for level in ("header", "structure", "full"):
        assert answer(KAFKA[name], codec, level) == due(name, KAFKA[name], codec)


@pytest.mark.parametrize("codec", range(5))
@pytest.mark.parametrize("name", KAFKA_RECORDS)
def test_structure_finds_records_that_are_not_what_the_header_says(name: str, codec: int) -> None:
    for level in ("structure", "full"):
        assert answer(KAFKA_RECORDS[name], codec, level) == due(name, KAFKA_RECORDS[name], codec)


@pytest.mark.parametrize("codec", range(5))
@pytest.mark.parametrize("name", KAFKA_FIELDS)
def test_full_finds_fields_that_do_not_fill_their_record(name: str, codec: int) -> None:
    assert answer(KAFKA_FIELDS[name], codec, "full") == due(name, KAFKA_FIELDS[name], codec)


def test_header_believes_what_it_can_believe() -> None:
    assert answer(KAFKA_RECORDS["more records"], 0, "header") == "0 0"
    behind = KAFKA_FIELDS["bytes behind the fields"]
    assert answer(behind, 0, "header") == "0 0" and answer(behind, 0, "structure") == "87"  # it is the last one
    first_of_two = behind._replace(payload=behind.payload + record(offset=1), count=2)
    assert answer(first_of_two, 0, "structure") == "0 0" and answer(first_of_two, 0, "full") == "87"


@pytest.mark.parametrize("codec", range(1, 5))
def test_a_payload_that_the_codec_did_not_make(codec: int) -> None:
    good = codecs.compress(codec, record(value=b"abc" * 99))
    for payload in (b"this is no such thing " * 3, good[:-3], good[: len(good) // 2]):
        assert _answer_packed(payload, codec, "full") == "-1"
    assert _answer_packed(good, codec, "full") == "0 0"


def _answer_packed(payload: bytes, codec: int, level: str) -> str:
    log = open_log(new_disk(), kbroker_produce_validate_compressed=level)
    try:
        log.append(batch_of(payload, 1, codec, packed=True), leader_epoch=0, now_ms=NOW)
    except KafkaError as error:
        return str(int(error.code))
    return f"0 {log.end.value - 1}"


@pytest.mark.parametrize("codec", [1, 3, 4])
def test_decompression_is_bounded_in_bytes_and_in_ratio(codec: int) -> None:
    """A bomb is refused as too large, however small it came; what a batch may hold uncompressed always passes."""
    zeros = record(value=bytes(1_000_000))
    assert _answer_packed(codecs.compress(codec, zeros), codec, "full") == "0 0"
    bomb = codecs.compress(codec, record(value=bytes((GROWTH_MAX + 1) << 20)))
    assert _answer_packed(bomb, codec, "full") == str(int(ErrorCode.MESSAGE_TOO_LARGE))


def test_each_bad_record_is_named_with_its_reason() -> None:
    log = open_log(new_disk(), kbroker_produce_validate="full", message_timestamp_after_max_ms=1000)
    payload = record() + record(5000, 1) + record(10, 2) + record(7000, 3)
    with pytest.raises(BadRecords) as caught:
        log.append(batch_of(payload, 4), leader_epoch=0, now_ms=NOW)
    assert caught.value.code is ErrorCode.INVALID_TIMESTAMP
    assert [index for index, _ in caught.value.records] == [1, 3]
    assert f"Timestamp {NOW + 5000} of message with offset 1 is out of range" in caught.value.records[0][1]
    assert f"{NOW + 1000}]" in caught.value.records[1][1]


def test_null_keys_of_a_compacted_topic_are_named() -> None:
    log = open_log(new_disk(), cleanup_policy="compact")
    payload = record(key=None) + record(offset=1) + record(offset=2, key=None)
    for codec in range(5):
        with pytest.raises(BadRecords) as caught:
            log.append(batch_of(payload, 3, codec), leader_epoch=0, now_ms=NOW)
        assert caught.value.code is ErrorCode.INVALID_RECORD
        assert [index for index, _ in caught.value.records] == [0, 2]


def test_how_many_records_are_named_is_bounded() -> None:
    log = open_log(new_disk(), cleanup_policy="compact")
    payload = b"".join(record(offset=n, key=None) for n in range(2 * RECORD_ERRORS_MAX))
    with pytest.raises(BadRecords) as caught:
        log.append(batch_of(payload, 2 * RECORD_ERRORS_MAX), leader_epoch=0, now_ms=NOW)
    assert len(caught.value.records) == RECORD_ERRORS_MAX


@pytest.mark.parametrize("codec", range(5))
def test_a_corrected_largest_timestamp_is_what_lookup_and_retention_go_by(codec: int) -> None:
    """Sarama before 1.43.3 sends -1, others send 0."""
    for latest in (-1, 0):
        log = open_log(new_disk(), retention_ms=1000)
        payload = record() + record(500, 1) + record(200, 2)
        log.append(batch_of(payload, 3, codec, latest=latest), leader_epoch=0, now_ms=NOW)
        found = do_errands(log.first_at_or_after(NOW + 300, log.end.value))
        assert found is not None and (found.offset, found.timestamp_ms) == (1, NOW + 500)
        assert do_errands(log.max_timestamp(log.end.value)) == found
        make_durable(log)
        assert apply_retention(log, NOW + 1500, log.end.value) == 0
        assert apply_retention(log, NOW + 1501, log.end.value) == 1


@pytest.mark.parametrize("codec", [1, 3, 4])
def test_what_is_not_compressed_at_all_is_found_without_decompressing(codec: int) -> None:
    assert _answer_packed(record() * 3, codec, "header") == "-1"
    assert _answer_packed(codecs.compress(codec, record()), codec, "header") == "0 0"


def test_an_epoch_of_none_is_an_epoch() -> None:
    """Kafka: ProducerAppendInfo.checkProducerEpoch lets the first batch of a producer have any from -1 on."""
    log = open_log(new_disk())
    append(log, b"a", producer=5, epoch=-1, sequence=0)
    append(log, b"b", producer=5, epoch=2, sequence=0)
    with pytest.raises(KafkaError) as caught:
        append(log, b"c", producer=5, epoch=-1, sequence=1)
    assert caught.value.code is ErrorCode.INVALID_PRODUCER_EPOCH


def test_a_timestamp_below_none_is_none() -> None:
    log = open_log(new_disk())
    log.append(batch_of(record(), 1, base=-500), leader_epoch=0, now_ms=NOW)
    assert records.read_header(log.read(0, 1000, 1)[0].read()).max_timestamp == -1


def test_an_incomplete_batch_behind_the_first_is_left_out() -> None:
    log = open_log(new_disk())
    log.append(batch(b"a") + batch(b"b")[:16], leader_epoch=0, now_ms=NOW)
    assert log.end.value == 1 and log.size == len(batch(b"a"))


def test_log_append_time_makes_every_timestamp_allowed() -> None:
    log = open_log(new_disk(), message_timestamp_type="LogAppendTime", kbroker_produce_validate="full")
    append(log, b"a", at=NOW + 10**10)
    append(log, b"b", at=-1, compression=1)
    with pytest.raises(BadRecords) as caught:
        log.append(batch_of(record(), 1, attributes=8), leader_epoch=0, now_ms=NOW)
    assert caught.value.code is ErrorCode.INVALID_TIMESTAMP
    assert [each.read()[42] for each in log.read(0, 10**6, 2)] and log.end.value == 2


@pytest.mark.parametrize("codec", range(5))
@pytest.mark.parametrize("target", ["gzip", "snappy", "lz4", "zstd", "uncompressed"])
def test_another_codec_keeps_records_and_header(codec: int, target: str) -> None:
    log = open_log(new_disk(), compression_type=target)
    payload = record(key=None, headers=b"\x02\x02h\x02v") + record(7, 1, value=None)
    log.append(batch_of(payload, 2, codec, latest=-1), leader_epoch=0, now_ms=NOW)
    stored = log.read(0, 10**6, 2)[0].read()
    header = records.read_header(stored)
    assert (codecs.NAMES + ("uncompressed",))[header.compression] in (target, "none")
    assert header.max_timestamp == NOW + 7 and records.check_crc(stored, 0, header)
    assert list(records.read_records(stored, max_bytes=10**6)) == [
        records.Record(0, NOW, None, b"v", (("h", b"v"),)), records.Record(1, NOW + 7, b"k", None),
    ]  # fmt: skip


def test_a_recompressed_batch_may_become_too_large() -> None:
    log = open_log(new_disk(), compression_type="uncompressed", max_message_bytes=1000)
    with pytest.raises(KafkaError) as caught:
        append(log, b"x" * 5000, compression=1)
    assert caught.value.code is ErrorCode.MESSAGE_TOO_LARGE
