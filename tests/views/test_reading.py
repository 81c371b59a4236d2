"""Reading through a filter: every record that matches, once, in order; and how little is read for it."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kafka_wire.records import (
    BatchHeader,
    Record,
    build_batch,
    check_crc,
    headers,
    payload,
    peek_control,
    read_records,
)
from kbroker.env import FileSlice
from kbroker.filters import parse
from kbroker.log.cold import NotInMemory
from kbroker.log.derived.producers import UNVERIFIED
from kbroker.log.derived.transactions import Marker
from kbroker.log.errors import CorruptLog
from kbroker.log.log import PartitionLog
from kbroker.replication.reads import Scanned
from kbroker.testing.disk import MemoryDisk
from kbroker.views import reading
from kbroker.views.reading import LOOK_BYTES, FilteredReader, Selection
from kbroker.views.results import COST, Found, Results
from tests.log.tools import NOW, cut_to, new_disk, open_log

EU = 'tags has "eu"'
MOST = 1 << 20


class Meter:
    """How many bytes of segments are read of a disk."""

    def __init__(self, disk: MemoryDisk) -> None:
        self.bytes = 0
        pread = disk_file_class(disk).pread

        def counted(file: Any, length: int, position: int) -> bytes:
            data: bytes = pread(file, length, position)
            if file.path.endswith(".log"):
                self.bytes += len(data)
            return data

        self.counted, self.original = counted, pread


def disk_file_class(disk: MemoryDisk) -> Any:
    return type(disk.open("meter", create=True))


@pytest.fixture
def meter(monkeypatch: pytest.MonkeyPatch) -> Meter:
    disk = new_disk()
    meter = Meter(disk)
    monkeypatch.setattr(disk_file_class(disk), "pread", meter.counted)
    return meter


def tagged_log(disk: MemoryDisk | None = None, **config: Any) -> PartitionLog:
    config = {"kbroker_tags_enable": True} | config
    return open_log(disk or new_disk(), **config)


def append_batch(log: PartitionLog, *tags: str, count: int = 5, size: int = 1000, **options: Any) -> None:
    """A batch whose records have each of the tags in turn; "" is none."""
    rows = []
    for n in range(count):
        tag = tags[n % len(tags)] if tags else ""
        rows.append((NOW + n, b"k%d" % n, b"v" * size, (("kbroker-tags", tag.encode()),) if tag else ()))
    log.append(build_batch(rows, **options), leader_epoch=4, now_ms=NOW, guard=UNVERIFIED)


def reader(text: str = EU, *, is_exact: bool = True, results: Results | None = None) -> FilteredReader:
    return FilteredReader(Selection(parse(text), is_exact=is_exact), results or Results())


def ask(
    by: FilteredReader, log: PartitionLog, offset: int, bytes_max: int = MOST, bound: int = -1, attempts: int = 9
) -> Scanned:
    """Read as a fetch does, with a worker for what it lacks."""
    bound = log.end.value if bound < 0 else bound
    for _ in range(attempts):
        try:
            return by.read(log, offset, bytes_max, bound, True, True)
        except NotInMemory as lacking:
            lacking.take(lacking.work())
    raise AssertionError(f"not told in {attempts} attempts")


def content(scanned: Scanned) -> bytes:
    return b"".join([part.read() if isinstance(part, FileSlice) else part for part in scanned.parts])


def batches(scanned: Scanned) -> Iterator[tuple[BatchHeader, list[Record]]]:
    data = content(scanned)
    for at, header in headers(data):
        assert check_crc(data, at, header)
        yield header, list(read_records(data, at, max_bytes=1 << 24))


def consume(by: FilteredReader, log: PartitionLog, offset: int = 0, **options: Any) -> list[Record]:
    """What a client gets that reads on until it has come to the end: it goes on behind the last batch's last offset."""
    found: list[Record] = []
    while offset < log.end.value:
        scanned, begun = ask(by, log, offset, **options), offset
        length = 0
        for header, records in batches(scanned):
            assert header.last_offset >= offset, "nothing comes twice"
            if not header.is_control:
                found += [each for each in records if each.offset >= offset]
            offset = header.next_offset
        length = len(content(scanned))
        assert offset == scanned.after > begun, "it gets on"
        assert scanned.length in (length, length - 78), "only a marker does not count"
    return found


def expected(log: PartitionLog, text: str = EU) -> list[Record]:
    expression, found = parse(text), []
    for piece in log.read(log.start_offset, 1 << 30, log.end.value):
        data = piece.read()
        for at, header in headers(data):
            if not header.is_control:
                found += [r for r in read_records(data, at, max_bytes=1 << 24) if expression.matches(r.key, r.headers)]
    return found


