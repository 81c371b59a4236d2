"""The sparse indexes: lookups against a naive search, saving in pieces, and what is not believed."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbroker.log.derived.index import UNKNOWN, Index, OffsetIndex, TimeIndex, read_last_time
from tests.log.tools import new_disk

rising = st.lists(st.tuples(st.integers(1, 50), st.integers(1, 50)), max_size=40)


def summed(steps: list[tuple[int, int]]) -> list[tuple[int, int]]:
    entries, a, b = [], 0, 0
    for step_a, step_b in steps:
        a, b = a + step_a, b + step_b
        entries.append((a, b))
    return entries


@given(rising, st.integers(0, 2200))
def test_offset_lookups(steps: list[tuple[int, int]], target: int) -> None:
    entries, index = summed(steps), OffsetIndex("x.index")
    for entry in entries:
        index.append(*entry)
    assert len(index) == len(entries) and [index.entry(n) for n in range(len(index))] == entries
    assert index.position_before(target) == max((p for o, p in entries if o <= target), default=0)
    assert index.boundary_before(target) == (max((p for _, p in entries if p <= target), default=0), UNKNOWN)
    assert index.entries_below(target) == sum(o < target for o, _ in entries)
    assert index.is_sane(10**6)


@given(rising, st.integers(0, 2200))
def test_time_lookups(steps: list[tuple[int, int]], target: int) -> None:
    entries, index = summed(steps), TimeIndex("x.timeindex")
    for entry in entries:
        index.append(*entry)
        index.append(entry[0] - 1, entry[1] + 1)  # not later: ignored
    assert len(index) == len(entries)
    assert index.offset_before(target) == max((o for t, o in entries if t <= target), default=0)
    assert index.last() == (entries[-1] if entries else None)
    assert index.is_sane(10**6)


def test_the_formats_are_kafkas() -> None:
    index, times = OffsetIndex("x.index"), TimeIndex("x.timeindex")
    index.append(3, 4097)
    times.append(1_700_000_000_000, 3)
    assert index.content() == struct.pack(">II", 3, 4097)
    assert times.content() == struct.pack(">qI", 1_700_000_000_000, 3)


def test_records_without_timestamps_make_no_time_entries() -> None:
    times = TimeIndex("x.timeindex")
    times.append(-1, 3)
    assert len(times) == 0 and times.last() is None


@pytest.mark.parametrize(
    "entries", [[(5, 10), (5, 20)], [(5, 10), (4, 20)], [(5, 10), (6, 10)], [(5, 999)], [(0, 0), (0, 0)]]
)
def test_an_index_that_does_not_rise_is_not_sane(entries: list[tuple[int, int]]) -> None:
    index = OffsetIndex("x.index")
    for entry in entries:
        index.append(*entry)
    assert not index.is_sane(500)


def test_saving_goes_on_where_it_was() -> None:
    disk = new_disk()
    index = OffsetIndex("x.index")
    for n in range(1, 10):
        index.append(n, n * 10)
        index.save(disk)
        assert disk.read("x.index") == index.content()
    again: Index = OffsetIndex("x.index")
    again.load(disk)
    assert again.content() == index.content()


@pytest.mark.parametrize("found", [b"", b"12345"])
def test_saving_repairs_what_is_in_the_file(found: bytes) -> None:
    disk = new_disk()
    index = OffsetIndex("x.index")
    for n in range(1, 5):
        index.append(n, n * 10)
    index.save(disk)
    disk.write_atomic("x.index", index.content() + found if found else b"")
    index.append(9, 90)
    index.save(disk)
    assert disk.read("x.index") == index.content()


def test_a_failed_save_is_made_good_by_the_next() -> None:
    disk = new_disk()
    index = OffsetIndex("x.index")
    index.append(1, 10)
    disk.fail("append", "x.index")
    with pytest.raises(OSError):
        index.save(disk)
    index.append(2, 20)
    index.save(disk)
    assert disk.read("x.index") == index.content()


def test_an_incomplete_last_entry_is_dropped() -> None:
    disk = new_disk()
    disk.write_atomic("x.index", struct.pack(">IIH", 1, 10, 0))
    index = OffsetIndex("x.index")
    index.load(disk)
    assert len(index) == 1


@given(rising)
def test_the_last_timestamp_is_read_by_itself(steps: list[tuple[int, int]]) -> None:
    disk, times = new_disk(), TimeIndex("x.timeindex")
    assert read_last_time(disk, "x.timeindex") is None
    for entry in summed(steps):
        times.append(*entry)
    disk.write_atomic("x.timeindex", times.content() + b"torn")
    assert read_last_time(disk, "x.timeindex") == times.last()


@pytest.mark.parametrize("entries", [1, 4095, 4096, 4097, 9000])
def test_a_step_back_is_found_wherever_it_is(entries: int) -> None:
    index = OffsetIndex("x.index")
    for n in range(entries):
        index.append(n * 3, n * 100)
    assert index.is_sane(entries * 100)
    for wrong in {1, 4095, 4096, entries - 1}:
        if 0 < wrong < entries:
            content = bytearray(index.content())
            content[wrong * 8 : wrong * 8 + 4] = content[wrong * 8 - 8 : wrong * 8 - 4]  # like the one before
            disk = new_disk()
            disk.write_atomic("x.index", content)
            broken = OffsetIndex("x.index")
            broken.load(disk)
            assert not broken.is_sane(entries * 100)


@given(st.lists(st.tuples(st.integers(1, 2**50), st.integers(1, 2**20)), max_size=40), st.integers(0, 40))
def test_what_is_loaded_is_what_was_written(steps: list[tuple[int, int]], first: int) -> None:
    entries, disk, times, index = summed(steps), new_disk(), TimeIndex("x.timeindex"), OffsetIndex("x.index")
    for at, offset in entries:
        times.append(at, offset)
        index.append(offset, offset + 7)
    first = min(first, len(entries))
    assert times.content(first) == b"".join(struct.pack(">qI", *entry) for entry in entries[first:])
    for made, again in ((times, TimeIndex("x.timeindex")), (index, OffsetIndex("x.index"))):
        made.save(disk, even_empty=True)
        again.load(disk)
        assert [again.entry(n) for n in range(len(again))] == [made.entry(n) for n in range(len(made))]
        again.cut(first)
        assert len(again) == again.saved == first
