"""What is pending, by due time: taken in order, kept until removed, found again after a restart."""

from __future__ import annotations

import gc

import pytest

from kbroker.delay.runs import BLOCK_ROWS, Cursor
from kbroker.delay.schedule import NEVER, START, Damaged, Entry, Page, Position, Schedule
from kbroker.testing.disk import MemoryDisk

KEY, OTHER = b"k" * 8, b"o" * 8


def entry(due_ms: int, id: int, key: bytes = KEY) -> Entry:
    return Entry(due_ms, id, id, key)


def partition_disk(seed: int = 1) -> MemoryDisk:
    """A disk with the directory of a partition."""
    disk = MemoryDisk(seed=seed)
    disk.make_dirs("orders-0")
    disk.sync_dir("")
    return disk


def schedule_of(*entries: Entry) -> Schedule:
    schedule = Schedule(partition_disk(), "orders-0/delay")
    schedule.add(entries)
    return schedule


def settle(schedule: Schedule) -> None:
    while schedule.settle():
        pass


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
    schedule.remove([1], 100)
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
    schedule.hurry([3], 100)
    schedule.hurry_key(KEY, before=4)
    assert schedule.is_full
    settle(schedule)
    assert not schedule.is_full
    assert schedule.next_due_ms == 0
    assert [each.id for each in schedule.take(1, 10)] == [1, 2, 3]
    assert schedule.take(6999, 10) == []
    assert schedule.next_due_ms == 7000


def test_an_entry_that_was_carried_forward_is_pending_once() -> None:
    schedule = schedule_of(entry(10, 1), entry(20, 2))
    assert schedule.lowest_offset == 1
    schedule.add([Entry(10, 1, 100, KEY)])
    assert schedule.page(START, 10, below=50) == Page([entry(20, 2)], None)
    assert schedule.take(15, 10) == [Entry(10, 1, 100, KEY)]
    schedule.remove([1], 100)
    assert schedule.take(100, 10) == [entry(20, 2)]


def test_all_that_is_not_removed_is_listed_page_by_page() -> None:
    schedule = schedule_of(entry(10, 1), entry(20, 2), entry(20, 3), entry(40, 4))
    schedule.take(10, 1)
    assert schedule.page(START, 3) == Page([entry(10, 1), entry(20, 2), entry(20, 3)], (20, 3))
    assert schedule.page((20, 2), 3) == Page([entry(20, 3), entry(40, 4)], None)
    assert schedule.page(START, 4).next is None


def test_what_was_saved_is_found_again_with_how_far_the_log_was_read() -> None:
    disk = partition_disk()
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
    disk = partition_disk()
    disk.make_dirs("orders-0/delay")
    disk.write_atomic("orders-0/delay/schedule", b"\0" * 100)
    assert Schedule.load(disk, "orders-0/delay") is None


def test_an_id_that_is_yet_to_come_is_neither_removed_nor_hurried() -> None:
    schedule = schedule_of(entry(10, 1))
    schedule.remove([7], before=5)
    schedule.hurry([8], before=5)
    schedule.add([entry(20, 7), entry(30, 8)])
    settle(schedule)
    assert schedule.take(100, 10) == [entry(10, 1), entry(20, 7), entry(30, 8)]


