"""B5: what all connections together hold is bounded: requests that arrive, and answers that are not read."""

from __future__ import annotations

import trio
from trio.testing import wait_all_tasks_blocked

from kbroker.server.memory import SMALL_MAX, AnswerMemory, RequestMemory

LARGE = 2 * SMALL_MAX


async def test_B5_above_the_bound_only_the_first_goes_on(nursery: trio.Nursery) -> None:
    memory, going = RequestMemory(LARGE), []

    async def receive(holder: str, size: int) -> None:
        memory.note(holder, size)
        await memory.wait_turn(holder)
        going.append(holder)

    memory.note("small", 1)  # began before all of them
    for holder in ("a", "b", "c"):
        nursery.start_soon(receive, holder, LARGE)
        await wait_all_tasks_blocked()
    assert going == ["a"] and memory.bytes_held == 3 * LARGE + 1
    memory.note("a", 0)
    await wait_all_tasks_blocked()
    memory.note("b", 0)
    await wait_all_tasks_blocked()
    assert going == ["a", "b", "c"]
    for holder in ("c", "small"):
        memory.note(holder, 0)
    assert memory.bytes_held == 0


async def test_B5_who_holds_little_does_not_wait_for_those_who_hold_much() -> None:
    memory = RequestMemory(LARGE)
    for holder in ("a", "b"):
        memory.note(holder, LARGE)
    memory.note("good", SMALL_MAX)
    assert [memory.may_go_on(holder) for holder in ("a", "b", "good", "new")] == [True, False, True, True]


async def test_below_the_bound_nobody_waits() -> None:
    memory = RequestMemory(4 * LARGE)
    for holder in ("a", "b"):
        memory.note(holder, LARGE)
        await memory.wait_turn(holder)


class Reader:
    """Who reads its answers, or does not."""

    def __init__(self) -> None:
        self.evicted = False

    def evict(self) -> None:
        self.evicted = True


def test_B5_of_those_who_do_not_read_the_one_owed_for_longest_goes() -> None:
    memory, readers = AnswerMemory(100), [Reader() for _ in range(5)]
    memory.note(readers[0], 60)
    memory.note(readers[1], 30)
    memory.note(readers[0], 0)  # read everything
    memory.note(readers[0], 50)
    memory.note(readers[2], 40)
    assert [reader.evicted for reader in readers] == [False, True, False, False, False]
    memory.note(readers[3], 100)
    assert [reader.evicted for reader in readers] == [True, True, True, False, False]
    assert memory.bytes_held == 100


def test_one_answer_may_be_larger_than_the_bound() -> None:
    memory, reader = AnswerMemory(100), Reader()
    memory.note(reader, 1000)
    assert not reader.evicted
    memory.note(reader, 0)
    assert memory.bytes_held == 0