# what is told

TEXTS = (EU, 'tags in ("us", "eu")', 'not tags has "eu"', 'key = "k1"', 'tags has "nobody"')
shapes = st.lists(
    st.tuples(
        st.lists(st.sampled_from(["eu", "us", "", "eu,us"]), max_size=3),
        st.integers(1, 6),
        st.sampled_from([10, 1000, 5000]),
        st.integers(0, 4),
        st.booleans(),
    ),
    min_size=1,
    max_size=30,
)


@settings(deadline=None)
@given(
    shapes, st.sampled_from(TEXTS), st.booleans(), st.sampled_from([1, 3000, MOST]), st.sampled_from([9000, 1 << 30])
)
def test_every_record_that_matches_comes_once_and_in_order(
    shape: list[tuple[list[str], int, int, int, bool]], text: str, tags: bool, bytes_max: int, segment_bytes: int
) -> None:
    log = tagged_log(kbroker_tags_enable=tags, segment_bytes=segment_bytes)
    for names, count, size, codec, is_noted in shape:
        log.notes_tags = tags and is_noted
        append_batch(log, *names, count=count, size=size, compression=codec)
    log.notes_tags = tags
    by = reader(text)
    for _ in range(2):
        assert consume(by, log, bytes_max=bytes_max) == expected(log, text)
        for segment in log.segments:
            segment.release()


@settings(deadline=None)
@given(shapes, st.booleans(), st.sampled_from([1, 3000, MOST]))
def test_mode_prune_tells_all_that_match_and_whole_batches(
    shape: list[tuple[list[str], int, int, int, bool]], is_noted: bool, bytes_max: int
) -> None:
    log = tagged_log()
    for n, (names, count, size, codec, _) in enumerate(shape):
        log.notes_tags = is_noted or n % 2 == 0
        append_batch(log, *names, count=count, size=size, compression=codec)
    log.notes_tags = True
    found, wanted = consume(reader(is_exact=False), log, bytes_max=bytes_max), expected(log)
    assert [each for each in found if each in wanted] == wanted


def test_reading_may_begin_at_any_offset() -> None:
    log = tagged_log()
    for n in range(30):
        append_batch(log, "eu" if n % 3 else "us", "us", count=4, size=300)
    wanted = expected(log)
    for by in (reader(), reader(is_exact=False)):
        for offset in range(log.end.value):
            found = [each for each in consume(by, log, offset) if each in wanted]
            assert found == [each for each in wanted if each.offset >= offset]


def test_a_bound_is_kept() -> None:
    log = tagged_log()
    for _ in range(9):
        append_batch(log, "eu", "us", count=2, size=100)
    for by in (reader(), reader(is_exact=False), reader('key = "k1"')):
        for bound in range(2, 19, 2):
            scanned = ask(by, log, 0, bound=bound)
            assert scanned.after <= bound and all(header.next_offset <= bound for header, _ in batches(scanned))
    for by in (reader(), reader(is_exact=False), reader('key = "k1"')):
        assert ask(by, log, 0).after == 18
        assert ask(by, log, 0, bound=6).after == 6, "what was found for who may see more is cut"


def test_what_is_left_keeps_its_codec_and_place() -> None:
    for codec in range(5):
        log = tagged_log()
        append_batch(log, "us", "eu", count=6, compression=codec)
        [(header, records)] = batches(ask(reader(), log, 0))
        assert (header.compression, header.base_offset, header.last_offset, header.leader_epoch) == (codec, 0, 5, 4)
        assert [each.offset for each in records] == [1, 3, 5] and header.max_timestamp == NOW + 5


# skip markers


def test_what_ends_without_a_match_ends_with_a_skip_marker() -> None:
    log = tagged_log()
    for tag in ("us", "eu", "us", "us"):
        append_batch(log, tag)
    for by in (reader(), reader(is_exact=False)):
        scanned = ask(by, log, 0)
        (data, _), (marker, _) = batches(scanned)
        assert (data.base_offset, data.last_offset) == (5, 9)
        assert (marker.base_offset, marker.next_offset) == (19, 20) and marker.leader_epoch == 4
        assert marker.is_control and not marker.is_transactional and marker.producer_id == -1
        assert scanned.length == data.size and not scanned.is_partial and scanned.after == 20
        assert peek_control(content(scanned)[data.size :]) == (1, 0)