@pytest.mark.slow
def test_two_thousand_times_more_than_its_memory_is_in_few_runs_of_one_block_each(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("kbroker.delay.schedule.MEMORY_ROWS", 4)
    schedule = Schedule(partition_disk(), "orders-0/delay")
    for base in range(0, 8000, 8):
        schedule.add([entry(1 + (base * 7919 + n) % 65_537, base + n) for n in range(8)])
        while schedule.settle() and schedule.is_full:
            pass
    assert len(schedule) == 8000
    assert len(held_by(schedule)) < 64 * BLOCK_ROWS


def held_by(schedule: Schedule) -> list[bytes]:
    """All rows that it has in memory."""
    cursors = [each for each in gc.get_objects() if isinstance(each, Cursor)]
    return [row for each in cursors for row in each.rows]


def test_what_is_taken_of_many_is_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kbroker.delay.schedule.MEMORY_ROWS", 64)
    entries = [entry(1 + (n * 7919) % 4001, n) for n in range(4000)]
    schedule = Schedule(partition_disk(), "orders-0/delay")
    for at in range(0, 4000, 50):
        schedule.add(entries[at : at + 50])
        settle(schedule)
    taken = []
    while more := schedule.take(NEVER, 100):
        taken += more
    assert taken == sorted(entries)


def many(disk: MemoryDisk) -> Schedule:
    """So many that they are in a run, and saved."""
    schedule = Schedule(disk, "orders-0/delay")
    schedule.add([entry(1 + n, n) for n in range(20_000)])
    settle(schedule)
    schedule.save(Position(20_000, 0))
    return schedule


def test_a_run_that_is_damaged_is_found_when_it_is_read() -> None:
    disk = partition_disk()
    many(disk)
    content = bytearray(disk.read("orders-0/delay/0.run"))
    content[20_000 * 16] ^= 1
    disk.write_atomic("orders-0/delay/0.run", content)
    loaded = Schedule.load(disk, "orders-0/delay")
    assert loaded is not None
    with pytest.raises(Damaged):
        while loaded[0].take(NEVER, 1000):
            pass


def test_a_run_that_is_gone_or_cut_makes_the_schedule_as_good_as_none() -> None:
    disk = partition_disk()
    many(disk)
    disk.open("orders-0/delay/0.run").truncate(4096)
    assert Schedule.load(disk, "orders-0/delay") is None
    disk.remove("orders-0/delay/0.run")
    assert Schedule.load(disk, "orders-0/delay") is None


def test_a_full_disk_leaves_all_in_memory_and_it_says_that_it_is_full() -> None:
    disk = partition_disk()
    schedule = Schedule(disk, "orders-0/delay")
    disk.capacity = disk.used + 1000
    schedule.add([entry(1 + n, n) for n in range(20_000)])
    for _ in range(3):
        with pytest.raises(OSError, match="No space"):
            schedule.settle()
    assert schedule.is_full and disk.list_dir("orders-0/delay") == []
    assert [each.id for each in schedule.take(3, 10)] == [0, 1, 2]
    disk.capacity = 1 << 30
    settle(schedule)
    assert not schedule.is_full and len(schedule) == 20_000


def test_what_is_to_be_remembered_of_cancels_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kbroker.delay.schedule.GONE_MAX", 100)
    schedule = schedule_of(*(entry(1000 + n, n, n.to_bytes(8, "big")) for n in range(1000)))
    for n in range(500):
        schedule.cancel(n.to_bytes(8, "big"), before=1000)
        schedule.remove([n + 500], before=1000)
        while schedule.is_full:
            schedule.settle()
    assert len(schedule) < 300  # what is gone was left out
    assert schedule.take(NEVER, 10) == []


@pytest.mark.parametrize("seed", range(10))
def test_what_was_hidden_is_known_after_a_power_failure_once_a_schedule_was_saved(seed: int) -> None:
    disk = partition_disk(seed)
    disk.make_dirs("orders-0/delay")  # as the log does, which waits for no disk
    schedule_of_disk(disk).save(Position(0, 0))
    disk.power_loss()
    assert MemoryDisk(volume=disk.volume).exists("orders-0/delay")


def test_a_schedule_brings_no_directory_back_of_a_partition_that_is_gone() -> None:
    disk = partition_disk()
    disk.rename("orders-0", "orders-0.1-delete")
    with pytest.raises(FileNotFoundError):
        schedule_of_disk(disk).save(Position(0, 0))
    assert not disk.exists("orders-0")


def schedule_of_disk(disk: MemoryDisk) -> Schedule:
    schedule = Schedule(disk, "orders-0/delay")
    schedule.add([entry(10, 1)])
    return schedule
