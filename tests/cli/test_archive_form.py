"""The file of an exported topic, and the batches in it: without a broker."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Iterable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kafka_wire import compression
from kafka_wire.errors import KafkaError
from kafka_wire.primitives import crc32c
from kafka_wire.records import (
    BatchHeader,
    ControlType,
    Record,
    build_batch,
    control_batch,
    headers,
    read_header,
    read_records,
)
from kbroker.cli.topics.archive import batches, form
from kbroker.cli.topics.archive.batches import SMALL_BYTES, Gatherer, Packed, split, wanted
from kbroker.cli.topics.archive.form import Damaged, Reader, Span, Topic, Writer

TOPIC = Topic("orders", "00" * 16, "c", 1_795_860_791_453, "read_committed", (Span(0, 0, 9), Span(1, 4, 8)), {"a": "b"})
RECORDS = [Record(0, 1_700_000_000_000 + n, b"k%d" % n, b"v" * 40, (("h", None), ("h", b"x"))) for n in range(9)]
TOMBSTONE = Record(0, 5, b"key", None)
HEAD = struct.Struct(">II")


def packed(records: Sequence[Record], codec: int = 0) -> Packed:
    batch = build_batch(records, compression=codec)
    return Packed(batch, read_header(batch))


def exported(*parts: tuple[int, Packed]) -> bytes:
    out = io.BytesIO()
    writer = Writer(out, TOPIC)
    for partition, batch in parts:
        writer.batch(partition, batch)
    writer.finish()
    assert writer.bytes == len(out.getvalue())
    return out.getvalue()


WHOLE = exported((0, packed(RECORDS)), (0, packed([TOMBSTONE], 3)), (1, packed(RECORDS[:4], 1)))


def read(data: bytes) -> list[tuple[int, list[Record]]]:
    reader = Reader(io.BytesIO(data))
    return [(each.partition, list(read_records(each.batch, max_bytes=1 << 20))) for each in reader.batches()]


def without_offsets(records: Iterable[Record]) -> list[Record]:
    return [record._replace(offset=0) for record in records]


def test_what_was_written_is_read() -> None:
    reader = Reader(io.BytesIO(WHOLE))
    assert reader.topic == TOPIC
    found = [(partition, without_offsets(records)) for partition, records in read(WHOLE)]
    assert found == [(0, RECORDS), (0, [TOMBSTONE]), (1, RECORDS[:4])]
    assert WHOLE.startswith(b"kbroker topic export 1\n")


def test_what_compresses_is_compressed_by_the_frame() -> None:
    assert len(exported((0, packed([Record(0, 0, None, b"a" * 100_000)])))) < 1000
    assert len(exported((0, packed([Record(0, 0, None, b"a" * 100_000)], 3)))) < 1500


def test_a_file_cut_anywhere_says_where() -> None:
    for size in range(len(WHOLE)):
        with pytest.raises(Damaged) as refused:
            read(WHOLE[:size])
        if size >= len(form.FIRST_LINE):
            assert f"the file ends after {size} bytes" in str(refused.value)


def test_a_file_with_any_byte_changed_is_damaged() -> None:
    for at in range(len(WHOLE)):
        with pytest.raises(Damaged):
            read(WHOLE[:at] + bytes((WHOLE[at] ^ 0x20,)) + WHOLE[at + 1 :])


def test_what_is_whole_before_the_damage_is_read() -> None:
    reader = Reader(io.BytesIO(WHOLE[:-3]))
    found = reader.batches()
    assert [next(found).header.count for _ in range(3)] == [9, 1, 4]
    with pytest.raises(Damaged, match=r"at byte \d+: the file ends after"):
        next(found)


def frame(kind: bytes, body: bytes, codec: int = 0) -> bytes:
    content = kind + bytes((codec,)) + body
    return HEAD.pack(len(content), crc32c(content)) + content


def topic_frame(**changed: object) -> bytes:
    told = {**TOPIC._asdict(), "partitions": [span._asdict() for span in TOPIC.partitions], **changed}
    return frame(b"T", json.dumps(told).encode())


BATCH = bytes(packed(RECORDS).batch)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "the file is empty"),
        (b"PK\x03\x04" * 10, "this is no file that kbroker topic export wrote"),
        (b"kbroker topic export 2\n", "a later version of this format"),
        (HEAD.pack(0xFFFFFFFF, 0), "a frame of 4294967295 bytes: 2 to"),
        (HEAD.pack(1, 0), "a frame of 1 bytes"),
        (HEAD.pack(100 << 20, 0) + b"x", "the file ends after 32 bytes, in the middle of a frame"),
        (frame(b"B", b"\0\0\0\0"), "the first frame does not tell of a topic"),
        (frame(b"T", b"{"), "a frame that should be JSON is none"),
        (frame(b"T", b"[]"), "a frame that should be JSON is none"),
        (frame(b"T", b"{}"), "does not tell what a topic needs"),
        (topic_frame(topic=3), "does not tell what a topic needs"),
        (topic_frame(partitions=[{"partition": 0, "first": -1, "end": 3}]), "does not tell what a topic needs"),
        (topic_frame(partitions=[]), "are not 0, 1, 2"),
        (topic_frame(partitions=[{"partition": 7, "first": 0, "end": 3}]), "are not 0, 1, 2"),
        (topic_frame() + frame(b"X", b""), "unknown kind 'X'"),
        (topic_frame() + frame(b"B", b"", codec=9), "unknown codec 9"),
        (topic_frame() + frame(b"B", b"no zstd", codec=4), "cannot be decompressed"),
        (topic_frame() + frame(b"B", compression.compress(4, bytes(300 << 20)), codec=4), "cannot be decompressed"),
        (topic_frame() + frame(b"B", b"\0"), "without a partition"),
        (topic_frame() + frame(b"B", b"\0\0\0\x07" + BATCH), "partition 7 is not one of the topic"),
        (topic_frame() + frame(b"B", b"\0\0\0\0" + BATCH[:-1]), "is none, or not whole"),
        (topic_frame() + frame(b"B", b"\0\0\0\0" + BATCH[:70] + b"!" + BATCH[71:]), "is none, or not whole"),
        (topic_frame() + frame(b"B", b"\0\0\0\0" + b"x" * 20), "20 bytes are no batch"),
        (topic_frame() + frame(b"E", b'{"records": 1, "batches": 0}'), "0 records in 0 batches are there"),
        (WHOLE[len(form.FIRST_LINE) :] + b"x", "something follows the last frame"),
    ],
)
def test_what_is_no_export_is_refused(data: bytes, said: str) -> None:
    if not data.startswith((b"kbroker", b"PK")) and data:
        data = form.FIRST_LINE + data
    with pytest.raises(Damaged, match=said):
        read(data)


# batches -------------------------------------------------------------------------------------------------------------


class Log:
    """A partition as a log keeps it: batches one behind the other, and what a reader is to see of it."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.end = 0
        self.seen: list[Record] = []

    def append(self, values: Sequence[int], codec: int, kind: str) -> None:
        """values: sizes of values. kind: plain, transactional, append-time, gaps."""
        records = [Record(0, 1000 + size, b"k", bytes(size), (("h", b"1"),)) for size in values]
        batch = build_batch(
            records,
            base_offset=self.end,
            leader_epoch=4,
            compression=codec,
            producer_id=7 if kind == "transactional" else -1,
            producer_epoch=0 if kind == "transactional" else -1,
            base_sequence=5 if kind == "transactional" else -1,
            transactional=kind == "transactional",
            log_append_time=99 if kind == "append-time" else None,
        )
        if kind == "gaps":  # compaction took what followed
            struct.pack_into(">i", batch, 23, len(records) + 3)
            struct.pack_into(">I", batch, 17, crc32c(memoryview(batch)[21:]))
        self.seen += read_records(batch, max_bytes=1 << 30)
        self.data += batch
        self.end = read_header(batch).next_offset


