"""What compaction leaves of one batch."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pytest

from kafka_wire import compression as codecs
from kafka_wire.records import HEADER_SIZE, BatchHeader, build_batch, check_crc, read_header, read_records
from kbroker.log.cleaner.filtering import Filter, Rules
from kbroker.log.cleaner.job import Last
from kbroker.log.cleaner.offset_map import OffsetMap
from kbroker.log.cleaner.transactions import Decided
from tests.log.tools import NOW

MIB = 1 << 20
BASE, LATER = 1000, 5000  # offsets: of the batch, and where its keys come again
RECORDS: list[Any] = [(NOW + n, b"key %d" % n, b"value %d" % n, [("n", b"%d" % n)]) for n in (0, 9, 5, 7)]
WHO = {"producer_id": 9, "producer_epoch": 1, "base_sequence": 5}

per_codec = pytest.mark.parametrize("codec", range(5), ids=codecs.NAMES)


def left_of(batch: bytearray, keep: Collection[int]) -> tuple[bytes, BatchHeader]:
    """What is left when the keys of some records are newest here, and those of the others later."""
    newest = OffsetMap(MIB)
    for n, (_, key, *_) in enumerate(RECORDS):
        newest.put(key, BASE + n if BASE + n in keep else LATER)
    producers = {9: Last(BASE + len(RECORDS) - 1, 1)}
    rules = Rules(newest, LATER, NOW, 0, producers, {}, MIB)
    header = read_header(batch)
    left, now = Filter(rules, Decided((), 0)).judge(memoryview(batch), header, is_last=False)
    assert left is not None and read_header(left)._replace(length=0, crc=0) == now._replace(length=0, crc=0)
    assert check_crc(left, 0, read_header(left))
    return bytes(left), header


@per_codec
def test_L9_a_batch_without_some_records_keeps_offsets_and_all_else(codec: int) -> None:
    batch = build_batch(RECORDS, compression=codec, base_offset=BASE, leader_epoch=3, **WHO)
    left, before = left_of(batch, (1000, 1002))
    found = list(read_records(batch, 0, max_bytes=MIB))
    assert list(read_records(left, 0, max_bytes=MIB)) == [found[0], found[2]]
    header = read_header(left)
    fields = {"length": header.length, "crc": header.crc, "count": 2, "max_timestamp": NOW + 5}
    assert header == before._replace(**fields)


@per_codec
def test_L9_a_producers_last_batch_without_any_record_keeps_sequence_and_offsets(codec: int) -> None:
    left, before = left_of(build_batch(RECORDS, compression=codec, base_offset=BASE, **WHO), ())
    header = read_header(left)
    assert len(left) == HEADER_SIZE
    assert (header.base_offset, header.last_offset, header.last_sequence) == (1000, 1003, before.last_sequence)
    assert (header.count, header.compression) == (0, codecs.NONE)


def test_L9_log_append_time_stays() -> None:
    left, before = left_of(build_batch(RECORDS, base_offset=BASE, log_append_time=NOW + 70, **WHO), (1001,))
    assert read_header(left).max_timestamp == before.max_timestamp == NOW + 70
    assert [record.timestamp for record in read_records(left, 0, max_bytes=MIB)] == [NOW + 70]


@per_codec
def test_a_batch_of_which_all_is_left_is_copied(codec: int) -> None:
    batch = build_batch(RECORDS, compression=codec, base_offset=BASE, **WHO)
    assert left_of(batch, range(1000, 1004))[0] == bytes(batch)