def test_a_marker_alone_does_not_count() -> None:
    log = tagged_log()
    append_batch(log, "us")
    for by in (reader(), reader(is_exact=False), reader('key = "none"')):
        scanned = ask(by, log, 0)
        assert (scanned.length, scanned.after, scanned.is_partial, len(content(scanned))) == (0, 5, False, 78)


def test_markers_that_abort_go_with_the_records() -> None:
    log = tagged_log()
    append_batch(log, "us", producer_id=7, producer_epoch=0, base_sequence=0, transactional=True)
    log.append_marker(Marker(7, 0, 0, is_commit=True), leader_epoch=4, now_ms=NOW)
    append_batch(log, "eu", producer_id=7, producer_epoch=0, base_sequence=5, transactional=True)
    log.append_marker(Marker(7, 0, 0, is_commit=False), leader_epoch=4, now_ms=NOW)
    append_batch(log, "us", producer_id=7, producer_epoch=0, base_sequence=10, transactional=True)
    log.append_marker(Marker(7, 0, 0, is_commit=False), leader_epoch=4, now_ms=NOW)
    for by in (reader(), reader('tags has "eu" or key = "none"')):
        rows = [(header.base_offset, header.is_control, header.producer_id) for header, _ in batches(ask(by, log, 0))]
        assert rows == [(6, False, 7), (11, True, 7), (17, True, 7)]


def test_hidden_batches_are_not_shown() -> None:
    log = tagged_log()
    hidden = build_batch([(NOW, b"\x00\x00\x4b\x42", b"kbroker-tags\x04eu")], control=True)
    hidden[53:57] = (-3).to_bytes(4, signed=True)
    append_batch(log, "eu")
    log.append_hidden(bytearray(hidden), leader_epoch=4, now_ms=NOW)
    append_batch(log, "eu")
    assert [header.base_offset for header, _ in batches(ask(reader(), log, 0))] == [0, 6]


# how much is read


def test_at_one_percent_in_clustered_batches_nearly_nothing_else_is_read(meter: Meter) -> None:
    log = tagged_log()
    rng = random.Random(1)
    for n in range(1000):
        append_batch(log, "eu" if n % 100 == 7 else rng.choice(["us", "uk", "de"]), count=10, size=500)
    matching = sum(r.size for r in [h for _, h in headers(log.read(0, 1 << 30, log.end.value)[0].read())][7::100])
    for is_exact in (True, False):
        by = reader(is_exact=is_exact)
        meter.bytes = 0
        found = consume(by, log)
        assert len(found) == 100
        beyond = meter.bytes - matching * (1 if is_exact else 2)  # the test itself reads slices
        assert beyond < 0.05 * (log.size - matching), f"{beyond} of {log.size} bytes"


def test_a_look_is_bounded(meter: Meter) -> None:
    log = tagged_log(kbroker_tags_enable=False)
    for _ in range(400):
        append_batch(log, "us", size=5000)
    by = reader()
    meter.bytes = 0
    scanned = ask(by, log, 0)
    assert scanned.is_partial and 0 < meter.bytes <= LOOK_BYTES + 2 * reading.READ_BYTES
    assert consume(by, log) == []


def test_a_look_ends_after_very_many_records() -> None:
    log = tagged_log(kbroker_tags_enable=False, kbroker_produce_validate="header")
    for _ in range(4):
        append_batch(log, "us", count=20_000, size=1, compression=4)
    scanned = ask(reader('key = "none"'), log, 0)
    assert scanned.is_partial and scanned.after == 60_000


def test_a_look_ends_after_much_that_was_decompressed() -> None:
    log = tagged_log(kbroker_tags_enable=False, kbroker_produce_validate="header")
    for _ in range(5):
        append_batch(log, "us", count=1, size=(16 << 20) - 1000, compression=4)  # a few kilobytes each
    scanned = ask(reader('key = "none"'), log, 0)
    assert scanned.is_partial and scanned.after == 4  # 64 MB


def test_a_large_batch_is_judged_like_any_other() -> None:
    log = tagged_log(kbroker_tags_enable=False, kbroker_produce_validate="header")
    append_batch(log, "eu", "us", count=20, size=1 << 20, compression=4)
    assert [each.offset for each in consume(reader(), log)] == list(range(0, 20, 2))


