"""What is known of a segment's aborted transactions: lookups, the file, what may go wrong with it."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kafka_wire.messages.produce_fetch import AbortedTransaction
from kbroker.log.derived.aborted import (
    BLOCK,
    ENTRY_SIZE,
    RECENT_MAX,
    AbortedIndex,
    AbortedRanges,
    KnownAborted,
    parse_ranges,
    read_ranges,
)
from kbroker.log.derived.transactions import AbortedRange, Marker, Transactions
from kbroker.testing.disk import MemoryDisk
from tests.log.tools import new_disk

STEM = "orders-0/" + "0" * 20


def named(found: list[AbortedTransaction]) -> list[tuple[int, int]]:
    return [(each.producer_id, each.first_offset) for each in found]


def history(steps: list[int]) -> list[AbortedRange]:
    """What a log of batches and abort markers has: each step is a producer, whose transaction begins or ends."""
    transactions, found = Transactions(), []
    for offset, producer in enumerate(steps):
        aborted = transactions.aborted_by(Marker(producer, 0, 0, False), offset)
        if aborted is not None:
            found.append(aborted)
            transactions.forget(producer)
        else:
            transactions.begin(producer, offset)
    return found


@given(st.lists(st.integers(0, 30), max_size=400), st.integers(0, 400), st.integers(0, 60))
def test_T1_a_lookup_finds_exactly_what_overlaps(steps: list[int], offset: int, length: int) -> None:
    entries = history(steps)
    bound = offset + length
    found: list[AbortedTransaction] = []
    is_last = AbortedRanges(entries).collect(offset, bound, found)
    assert named(found) == [each[:2] for each in entries if each.last_offset >= offset and each.first_offset < bound]
    assert is_last == any(each.last_stable_offset >= bound for each in entries)


def test_a_lookup_among_a_hundred_thousand_looks_at_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where one long transaction kept all the others from becoming stable: no bisection helps there."""
    count = 100_000
    entries = [AbortedRange(1, 2 * n + 1, 2 * n + 2, 0) for n in range(count)]
    entries.append(AbortedRange(7, 0, 2 * count + 1, 2 * count + 2))
    ranges = AbortedRanges(entries)
    looks = 0

    class Counted:
        def __init__(self, column: object) -> None:
            self.column = column

        def __getitem__(self, n: int) -> int:
            nonlocal looks
            looks += 1
            return self.column[n]  # type: ignore[no-any-return,index]

        def __len__(self) -> int:
            return len(self.column)  # type: ignore[arg-type]

    for name in ("firsts", "lasts", "stables", "_lowest"):
        setattr(ranges, name, Counted(getattr(ranges, name)))
    found: list[AbortedTransaction] = []
    ranges.collect(1000, 1010, found)
    assert named(found) == [(1, 999), *[(1, first) for first in range(1001, 1010, 2)], (7, 0)]
    assert looks < count // BLOCK + 4 * BLOCK + 100


def test_the_file_format() -> None:
    content = AbortedRanges([AbortedRange(7, 10, 20, 15), AbortedRange(8, 15, 30, 31)]).content()
    assert content == struct.pack(">hqqqqhqqqq", 0, 7, 10, 20, 15, 0, 8, 15, 30, 31)
    again = parse_ranges(content, 0)
    assert again is not None and again.content() == content


