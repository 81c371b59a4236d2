"""B5: half-received requests of all connections together are bounded."""

from __future__ import annotations

import trio
from trio.testing import wait_all_tasks_blocked

from kbroker.server.memory import RequestMemory


async def test_B5_above_the_bound_only_the_first_goes_on(nursery: trio.Nursery) -> None:
    memory, going = RequestMemory(100), []

    async def receive(holder: str, size: int) -> None:
        memory.note(holder, size)
        await memory.wait_turn(holder)
        going.append(holder)

    for holder in ("a", "b", "c"):
        nursery.start_soon(receive, holder, 60)
        await wait_all_tasks_blocked()
    assert going == ["a"] and memory.bytes_held == 180
    memory.note("a", 0)
    await wait_all_tasks_blocked()
    assert going == ["a", "b"]
    memory.note("b", 0)
    await wait_all_tasks_blocked()
    assert going == ["a", "b", "c"]
    memory.note("c", 0)
    assert memory.bytes_held == 0


async def test_below_the_bound_nobody_waits() -> None:
    memory = RequestMemory(100)
    for holder in ("a", "b"):
        memory.note(holder, 50)
        await memory.wait_turn(holder)