KINDS = st.sampled_from(["plain", "transactional", "append-time", "gaps"])
SIZES = st.lists(st.sampled_from([0, 1, 100, SMALL_BYTES, batches.TOGETHER_BYTES]), min_size=1, max_size=5)


@given(st.lists(st.tuples(SIZES, st.sampled_from([0, 1, 3]), KINDS), max_size=6), st.data())
def test_every_record_travels_once_and_every_batch_can_be_produced(
    parts: list[tuple[list[int], int, str]], data: st.DataObject
) -> None:
    log = Log()
    for values, codec, kind in parts:
        log.append(values, codec, kind)
    first = data.draw(st.integers(0, log.end))
    end = data.draw(st.integers(first, log.end))
    gatherer = Gatherer(first, end)
    made: list[Packed] = []
    for pos, header in headers(log.data):
        made += gatherer.add(log.data, pos, header)
    made += gatherer.rest()
    found: list[Record] = []
    for batch, header in made:
        assert producible(header)
        found += read_records(batch, max_bytes=1 << 30)
    assert without_offsets(found) == without_offsets(r for r in log.seen if first <= r.offset < end)


def producible(header: BatchHeader) -> bool:
    """What brokers ask of a batch, apart from its base offset."""
    return header.count == header.last_offset_delta + 1 and not header.has_producer and header.attributes & ~7 == 0


def test_small_batches_are_put_together() -> None:
    log = Log()
    for _ in range(1000):
        log.append([10], 0, "plain")
    gatherer = Gatherer(0, log.end)
    made = [each for pos, header in headers(log.data) for each in gatherer.add(log.data, pos, header)]
    assert [each.header.count for each in [*made, *gatherer.rest()]] == [1000]


def test_a_batch_whose_crc_is_wrong_is_not_exported() -> None:
    log = Log()
    log.append([10], 0, "plain")
    log.data[-1] ^= 1
    with pytest.raises(KafkaError, match="the CRC of the batch at 0"):
        list(Gatherer(0, 1).add(log.data, 0, read_header(log.data)))


def test_aborted_transactions_and_markers_are_not_wanted() -> None:
    sent = build_batch([(b"k", b"v")], producer_id=7, producer_epoch=0, base_sequence=0, transactional=True)
    aborted = {7}
    assert not wanted(read_header(sent), sent, aborted)
    for kind, left in ((ControlType.COMMIT, {7}), (ControlType.ABORT, set[int]())):
        marker = control_batch(kind, producer_id=7, producer_epoch=0, coordinator_epoch=0, timestamp=1)
        assert not wanted(read_header(marker), marker, aborted)
        assert aborted == left
    assert wanted(read_header(sent), sent, aborted)


def test_halves_are_the_whole() -> None:
    batch = build_batch(RECORDS, compression=3)
    first, second = split(batch, 4)
    found = [*read_records(first.batch, max_bytes=1 << 20), *read_records(second.batch, max_bytes=1 << 20)]
    assert without_offsets(found) == without_offsets(RECORDS)
    assert (first.header.count, second.header.compression) == (4, 3)