DAMAGE = {
    "torn": lambda content: content[:-1],
    "version": lambda content: b"\1" + content[1:],
    "not rising": lambda content: content[ENTRY_SIZE:] + content[:ENTRY_SIZE],
    "zeros": lambda content: bytes(len(content)),
    "zeros behind": lambda content: content + bytes(ENTRY_SIZE),
    "of another segment": lambda content: struct.pack(">hqqqq", 0, 1, 2, 3, 4) + content,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_file_that_cannot_be_true_is_not_believed(damage: str) -> None:
    content = AbortedRanges([AbortedRange(7, 110, 120, 115), AbortedRange(8, 115, 130, 131)]).content()
    assert parse_ranges(content, 100) is not None
    assert parse_ranges(DAMAGE[damage](content), 100) is None


# one segment


def aborted(n: int) -> AbortedRange:
    return AbortedRange(n, 10 * n, 10 * n + 5, 10 * n + 6)


@pytest.fixture
def disk() -> MemoryDisk:
    disk = new_disk()
    disk.make_dirs("orders-0")
    return disk


def index(disk: MemoryDisk, *, is_new: bool = True, end: int = 0) -> AbortedIndex:
    made = AbortedIndex(disk, STEM, 0, is_new)
    if not is_new:
        made.resume(end, has_file=disk.exists(made.path))
    return made


def in_file(disk: MemoryDisk) -> list[AbortedRange] | None:
    ranges = read_ranges(disk, STEM, 0)
    return None if ranges is None else ranges.entries()


def in_memory(made: AbortedIndex) -> list[AbortedRange]:
    return made.ranges.entries() if made.ranges is not None else []


def test_a_new_segment_is_known_to_have_none(disk: MemoryDisk) -> None:
    made = index(disk)
    assert made.is_known and in_file(disk) is None
    made.save()
    assert in_file(disk) == []


def test_each_abort_is_in_the_file_before_its_marker_is_in_the_log(disk: MemoryDisk) -> None:
    made = index(disk)
    for n in range(3):
        made.note(aborted(n))
        assert in_file(disk) == in_memory(made) == [aborted(each) for each in range(n + 1)]


def test_what_was_written_for_a_marker_that_never_was_is_taken_back(disk: MemoryDisk) -> None:
    made = index(disk)
    made.note(aborted(0))
    made.note(aborted(1))
    made.cut(15)
    assert in_file(disk) == in_memory(made) == [aborted(0)]
    made.note(aborted(2))
    assert in_file(disk) == in_memory(made) == [aborted(0), aborted(2)]


@pytest.mark.parametrize("torn", [0, 1, ENTRY_SIZE - 1])
def test_after_a_kill_the_file_is_cut_to_what_the_log_has(disk: MemoryDisk, torn: int) -> None:
    made = index(disk)
    for n in range(3):
        made.note(aborted(n))
    file = disk.open(made.path)
    file.append([bytes(torn)])
    again = index(disk, is_new=False, end=25)
    assert again.saved == 2 and not again.is_known
    again.note(aborted(3))
    assert in_file(disk) == [aborted(0), aborted(1), aborted(3)]


def test_a_segment_without_its_file_gets_none_that_would_lie(disk: MemoryDisk) -> None:
    made = index(disk, is_new=False, end=25)
    made.note(aborted(3))
    made.save()
    assert not made.is_known and in_file(disk) is None
    made.adopt(KnownAborted(AbortedRanges([aborted(0), aborted(1)]), -1, False, ""), 25)
    assert made.is_known and in_memory(made) == [aborted(0), aborted(1), aborted(3)]
    made.save()
    assert in_file(disk) == in_memory(made)


def test_what_was_found_may_overlap_what_came_meanwhile(disk: MemoryDisk) -> None:
    made = index(disk, is_new=False, end=26)
    made.note(aborted(3))
    made.adopt(KnownAborted(AbortedRanges([aborted(n) for n in range(4)]), -1, False, ""), 40)
    assert in_memory(made) == [aborted(n) for n in range(4)]


def test_of_a_segment_nobody_reads_few_are_kept_in_memory(disk: MemoryDisk) -> None:
    made = index(disk, is_new=False, end=5)
    for n in range(1, 2 * RECENT_MAX):
        made.note(aborted(n))
        assert len(in_memory(made)) <= RECENT_MAX if n % 1000 == 0 else True
    made.adopt(KnownAborted(AbortedRanges([aborted(0)]), -1, False, ""), 5)
    assert not made.is_known, "what was found ends before what is known begins"
    found = AbortedRanges([aborted(n) for n in range(2 * RECENT_MAX)])
    made.adopt(KnownAborted(found, -1, False, ""), 20 * RECENT_MAX)
    assert made.is_known and in_memory(made) == found.entries()


@pytest.mark.parametrize("is_released", [False, True])
def test_L1_a_file_that_cannot_be_written_is_given_up(disk: MemoryDisk, is_released: bool) -> None:
    made = index(disk)
    made.note(aborted(0))
    if is_released:
        made = index(disk, is_new=False, end=10)
    disk.fail("append", "*.txnindex")
    made.note(aborted(1))
    assert in_file(disk) is None and made.is_known is not is_released
    disk.heal()
    made.note(aborted(2))
    assert in_file(disk) == (None if is_released else [aborted(0), aborted(1), aborted(2)])


def test_a_file_that_can_neither_be_written_nor_removed_stops_the_append(disk: MemoryDisk) -> None:
    made = index(disk)
    made.note(aborted(0))
    disk.fail("append", "*.txnindex")
    disk.fail("remove", "*.txnindex")
    with pytest.raises(OSError):
        made.note(aborted(1))


def test_what_the_file_has_is_released(disk: MemoryDisk) -> None:
    made = index(disk)
    made.note(aborted(0))
    made.release()
    assert made.ranges is None and not made.is_known
    ranges = read_ranges(disk, STEM, 0)
    assert ranges is not None
    made.adopt(KnownAborted(ranges, 7, True, ""), 100)
    assert made.is_known and in_memory(made) == [aborted(0)] and made.lowest_open == 7


def test_a_wrong_file_is_replaced_by_what_was_found(disk: MemoryDisk) -> None:
    disk.write_atomic(STEM + ".txnindex", b"nonsense", sync=False)
    copy = STEM + ".txnindex.1.tmp"
    disk.write_atomic(copy, AbortedRanges([aborted(0)]).content(), sync=False)
    made = AbortedIndex(disk, STEM, 0, is_new=False)
    made.adopt(KnownAborted(AbortedRanges([aborted(0)]), 7, False, copy), 100)
    assert in_file(disk) == [aborted(0)] and made.saved == 1 and not disk.exists(copy)