@pytest.mark.parametrize("has_index", [False, True])
def test_an_exact_view_shows_nothing_of_a_batch_that_is_too_large_to_be_judged(
    monkeypatch: pytest.MonkeyPatch, has_index: bool
) -> None:
    for name in ("UNPACKED_MAX", "UNPACKED_SMALL_MAX"):
        monkeypatch.setattr(reading, name, 50_000)
    log = tagged_log(kbroker_tags_enable=has_index, kbroker_produce_validate="header")
    append_batch(log, "eu", "us", size=50_000, compression=4)
    append_batch(log, "eu", "us")
    assert [each.offset for each in consume(reader(), log)] == [5, 7, 9]
    assert [each.offset for each in consume(reader(is_exact=False), log)] == list(range(10))


@pytest.mark.parametrize("has_index", [False, True])
def test_of_large_batches_one_look_at_a_time_takes_the_memory(monkeypatch: pytest.MonkeyPatch, has_index: bool) -> None:
    monkeypatch.setattr(reading, "UNPACKED_SMALL_MAX", 50_000)
    log = tagged_log(kbroker_produce_validate="header")
    log.notes_tags = has_index
    for size in (100, 50_000, 50_000, 100):
        append_batch(log, "eu", "us", size=size, compression=4)
    log.notes_tags = True  # without the index they are to be looked at
    sizes: list[int] = []

    def noted(batch: memoryview, *, max_bytes: int) -> bytes:
        sizes.append(max_bytes)
        return payload(batch, max_bytes=max_bytes)

    monkeypatch.setattr(reading, "payload", noted)
    by, looks, offset = reader(), list[tuple[bool, set[int]]](), 0
    while offset < log.end.value:
        try:
            offset = by.read(log, offset, MOST, log.end.value, True, True).after
        except NotInMemory as lacking:
            sizes.clear()
            lacking.take(lacking.work())
            looks += [(lacking.is_large, set(sizes))] if lacking.cost else []
    small, large = (False, {50_000}), (True, {reading.UNPACKED_MAX})
    assert looks == [small, small, large]
    assert [each.offset for each in consume(by, log)] == [0, 2, 4, 5, 7, 9, 10, 12, 14, 15, 17, 19]
    sizes.clear()
    assert [each.offset for each in consume(reader(is_exact=False), log)] == list(range(20))
    assert max(sizes, default=0) <= 50_000, "whole batches go, so no large one need be unpacked"


def test_what_nobody_knows_is_looked_at_once(meter: Meter) -> None:
    log = tagged_log(kbroker_tags_enable=False)
    for _ in range(300):
        append_batch(log, "us", size=5000)
    log.roll()
    log.notes_tags = True
    for is_exact in (True, False):
        log.segments[0].forget_tags()
        assert not [each for each in consume(reader(is_exact=is_exact), log) if each in expected(log)]
        for is_released in (False, True):
            if is_released:
                log.segments[0].release()
            meter.bytes = 0
            consume(reader(is_exact=is_exact), log)
            assert meter.bytes < 5000, "the index has learned, and its file has it"


def test_damage_in_the_log_is_told() -> None:
    log = tagged_log(disk := new_disk())
    append_batch(log, "eu")
    data = bytearray(disk.read(log.active.path))
    data[8:12] = b"\xff\xff\xff\xf0"
    disk.write_atomic(log.active.path, bytes(data), sync=False)
    log.active.close()
    with pytest.raises(CorruptLog):
        ask(reader(), log, 0)


# what others have found


def test_readers_of_the_same_view_share_what_was_found() -> None:
    log, by = tagged_log(), reader()
    append_batch(log, "eu", "us")
    first = ask(by, log, 0)
    assert content(by.read(log, 0, MOST, log.end.value, True, True)) == content(first)  # no worker is needed


def test_what_does_not_fit_in_an_answer_is_not_looked_at_again(meter: Meter) -> None:
    log, results = tagged_log(), Results()
    for _ in range(200):
        append_batch(log, "eu", "us")
    wanted, meter.bytes = expected(log), 0
    assert consume(reader(results=results), log, bytes_max=20_000) == wanted
    assert meter.bytes < 1.5 * log.size
    assert results.count <= 1 + log.size // LOOK_BYTES and results.size < log.size, "nothing is kept twice"


@pytest.mark.parametrize("text", [EU, 'key = "k1"'])
def test_who_asks_for_little_does_not_make_the_answers_of_others_small(text: str) -> None:
    log, by = tagged_log(), reader(text)
    for _ in range(100):
        append_batch(log, "eu", "us", size=10)
    before = ask(by, log, 0)
    consume(by, log, bytes_max=1)
    again = by.read(log, 0, MOST, log.end.value, True, True)
    assert content(again) == content(before) and again.after == before.after


