"""B5: what all connections together hold is bounded: requests that arrive, and answers that are not read."""

from __future__ import annotations

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from kbroker.server.memory import HELD_MAX_S, SMALL_MAX, AnswerMemory, RequestMemory

LARGE = 2 * SMALL_MAX


class Holder:
    """A connection."""

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.evicted = ""

    def evict(self, reason: str) -> None:
        self.evicted = reason


async def test_B5_above_the_bound_only_the_first_goes_on(nursery: trio.Nursery) -> None:
    memory, going = RequestMemory(LARGE), []
    a, b, c, small = map(Holder, ("a", "b", "c", "small"))

    async def receive(holder: Holder, size: int) -> None:
        memory.note(holder, size)
        await memory.wait_turn(holder)
        going.append(holder.name)

    memory.note(small, 1)  # began before all of them
    for holder in (a, b, c):
        nursery.start_soon(receive, holder, LARGE)
        await wait_all_tasks_blocked()
    assert going == ["a"] and memory.bytes_held == 3 * LARGE + 1
    memory.note(a, 0)
    await wait_all_tasks_blocked()
    memory.note(b, 0)
    await wait_all_tasks_blocked()
    assert going == ["a", "b", "c"]
    for holder in (c, small):
        memory.note(holder, 0)
    assert memory.bytes_held == 0


async def test_B5_who_holds_little_does_not_wait_for_those_who_hold_much() -> None:
    memory = RequestMemory(LARGE)
    a, b, good, new = (Holder() for _ in range(4))
    for holder in (a, b):
        memory.note(holder, LARGE)
    memory.note(good, SMALL_MAX)
    assert [memory.may_go_on(holder) for holder in (a, b, good, new)] == [True, False, True, True]


async def test_below_the_bound_nobody_waits() -> None:
    memory = RequestMemory(4 * LARGE)
    for holder in (Holder(), Holder()):
        memory.note(holder, LARGE)
        await memory.wait_turn(holder)


async def test_B5_who_keeps_others_waiting_for_memory_is_hung_up_on_in_the_end(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    memory = RequestMemory(LARGE)
    slow, small, other = Holder(), Holder(), Holder()
    memory.note(slow, 2 * LARGE)
    memory.note(small, 1)
    await trio.sleep(10 * HELD_MAX_S)
    memory.look_round()
    assert not slow.evicted, "nobody waits"
    memory.note(other, 3 * LARGE)
    nursery.start_soon(memory.wait_turn, other)
    await wait_all_tasks_blocked()
    memory.look_round()
    assert slow.evicted and not small.evicted and not other.evicted
    assert memory.bytes_held == 3 * LARGE + 1
    await wait_all_tasks_blocked()
    memory.look_round()
    assert not other.evicted


async def test_B5_but_not_before_its_time_is_over(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    memory, slow, other = RequestMemory(LARGE), Holder(), Holder()
    memory.note(slow, LARGE)
    memory.note(other, LARGE)
    nursery.start_soon(memory.wait_turn, other)
    for _ in range(5):
        memory.look_round()
        assert not slow.evicted
        await trio.sleep(HELD_MAX_S / 5)
    memory.look_round()
    assert slow.evicted


def test_B5_of_those_who_do_not_read_the_one_owed_for_longest_goes() -> None:
    memory, readers = AnswerMemory(100), [Holder() for _ in range(5)]
    memory.note(readers[0], 60)
    memory.note(readers[1], 30)
    memory.note(readers[0], 0)  # read everything
    memory.note(readers[0], 50)
    memory.note(readers[2], 40)
    assert [bool(reader.evicted) for reader in readers] == [False, True, False, False, False]
    memory.note(readers[3], 100)
    assert [bool(reader.evicted) for reader in readers] == [True, True, True, False, False]
    assert memory.bytes_held == 100


def test_one_answer_may_be_larger_than_the_bound() -> None:
    memory, reader = AnswerMemory(100), Holder()
    memory.note(reader, 1000)
    assert not reader.evicted
    memory.note(reader, 0)
    assert memory.bytes_held == 0
