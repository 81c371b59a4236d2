"""What a filter leaves of a batch: against reading every record, in all codecs, and of batches that are odd."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kafka_wire.records import Record, build_batch, check_crc, payload, read_header, read_records
from kbroker.filters import parse
from kbroker.views import filtering
from kbroker.views.filtering import SEEN_MAX, Filter
from tests.log.content.odd_batches import batch_of, record, sealed

MOST = 1 << 20
TEXTS = ('tags has "eu"', 'tags in ("eu", "us")', 'not tags has "eu"', 'key prefix "a"', 'x = "1" or tags has "eu"')
EU = b"\x02\x18kbroker-tags\x04eu"  # the headers of a record, as they stand


def filtered(text: str, batch: bytearray | memoryview) -> Any:
    """The bytes that are left."""
    view = memoryview(batch)
    return Filter(parse(text)).left_of(view, read_header(view), payload(view, max_bytes=MOST))


def left_of(text: str, batch: bytearray) -> list[Record] | None:
    """The records that are left; the batch around them is looked at."""
    header = read_header(batch)
    left = filtered(text, batch)
    if left is None:
        return None
    now = read_header(left)
    records = list(read_records(left, max_bytes=MOST))
    assert now.size == len(left) and check_crc(left, 0, now) and now.count == len(records)
    same = {"length": 0, "crc": 0, "count": 0, "max_timestamp": 0}
    assert header._replace(**same) == now._replace(**same)
    if not now.log_append_time:
        assert now.max_timestamp == max(each.timestamp for each in records)
    return records


headers = st.lists(
    st.tuples(
        st.sampled_from(["kbroker-tags", "x", "kbroker-tags2"]),
        st.sampled_from([b"eu", b"us", b"eu,us", b"1", b"", None, b" eu ", b"europe"]),
    ),
    max_size=3,
)
keys = st.sampled_from([None, b"", b"a", b"ab", b"b", b"kbroker-tags"])
values = st.sampled_from([None, b"v", b"eu" * 99])
records_of = st.lists(st.tuples(st.integers(0, 1 << 40), keys, values, headers), min_size=1)


@settings(deadline=None)
@given(records_of, st.sampled_from(TEXTS), st.integers(0, 4), st.booleans())
def test_the_records_that_match_are_left_as_they_were(
    rows: list[tuple[int, bytes | None, bytes | None, list[tuple[str, bytes | None]]]],
    text: str,
    codec: int,
    stamps: bool,
) -> None:
    batch = build_batch(rows, base_offset=77, compression=codec, log_append_time=9 if stamps else None, leader_epoch=3)
    expression = parse(text)
    expected = [each for each in read_records(batch, max_bytes=MOST) if expression.matches(each.key, each.headers)]
    assert (left_of(text, batch) or []) == expected


def test_a_batch_that_is_all_there_is_the_very_same() -> None:
    batch = memoryview(build_batch([(1, b"a", b"v")] * 3, compression=1))
    assert Filter(parse('key = "a"')).left_of(batch, read_header(batch), payload(batch, max_bytes=MOST)) is batch


def test_offsets_with_gaps_stay() -> None:
    batch = batch_of(record(0, 2, headers=EU) + record(5, 6) + record(3, 9, headers=EU), 10)
    batch[57:61] = (3).to_bytes(4)
    left = left_of('tags has "eu"', sealed(batch))
    assert left is not None and [each.offset for each in left] == [2, 9]


def test_what_cannot_be_judged_stays_as_it_is() -> None:
    wrong_crc = build_batch([(1, b"k", b"v", (("kbroker-tags", b"eu"),)), (1, b"k", b"v")])
    wrong_crc[-1] ^= 1
    torn = batch_of(record(headers=EU) + record(size=90), 2)
    too_long = batch_of(record() + record(headers=EU) + b"\x00", 2)
    lie = batch_of(record(headers=b"\x06" + EU[1:]), 1)
    for batch in (wrong_crc, torn, too_long, lie):
        assert filtered('tags has "eu"', batch) == batch


def test_what_is_too_large_to_be_searched_at_once_is_judged_record_by_record(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = build_batch(
        [(1, b"k", b"v", (("kbroker-tags", b"eu"),)), (1, b"k", b"v" * 5000), (1, b"k", b"kbroker-tags")]
    )
    monkeypatch.setattr(filtering, "SEARCHED_MAX", 4999)
    monkeypatch.setattr(filtering, "_names_in", None)
    assert [each.offset for each in left_of('tags has "eu"', batch) or ()] == [0]


def test_an_empty_batch_goes() -> None:
    batch = build_batch([(1, b"k", b"v")])
    batch[57:61] = bytes(4)
    assert filtered('key = "k"', batch) is None


@pytest.mark.parametrize("text", TEXTS)
def test_verdicts_that_are_remembered_stay_few(text: str) -> None:
    judge, expression = Filter(parse(text)), parse(text)
    rows = [(1, b"a%d" % n, b"", (("kbroker-tags", b"t%d,us" % n), ("x", b"%d" % n))) for n in range(2 * SEEN_MAX)]
    batch = build_batch(rows)
    left = judge.left_of(memoryview(batch), read_header(batch), payload(batch, max_bytes=1 << 24))
    kept = sum(expression.matches(row[1], row[3]) for row in rows)
    assert (read_header(left).count if left is not None else 0) == kept
    assert len(judge.seen) <= SEEN_MAX