def test_who_begins_in_the_midst_of_what_was_found_has_the_rest_of_it() -> None:
    log, by, wanted = tagged_log(), reader(), list[Record]()
    for _ in range(20):
        append_batch(log, "us", "eu", "us", count=3)
    wanted = consume(by, log)
    for offset in range(log.end.value):
        scanned = by.read(log, offset, MOST, log.end.value, True, True)  # no worker is needed
        records = [each for _, found in batches(scanned) for each in found if each.offset >= offset]
        assert [each for each in records if each in wanted] == [each for each in wanted if each.offset >= offset]
        assert by.available(log, offset, log.end.value, MOST) >= min(scanned.length, 1)


def test_what_came_since_is_looked_at_alone(meter: Meter) -> None:
    log, by = tagged_log(kbroker_tags_enable=False), reader()
    for _ in range(20):
        append_batch(log, "us")
    assert ask(by, log, 0).length == 0
    append_batch(log, "us")
    meter.bytes = 0
    scanned = ask(by, log, 0)
    assert (scanned.length, scanned.after) == (0, 105) and meter.bytes < 6 * 5000 * 2
    append_batch(log, "eu")
    scanned = ask(by, log, 0)
    assert [header.base_offset for header, _ in batches(scanned)] == [105] and scanned.after == 110


def test_what_was_found_before_a_cut_is_not_told_after_it() -> None:
    log, by = tagged_log(), reader()
    append_batch(log, "eu")
    append_batch(log, "eu")
    assert ask(by, log, 0).after == 10
    cut_to(log, 5)
    append_batch(log, "us")
    scanned = ask(by, log, 0)
    assert [header.base_offset for header, _ in batches(scanned)] == [0, 9] and scanned.after == 10


def test_what_a_worker_found_before_a_cut_is_thrown_away() -> None:
    log, by = tagged_log(), reader()
    append_batch(log, "us", "eu")
    append_batch(log, "us", "eu")
    with pytest.raises(NotInMemory) as lacking:
        by.read(log, 0, MOST, 10, True, True)
    result = lacking.value.work()
    cut_to(log, 5)
    lacking.value.take(result)
    append_batch(log, "us")
    assert [each.offset for each in consume(by, log)] == [1, 3]


def test_results_are_bounded() -> None:
    results = Results(50_000)
    log = tagged_log()
    for _ in range(40):
        append_batch(log, "eu")
    for offset in range(0, 200, 5):
        ask(reader(results=results), log, offset, bound=offset + 5)
    assert results.size <= 50_000 and 0 < results.count <= 50_000 // COST


def test_the_bound_of_results_counts_what_many_small_batches_take() -> None:
    results, log = Results(), tagged_log()
    for _ in range(2000):
        append_batch(log, "eu", count=1, size=1)
    scanned = ask(reader(results=results), log, 0)
    taken = sum(
        [sys.getsizeof(piece) + sys.getsizeof(Found(b"", 0, 0)) + 2 * sys.getsizeof(1) for piece in scanned.parts]
    )
    assert len(scanned.parts) == 2000 and taken <= results.size < 1.5 * taken


def test_of_a_reader_that_has_ended_nothing_is_kept() -> None:
    results, log = Results(), tagged_log()
    append_batch(log, "eu")
    by, other = reader(results=results), reader(results=results)
    for each in (by, other):
        ask(each, log, 0)
    append_batch(log, "eu")
    with pytest.raises(NotInMemory) as lacking:
        by.read(log, 5, MOST, 10, True, True)
    by.end()
    lacking.value.take(lacking.value.work())
    assert results.count == 1, "not even what a worker finds later"
    other.end()
    assert (results.count, results.size) == (0, 0)


# for who waits


def test_what_may_match_is_available_and_what_cannot_is_not() -> None:
    log, by = tagged_log(), reader()
    append_batch(log, "us")
    assert by.available(log, 0, 5, MOST) == 0
    assert ask(by, log, 0).length == 0
    append_batch(log, "us")
    assert by.available(log, 0, 10, MOST) == 0
    append_batch(log, "eu")
    assert by.available(log, 0, 15, MOST) > 5000
    assert by.available(log, 0, 15, 7) == 7
    without_index = reader('key = "none"')
    assert without_index.available(log, 0, 15, MOST) > 0
    assert ask(without_index, log, 0).length == 0
    assert without_index.available(log, 0, 15, MOST) == 0, "it has been looked at"


def test_without_leave_to_wait_nobody_waits_for_a_look() -> None:
    log, by = tagged_log(), reader()
    append_batch(log, "eu", "us")
    scanned = by.read(log, 0, MOST, log.end.value, True, False)
    assert not scanned.parts and scanned.is_partial and scanned.after == 0
