"""What is pending, by due time: taken in order, kept until removed, found again after a restart."""

from __future__ import annotations

from kbroker.delay.schedule import AT_ONCE, NEVER, Entry, Position, Schedule
from kbroker.testing.disk import MemoryDisk

KEY, OTHER = b"k" * 8, b"o" * 8
FIRST = (-1, -1)


def entry(due_ms: int, id: int, key: bytes = KEY) -> Entry:
    return Entry(due_ms, id, id, key)


def schedule_of(*entries: Entry) -> Schedule:
    schedule = Schedule(MemoryDisk(seed=1), "orders-0/delay")
    schedule.add(entries)
    return schedule


def test_what_is_due_is_taken_in_the_order_of_due_time_and_arrival() -> None:
    schedule = schedule_of(entry(30, 1), entry(10, 3), entry(10, 2), entry(31, 0))
    assert schedule.next_due_ms == 10
    assert schedule.take(30, 10) == [entry(10, 2), entry(10, 3), entry(30, 1)]
    assert schedule.next_due_ms == 31 and len(schedule) == 4
    assert schedule.take(30, 10) == []


def test_no_more_is_taken_than_was_asked_for() -> None:
    schedule = schedule_of(*(entry(10, id) for id in range(5)))
    assert [each.id for each in schedule.take(10, 3)] == [0, 1, 2]
    assert [each.id for each in schedule.take(10, 3)] == [3, 4]


def test_what_was_taken_and_not_removed_is_pending_again_when_released() -> None:
    schedule = schedule_of(entry(10, 1), entry(20, 2), entry(30, 3))
    schedule.take(20, 10)
    schedule.remove([1])
    schedule.release()
    assert schedule.take(20, 10) == [entry(20, 2)]


def test_a_cancel_hits_what_came_before_it_of_its_key() -> None:
    schedule = schedule_of(entry(10, 1), entry(20, 2, OTHER), entry(30, 5))
    schedule.cancel(KEY, before=5)
    assert schedule.take(100, 10) == [entry(20, 2, OTHER), entry(30, 5)]


def test_a_cancel_hits_what_is_taken() -> None:
    schedule = schedule_of(entry(10, 1))
    schedule.take(10, 1)
    schedule.cancel(KEY, before=5)
    schedule.release()
    assert schedule.next_due_ms == NEVER and len(schedule) == 0


def test_what_is_hurried_is_due_at_once() -> None:
    schedule = schedule_of(entry(10, 1), entry(5000, 2), entry(6000, 3, OTHER), entry(7000, 4))
    schedule.hurry([3])
    schedule.hurry_key(KEY, before=4)
    assert schedule.next_due_ms == AT_ONCE
    assert [each.id for each in schedule.take(1, 10)] == [1, 2, 3]
    assert schedule.next_due_ms == 7000


def test_an_entry_that_was_carried_forward_is_pending_once() -> None:
    schedule = schedule_of(entry(10, 1), entry(20, 2))
    assert schedule.lowest_offset == 1
    schedule.add([Entry(10, 1, 100, KEY)])
    assert schedule.page_below(50, FIRST, 10) == [entry(20, 2)]
    assert schedule.take(15, 10) == [Entry(10, 1, 100, KEY)]
    schedule.remove([1])
    assert schedule.take(100, 10) == [entry(20, 2)]


def test_all_that_is_not_removed_is_listed_page_by_page() -> None:
    schedule = schedule_of(entry(10, 1), entry(20, 2), entry(20, 3), entry(40, 4))
    schedule.take(10, 1)
    assert schedule.page(FIRST, 3) == [entry(10, 1), entry(20, 2), entry(20, 3)]
    assert schedule.page((20, 2), 3) == [entry(20, 3), entry(40, 4)]


def test_what_was_saved_is_found_again_with_how_far_the_log_was_read() -> None:
    disk = MemoryDisk(seed=1)
    assert Schedule.load(disk, "orders-0/delay") is None
    schedule = Schedule(disk, "orders-0/delay")
    schedule.add([entry(10, 1), entry(20, 2, OTHER)])
    schedule.take(10, 1)
    schedule.save(Position(7, 3))
    loaded = Schedule.load(disk, "orders-0/delay")
    assert loaded is not None
    assert loaded[1] == Position(7, 3)
    assert loaded[0].take(100, 10) == [entry(10, 1), entry(20, 2, OTHER)]


def test_a_damaged_one_is_as_good_as_none() -> None:
    disk = MemoryDisk(seed=1)
    disk.make_dirs("orders-0/delay")
    disk.write_atomic("orders-0/delay/schedule", b"\0" * 100)
    assert Schedule.load(disk, "orders-0/delay") is None
